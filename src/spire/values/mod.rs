//! Values for the charts: the embedded files, with what the lab says put in as data.
//!
//! One set of values serves every line of the chart `spire`. [`lines`] knows what each line calls them and what it
//! needs besides; [`known`] tells which keys a chart does not read at all.

pub mod known;
pub mod lines;
mod path;
mod prometheus;
mod spire;

use serde_json::{Value, json};

use crate::assets::Asset;
use crate::config::Lab;
use crate::error::{Failure, Kind};

pub use lines::SERVER_PORT;
pub use prometheus::prometheus_values;
pub use spire::{Images, Phase, spire_values};

/// `base` with `over` merged into it, as helm merges values files: tables key by key, all else is replaced. A null
/// stays, for it is how helm is told to drop a default of the chart.
#[must_use]
pub fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let slot = base.entry(key).or_insert(Value::Null);
                *slot = merge(slot.take(), value);
            }
            Value::Object(base)
        }
        (_, over) => over,
    }
}

/// A values file of the user as a table; an empty file is an empty one. `name` is what a failure calls it.
///
/// # Errors
/// Not YAML, or not a table.
pub fn parse_file(name: &str, text: &str) -> Result<Value, Failure> {
    let wrong = |problem: String| {
        Failure::new(Kind::Config, format!("the values file `{name}` is not usable: {problem}"))
            .next("it must be what `helm --values` takes: one YAML document with a table at the top")
    };
    // By way of YAML's own value, which refuses a key that is there twice.
    let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match serde_json::to_value(yaml) {
        Ok(Value::Null) => Ok(json!({})),
        Ok(table @ Value::Object(_)) => Ok(table),
        Ok(_) => Err(wrong("there is no table at the top".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn parse(asset: Asset) -> Result<Value, Failure> {
    // Anchors are expanded by the parser; merge keys are not used.
    parse_file(asset.name, asset.text)
}

/// `{a: {b: {KEY: POLICY}}}` for each path `a.b`.
fn policy_tree(lab: &Lab, paths: &[&str], key: &str) -> Value {
    let policy = lab.images.pull.as_kubernetes();
    paths.iter().fold(json!({}), |mut tree, table| {
        path::set(&mut tree, &format!("{table}.{key}"), policy.into());
        tree
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tables_are_merged_and_all_else_is_replaced() {
        for (base, over, merged) in [
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 3, "d": 4}}), json!({"a": {"b": 1, "c": 3, "d": 4}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
            (json!({"a": 5}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            (json!({"a": {"b": 1}}), json!({"a": null}), json!({"a": null})),
        ] {
            assert_eq!(merge(base, over), merged);
        }
        let kept = merge(json!({"z": 1, "a": 2, "m": 3}), json!({"z": 9}));
        assert_eq!(kept.to_string(), r#"{"z":9,"a":2,"m":3}"#);
    }

    #[test]
    fn a_values_file_is_a_table() {
        assert_eq!(parse_file("f", "").unwrap(), json!({}));
        assert_eq!(parse_file("f", "# nothing\n").unwrap(), json!({}));
        assert_eq!(parse_file("f", "a: {b: 1}").unwrap(), json!({"a": {"b": 1}}));
        for text in ["- a", "text", "a: [", "a: 1\na: 2", "a: 1\n---\nb: 2"] {
            let failure = parse_file("mine.yaml", text).unwrap_err();
            assert_eq!(failure.kind, Kind::Config, "{text}");
            assert!(failure.message.contains("`mine.yaml`"), "{}", failure.message);
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn merging_again_changes_nothing(base in tree(), over in tree()) {
            let once = merge(base.clone(), over.clone());
            prop_assert_eq!(&merge(once.clone(), over), &once);
            prop_assert_eq!(merge(json!({}), base.clone()), base);
        }
    }
}
