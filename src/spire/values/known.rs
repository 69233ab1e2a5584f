//! Which keys a chart reads. helm takes a values file with any keys and ignores those that no template asks for; a
//! misspelt one is a setting that silently is not made.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::lines::{Line, other_name};
use super::{merge, parse_file};
use crate::config::problems::nearest;
use crate::error::{Failure, Kind};

/// Tables whose keys no chart lists: what is handed on to Kubernetes as it is, and what holds things under names of
/// the user's (of which the charts themselves refuse what they do not know).
const OPEN: &[&str] = &[
    "affinity",
    "annotations",
    "clusterFederatedTrustDomains",
    "clusterSPIFFEIDs",
    "clusterStaticEntries",
    "labels",
    "matchExpressions",
    "matchLabels",
    "namespaceSelector",
    "nodeSelector",
    "podSelector",
    "resources",
];

/// The keys that a chart knows.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    /// The chart's defaults, those of its subcharts under their names.
    defaults: Value,
    /// Paths that templates ask for although the defaults do not have them.
    asked: BTreeSet<String>,
    /// All words in templates: what can be meant by a key below `global`, which charts take apart in many ways.
    words: BTreeSet<String>,
}

/// A key that a chart does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Its path.
    pub path: String,
    /// What is known about it: another name, or a similar one.
    pub hint: Option<String>,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.hint {
            Some(hint) => write!(f, "{}: {hint}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// A failure that lists them; `file` is how its user calls the values file.
#[must_use]
pub fn failure(file: &str, chart: &str, unknown: &[Unknown]) -> Failure {
    let count = unknown.len();
    let noun = if count == 1 { "a key" } else { "keys" };
    let them = if count == 1 { "it" } else { "them" };
    Failure::new(
        Kind::Config,
        format!("the values file `{file}` has {noun} that chart {chart} does not know; helm would ignore {them}"),
    )
    .facts(unknown.iter().map(ToString::to_string))
    .next(format!("correct or remove {them}; `helm show values` prints all that a chart knows"))
}

impl KnownKeys {
    /// From a chart's files: path inside the chart (`values.yaml`, `charts/NAME/templates/x.yaml`) and text. Files
    /// that say nothing about values are skipped.
    ///
    /// # Errors
    /// One of its `values.yaml` or `Chart.yaml` is not YAML.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<KnownKeys, Failure> {
        #[derive(Deserialize)]
        struct Chart {
            #[serde(default)]
            dependencies: Vec<Dependency>,
        }
        #[derive(Deserialize)]
        struct Dependency {
            name: String,
            alias: Option<String>,
        }
        let mut own = Value::Object(Map::new());
        let mut subcharts = BTreeMap::<String, Value>::new();
        let mut templates = Vec::new();
        let mut aliases = Vec::new();
        for (name, text) in files {
            let (subchart, inside) = inside_subchart(name);
            match (subchart, inside) {
                (None, "values.yaml") => own = parse_file(name, text)?,
                (None, "Chart.yaml") => {
                    let chart: Chart = serde_yaml::from_str(text).map_err(|error| {
                        Failure::new(Kind::Prerequisite, format!("the chart's {name} is not readable: {error}"))
                    })?;
                    aliases = chart.dependencies;
                }
                (Some(subchart), "values.yaml") => {
                    subcharts.insert(subchart.to_owned(), parse_file(name, text)?);
                }
                (subchart, inside) if inside.starts_with("templates/") => templates.push((subchart, text)),
                _ => {}
            }
        }
        // A subchart that is there twice has a second name for the same values.
        for Dependency { name, alias } in &aliases {
            if let (Some(alias), Some(values)) = (alias, subcharts.get(name).cloned()) {
                subcharts.insert(alias.clone(), values);
            }
        }
        let mut known = KnownKeys::default();
        for (subchart, text) in templates {
            known.words.extend(words(text).map(ToOwned::to_owned));
            let names = aliases
                .iter()
                .filter(|dependency| Some(dependency.name.as_str()) == subchart)
                .filter_map(|dependency| dependency.alias.as_deref())
                .chain(subchart);
            let prefixes: Vec<String> = match subchart {
                None => vec![String::new()],
                Some(_) => names.map(|name| format!("{name}.")).collect(),
            };
            for asked in asked_for(text) {
                known.asked.extend(prefixes.iter().map(|prefix| format!("{prefix}{asked}")));
            }
        }
        // What the chart itself says about a subchart's values goes over the subchart's own.
        known.defaults = merge(Value::Object(subcharts.into_iter().collect()), own);
        Ok(known)
    }

    /// The keys of `values` that a chart of this `line` does not know, sorted.
    #[must_use]
    pub fn unknown(&self, values: &Value, line: Line) -> Vec<Unknown> {
        let mut unknown = Vec::new();
        self.walk(values, Some(&self.defaults), "", line, &mut unknown);
        unknown.sort_by(|one, other| one.path.cmp(&other.path));
        unknown
    }

    fn walk(&self, values: &Value, known: Option<&Value>, at: &str, line: Line, unknown: &mut Vec<Unknown>) {
        let Value::Object(values) = values else { return };
        for (key, value) in values {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            let below = known.and_then(|known| known.get(key));
            if let Some(below) = below {
                // A default that is an empty table, or none, is the user's to fill.
                if !open(key) && below.as_object().is_some_and(|table| !table.is_empty()) {
                    self.walk(value, Some(below), &path, line, unknown);
                }
            } else if path == "global" || path.starts_with("global.") {
                if path == "global" || self.words.contains(key) {
                    self.walk(value, None, &path, line, unknown);
                } else {
                    unknown.push(Unknown { hint: self.near(key, None), path });
                }
            } else if self.asked.contains(&path) || (key == "enabled" && at.split('.').count() == 1) {
                // Whole, by a template; or, as `NAME.enabled`, by a condition of Chart.yaml.
            } else if self.asks_below(&path) {
                self.walk(value, None, &path, line, unknown);
            } else {
                let hint = other_name(&path, line)
                    .map(|(name, since)| format!("it has another name from {since} on, or had until then: `{name}`"))
                    .or_else(|| self.near(key, known));
                unknown.push(Unknown { path, hint });
            }
        }
    }

    /// Whether a template asks for something inside the table `path`.
    fn asks_below(&self, path: &str) -> bool {
        let inside = format!("{path}.");
        self.asked.range(inside.clone()..).next().is_some_and(|asked| asked.starts_with(&inside))
    }

    fn near(&self, key: &str, siblings: Option<&Value>) -> Option<String> {
        let siblings: Vec<&str> = match siblings.and_then(Value::as_object) {
            Some(table) => table.keys().map(String::as_str).collect(),
            None => self.words.iter().map(String::as_str).collect(),
        };
        nearest(key, &siblings).map(|near| format!("did you mean `{near}`?"))
    }
}

/// Whether what is below such a key is not the chart's to know.
fn open(key: &str) -> bool {
    OPEN.contains(&key) || key.ends_with("Probe") || key.to_lowercase().ends_with("securitycontext")
}

/// `charts/NAME/REST` -> `(NAME, REST)`; deeper subcharts count as files of no interest.
fn inside_subchart(name: &str) -> (Option<&str>, &str) {
    match name.strip_prefix("charts/").and_then(|rest| rest.split_once('/')) {
        Some((subchart, inside)) => (Some(subchart), inside),
        None => (None, name),
    }
}

/// `a.b` for every `.Values.a.b` in a template.
fn asked_for(template: &str) -> impl Iterator<Item = &str> {
    template.split(".Values.").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches('.');
        (!path.is_empty()).then_some(path)
    })
}

fn words(template: &str) -> impl Iterator<Item = &str> {
    template.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chart() -> KnownKeys {
        KnownKeys::read([
            (
                "Chart.yaml",
                "name: spire\ndependencies:\n- {name: spire-server}\n- {name: spire-agent}\n\
                 - {name: spire-agent, alias: upstream-spire-agent}\n",
            ),
            ("values.yaml", "spire-server: {logLevel: info}\nextra: {}\n"),
            (
                "charts/spire-server/values.yaml",
                "replicaCount: 1\nimage: {tag: ''}\nnodeSelector: {os: linux}\nreadinessProbe: {periodSeconds: 5}\n\
                 controllerManager: {enabled: false, image: {tag: ''}}\ncustomPlugins: {}\n",
            ),
            ("charts/spire-agent/values.yaml", "logLevel: info\n"),
            (
                "charts/spire-server/templates/x.yaml",
                "{{ .Values.ca.subject.country | quote }} {{ dig \"spire\" \"strictMode\" false .Values.global }}",
            ),
            ("charts/spire-agent/templates/_x.tpl", "{{- with .Values.extra }}"),
            ("charts/spire-server/charts/deep/values.yaml", "deep: 1"),
            ("README.md", "not: [yaml"),
        ])
        .unwrap()
    }

    fn unknown(values: &Value) -> Vec<String> {
        chart().unknown(values, Line(0, 24, 0)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_chart_reads_is_known() {
        for values in [
            json!({}),
            json!({"spire-server": {"replicaCount": 3, "image": {"tag": "1"}, "logLevel": "debug"}}),
            json!({"spire-server": {"enabled": true, "customPlugins": {"any": {"thing": 1}}}, "extra": {"x": 1}}),
            json!({"spire-server": {"readinessProbe": {"timeoutSeconds": 1}, "nodeSelector": {"arch": "arm64"}}}),
            json!({"spire-server": {"ca": {"subject": {"country": {"any": 1}}}}}),
            json!({"upstream-spire-agent": {"logLevel": "debug", "extra": 1}, "spire-agent": {"extra": 1}}),
            json!({"global": {"spire": {"strictMode": true}}}),
        ] {
            assert_eq!(unknown(&values), Vec::<String>::new(), "{values}");
        }
    }

    #[test]
    fn what_it_does_not_read_is_told_with_what_was_meant() {
        for (values, told) in [
            (json!({"spire-server": {"replicaCont": 3}}), "spire-server.replicaCont: did you mean `replicaCount`?"),
            (json!({"spire-sever": {"x": 1}}), "spire-sever: did you mean `spire-server`?"),
            (json!({"spire-server": {"image": {"version": "1"}}}), "spire-server.image.version"),
            (json!({"spire-server": {"controllerManager": {"zzz": 1}}}), "spire-server.controllerManager.zzz"),
            (json!({"global": {"spire": {"strictMod": true}}}), "global.spire.strictMod: did you mean `strictMode`?"),
            (
                json!({"spire-server": {"ca_subject": {"country": "UK"}}}),
                "spire-server.ca_subject: it has another name from 0.24.0 on, or had until then: `spire-server.caSubject`",
            ),
            (json!({"spire-agent": {"deep": 1}}), "spire-agent.deep"),
            (json!({"spire-server": {"ca": {"subject": {"state": 1}}}}), "spire-server.ca.subject.state"),
        ] {
            assert_eq!(unknown(&values), [told], "{values}");
        }
    }

    #[test]
    fn a_template_asks_by_path() {
        let asked: Vec<_> =
            asked_for("{{ .Values.a.b }} {{- $.Values.c-d .Values. (index .Values.e \"x\") }}").collect();
        assert_eq!(asked, ["a.b", "c", "e"]);
    }

    #[test]
    fn the_failure_names_file_chart_and_keys() {
        let keys = chart().unknown(&json!({"a": 1, "spire-server": {"replicaCont": 3}}), Line(0, 24, 0));
        let told = failure("mine.yaml", "spire 0.24.0", &keys);
        assert_eq!(told.kind, Kind::Config);
        assert!(
            told.message.contains("`mine.yaml` has keys that chart spire 0.24.0 does not know"),
            "{}",
            told.message
        );
        assert_eq!(told.facts.len(), 2);
        assert!(failure("f", "c", &keys[..1]).message.contains("has a key"));
    }

    #[test]
    fn a_chart_that_is_none_says_so() {
        assert!(KnownKeys::read([("values.yaml", "a: [")]).is_err());
        assert!(KnownKeys::read([("Chart.yaml", "dependencies: 5")]).is_err());
        assert_eq!(KnownKeys::read([]).unwrap().unknown(&json!({"a": 1}), Line(0, 13, 0)).len(), 1);
    }
}
