//! Manifests as objects, and whether an object is as wanted.

use kube::core::DynamicObject;
use serde_json::Value;

use crate::config::Lab;
use crate::error::{Failure, Kind};

const MANIFEST_HINT: &str =
    "the file must hold Kubernetes manifests in YAML; a download that was cut short or an error page does not";

/// All objects of a YAML text: several documents, `List`s unpacked, empty documents skipped.
///
/// # Errors
/// Not YAML, or a document that is not a Kubernetes object; the sentence says which.
pub fn parse(name: &str, text: &str) -> Result<Vec<DynamicObject>, Failure> {
    let wrong = |number: usize, problem: &dyn std::fmt::Display| {
        Failure::new(Kind::Prerequisite, format!("{name}, document {number}: {problem}")).next(MANIFEST_HINT)
    };
    // Read as Kubernetes' own tools read it: `0644` is octal, `yes` is a word, a key given twice is a mistake.
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        Failure::new(Kind::Prerequisite, format!("{name} is not YAML: {error}")).next(MANIFEST_HINT)
    })?;
    let mut objects = Vec::new();
    for (index, value) in documents.into_iter().enumerate() {
        let number = index + 1;
        let items = match value {
            Value::Null => continue,
            Value::Object(mut map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                match map.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => return Err(wrong(number, &"a List without items")),
                }
            }
            other => vec![other],
        };
        for item in items {
            let object: DynamicObject = serde_json::from_value(item).map_err(|error| wrong(number, &error))?;
            let complete =
                object.types.as_ref().is_some_and(|types| !types.kind.is_empty() && !types.api_version.is_empty())
                    && object.metadata.name.is_some();
            if !complete {
                return Err(wrong(number, &"not a Kubernetes object (apiVersion, kind and metadata.name are needed)"));
            }
            objects.push(object);
        }
    }
    if objects.is_empty() {
        return Err(Failure::new(Kind::Prerequisite, format!("{name} holds no Kubernetes object")).next(MANIFEST_HINT));
    }
    Ok(objects)
}

/// Marks an object as the lab's.
pub fn label(object: &mut DynamicObject, lab: &Lab) {
    let labels = object.metadata.labels.get_or_insert_default();
    labels.insert(Lab::LABEL.to_owned(), lab.name.clone());
}

/// Where `have` is not as `want` says: the first such path. Fields that `want` does not mention do not count,
/// because the server fills in defaults.
#[must_use]
pub fn differs(want: &Value, have: &Value) -> Option<String> {
    fn walk(want: &Value, have: &Value, path: &str) -> Option<String> {
        match (want, have) {
            (Value::Object(want), Value::Object(have)) => want.iter().find_map(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match have.get(key) {
                    Some(found) => walk(value, found, &path),
                    // The server drops empty values.
                    None if is_empty(value) => None,
                    None => Some(path),
                }
            }),
            (Value::Array(want), Value::Array(have)) => {
                if want.len() != have.len() {
                    return Some(path.to_owned());
                }
                want.iter()
                    .zip(have)
                    .enumerate()
                    .find_map(|(index, (want, have))| walk(want, have, &format!("{path}[{index}]")))
            }
            (want, have) if same_scalar(want, have) => None,
            _ => Some(path.to_owned()),
        }
    }
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.values().all(is_empty),
            Value::Number(number) => number.as_f64() == Some(0.0),
        }
    }
    // Numbers may be written as 1 or 1.0; quantities that are normalised (0.5 -> 500m) are left to the server.
    fn same_scalar(want: &Value, have: &Value) -> bool {
        want == have || matches!((want.as_f64(), have.as_f64()), (Some(a), Some(b)) if (a - b).abs() < f64::EPSILON)
    }
    walk(want, have, "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_lists_and_blanks() {
        let text = "---\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n";
        let names: Vec<_> = parse("x.yaml", text).unwrap().into_iter().map(|o| o.metadata.name.unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn modes_are_octal_as_kubernetes_reads_them() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {on: \"yes\"}}\nspec: {mode: 0644, word: yes, flag: true}\n";
        let object = parse("x.yaml", text).unwrap().remove(0);
        assert_eq!(object.data["spec"], json!({"mode": 420, "word": "yes", "flag": true}));
    }

    #[test]
    fn what_is_no_manifest_says_so() {
        for (text, words) in [
            ("<html>404</html>", "document 1"),
            ("a: [1", "is not YAML"),
            ("apiVersion: v1\nkind: ConfigMap\n", "document 1"),
            ("", "holds no Kubernetes object"),
            ("apiVersion: v1\nkind: List\n", "a List without items"),
        ] {
            let failure = parse("x.yaml", text).unwrap_err();
            assert!(failure.message.contains(words), "{text:?}: {}", failure.message);
            assert_eq!(failure.kind, Kind::Prerequisite);
        }
    }

    #[test]
    fn only_what_is_wanted_counts() {
        let have = json!({"a": 1, "b": {"c": [{"x": 1, "added": true}], "d": "t"}, "more": {}});
        for (want, difference) in [
            (json!({"a": 1.0}), None),
            (json!({"b": {"c": [{"x": 1}]}}), None),
            (json!({"gone": {}, "off": false, "none": []}), None),
            (json!({"a": 2}), Some("a")),
            (json!({"b": {"c": [{"x": 2}]}}), Some("b.c[0].x")),
            (json!({"b": {"c": []}}), Some("b.c")),
            (json!({"b": {"e": 1}}), Some("b.e")),
        ] {
            assert_eq!(differs(&want, &have).as_deref(), difference, "{want}");
        }
    }
}
