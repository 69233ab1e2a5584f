//! What runs as it was read, and what it takes to be judged: published versions, and nothing else.
//!
//! Texts that are no versions (`latest`, a digest, a build of one's own) are kept as they are until here, and refused
//! by name.

use semver::Version;
use serde_json::{Map, Value};

use crate::error::Failure;
use crate::spire::charts::{self, Chart};
use crate::spire::policy::{RuleId, State, Violation};
use crate::spire::releases::{self, Release};

/// How many texts of a kind are named before the rest is only counted.
const NAMED: usize = 5;

/// What runs, in the words of the running processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of each server.
    pub servers: Vec<String>,
    /// Of each agent.
    pub agents: Vec<String>,
    /// Of the database.
    pub schema: Option<u32>,
    /// Stored in the database.
    pub code_version: Option<String>,
    /// Version of the chart `spire`.
    pub chart: Option<String>,
}

impl Seen {
    /// Reads the object `spire` of a `status --output json` document, or of anything else of that shape:
    /// `{"spire":{"servers":["1.7.2"],"agents":["1.7.2"],"schema":22,"code_version":"1.7.2","chart":"0.13.0"}}`.
    /// All but `servers` may be missing; what it does not know it leaves alone.
    ///
    /// # Errors
    /// A usage failure that names the field that is missing or of another kind.
    pub fn from_json(document: &Value) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            Failure::usage(format!("the state does not say what runs: {what}"))
                .next("give it the output of `coastal status --output json`")
                .next(r#"or write it: `{"spire":{"servers":["1.7.2"],"agents":["1.7.2"],"schema":22,"code_version":"1.7.2","chart":"0.13.0"}}`"#)
        };
        let spire = match document.get("spire") {
            Some(Value::Object(spire)) => spire,
            Some(_) => return Err(wrong("`spire` is not an object")),
            None => return Err(wrong("there is no object `spire`")),
        };
        let servers = texts(spire, "servers").map_err(|what| wrong(&what))?;
        let servers = servers.ok_or_else(|| wrong("there is no list `spire.servers`"))?;
        if servers.is_empty() {
            return Err(wrong("`spire.servers` is empty, so no version is known to start from"));
        }
        let text = |key: &str| match spire.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(&format!("`spire.{key}` is not a text"))),
        };
        let schema = match spire.get("schema") {
            None | Some(Value::Null) => None,
            Some(number) => {
                let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or_else(|| wrong("`spire.schema` is not a number like 23"))?)
            }
        };
        Ok(Seen {
            servers,
            agents: texts(spire, "agents").map_err(|what| wrong(&what))?.unwrap_or_default(),
            schema,
            code_version: text("code_version")?,
            chart: text("chart")?,
        })
    }

    /// The state, if all of it is known. With `unknown_chart_is_fine` a chart that is not in the table is left out.
    ///
    /// # Errors
    /// The rules that what is seen breaks by not being known.
    pub fn known(&self, unknown_chart_is_fine: bool) -> Result<State, Vec<Violation>> {
        let mut unknown = Unknown::default();
        let servers = unknown.sort(&self.servers, "server");
        let agents = unknown.sort(&self.agents, "agent");
        let code_version = self.code_version.as_deref().and_then(|text| match text.trim() {
            // What a datastore from before 0.9 holds, and how the server reads it.
            "" => Some(Version::new(0, 0, 0)),
            text => {
                let version = text.parse().ok();
                if version.is_none() {
                    unknown.unknown.push(format!("the database was written by SPIRE `{text}`, which is no version"));
                }
                version
            }
        });
        let mut violations = unknown.violations();
        let chart = self.chart.as_deref().and_then(chart);
        if let (Some(text), None, false) = (&self.chart, chart, unknown_chart_is_fine) {
            violations.push(chart_unknown(text));
        }
        match State::new(servers, agents, self.schema, code_version, chart) {
            Some(state) if violations.is_empty() => Ok(state),
            _ => Err(violations),
        }
    }
}

fn texts(spire: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, String> {
    let list = match spire.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(format!("`spire.{key}` is not a list of versions")),
    };
    let texts = list.iter().enumerate().map(|(n, value)| match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(format!("`spire.{key}[{n}]` is not a text like \"1.7.2\"")),
    });
    texts.collect::<Result<_, _>>().map(Some)
}

/// What shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A published version.
    Known(Release),
    /// An image tag that is no published version, and the rule that refuses it.
    Refused(Violation),
}

/// Tags that name a different image every day.
const MOVING: &[&str] = &["latest", "nightly", "edge", "main", "master", "stable", "unstable", "dev", "devel"];

impl Target {
    /// Reads what was asked for: `1.15.3`, or the tag `v1.15.3`.
    ///
    /// # Errors
    /// A usage failure if it is neither a version nor another name that images have.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        match release(text) {
            Ok(release) => Ok(Target::Known(release)),
            Err(Trouble::Unpublished(version)) => {
                let fact = format!("there is no SPIRE {version}");
                Ok(Target::Refused(Violation::new(RuleId::Unpublished, vec![fact], published(&version))))
            }
            Err(Trouble::OwnBuild) => Ok(Target::Refused(unknown_target(format!("`{text}` is a build of one's own")))),
            Err(Trouble::NoVersion) if MOVING.contains(&text) => {
                Ok(Target::Refused(unknown_target(format!("`{text}` is another version every day"))))
            }
            Err(Trouble::NoVersion) if text.contains("sha256:") => {
                Ok(Target::Refused(unknown_target(format!("`{text}` does not say which version it is"))))
            }
            Err(Trouble::NoVersion) => {
                Err(Failure::usage(format!("`{text}` is not a version of SPIRE")).next(meant(text)))
            }
        }
    }
}

fn unknown_target(fact: String) -> Violation {
    Violation::new(
        RuleId::UnknownVersion,
        vec![fact],
        "ask the image, by `spire-server --version 2>&1`, and name the version that it tells",
    )
}

/// For what is half a version: the newest that begins like it.
fn meant(text: &str) -> String {
    let start = format!("{}.", text.trim_start_matches('v').trim_end_matches('.'));
    match releases::all().rev().find(|release| format!("{release}.").starts_with(&start)) {
        Some(release) => format!("the newest SPIRE {} is {release}", start.trim_end_matches('.')),
        None => match releases::all().next().zip(releases::all().next_back()) {
            Some((first, last)) => format!("a version has three numbers, from {first} to {last}"),
            None => "a version has three numbers".to_owned(),
        },
    }
}

/// Why a text is not a release.
enum Trouble {
    NoVersion,
    OwnBuild,
    Unpublished(Version),
}

fn release(text: &str) -> Result<Release, Trouble> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let version: Version = text.parse().map_err(|_| Trouble::NoVersion)?;
    if !version.pre.is_empty() || !version.build.is_empty() {
        return Err(Trouble::OwnBuild);
    }
    releases::find(&version).ok_or(Trouble::Unpublished(version))
}

/// The chart that `0.13.0` or `spire-0.13.0` names.
fn chart(text: &str) -> Option<Chart> {
    let text = text.trim();
    charts::find(&text.strip_prefix("spire-").unwrap_or(text).parse().ok()?)
}

fn chart_unknown(text: &str) -> Violation {
    let newest = charts::all().next_back().map(|chart| format!(", up to {chart}")).unwrap_or_default();
    Violation::new(
        RuleId::ChartUnknown,
        vec![format!("chart `{text}` is none of the published charts{newest}")],
        "check by hand that the target understands what this chart writes, and keep the chart",
    )
}

/// The violation of a chart that is asked for and does not exist.
pub(crate) fn chart_unpublished(version: &Version) -> Violation {
    let same = |chart: &Chart| chart.version().minor == version.minor && chart.version().major == version.major;
    let nearest = charts::all().rev().find(same).or_else(|| charts::all().next_back());
    let way_out =
        nearest.map_or_else(|| "name a published one".to_owned(), |chart| format!("name one that does: {chart}"));
    Violation::new(RuleId::ChartUnpublished, vec![format!("chart {version} does not exist")], way_out)
}

fn published(version: &Version) -> String {
    let newest = releases::all().next_back();
    match (releases::nearest(version), newest) {
        (Some(nearest), Some(newest)) if nearest != newest => {
            format!("name a published one: {nearest} is the newest of {}, {newest} of all", nearest.minor())
        }
        (_, Some(newest)) => format!("name a published one: {newest} is the newest that is known"),
        _ => "name a published one".to_owned(),
    }
}

/// What runs and is not a published version.
#[derive(Default)]
struct Unknown {
    unknown: Vec<String>,
    unpublished: Vec<String>,
}

impl Unknown {
    fn sort(&mut self, texts: &[String], who: &str) -> Vec<Release> {
        let mut known = Vec::with_capacity(texts.len());
        for text in texts {
            match release(text.trim()) {
                Ok(release) => known.push(release),
                Err(Trouble::Unpublished(version)) => {
                    self.unpublished.push(format!("a {who} runs SPIRE {version}, which was never published"));
                }
                Err(Trouble::OwnBuild) => {
                    self.unknown.push(format!("a {who} runs `{text}`, a build of one's own"));
                }
                Err(Trouble::NoVersion) => self.unknown.push(format!("a {who} runs `{text}`, which is no version")),
            }
        }
        known
    }

    fn violations(self) -> Vec<Violation> {
        let ask =
            "ask the running binary, by `spire-server --version 2>&1`, and write the release that it is built from";
        let rules = [(RuleId::UnknownVersion, self.unknown), (RuleId::Unpublished, self.unpublished)];
        let broken = rules.into_iter().filter(|(_, facts)| !facts.is_empty());
        broken.map(|(rule, facts)| Violation::new(rule, shortened(facts), ask)).collect()
    }
}

fn shortened(mut facts: Vec<String>) -> Vec<String> {
    facts.sort();
    facts.dedup();
    let more = facts.len().saturating_sub(NAMED);
    facts.truncate(NAMED);
    if more > 0 {
        facts.push(format!("and {more} more"));
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(document: &Value) -> Result<Seen, String> {
        Seen::from_json(document).map_err(|failure| failure.message)
    }

    #[test]
    fn a_state_by_hand() {
        let document = json!({"spire": {
            "servers": ["1.13.6"], "agents": ["1.12.6"], "schema": 23, "code_version": "1.13.6", "chart": "0.27.1",
        }});
        let state = seen(&document).unwrap().known(false).unwrap();
        assert_eq!(serde_json::to_value(&state).unwrap(), document["spire"]);
        assert!(state.row_is_given());
    }

    #[test]
    fn what_status_prints() {
        let status = crate::observe::Status {
            schema: 1,
            lab: "day-two".into(),
            cluster: crate::observe::ClusterStatus::default(),
            releases: Vec::new(),
            spire: crate::observe::SpireStatus {
                servers: vec!["1.7.2".into()],
                agents: vec!["1.7.2".into()],
                schema: Some(22),
                code_version: Some("1.7.2".into()),
                chart: Some("0.13.0".into()),
                entries: Some(20),
                ..crate::observe::SpireStatus::default()
            },
            workload: crate::observe::WorkloadStatus::default(),
            monitors: None,
            urls: Vec::new(),
            troubles: Vec::new(),
        };
        let read = seen(&serde_json::to_value(&status).unwrap()).unwrap();
        assert_eq!(read, Seen::from(&status.spire));
        let state = read.known(false).unwrap();
        let expected = json!({"servers": ["1.7.2"], "agents": ["1.7.2"], "schema": 22, "code_version": "1.7.2", "chart": "0.13.0"});
        assert_eq!(serde_json::to_value(&state).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let rows = [
            (json!([]), "there is no object `spire`"),
            (json!({"servers": ["1.7.2"]}), "there is no object `spire`"),
            (json!({"spire": "1.7.2"}), "`spire` is not an object"),
            (json!({"spire": {}}), "there is no list `spire.servers`"),
            (json!({"spire": {"servers": []}}), "`spire.servers` is empty"),
            (json!({"spire": {"servers": "1.7.2"}}), "`spire.servers` is not a list of versions"),
            (json!({"spire": {"servers": ["1.7.2", 1.8]}}), "`spire.servers[1]` is not a text"),
            (json!({"spire": {"servers": ["1.7.2"], "agents": {}}}), "`spire.agents` is not a list"),
            (json!({"spire": {"servers": ["1.7.2"], "schema": "22"}}), "`spire.schema` is not a number"),
            (json!({"spire": {"servers": ["1.7.2"], "schema": -1}}), "`spire.schema` is not a number"),
            (json!({"spire": {"servers": ["1.7.2"], "schema": 99_999_999_999_u64}}), "`spire.schema` is not a number"),
            (json!({"spire": {"servers": ["1.7.2"], "code_version": 1}}), "`spire.code_version` is not a text"),
            (json!({"spire": {"servers": ["1.7.2"], "chart": []}}), "`spire.chart` is not a text"),
        ];
        for (document, says) in rows {
            let message = seen(&document).unwrap_err();
            assert!(message.contains(says), "{document}: {message}");
        }
        let sparse = json!({"spire": {"servers": ["1.7.2"], "agents": null, "schema": null, "chart": null}});
        assert!(!seen(&sparse).unwrap().known(false).unwrap().row_is_given());
    }

    #[test]
    fn what_is_not_known_to_run_is_refused_by_name() {
        let rows = [
            ("latest", RuleId::UnknownVersion),
            ("nightly", RuleId::UnknownVersion),
            ("sha256:0123", RuleId::UnknownVersion),
            ("1.15.2-dev-abc1234", RuleId::UnknownVersion),
            ("1.15", RuleId::UnknownVersion),
            ("", RuleId::UnknownVersion),
            ("1.15.4", RuleId::Unpublished),
            ("1.5.7", RuleId::Unpublished),
            ("99999999999999999999.1.1", RuleId::UnknownVersion),
        ];
        for (text, rule) in rows {
            for seen in [
                Seen { servers: vec![text.into()], ..Seen::default() },
                Seen { servers: vec!["1.15.3".into()], agents: vec![text.into()], ..Seen::default() },
            ] {
                let violations = seen.known(true).unwrap_err();
                assert_eq!(violations.iter().map(|v| v.rule).collect::<Vec<_>>(), [rule], "{text}");
            }
        }
        let many = Seen { servers: (0..100).map(|n| format!("tag-{n}")).collect(), ..Seen::default() };
        assert_eq!(many.known(true).unwrap_err()[0].facts.len(), NAMED + 1);
    }

    #[test]
    fn an_unknown_chart_can_be_borne() {
        let seen = |chart: &str| Seen { servers: vec!["1.7.2".into()], chart: Some(chart.into()), ..Seen::default() };
        assert_eq!(seen("0.13.0").known(false).unwrap().chart(), seen("spire-0.13.0").known(false).unwrap().chart());
        assert_eq!(seen("0.13.7").known(false).unwrap_err()[0].rule, RuleId::ChartUnknown);
        assert_eq!(seen("0.13.7").known(true).unwrap().chart(), None);
    }

    #[test]
    fn the_row_is_what_the_newest_server_left() {
        let seen = |schema, code: Option<&str>| Seen {
            servers: vec!["1.13.6".into(), "1.13.0".into()],
            schema,
            code_version: code.map(str::to_owned),
            ..Seen::default()
        };
        let row = |schema, code| {
            let state = seen(schema, code).known(false).unwrap();
            format!("{} {} {}", state.row().schema, state.row().code_version, state.row_is_given())
        };
        assert_eq!(row(None, None), "23 1.13.6 false");
        assert_eq!(row(Some(23), Some("1.12.0")), "23 1.13.6 true");
        assert_eq!(row(Some(25), Some("1.14.5")), "25 1.14.5 true");
        assert_eq!(row(Some(23), Some("1.14.2-dev-abc")), "23 1.14.2-dev-abc true");
        assert_eq!(row(Some(23), Some("")), "23 1.13.6 true");
        assert_eq!(seen(Some(23), Some("soon")).known(false).unwrap_err()[0].rule, RuleId::UnknownVersion);
    }

    #[test]
    fn targets() {
        let rule = |text: &str| match Target::parse(text) {
            Ok(Target::Known(release)) => release.to_string(),
            Ok(Target::Refused(violation)) => violation.rule.to_string(),
            Err(failure) => failure.next.join(" "),
        };
        let rows = [
            ("1.15.3", "1.15.3"),
            ("v1.15.3", "1.15.3"),
            (" 1.15.3 ", "1.15.3"),
            ("1.15.4", "SPIRE-UNPUBLISHED"),
            ("2.0.0", "SPIRE-UNPUBLISHED"),
            ("latest", "SPIRE-UNKNOWN-VERSION"),
            ("nightly", "SPIRE-UNKNOWN-VERSION"),
            ("sha256:abc", "SPIRE-UNKNOWN-VERSION"),
            ("1.15.2-dev-abc", "SPIRE-UNKNOWN-VERSION"),
            ("1.15", "the newest SPIRE 1.15 is 1.15.3"),
            ("1", "the newest SPIRE 1 is 1.15.3"),
            ("banana", "a version has three numbers, from 0.9.2 to 1.15.3"),
            ("", "a version has three numbers, from 0.9.2 to 1.15.3"),
        ];
        for (text, expected) in rows {
            assert_eq!(rule(text), expected, "{text}");
        }
    }
}
