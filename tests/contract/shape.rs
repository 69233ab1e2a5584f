//! The shape of an answer: for JSON its key paths with the types found there, for text its lines without what
//! differs from run to run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Nothing was printed.
    #[default]
    Empty,
    /// JSON: `a.b[].c` -> types; for words that code compares (see [`WORDS`]), the words.
    Json(BTreeMap<String, Forms>),
    /// Anything else.
    Text(BTreeSet<String>),
}

/// The forms of a value; kept as `number|string`, so that a recording has a line per path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Forms(pub BTreeSet<String>);

impl From<String> for Forms {
    fn from(text: String) -> Self {
        Forms(text.split('|').map(str::to_owned).collect())
    }
}

impl From<Forms> for String {
    fn from(forms: Forms) -> Self {
        forms.0.into_iter().collect::<Vec<_>>().join("|")
    }
}

/// Members whose strings are one of a few words: the words themselves are part of the shape.
const WORDS: [&str; 6] = ["type", "phase", "status", "kind", "apiVersion", "reason"];

/// Members that are maps of anything.
const FREE: [&str; 8] =
    ["labels", "annotations", "managedFields", "matchLabels", "nodeSelector", "Labels", "ownerReferences", "images"];

impl Shape {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        *self == Shape::Empty
    }

    /// The shape of what was printed. `names` are words of this run and what stands for them.
    pub fn of(text: &str, names: &[(String, String)]) -> Shape {
        if text.trim().is_empty() {
            return Shape::Empty;
        }
        if let Some(documents) = documents(text) {
            let mut paths = BTreeMap::new();
            for document in &documents {
                walk("", document, &mut paths);
            }
            return Shape::Json(paths);
        }
        Shape::Text(text.lines().map(|line| plain(line, names)).filter(|line| !line.is_empty()).collect())
    }
}

/// One document, or one on each line.
fn documents(text: &str) -> Option<Vec<Value>> {
    let whole =
        |text: &str| serde_json::from_str::<Value>(text).ok().filter(|value| value.is_object() || value.is_array());
    whole(text).map(|value| vec![value]).or_else(|| text.trim().lines().map(whole).collect())
}

fn walk(path: &str, value: &Value, paths: &mut BTreeMap<String, Forms>) {
    let name = path.rsplit('.').next().unwrap_or(path);
    let form = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(word) if WORDS.contains(&name) && word.len() <= 40 && !word.contains(char::is_whitespace) => {
            format!("={word}")
        }
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    paths.entry(if path.is_empty() { ".".to_owned() } else { path.to_owned() }).or_default().0.insert(form);
    if FREE.contains(&name) {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(&format!("{path}[]"), item, paths)),
        Value::Object(members) => members.iter().for_each(|(key, member)| {
            // A dot in a key must not look like a step down.
            let key = key.replace('.', "_");
            let path = if path.is_empty() { key } else { format!("{path}.{key}") };
            walk(&path, member, paths);
        }),
        _ => {}
    }
}

/// A line without the run's names, numbers, ids and dates.
fn plain(line: &str, names: &[(String, String)]) -> String {
    const DATES: [&str; 19] = [
        "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep",
        "Oct", "Nov", "Dec",
    ];
    let mut line = line.to_owned();
    for (name, stands_for) in names.iter().filter(|(name, _)| !name.is_empty()) {
        line = line.replace(name.as_str(), stands_for);
    }
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| if DATES.contains(&word) { "<date>".into() } else { numbers(word) })
        .collect();
    words.join(" ")
}

/// Each run of digits as `0`, each long run of hexadecimal digits as `<hex>`.
fn numbers(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let hex = rest.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f')).unwrap_or(rest.len());
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let taken = if hex >= 12 {
            out.push_str("<hex>");
            hex
        } else if digits > 0 {
            out.push('0');
            digits
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    out
}
