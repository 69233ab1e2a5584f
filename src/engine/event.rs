//! What happens during a run, as data. Renderers, the journal, JSON output and reports are all made of these.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{ExitCode, Failure};
use crate::plan::{Plan, StepId};
use crate::tools::Stream;

/// The version of the event format; written into the first event of every run.
pub const SCHEMA: u32 = 1;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 0 within the run.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened. Serialised with a `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum What {
    /// The run begins; nothing was touched yet. Always the first event.
    RunStarted {
        /// [`SCHEMA`].
        schema: u32,
        /// The run's id, also the name of its directory.
        run: String,
        /// The command line after `coastal`.
        command: String,
        /// The version of `coastal`.
        coastal: String,
        /// Everything that will be looked at or done.
        plan: Plan,
    },
    /// A step begins: its check runs.
    StepStarted {
        /// Which.
        step: StepId,
    },
    /// The check said that it is not so; the step's work begins.
    StepRunning {
        /// Which.
        step: StepId,
        /// What the check saw.
        because: String,
    },
    /// The work is done; the proof begins.
    StepVerifying {
        /// Which.
        step: StepId,
    },
    /// What the step is doing or waiting for now.
    StepProgress {
        /// Which.
        step: StepId,
        /// E.g. `waiting for spire-server-1: PodInitializing`.
        message: String,
    },
    /// What the step has found out, as data. Its shape is the step's own, with a `schema` of its own.
    StepReport {
        /// Which.
        step: StepId,
        /// E.g. the continuity meter's report.
        report: serde_json::Value,
    },
    /// A part of the step failed and is tried again.
    StepRetry {
        /// Which.
        step: StepId,
        /// The attempt that begins next, counting from 1.
        attempt: u32,
        /// Why the last one failed.
        because: String,
    },
    /// It was already so. Nothing was changed.
    StepSkipped {
        /// Which.
        step: StepId,
        /// What was seen.
        because: String,
        /// Milliseconds since the step started.
        took_ms: u64,
    },
    /// Made so, and proven; of a test (see [`StepId::is_test`]): passed.
    StepDone {
        /// Which.
        step: StepId,
        /// The proof in words: `3 of 3 servers healthy`.
        proof: String,
        /// Milliseconds since the step started.
        took_ms: u64,
    },
    /// It could not be made so.
    StepFailed {
        /// Which.
        step: StepId,
        /// Why, and what to do.
        failure: Failure,
        /// Milliseconds since the step started.
        took_ms: u64,
    },
    /// Not started, because something it needs failed or the run was interrupted.
    StepCancelled {
        /// Which.
        step: StepId,
        /// The step that failed, if that is the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because_of: Option<StepId>,
    },
    /// A process was started.
    CommandStarted {
        /// For which step.
        step: StepId,
        /// Numbers the commands of a run.
        command: u64,
        /// Pasteable.
        line: String,
    },
    /// A process printed a line.
    CommandOutput {
        /// Which process.
        command: u64,
        /// Where.
        stream: Stream,
        /// What.
        line: String,
    },
    /// A process ended.
    CommandEnded {
        /// Which process.
        command: u64,
        /// Its exit code; absent if it did not end by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<i32>,
        /// Milliseconds it ran.
        took_ms: u64,
    },
    /// The run is over. Always the last event.
    RunEnded {
        /// The whole.
        result: RunResult,
    },
}

/// How a run ended; the last line of JSON output (`"type": "result"` there).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// `ok`, `failed` or `interrupted`.
    pub outcome: Outcome,
    /// The process' exit code.
    pub exit_code: u8,
    /// Steps that changed something, in the order in which they ended.
    pub changed: Vec<StepId>,
    /// Steps that were already so.
    pub unchanged: Vec<StepId>,
    /// Tests that passed; they changed nothing.
    #[serde(default)]
    pub passed: Vec<StepId>,
    /// Steps that failed.
    pub failed: Vec<StepId>,
    /// Steps that were not started.
    pub cancelled: Vec<StepId>,
    /// The first failure, if any: the one that the exit code comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Milliseconds of the whole run.
    pub took_ms: u64,
    /// Milliseconds per step that was started.
    pub steps_ms: BTreeMap<StepId, u64>,
    /// The next useful commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl RunResult {
    /// The exit code of the command.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        match (self.outcome, &self.failure) {
            (Outcome::Ok, _) => ExitCode::Ok,
            (Outcome::Interrupted, _) => ExitCode::Interrupted,
            (Outcome::Failed, Some(failure)) => failure.kind.exit_code(),
            (Outcome::Failed, None) => ExitCode::Unexpected,
        }
    }
}

/// The end of a run in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything is so.
    Ok,
    /// A step failed.
    Failed,
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

/// Receives events, in order, one at a time. Must not block for long.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn take(&self, event: &Event);
}
