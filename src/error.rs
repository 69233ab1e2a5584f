//! What a user is told when something does not work: one sentence, the facts, the next command.
//!
//! A [`Failure`] is data, so that the terminal, the journal and the JSON output say the same. It never
//! formats itself for a terminal; [`crate::ui`] does. Which exit code a failure leads to is its [`Kind`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Every exit code that `coastal` can end with. Public and stable: scripts depend on it.
/// The table in the README is compared with this list by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was asked for is so.
    Ok = 0,
    /// A bug or a situation that nobody foresaw.
    Unexpected = 1,
    /// The command line is wrong, or a confirmation is missing where nobody can be asked.
    Usage = 2,
    /// `lab.toml` is wrong.
    Config = 3,
    /// Something that must be there beforehand is not: a tool, Docker, a port, an earlier step.
    Prerequisite = 4,
    /// An external tool, the cluster or a workload failed.
    Tool = 5,
    /// Something did not become so in time.
    Timeout = 6,
    /// Refused by a rule: it would break SPIRE, or touch what is not the lab's.
    Refused = 7,
    /// A check or test ran and its answer is no.
    CheckFailed = 8,
    /// `plan --detailed-exitcode`: there are changes to make.
    ChangesPending = 9,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl ExitCode {
    /// All codes, in order, each with the words that document it.
    pub const TABLE: &'static [(ExitCode, &'static str)] = &[
        (ExitCode::Ok, "everything that was asked for is so"),
        (ExitCode::Unexpected, "unexpected error (a bug, or a situation nobody foresaw)"),
        (ExitCode::Usage, "wrong usage, or a confirmation is missing and nobody can be asked"),
        (ExitCode::Config, "lab.toml is wrong"),
        (ExitCode::Prerequisite, "a prerequisite is missing: a tool, Docker, a port, an earlier step"),
        (ExitCode::Tool, "a tool, the cluster or a workload failed"),
        (ExitCode::Timeout, "something did not become ready in time"),
        (ExitCode::Refused, "refused by a rule: it would break SPIRE, or touch what is not the lab's"),
        (ExitCode::CheckFailed, "a check or test ran and failed"),
        (ExitCode::ChangesPending, "`plan --detailed-exitcode`: changes are pending"),
        (ExitCode::Interrupted, "interrupted (Ctrl-C or SIGTERM)"),
    ];
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// The class of a failure; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// See [`ExitCode::Unexpected`].
    Unexpected,
    /// See [`ExitCode::Usage`].
    Usage,
    /// See [`ExitCode::Config`].
    Config,
    /// See [`ExitCode::Prerequisite`].
    Prerequisite,
    /// See [`ExitCode::Tool`].
    Tool,
    /// See [`ExitCode::Timeout`].
    Timeout,
    /// See [`ExitCode::Refused`].
    Refused,
    /// See [`ExitCode::CheckFailed`].
    CheckFailed,
    /// See [`ExitCode::Interrupted`].
    Interrupted,
}

impl Kind {
    /// The exit code of a command that ends with this failure.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Kind::Unexpected => ExitCode::Unexpected,
            Kind::Usage => ExitCode::Usage,
            Kind::Config => ExitCode::Config,
            Kind::Prerequisite => ExitCode::Prerequisite,
            Kind::Tool => ExitCode::Tool,
            Kind::Timeout => ExitCode::Timeout,
            Kind::Refused => ExitCode::Refused,
            Kind::CheckFailed => ExitCode::CheckFailed,
            Kind::Interrupted => ExitCode::Interrupted,
        }
    }
}

/// A failure as its user reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// One sentence: what could not be done, and why. No full stop, lower-case start, like `kind is not installed`.
    pub message: String,
    /// What is known: last state, last log lines, events, the command that was run. One line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// What to do next, most useful first; runnable commands in backticks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl Failure {
    /// Its sentence with the first fact, for a line among others. What is missing needs no more than its sentence.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        match self.facts.first() {
            Some(fact) if self.kind != Kind::Prerequisite => format!("{} ({fact})", self.message),
            _ => self.message.clone(),
        }
    }

    /// A failure of `kind` with its sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), facts: Vec::new(), next: Vec::new() }
    }

    /// [`Kind::Unexpected`].
    pub fn unexpected(message: impl Into<String>) -> Self {
        Failure::new(Kind::Unexpected, message)
    }

    /// [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Kind::Usage, message)
    }

    /// [`Kind::Prerequisite`].
    pub fn prerequisite(message: impl Into<String>) -> Self {
        Failure::new(Kind::Prerequisite, message)
    }

    /// [`Kind::Tool`].
    pub fn tool(message: impl Into<String>) -> Self {
        Failure::new(Kind::Tool, message)
    }

    /// [`Kind::Timeout`].
    pub fn timeout(message: impl Into<String>) -> Self {
        Failure::new(Kind::Timeout, message)
    }

    /// [`Kind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Failure::new(Kind::Refused, message)
    }

    /// [`Kind::CheckFailed`].
    pub fn check_failed(message: impl Into<String>) -> Self {
        Failure::new(Kind::CheckFailed, message)
    }

    /// [`Kind::Interrupted`].
    #[must_use]
    pub fn interrupted() -> Self {
        Failure::new(Kind::Interrupted, "interrupted")
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, fact: impl Into<String>) -> Self {
        self.facts.push(fact.into());
        self
    }

    /// Adds facts.
    #[must_use]
    pub fn facts(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        self.facts.extend(facts);
        self
    }

    /// Adds a next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// Puts a next step before those that are there: for a caller that knows better than what it called.
    #[must_use]
    pub fn first(mut self, next: impl Into<String>) -> Self {
        self.next.insert(0, next.into());
        self
    }

    /// Puts `what` before the sentence: `what: sentence`.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A foreseen I/O error on a path of ours becomes a [`Failure`] that names the path and what was tried.
pub fn io_failure(what: impl fmt::Display, path: &std::path::Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::PermissionDenied
        | std::io::ErrorKind::ReadOnlyFilesystem
        | std::io::ErrorKind::NotADirectory
        | std::io::ErrorKind::AlreadyExists
        | std::io::ErrorKind::NotFound => Kind::Prerequisite,
        _ => Kind::Unexpected,
    };
    let failure = Failure::new(kind, format!("could not {what} `{}`: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::StorageFull => failure.next("free some disk space, then run the same command again"),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            failure.next("make that path writable, or choose another state directory with COASTAL_STATE_DIR")
        }
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
            failure.next("a file is in the way: move it, or choose another path")
        }
        std::io::ErrorKind::NotFound => failure.next("see that the path is right"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_the_reason_unless_the_sentence_is_it() {
        let failed = Failure::tool("helm failed").fact("it said: secrets is forbidden").fact("more");
        assert_eq!(failed.in_one_line(), "helm failed (it said: secrets is forbidden)");
        assert_eq!(Failure::prerequisite("there is no server").fact("no pod").in_one_line(), "there is no server");
        assert_eq!(Failure::tool("helm failed").in_one_line(), "helm failed");
    }
}
