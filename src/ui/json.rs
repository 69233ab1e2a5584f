//! JSON on standard output: one line per event, the last of type `result`; or one document.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::event::SCHEMA;
use crate::engine::{Event, Outcome, RunResult, Sink, What};
use crate::error::Failure;
use crate::ui::writer::Writer;

/// Writes a line per event.
pub(super) struct JsonLines(pub(super) Writer);

impl Sink for JsonLines {
    fn take(&self, event: &Event) {
        self.0.line(&line(event).to_string());
    }
}

/// The event with its number, time and type side by side; a run's end as its result.
fn line(event: &Event) -> Value {
    let mut line = Map::new();
    let fields = match &event.what {
        What::RunEnded { result } => {
            line.insert("schema".into(), json!(SCHEMA));
            line.insert("type".into(), json!("result"));
            object(result)
        }
        what => object(what),
    };
    line.insert("seq".into(), json!(event.seq));
    line.insert("at".into(), json!(event.at));
    for (key, value) in fields {
        line.entry(key).or_insert(value);
    }
    Value::Object(line)
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => Map::from_iter([("value".to_owned(), other)]),
        Err(error) => Map::from_iter([("error".to_owned(), json!(error.to_string()))]),
    }
}

/// The last line of a command that failed before its run began, or that has none.
pub(super) fn failed(failure: &Failure) -> String {
    let result = RunResult {
        outcome: Outcome::Failed,
        exit_code: failure.kind.exit_code() as u8,
        changed: Vec::new(),
        unchanged: Vec::new(),
        passed: Vec::new(),
        failed: Vec::new(),
        cancelled: Vec::new(),
        failure: Some(failure.clone()),
        took_ms: 0,
        steps_ms: std::collections::BTreeMap::new(),
        next: Vec::new(),
    };
    let mut line = Map::from_iter([("schema".to_owned(), json!(SCHEMA)), ("type".to_owned(), json!("result"))]);
    line.extend(object(&result));
    Value::Object(line).to_string()
}
