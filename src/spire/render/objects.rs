//! Rendered manifests as plain objects, and the paths into them that are asked for.

use serde_json::Value;

use crate::error::{Failure, Kind};

/// The objects that `helm template` printed, hooks and test pods included.
#[derive(Debug, Clone)]
pub struct Objects {
    objects: Vec<Value>,
    /// Where objects go that name no namespace.
    release_namespace: String,
}

/// A container of a pod, whichever object makes the pod.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// The object.
    pub object: &'a Value,
    /// The pod's `spec`.
    pub pod: &'a Value,
    /// The container's own.
    pub spec: &'a Value,
}

impl Objects {
    /// Reads what `helm template` printed for a release in `release_namespace`.
    ///
    /// # Errors
    /// Not YAML. The text is not repeated: it may hold secrets.
    pub fn parse(text: &str, release_namespace: &str) -> Result<Objects, Failure> {
        // As helm reads it. A key that is there twice is no mistake to it (chart 0.18.0 has one): the last counts.
        let options = serde_saphyr::options! {
            strict_booleans: true,
            legacy_octal_numbers: true,
            duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let place = error.location().map_or(String::new(), |place| format!(" (line {})", place.line()));
            Failure::new(Kind::Tool, format!("`helm template` printed something that is not YAML{place}"))
        })?;
        let objects = documents.into_iter().filter(|document| document["kind"].is_string()).collect();
        Ok(Objects { objects, release_namespace: release_namespace.to_owned() })
    }

    /// All objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of that kind, namespace and name.
    ///
    /// # Errors
    /// The chart makes none.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Result<&Value, Failure> {
        self.objects
            .iter()
            .find(|object| {
                object["kind"] == kind && object["metadata"]["name"] == name && self.namespace(object) == namespace
            })
            .ok_or_else(|| {
                Failure::new(Kind::Tool, format!("with these values the chart makes no {kind} {namespace}/{name}"))
            })
    }

    /// Where an object goes.
    #[must_use]
    pub fn namespace<'a>(&'a self, object: &'a Value) -> &'a str {
        object["metadata"]["namespace"].as_str().unwrap_or(&self.release_namespace)
    }

    /// Every container of every pod that an object makes, init containers included.
    pub fn containers(&self) -> impl Iterator<Item = Container<'_>> {
        self.objects.iter().filter_map(|object| pod_spec(object).map(|pod| (object, pod))).flat_map(|(object, pod)| {
            ["initContainers", "containers"]
                .into_iter()
                .filter_map(|list| pod[list].as_array())
                .flatten()
                .map(move |spec| Container { object, pod, spec })
        })
    }
}

/// The `spec` of the pods that an object makes.
#[must_use]
pub fn pod_spec(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(&object["spec"]),
        "StatefulSet" | "DaemonSet" | "Deployment" | "ReplicaSet" | "Job" => Some(&object["spec"]["template"]["spec"]),
        "CronJob" => Some(&object["spec"]["jobTemplate"]["spec"]["template"]["spec"]),
        _ => None,
    }
}

/// `Kind namespace/name`, as a person says it.
#[must_use]
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{} {namespace}/{name}", text(&object["kind"])),
        None => format!("{} {name}", text(&object["kind"])),
    }
}

/// Text at a JSON pointer.
///
/// # Errors
/// None there; `what` says what is missing.
pub fn text<'a>(value: &'a Value, pointer: &str, what: &str) -> Result<&'a str, Failure> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::new(Kind::Tool, format!("the rendered chart has no {what} ({pointer})")))
}

/// A port at a JSON pointer, as a number or as text.
///
/// # Errors
/// None there, or no port.
pub fn port(value: &Value, pointer: &str, what: &str) -> Result<u16, Failure> {
    let found = value.pointer(pointer);
    let number = match found {
        Some(Value::Number(number)) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| Failure::new(Kind::Tool, format!("the rendered chart has no {what} ({pointer})")))
}

/// Members of a table that HCL lets be written as a table, or as a list of tables.
pub fn members(value: &Value) -> Vec<(&str, &Value)> {
    match value {
        Value::Object(table) => table.iter().map(|(key, value)| (key.as_str(), value)).collect(),
        Value::Array(items) => items.iter().flat_map(members).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_found_by_kind_namespace_and_name() {
        let text = "---\n# Source: x\nkind: Service\nmetadata: {name: a, namespace: n}\n---\n---\nkind: Service\n\
                    metadata: {name: b}\n---\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {containers: \
                    [{name: c}], initContainers: [{name: i}]}}}\n";
        let objects = Objects::parse(text, "default").unwrap();
        assert_eq!(objects.of_kind("Service").count(), 2);
        assert!(objects.find("Service", "n", "a").is_ok());
        assert!(objects.find("Service", "default", "b").is_ok());
        let failure = objects.find("Service", "n", "b").unwrap_err();
        assert_eq!(failure.message, "with these values the chart makes no Service n/b");
        let names: Vec<_> = objects.containers().map(|container| container.spec["name"].clone()).collect();
        assert_eq!(names, [json!("i"), json!("c")]);
        assert_eq!(title(objects.find("Service", "n", "a").unwrap()), "Service n/a");
    }

    #[test]
    fn the_last_of_a_key_that_is_there_twice_counts() {
        let objects = Objects::parse("kind: Pod\nmetadata: {name: a}\nspec: {x: 1, x: 2}\n", "default").unwrap();
        assert_eq!(objects.find("Pod", "default", "a").unwrap()["spec"]["x"], json!(2));
    }

    #[test]
    fn what_is_no_yaml_is_not_repeated() {
        let failure = Objects::parse("a: b\npassword: [hunter2\n", "default").unwrap_err();
        assert!(failure.message.contains("is not YAML"), "{}", failure.message);
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }

    #[test]
    fn hcl_has_two_ways_to_write_a_table() {
        for value in [json!({"a": 1, "b": 2}), json!([{"a": 1}, {"b": 2}])] {
            assert_eq!(members(&value), [("a", &json!(1)), ("b", &json!(2))]);
        }
        assert_eq!(members(&json!(5)), []);
    }

    #[test]
    fn ports_are_numbers_in_either_spelling() {
        for (value, read) in
            [(json!(443), Some(443)), (json!("8081"), Some(8081)), (json!(70000), None), (json!({}), None)]
        {
            assert_eq!(port(&json!({"p": value}), "/p", "port").ok(), read);
        }
    }
}
