//! The four ways of changing an object: server-side apply, merge patch, JSON patch, and what they have in common.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::rehearsal::object::{set, text, unset};

/// Maps that are replaced as a whole (`x-kubernetes-map-type: atomic` in the API's schema).
const ATOMIC: &[&str] = &[
    "selector",
    "nodeSelector",
    "labelSelector",
    "podSelector",
    "namespaceSelector",
    "objectSelector",
    "secretKeyRef",
    "configMapKeyRef",
    "fieldRef",
];

/// What tells the items of a list apart (`x-kubernetes-list-map-keys`); no entry: the list is replaced as a whole.
fn list_keys(list: &str, item: &Value) -> &'static [&'static str] {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "webhooks" => &["name"],
        "ports" if item.get("containerPort").is_some() => &["containerPort", "protocol"],
        "ports" if item.get("port").is_some() => &["port", "protocol"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "conditions" => &["type"],
        "ownerReferences" => &["uid"],
        "hostAliases" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        _ => &[],
    }
}

/// How the lists of an object are merged.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Built-in kinds merge lists by key; the lab's custom kinds replace them.
    pub keyed_lists: bool,
}

impl Schema {
    fn keys(self, list: &str, items: &[Value]) -> &'static [&'static str] {
        match items.first() {
            Some(item) if self.keyed_lists => list_keys(list, item),
            _ => &[],
        }
    }

    /// `live` after an apply of `patch` by a manager that applied `prior` before, while `others` is what the other
    /// managers applied: fields of `patch` are set, fields that only `prior` had go.
    #[must_use]
    pub fn apply(self, live: &Value, patch: &Value, prior: Option<&Value>, others: &[&Value]) -> Value {
        let mut result = live.clone();
        self.merge("", &mut result, patch);
        if let Some(prior) = prior {
            self.strip("", &mut result, prior, Some(patch), others);
        }
        result
    }

    fn merge(self, name: &str, live: &mut Value, patch: &Value) {
        match (live, patch) {
            (Value::Object(live), Value::Object(patch)) if !ATOMIC.contains(&name) => {
                for (key, value) in patch {
                    if value.is_null() {
                        live.shift_remove(key);
                    } else {
                        self.merge(key, live.entry(key.clone()).or_insert(Value::Null), value);
                    }
                }
            }
            (Value::Array(live), Value::Array(patch)) if !self.keys(name, patch).is_empty() => {
                let keys = self.keys(name, patch);
                let mut rest = std::mem::take(live);
                for item in patch {
                    let found = rest.iter().position(|candidate| same(keys, candidate, item));
                    let mut merged = found.map_or_else(|| item.clone(), |at| rest.remove(at));
                    self.merge("", &mut merged, item);
                    live.push(merged);
                }
                live.append(&mut rest);
            }
            // Nulls are no values: an object that is new to the server has none.
            (live, Value::Object(patch)) => {
                *live = Value::Object(Map::new());
                for (key, value) in patch.iter().filter(|(_, value)| !value.is_null()) {
                    set(live, &format!("/{}", escaped(key)), value.clone());
                }
            }
            (live, patch) => *live = patch.clone(),
        }
    }

    fn strip(self, name: &str, live: &mut Value, prior: &Value, patch: Option<&Value>, others: &[&Value]) {
        match (live, prior) {
            (Value::Object(live), Value::Object(prior)) if !ATOMIC.contains(&name) => {
                for (key, before) in prior {
                    let Some(value) = live.get_mut(key) else { continue };
                    let wanted = patch.and_then(|patch| patch.get(key));
                    let held: Vec<&Value> = others.iter().filter_map(|other| other.get(key)).collect();
                    self.strip(key, value, before, wanted, &held);
                    if wanted.is_none() && held.is_empty() && (is_leaf(self, key, before) || is_empty(value)) {
                        live.shift_remove(key);
                    }
                }
            }
            (Value::Array(live), Value::Array(prior)) if !self.keys(name, prior).is_empty() => {
                let keys = self.keys(name, prior);
                for before in prior {
                    fn find<'a>(list: &'a Value, keys: &[&str], item: &Value) -> Option<&'a Value> {
                        list.as_array()?.iter().find(|candidate| same(keys, candidate, item))
                    }
                    let wanted = patch.and_then(|patch| find(patch, keys, before));
                    let held: Vec<&Value> = others.iter().filter_map(|other| find(other, keys, before)).collect();
                    let Some(at) = live.iter().position(|item| same(keys, item, before)) else { continue };
                    if wanted.is_none() && held.is_empty() {
                        live.remove(at);
                    } else {
                        self.strip("", &mut live[at], before, wanted, &held);
                    }
                }
            }
            _ => {}
        }
    }

    /// A field that `patch` would change although another manager applied it differently: the manager and the field.
    #[must_use]
    pub fn conflict(self, patch: &Value, others: &BTreeMap<String, Value>) -> Option<(String, String)> {
        others.iter().find_map(|(manager, applied)| Some((manager.clone(), self.clash("", patch, applied, "")?)))
    }

    fn clash(self, name: &str, ours: &Value, theirs: &Value, path: &str) -> Option<String> {
        match (ours, theirs) {
            (Value::Object(ours), Value::Object(theirs)) if !ATOMIC.contains(&name) => ours
                .iter()
                .filter(|(key, _)| !(path.is_empty() && ["apiVersion", "kind"].contains(&key.as_str())))
                .find_map(|(key, value)| self.clash(key, value, theirs.get(key)?, &format!("{path}.{key}"))),
            (Value::Array(ours), Value::Array(theirs)) if !self.keys(name, ours).is_empty() => {
                let keys = self.keys(name, ours);
                ours.iter().find_map(|item| {
                    let other = theirs.iter().find(|candidate| same(keys, candidate, item))?;
                    self.clash("", item, other, &format!("{path}[{}={}]", keys[0], item[keys[0]]))
                })
            }
            (ours, theirs) => (ours != theirs).then(|| path.to_owned()),
        }
    }
}

fn same(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().all(|key| {
        let value = |item: &Value| {
            item.get(key).cloned().unwrap_or_else(|| if *key == "protocol" { "TCP".into() } else { Value::Null })
        };
        value(a) == value(b)
    })
}

fn is_leaf(schema: Schema, name: &str, value: &Value) -> bool {
    match value {
        Value::Object(_) => ATOMIC.contains(&name),
        Value::Array(items) => schema.keys(name, items).is_empty(),
        _ => true,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// JSON merge patch (RFC 7386). Strategic merge patches are treated the same.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            unset(target, &format!("/{}", escaped(key)));
        } else {
            let pointer = format!("/{}", escaped(key));
            if target.pointer(&pointer).is_none() {
                set(target, &pointer, Value::Null);
            }
            if let Some(inner) = target.pointer_mut(&pointer) {
                merge_patch(inner, value);
            }
        }
    }
}

/// JSON patch (RFC 6902), without `move` and `copy`.
///
/// # Errors
/// What cannot be done, in words.
pub fn json_patch(target: &mut Value, steps: &Value) -> Result<(), String> {
    for step in steps.as_array().ok_or("a JSON patch is a list")? {
        let path = text(step, "/path");
        let missing = || format!("the path {path} does not exist");
        let value = step.get("value").cloned().unwrap_or(Value::Null);
        let (parent, last) = path.rsplit_once('/').ok_or_else(missing)?;
        match text(step, "/op") {
            "test" if target.pointer(path) == Some(&value) => {}
            "test" => return Err(format!("testing value {path} failed")),
            "replace" => *target.pointer_mut(path).ok_or_else(missing)? = value,
            "add" => match target.pointer_mut(parent).ok_or_else(missing)? {
                Value::Array(items) if last == "-" => items.push(value),
                Value::Array(items) => match last.parse() {
                    Ok(at) if at <= items.len() => items.insert(at, value),
                    _ => return Err(missing()),
                },
                _ => set(target, path, value),
            },
            "remove" => match target.pointer_mut(parent).ok_or_else(missing)? {
                Value::Array(items) => match last.parse() {
                    Ok(at) if at < items.len() => drop(items.remove(at)),
                    _ => return Err(missing()),
                },
                _ => drop(unset(target, path).ok_or_else(missing)?),
            },
            other => return Err(format!("the rehearsal does not know the JSON patch operation {other}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BUILT_IN: Schema = Schema { keyed_lists: true };

    #[test]
    fn apply_sets_merges_and_takes_back() {
        let live = json!({"spec": {"containers": [{"name": "a", "image": "x", "terminationMessagePath": "/dev"}, {"name": "side"}]},
            "metadata": {"labels": {"a": "1", "b": "2"}}});
        let prior = json!({"spec": {"containers": [{"name": "a", "image": "x", "command": ["c"]}]}, "metadata": {"labels": {"a": "1"}}});
        for (what, patch, after) in [
            (
                "keyed lists are merged and what nobody applied stays",
                json!({"spec": {"containers": [{"name": "a", "image": "y"}]}, "metadata": {"labels": {"a": "1"}}}),
                json!({"spec": {"containers": [{"name": "a", "image": "y", "terminationMessagePath": "/dev"}, {"name": "side"}]},
                    "metadata": {"labels": {"a": "1", "b": "2"}}}),
            ),
            (
                "what was applied before and is no more goes",
                json!({"spec": {"containers": [{"name": "a", "image": "x"}]}}),
                json!({"spec": {"containers": [{"name": "a", "image": "x", "terminationMessagePath": "/dev"}, {"name": "side"}]},
                    "metadata": {"labels": {"b": "2"}}}),
            ),
            (
                "an item that is no longer applied goes whole",
                json!({"spec": {"containers": [{"name": "b"}]}, "metadata": {"labels": {"a": "1"}}}),
                json!({"spec": {"containers": [{"name": "b"}, {"name": "side"}]}, "metadata": {"labels": {"a": "1", "b": "2"}}}),
            ),
        ] {
            assert_eq!(BUILT_IN.apply(&live, &patch, Some(&prior), &[]), after, "{what}");
        }
        let held = json!({"metadata": {"labels": {"a": "1"}}});
        let kept = BUILT_IN.apply(&live, &json!({}), Some(&prior), &[&held]);
        assert_eq!(kept["metadata"]["labels"]["a"], json!("1"), "what another manager applied too stays");
    }

    #[test]
    fn atomic_lists_and_maps_are_replaced() {
        let live = json!({"spec": {"rules": [1, 2], "selector": {"old": "x"}, "containers": [{"name": "a"}]}});
        let patch = json!({"spec": {"rules": [3], "selector": {"new": "y"}}});
        let after = BUILT_IN.apply(&live, &patch, None, &[]);
        assert_eq!(after["spec"]["rules"], json!([3]));
        assert_eq!(after["spec"]["selector"], json!({"new": "y"}));
        let custom =
            Schema { keyed_lists: false }.apply(&live, &json!({"spec": {"containers": [{"name": "b"}]}}), None, &[]);
        assert_eq!(custom["spec"]["containers"], json!([{"name": "b"}]));
    }

    #[test]
    fn a_foreign_field_is_a_conflict() {
        let others = BTreeMap::from([("helm".to_owned(), json!({"kind": "X", "spec": {"replicas": 1}}))]);
        assert_eq!(BUILT_IN.conflict(&json!({"kind": "X", "spec": {"replicas": 1}}), &others), None);
        let found = BUILT_IN.conflict(&json!({"spec": {"replicas": 2}}), &others);
        assert_eq!(found, Some(("helm".into(), ".spec.replicas".into())));
    }

    #[test]
    fn patches() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge_patch(&mut object, &json!({"a": {"b": null, "d": {"e/f": 3}}}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {"e/f": 3}}, "l": [1]}));
        json_patch(
            &mut object,
            &json!([{"op": "add", "path": "/l/-", "value": 2}, {"op": "remove", "path": "/a/c"},
                {"op": "replace", "path": "/a/d/e~1f", "value": 4}, {"op": "test", "path": "/l/1", "value": 2}]),
        )
        .unwrap();
        assert_eq!(object, json!({"a": {"d": {"e/f": 4}}, "l": [1, 2]}));
        assert!(json_patch(&mut object, &json!([{"op": "remove", "path": "/x"}])).is_err());
        assert!(json_patch(&mut object, &json!([{"op": "test", "path": "/l/0", "value": 5}])).is_err());
    }
}
