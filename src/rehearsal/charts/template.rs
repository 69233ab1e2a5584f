//! Fills in the documents of a chart.
//!
//! A template is a YAML file whose documents are objects. In them, text may hold `${…}`:
//!
//! | written | becomes |
//! |---|---|
//! | `${a.b\|c}` | the value at `a.b`, else the one at `c` |
//! | `${image PATH [TAG]}` | image reference of the value `{registry, repository, tag, version}` (`version` wins up to chart 0.16 and counts no more after it; facts, section 2) |
//! | `${labels CHART NAME VERSION [COMPONENT]}`, `${selector NAME [COMPONENT]}` | the chart's labels |
//! | `${httpGet PATH PORT PROBE}` | a probe of HTTP with the settings of the value `PROBE` |
//! | `${base64 PATH}` | of the value |
//! | `${crd GROUP VERSION KIND SCOPE}` | the spec of a CRD that takes any fields |
//! | `${monitors}` | what Prometheus selects monitors of pods by |
//! | `$${` | `${` |
//!
//! A word that begins with `@` stands for the value at that path. A field whose whole text is one `${…}` gets the value
//! with its type, or is left out if there is none or it is empty. In a map, some keys say what becomes of it:
//!
//! | key | the map |
//! |---|---|
//! | `$when: PATH`, `$unless: PATH` | is left out unless the value there is set, or is not |
//! | `$since: VERSION`, `$before: VERSION` | is left out by charts older than that, or by that one and newer ones |
//! | `$by: {VERSION: X, …}` | is the X of the newest version that is not newer than the chart |
//! | `$json: X` | is X as JSON in a text |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use semver::Version;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use crate::rehearsal::object::{text, unset};

/// The documents of `template`, filled in from `scope`.
///
/// # Errors
/// The template asks for what does not exist.
pub fn render(template: &str, scope: &Value) -> Result<Vec<Value>, String> {
    documents(template)?.iter().filter_map(|document| expand(document, scope).transpose()).collect()
}

pub(super) fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_yaml::Deserializer::from_str(text).map(|d| Value::deserialize(d).map_err(|error| error.to_string())).collect()
}

/// Lays `over` over `under`, as helm merges values: maps deeply, all else replaced, null takes away.
pub(in crate::rehearsal) fn merge(under: &mut Value, over: &Value) {
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

pub(super) fn get<'a>(scope: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(scope, |value, key| value.get(key))
}

pub(super) fn word<'a>(scope: &'a Value, path: &str) -> &'a str {
    get(scope, path).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true)) => true,
    }
}

/// Whether the chart that is rendered is `version` or newer.
fn is_since(scope: &Value, version: &str) -> bool {
    let of = |text: &str| Version::parse(text).unwrap_or_else(|_| Version::new(0, 0, 0));
    of(word(scope, "chart.version")) >= of(version)
}

pub(super) fn expand(template: &Value, scope: &Value) -> Result<Option<Value>, String> {
    match template {
        Value::String(text) => expand_text(text, scope),
        Value::Array(items) => {
            let items: Result<Vec<Value>, String> =
                items.iter().filter_map(|item| expand(item, scope).transpose()).collect();
            Ok(Some(Value::Array(items?)))
        }
        Value::Object(map) => expand_map(map, scope),
        other => Ok(Some(other.clone())),
    }
}

fn expand_map(map: &Map<String, Value>, scope: &Value) -> Result<Option<Value>, String> {
    let says = |key: &str| map.get(key).and_then(Value::as_str);
    let left_out = says("$when").is_some_and(|path| !is_set(get(scope, path)))
        || says("$unless").is_some_and(|path| is_set(get(scope, path)))
        || says("$since").is_some_and(|version| !is_since(scope, version))
        || says("$before").is_some_and(|version| is_since(scope, version));
    if left_out {
        return Ok(None);
    }
    if let Some(Value::Object(versions)) = map.get("$by") {
        let newest = versions.iter().rfind(|(version, _)| is_since(scope, version));
        return newest.filter(|(_, value)| !value.is_null()).map_or(Ok(None), |(_, value)| expand(value, scope));
    }
    if let Some(inner) = map.get("$json") {
        return Ok(expand(inner, scope)?.map(|inner| inner.to_string().into()));
    }
    let mut result = Map::new();
    for (key, value) in map.iter().filter(|(key, _)| !key.starts_with('$') || key.starts_with("${")) {
        if let (Some(Value::String(key)), Some(value)) = (expand_text(key, scope)?, expand(value, scope)?) {
            result.insert(key, value);
        }
    }
    Ok(Some(Value::Object(result)))
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
    let named = |word: &'_ str| word.strip_prefix('@').map_or_else(|| word.to_owned(), |path| word_at(scope, path));
    let words: Vec<String> = expression.split(' ').map(named).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
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
        ["image", path, ..] => image(scope, path, optional(2)).into(),
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
            let mut settings = get(scope, probe).cloned().unwrap_or_else(|| json!({}));
            unset(&mut settings, "/enabled");
            merge(&mut result, &settings);
            result
        }
        ["base64", path] => BASE64.encode(word(scope, path)).into(),
        ["crd", group, version, kind, reach] => crd(group, version, kind, reach),
        _ => return Err(format!("unknown placeholder ${{{expression}}}")),
    }))
}

fn word_at(scope: &Value, path: &str) -> String {
    word(scope, path).to_owned()
}

fn image(scope: &Value, path: &str, otherwise: Option<&str>) -> String {
    let part = |key: &str| word(scope, &format!("{path}.{key}"));
    let registry = if part("registry").is_empty() { String::new() } else { format!("{}/", part("registry")) };
    let version = if word(scope, "chart.name") == "spire" && is_since(scope, "0.17.0") { "" } else { part("version") };
    let tag = [version, part("tag"), otherwise.unwrap_or_default()].into_iter().find(|tag| !tag.is_empty());
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
