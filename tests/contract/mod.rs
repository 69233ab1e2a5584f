//! What `coastal` asks of the world, put to either world, and the shape of the answers.
//!
//! The real suite asks a real cluster and keeps the answers' shapes in `tests/data/recordings`; the hermetic suite
//! asks the rehearsal the same and compares. Both go through the commands of [`coastal::tools`], so an argv that
//! changes is recorded anew or noticed.

pub mod events;
pub mod questions;
pub mod shape;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use shape::Shape;

/// Answers to the questions of one stage of the lab.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recording {
    /// What answered: tool or server and its version.
    pub versions: BTreeMap<String, String>,
    /// By the question's id.
    pub answers: BTreeMap<String, Answer>,
}

/// How one question was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The command line or the path, names of this run replaced.
    pub asked: String,
    /// The exit code, or the HTTP status.
    pub code: i32,
    /// Standard output, or the body.
    pub out: Shape,
    /// Standard error.
    #[serde(default, skip_serializing_if = "Shape::is_empty")]
    pub err: Shape,
}

/// The file of a recording.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/recordings").join(format!("{name}.json"))
}
