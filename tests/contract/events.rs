//! A run of `up --output json`, trimmed to what does not depend on the machine's speed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The trimmed run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The version of the event format.
    pub schema: u64,
    /// The steps by id.
    pub steps: BTreeMap<String, Told>,
    /// Starts and ends in the order in which they happened: `+step`, `-step`.
    pub order: Vec<String>,
    /// Of the run.
    pub outcome: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `goal` or `need`.
    pub role: String,
    /// The steps before it.
    pub needs: Vec<String>,
    /// The type of its last event without `step-`: `done`, `skipped`, `failed`, `cancelled`.
    pub outcome: String,
}

impl Story {
    /// Reads JSON lines.
    ///
    /// # Panics
    /// They are not a whole run's.
    pub fn read(lines: &str) -> Story {
        let events: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let first = events.first().expect("an event");
        assert_eq!(first["type"], "run-started", "the first event");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut steps: BTreeMap<String, Told> = BTreeMap::new();
        for step in first["plan"]["steps"].as_array().expect("steps") {
            let needs = step["needs"].as_array().into_iter().flatten().map(word).collect();
            let told = Told { role: word(&step["role"]), needs, outcome: "not-started".into() };
            steps.insert(word(&step["id"]), told);
        }
        let mut order = Vec::new();
        for event in &events {
            let (kind, step) = (word(&event["type"]), word(&event["step"]));
            match kind.as_str() {
                "step-started" => order.push(format!("+{step}")),
                "step-skipped" | "step-done" | "step-failed" | "step-cancelled" => {
                    order.push(format!("-{step}"));
                    kind["step-".len()..].clone_into(&mut steps.get_mut(&step).expect("a step of the plan").outcome);
                }
                _ => {}
            }
        }
        let last = events.last().expect("an event");
        assert_eq!(last["type"], "result", "the last event");
        Story { schema: first["schema"].as_u64().expect("a schema"), steps, order, outcome: word(&last["outcome"]) }
    }

    /// Steps that started before something they need had ended.
    pub fn disorder(&self) -> Vec<String> {
        let place = |what: &str| self.order.iter().position(|told| told == what);
        let mut found = Vec::new();
        for (id, step) in &self.steps {
            for need in &step.needs {
                let (start, end) = (place(&format!("+{id}")), place(&format!("-{need}")));
                if !matches!((start, end), (Some(start), Some(end)) if end < start) {
                    found.push(format!("{id} started before {need} had ended"));
                }
            }
        }
        found
    }
}
