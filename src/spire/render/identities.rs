//! `ClusterSPIFFEID`s as rendered: who gets an identity by them.

use std::collections::BTreeMap;

use serde_json::Value;

/// The label by which every namespace can be selected.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A `ClusterSPIFFEID`.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// The class of controller managers that heeds it; from chart 0.15.0 on.
    pub class: Option<String>,
    /// The SPIFFE id, as a Go template.
    pub template: String,
    namespaces: Value,
    pods: Value,
}

impl Identity {
    /// Reads the object.
    #[must_use]
    pub fn read(object: &Value) -> Identity {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let spec = &object["spec"];
        Identity {
            name: text(&object["metadata"]["name"]),
            class: spec["className"].as_str().map(ToOwned::to_owned),
            template: text(&spec["spiffeIDTemplate"]),
            namespaces: spec["namespaceSelector"].clone(),
            pods: spec["podSelector"].clone(),
        }
    }

    /// Whether it gives every pod of a namespace an identity, as far as the namespace's name tells.
    #[must_use]
    pub fn reaches_all_of(&self, namespace: &str) -> bool {
        let labels = Labels::from([(NAMESPACE_NAME.to_owned(), namespace.to_owned())]);
        selects(&self.namespaces, &labels) && is_empty(&self.pods)
    }
}

fn is_empty(selector: &Value) -> bool {
    let none = |value: &Value| match value {
        Value::Object(table) => table.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    none(&selector["matchLabels"]) && none(&selector["matchExpressions"])
}

/// Whether a label selector selects an object with these labels. An empty selector selects everything.
fn selects(selector: &Value, labels: &Labels) -> bool {
    let equal = selector["matchLabels"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str()));
    equal
        && selector["matchExpressions"].as_array().is_none_or(|expressions| {
            expressions.iter().all(|expression| {
                let label = expression["key"].as_str().and_then(|key| labels.get(key));
                let listed = label.is_some_and(|label| {
                    expression["values"].as_array().is_some_and(|values| values.iter().any(|value| value == label))
                });
                match expression["operator"].as_str() {
                    Some("In") => listed,
                    Some("NotIn") => !listed,
                    Some("Exists") => label.is_some(),
                    Some("DoesNotExist") => label.is_none(),
                    _ => false,
                }
            })
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_mean_what_kubernetes_says() {
        let labels = Labels::from([("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())));
        for (selector, wanted) in [
            (json!(null), true),
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "1", "c": "3"}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "5"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false),
            (json!({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}), false),
            (json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}), false),
        ] {
            assert_eq!(selects(&selector, &labels), wanted, "{selector}");
        }
    }

    #[test]
    fn a_namespace_is_left_out_by_its_name() {
        let identity = |spec: Value| Identity::read(&json!({"metadata": {"name": "x"}, "spec": spec}));
        let base = json!({"namespaceSelector": {"matchExpressions": [
            {"key": NAMESPACE_NAME, "operator": "NotIn", "values": ["default", "spire-server"]},
        ]}});
        assert!(!identity(base.clone()).reaches_all_of("default"));
        assert!(identity(base).reaches_all_of("shop"));
        assert!(identity(json!({})).reaches_all_of("default"));
        assert!(!identity(json!({"podSelector": {"matchLabels": {"a": "b"}}})).reaches_all_of("default"));
        assert!(identity(json!({"podSelector": {"matchLabels": {}}})).reaches_all_of("default"));
    }
}
