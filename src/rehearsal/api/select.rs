//! Label and field selectors: as query text, and as selectors inside objects.

use kube::core::Status;
use serde_json::Value;

use super::status::bad_request;
use crate::rehearsal::object::{items, text, texts};

/// What a list or watch is limited to.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// Fields that may be selected by, with the kinds that allow it; all kinds allow the first two.
const FIELDS: &[(&str, &[&str])] = &[
    ("metadata.name", &[]),
    ("metadata.namespace", &[]),
    ("spec.nodeName", &["Pod"]),
    ("spec.serviceAccountName", &["Pod"]),
    ("spec.restartPolicy", &["Pod"]),
    ("status.phase", &["Pod", "Namespace"]),
    ("status.podIP", &["Pod"]),
    ("type", &["Event", "Secret"]),
    ("reason", &["Event"]),
    ("involvedObject.kind", &["Event"]),
    ("involvedObject.name", &["Event"]),
    ("involvedObject.namespace", &["Event"]),
    ("involvedObject.uid", &["Event"]),
];

impl Selection {
    /// Reads the two query parameters of a request for objects of `kind`.
    ///
    /// # Errors
    /// 400, in the server's words.
    pub fn parse(kind: &str, labels: &str, fields: &str) -> Result<Self, Box<Status>> {
        let labels = split(labels).map(requirement).collect::<Result<_, _>>()?;
        let fields = split(fields).map(|part| field(kind, part)).collect::<Result<_, _>>()?;
        Ok(Selection { labels, fields })
    }

    /// Whether the object is selected.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let field = |path: &str| text(object, &format!("/{}", path.replace('.', "/")));
        self.fields.iter().all(|(path, equal, value)| (field(path) == value) == *equal)
            && self.labels.iter().all(|requirement| requirement.holds(|key| label(object, key)))
    }
}

fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

impl Requirement {
    fn holds<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Requirement::In(key, values) => label(key).is_some_and(|have| values.iter().any(|v| v == have)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|have| values.iter().all(|v| v != have)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        }
    }
}

/// Whether a selector inside an object (`matchLabels` and `matchExpressions`) selects something with the labels of
/// `object`. An empty selector selects everything.
#[must_use]
pub fn selects(selector: &Value, object: &Value) -> bool {
    let equal = texts(selector, "/matchLabels").all(|(key, value)| label(object, key) == Some(value));
    equal
        && items(selector, "/matchExpressions").all(|expression| {
            let key = text(expression, "/key").to_owned();
            let values = items(expression, "/values").filter_map(Value::as_str).map(str::to_owned).collect();
            let requirement = match text(expression, "/operator") {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                _ => Requirement::Missing(key),
            };
            requirement.holds(|key| label(object, key))
        })
}

/// Whether plain labels, as of a Service's selector, select the object. No labels select nothing.
#[must_use]
pub fn selects_plainly(selector: &Value, object: &Value) -> bool {
    let mut wanted = texts(selector, "").peekable();
    wanted.peek().is_some() && wanted.all(|(key, value)| label(object, key) == Some(value))
}

/// The parts between commas that are not inside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let part = move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(part).map(str::trim).filter(|part| !part.is_empty())
}

fn requirement(part: &str) -> Result<Requirement, Box<Status>> {
    let set = |list: &str| -> Vec<String> {
        list.trim().trim_matches(['(', ')']).split(',').map(|value| value.trim().to_owned()).collect()
    };
    let owned = |text: &str| text.trim().to_owned();
    if let Some((key, values)) = part.split_once(" notin ") {
        Ok(Requirement::NotIn(owned(key), set(values)))
    } else if let Some((key, values)) = part.split_once(" in ") {
        Ok(Requirement::In(owned(key), set(values)))
    } else if let Some((key, value)) = part.split_once("!=") {
        Ok(Requirement::NotIn(owned(key), vec![owned(value)]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        Ok(Requirement::In(owned(key), vec![owned(value)]))
    } else if let Some(key) = part.strip_prefix('!') {
        Ok(Requirement::Missing(owned(key)))
    } else if part.contains([' ', '(', ')']) {
        Err(bad_request(format!("unable to parse requirement: found '{part}'")))
    } else {
        Ok(Requirement::Exists(owned(part)))
    }
}

fn field(kind: &str, part: &str) -> Result<(String, bool, String), Box<Status>> {
    let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
        (path, false, value)
    } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (path, true, value)
    } else {
        return Err(bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")));
    };
    let known = FIELDS.iter().any(|(field, kinds)| *field == path && (kinds.is_empty() || kinds.contains(&kind)));
    if known {
        Ok((path.to_owned(), equal, value.to_owned()))
    } else {
        Err(bad_request(format!("field label not supported: {path}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (selector, selected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("zone!=a", true),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("!zone", true),
            ("!app", false),
            ("zone", false),
        ] {
            let selection = Selection::parse("Pod", selector, "").unwrap();
            assert_eq!(selection.matches(&object), selected, "{selector}");
        }
        assert!(Selection::parse("Pod", "app web", "").is_err());
    }

    #[test]
    fn field_selectors() {
        let event = json!({"type": "Warning", "involvedObject": {"name": "a"}, "metadata": {"name": "e"}});
        for (selector, selected) in [
            ("involvedObject.name=a,type=Warning", true),
            ("involvedObject.name=b,type=Warning", false),
            ("type!=Normal", true),
            ("metadata.name=e", true),
        ] {
            assert_eq!(Selection::parse("Event", "", selector).unwrap().matches(&event), selected, "{selector}");
        }
        let refused = Selection::parse("Pod", "", "spec.foo=1").unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (400, "field label not supported: spec.foo"));
    }

    #[test]
    fn selectors_in_objects() {
        let object = json!({"metadata": {"labels": {"name": "cert-manager"}}});
        let outside = json!({"matchExpressions": [{"key": "name", "operator": "NotIn", "values": ["cert-manager"]}]});
        assert!(!selects(&outside, &object));
        assert!(selects(&outside, &json!({"metadata": {}})));
        assert!(selects(&json!({}), &object));
        assert!(!selects_plainly(&json!({}), &object));
    }
}
