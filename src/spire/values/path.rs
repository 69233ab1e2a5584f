//! Dotted paths into tables of values: `spire-server.image.tag`. A key that holds a dot itself cannot be named.

use serde_json::{Map, Value};

/// What is at `path`.
#[must_use]
pub fn get<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(values, |table, key| table.get(key))
}

/// Puts `value` at `path`, making the tables on the way. What is in the way and is no table is replaced.
pub fn set(values: &mut Value, path: &str, value: Value) {
    let mut slot = values;
    for key in path.split('.') {
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        let Value::Object(table) = slot else { return };
        slot = table.entry(key).or_insert(Value::Null);
    }
    *slot = value;
}

/// Takes out what is at `path`; the order of the keys that stay is kept, and so are tables that become empty.
pub fn take(values: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = match path.rsplit_once('.') {
        Some((parent, key)) => (parent.split('.').try_fold(values, |table, key| table.get_mut(key))?, key),
        None => (values, path),
    };
    parent.as_object_mut()?.shift_remove(key)
}

/// Every path that ends in something that is no table, with what it holds as text; items of a list share their
/// list's path.
#[cfg(test)]
pub fn leaves(values: &Value) -> Vec<(String, String)> {
    fn walk(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(value, &path, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, found)),
            Value::String(text) => found.push((path.to_owned(), text.clone())),
            other => found.push((path.to_owned(), other.to_string())),
        }
    }
    let mut found = Vec::new();
    walk(values, "", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_into_tables() {
        let mut values = json!({"a": {"b": 1, "c": {}}, "d": 2});
        assert_eq!(get(&values, "a.b"), Some(&json!(1)));
        assert_eq!(get(&values, "a.x.y"), None);
        assert_eq!(get(&values, "d.e"), None);
        set(&mut values, "a.c.e", json!(3));
        set(&mut values, "d.f", json!(4));
        assert_eq!(values, json!({"a": {"b": 1, "c": {"e": 3}}, "d": {"f": 4}}));
        assert_eq!(take(&mut values, "a.b"), Some(json!(1)));
        assert_eq!(take(&mut values, "a.b"), None);
        assert_eq!(take(&mut values, "x.y"), None);
        assert_eq!(take(&mut values, "d"), Some(json!({"f": 4})));
        assert_eq!(values.to_string(), r#"{"a":{"c":{"e":3}}}"#);
    }

    #[test]
    fn leaves_have_the_path_of_their_list() {
        let found = leaves(&json!({"a": [{"b": "t"}, 1], "c": {"d": null}}));
        assert_eq!(found, [("a.b", "t"), ("a", "1"), ("c.d", "null")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
