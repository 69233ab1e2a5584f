//! The charts that helm finds in this world, and the objects that they make.
//!
//! A chart is an embedded YAML file whose documents are objects. In them, text may hold `${…}`:
//!
//! | written | becomes |
//! |---|---|
//! | `${a.b\|c}` | the value at `a.b`, else the one at `c` |
//! | `${image PATH [TAG]}` | image reference of the value `{registry, repository, tag, version}` (`version` wins up to chart 0.16; facts, section 2) |
//! | `${labels CHART NAME VERSION [COMPONENT]}`, `${selector NAME [COMPONENT]}` | the chart's labels |
//! | `${httpGet PATH PORT PROBE}` | a probe of HTTP with the settings of the value `PROBE` |
//! | `${checksum PATH…}`, `${base64 PATH}` | of the values |
//! | `${crd GROUP VERSION KIND SCOPE}` | the spec of a CRD that takes any fields |
//! | `${monitors}` | what Prometheus selects monitors of pods by |
//! | `$${` | `${` |
//!
//! A field whose whole text is one `${…}` gets the value with its type, or is left out if there is none or it is
//! empty. A map with `$when: PATH` is left out unless the value there is set.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::object::text;

/// A chart in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chart {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its `appVersion`.
    pub app_version: &'static str,
    /// URL of the repository that has it.
    pub repository: &'static str,
    templates: &'static str,
    /// Its default values, in YAML.
    pub values: &'static str,
}

/// Every chart of this world. A version that is not here is one that no repository has.
pub const CHARTS: &[Chart] = &[
    Chart {
        name: "spire",
        version: "0.13.0",
        app_version: "1.7.2",
        repository: "https://spiffe.github.io/helm-charts",
        templates: include_str!("data/spire.yaml"),
        values: include_str!("data/spire-values.yaml"),
    },
    Chart {
        name: "kube-prometheus-stack",
        version: "51.9.2",
        app_version: "v0.68.0",
        repository: "https://prometheus-community.github.io/helm-charts",
        templates: include_str!("data/prometheus.yaml"),
        values: include_str!("data/prometheus-values.yaml"),
    },
];

impl Chart {
    /// The chart of that name and version.
    #[must_use]
    pub fn find(name: &str, version: &str) -> Option<&'static Chart> {
        CHARTS.iter().find(|chart| chart.name == name && chart.version == version)
    }

    /// The charts of a repository.
    pub fn of_repository(url: &str) -> impl Iterator<Item = &'static Chart> {
        let url = url.trim_end_matches('/').to_owned();
        // The hardened charts' repository serves the archived one's versions as well (facts, section 2).
        let url =
            if url == "https://spiffe.github.io/helm-charts-hardened" { CHARTS[0].repository.to_owned() } else { url };
        CHARTS.iter().filter(move |chart| chart.repository == url)
    }

    /// The chart's `Chart.yaml`.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!(
            "apiVersion: v2\nname: {}\nversion: {}\nappVersion: {}\ntype: application\n",
            self.name, self.version, self.app_version
        )
    }

    /// The objects of a release with these values over the chart's own: hooks and CRDs included, in the file's order.
    ///
    /// # Errors
    /// The values cannot be used; in words as after helm's `Error: `.
    pub fn render(&self, release: &str, namespace: &str, values: &Value) -> Result<Vec<Value>, String> {
        let mut scope = documents(self.values)?.pop().unwrap_or_default();
        merge(&mut scope, values);
        check(self, &scope)?;
        set_names(&mut scope, release, namespace);
        render(self.templates, &scope)
    }
}

/// The documents of `template`, filled in from `scope`.
///
/// # Errors
/// The template asks for what does not exist.
pub fn render(template: &str, scope: &Value) -> Result<Vec<Value>, String> {
    documents(template)?.iter().filter_map(|document| expand(document, scope).transpose()).collect()
}

fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_yaml::Deserializer::from_str(text).map(|d| Value::deserialize(d).map_err(|error| error.to_string())).collect()
}

/// Lays `over` over `under`, as helm merges values: maps deeply, all else replaced, null takes away.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.shift_remove(key);
                } else {
                    merge(under.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// What the chart itself refuses (facts, section 2: `replicaCount>1 with sqlite3 fails the render`).
fn check(chart: &Chart, values: &Value) -> Result<(), String> {
    let replicas = get(values, "spire-server.replicaCount").and_then(Value::as_i64).unwrap_or(1);
    if chart.name == "spire" && replicas > 1 && word(values, "spire-server.dataStore.sql.databaseType") == "sqlite3" {
        return Err("execution error at (spire/charts/spire-server/templates/statefulset.yaml:1:4): You can not use replicaCount > 1 with an sqlite3 datastore".to_owned());
    }
    Ok(())
}

/// Names that depend on the release's (facts, section 2 "Objects"; kube-prometheus-stack cuts its own at 26 characters).
fn set_names(scope: &mut Value, release: &str, namespace: &str) {
    let unless_named =
        |part: &str| if release.contains(part) { release.to_owned() } else { format!("{release}-{part}") };
    let stack = unless_named("kube-prometheus-stack");
    let namespaces = ["server", "agent", "csi", "frontend", "bundle"].map(|part| {
        let override_of = match part {
            "server" => "spire-server.namespaceOverride",
            "agent" => "spire-agent.namespaceOverride",
            "csi" => "spiffe-csi-driver.namespaceOverride",
            "frontend" => "tornjak-frontend.namespaceOverride",
            _ => "spire-server.notifier.k8sbundle.namespace",
        };
        let mut found = word(scope, override_of);
        if found.is_empty() && part == "bundle" {
            found = word(scope, "spire-server.namespaceOverride");
        }
        (part.to_owned(), Value::from(if found.is_empty() { namespace } else { found }))
    });
    let names = json!({
        "release": release, "server": unless_named("server"), "agent": format!("{release}-agent"),
        "csi": format!("{release}-spiffe-csi-driver"), "frontend": format!("{release}-tornjak-frontend"),
        "stack": stack.get(..26).unwrap_or(&stack).trim_end_matches('-'), "grafana": unless_named("grafana"),
    });
    super::object::set(scope, "/ns", Value::Object(Map::from_iter(namespaces)));
    super::object::set(scope, "/name", names);
    super::object::set(scope, "/release", json!({"name": release, "namespace": namespace}));
}

fn get<'a>(scope: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(scope, |value, key| value.get(key))
}

fn word<'a>(scope: &'a Value, path: &str) -> &'a str {
    get(scope, path).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true)) => true,
    }
}

fn expand(template: &Value, scope: &Value) -> Result<Option<Value>, String> {
    match template {
        Value::String(text) => expand_text(text, scope),
        Value::Array(items) => {
            let items: Result<Vec<Value>, String> =
                items.iter().filter_map(|item| expand(item, scope).transpose()).collect();
            Ok(Some(Value::Array(items?)))
        }
        Value::Object(map) => {
            if let Some(when) = map.get("$when").and_then(Value::as_str)
                && !is_set(get(scope, when))
            {
                return Ok(None);
            }
            let mut result = Map::new();
            for (key, value) in map.iter().filter(|(key, _)| *key != "$when") {
                if let Some(value) = expand(value, scope)? {
                    result.insert(key.clone(), value);
                }
            }
            Ok(Some(Value::Object(result)))
        }
        other => Ok(Some(other.clone())),
    }
}

fn expand_text(text: &str, scope: &Value) -> Result<Option<Value>, String> {
    if let Some(inner) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
        && !inner.contains('$')
    {
        let value = evaluate(inner, scope)?;
        return Ok(value.filter(|value| *value != Value::String(String::new())));
    }
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = after;
            continue;
        }
        let (inner, after) = after.split_once('}').ok_or_else(|| format!("unclosed placeholder in {text:?}"))?;
        result.push_str(before);
        match evaluate(inner, scope)? {
            Some(Value::String(word)) => result.push_str(&word),
            Some(value) => result.push_str(&value.to_string()),
            None => {}
        }
        rest = after;
    }
    result.push_str(rest);
    Ok(Some(Value::String(result)))
}

fn evaluate(expression: &str, scope: &Value) -> Result<Option<Value>, String> {
    let words: Vec<&str> = expression.split(' ').collect();
    let optional = |index: usize| words.get(index).copied();
    Ok(Some(match words.as_slice() {
        [paths] if *paths != "monitors" => {
            let found = paths.split('|').map(|path| get(scope, path)).find(|value| is_set(*value));
            // An empty map or a false of its own counts; only what is missing is looked for elsewhere.
            return Ok(found.unwrap_or_else(|| get(scope, paths)).cloned());
        }
        ["monitors"] => {
            let spec = "prometheus.prometheusSpec";
            let own = get(scope, &format!("{spec}.podMonitorSelector"));
            match own {
                Some(own) if is_set(Some(own)) => own.clone(),
                _ if is_set(get(scope, &format!("{spec}.podMonitorSelectorNilUsesHelmValues"))) => {
                    json!({"matchLabels": {"release": word(scope, "name.release")}})
                }
                _ => json!({}),
            }
        }
        ["image", path, ..] => image(get(scope, path), optional(2)).into(),
        ["labels", chart, name, version, ..] => {
            let mut labels = selector(scope, name, optional(4));
            let more = json!({"helm.sh/chart": chart, "app.kubernetes.io/version": version, "app.kubernetes.io/managed-by": "Helm"});
            merge(&mut labels, &more);
            labels
        }
        ["selector", name, ..] => selector(scope, name, optional(2)),
        ["httpGet", path, port, probe] => {
            let port = port.parse::<u16>().map_or_else(|_| Value::from(*port), Value::from);
            let mut result = json!({"httpGet": {"path": path, "port": port}});
            let mut settings = get(scope, probe).cloned().unwrap_or_default();
            super::object::unset(&mut settings, "/enabled");
            merge(&mut result, &settings);
            result
        }
        ["checksum", paths @ ..] => {
            let values: Vec<_> = paths.iter().map(|path| get(scope, path)).collect();
            let digest = Sha256::digest(json!(values).to_string());
            BASE64.encode(digest).into()
        }
        ["base64", path] => BASE64.encode(word(scope, path)).into(),
        ["crd", group, version, kind, reach] => crd(group, version, kind, reach),
        _ => return Err(format!("unknown placeholder ${{{expression}}}")),
    }))
}

fn image(value: Option<&Value>, otherwise: Option<&str>) -> String {
    let part = |key: &str| value.and_then(|value| value.get(key)).and_then(Value::as_str).unwrap_or_default();
    let registry = if part("registry").is_empty() { String::new() } else { format!("{}/", part("registry")) };
    let tag = [part("version"), part("tag"), otherwise.unwrap_or_default()].into_iter().find(|tag| !tag.is_empty());
    match tag {
        Some(tag) if tag.starts_with("sha256:") => format!("{registry}{}@{tag}", part("repository")),
        Some(tag) => format!("{registry}{}:{tag}", part("repository")),
        None => format!("{registry}{}", part("repository")),
    }
}

fn selector(scope: &Value, name: &str, component: Option<&str>) -> Value {
    let mut labels = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/instance": word(scope, "name.release")});
    if let Some(component) = component {
        labels["app.kubernetes.io/component"] = component.into();
    }
    labels
}

fn crd(group: &str, version: &str, kind: &str, scope: &str) -> Value {
    let singular = kind.to_lowercase();
    let plural = match singular.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if singular.ends_with('s') => format!("{singular}es"),
        None => format!("{singular}s"),
    };
    json!({
        "group": group, "scope": scope,
        "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular},
        "versions": [{
            "name": version, "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        }],
    })
}

/// Whether an object is a hook for `event` (`post-install`, `test`).
#[must_use]
pub fn is_hook_for(object: &Value, event: &str) -> bool {
    hooks_of(object).split(',').any(|hook| hook.trim() == event)
}

/// The hooks that an object is for; empty for an ordinary object.
#[must_use]
pub fn hooks_of(object: &Value) -> &str {
    text(object, "/metadata/annotations/helm.sh~1hook")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spire(values: &Value) -> Vec<Value> {
        Chart::find("spire", "0.13.0").unwrap().render("spire", "default", values).unwrap()
    }

    fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        objects
            .iter()
            .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{kind} {name}"))
    }

    #[test]
    fn values_reach_the_objects() {
        let objects = spire(&json!({
            "spire-server": {"namespaceOverride": "spire-server", "replicaCount": 3, "image": {"tag": "1.7.3"},
                "dataStore": {"sql": {"databaseType": "postgres", "password": "s", "host": "spire-db"}},
                "tornjak": {"enabled": true}, "notifier": {"k8sbundle": {"namespace": "spire-system"}}},
            "spire-agent": {"namespaceOverride": "spire-system", "podSecurityContext": {"runAsUser": 1000},
                "readinessProbe": {"periodSeconds": 3}},
        }));
        let servers = find(&objects, "StatefulSet", "spire-server");
        assert_eq!(servers["spec"]["replicas"], 3);
        let containers: Vec<_> = servers
            .pointer("/spec/template/spec/containers")
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["name"])
            .collect();
        assert_eq!(containers, ["spire-server", "spire-controller-manager", "tornjak"]);
        assert_eq!(
            servers.pointer("/spec/template/spec/containers/0/image").unwrap(),
            "ghcr.io/spiffe/spire-server:1.7.3"
        );
        let agents = find(&objects, "DaemonSet", "spire-agent");
        assert_eq!(agents["metadata"]["namespace"], "spire-system");
        // Always, whatever the lab pulls with: facts, section 9.
        assert_eq!(agents.pointer("/spec/template/spec/initContainers/1/imagePullPolicy").unwrap(), "Always");
        assert_eq!(
            *agents.pointer("/spec/template/spec/containers/0/readinessProbe").unwrap(),
            json!({"httpGet": {"path": "/ready", "port": "healthz"}, "initialDelaySeconds": 15, "periodSeconds": 3})
        );
        assert_eq!(find(&objects, "ConfigMap", "spire-bundle")["metadata"]["namespace"], "spire-system");
        assert_eq!(find(&objects, "Secret", "spire-server-dbpw")["data"]["DBPW"], "cw==");
        let config =
            find(&objects, "ConfigMap", "spire-server").pointer("/data/server.conf").unwrap().as_str().unwrap();
        assert!(config.contains("password=${DBPW} host=spire-db"), "{config}");
        assert!(serde_json::from_str::<Value>(config).is_ok(), "{config}");
    }

    #[test]
    fn what_is_off_is_not_there() {
        let objects = spire(&json!({"spire-agent": {"enabled": false}}));
        assert!(!objects.iter().any(|o| o["kind"] == "DaemonSet" && o["metadata"]["name"] == "spire-agent"));
        assert!(
            !objects.iter().any(|o| o["kind"] == "PodMonitor" || o["metadata"]["name"] == "spire-tornjak-frontend")
        );
        assert!(
            find(&objects, "StatefulSet", "spire-server").pointer("/spec/template/spec/priorityClassName").is_none()
        );
    }

    #[test]
    fn every_chart_renders_with_its_own_values() {
        for chart in CHARTS {
            let objects = chart.render("r", "ns", &json!({})).unwrap();
            for object in &objects {
                assert!(
                    !text(object, "/metadata/name").is_empty() && !object.to_string().contains("${image"),
                    "{object}"
                );
            }
            assert!(objects.iter().any(|object| object["kind"] == "CustomResourceDefinition"), "{}", chart.name);
        }
    }

    #[test]
    fn sqlite_takes_one_server() {
        let chart = Chart::find("spire", "0.13.0").unwrap();
        let error = chart.render("spire", "default", &json!({"spire-server": {"replicaCount": 3}})).unwrap_err();
        assert!(error.contains("sqlite3"), "{error}");
    }

    #[test]
    fn names_are_the_charts() {
        let chart = Chart::find("kube-prometheus-stack", "51.9.2").unwrap();
        let values = json!({"prometheus": {"prometheusSpec": {"podMonitorSelectorNilUsesHelmValues": false}}});
        let objects = chart.render("prometheus", "monitoring", &values).unwrap();
        let prometheus = find(&objects, "Prometheus", "prometheus-kube-prometheus-prometheus");
        assert_eq!(prometheus["spec"]["podMonitorSelector"], json!({}));
        find(&objects, "Deployment", "prometheus-grafana");
        find(&objects, "CustomResourceDefinition", "prometheuses.monitoring.coreos.com");
    }
}
