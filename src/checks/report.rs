//! What the checks said, as data.

use jiff::Timestamp;
use serde::Serialize;

use super::{Category, Check, Evidence, Level, Verdict};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is so.
    Passed,
    /// It is not so.
    Failed,
    /// It could not be seen.
    Unknown,
    /// The lab has no such thing.
    Skipped,
}

impl Outcome {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
            Outcome::Skipped => "skipped",
        }
    }
}

/// The answer of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The check's id.
    pub id: &'static str,
    /// Its category.
    pub category: Category,
    /// How bad it is when it fails.
    pub level: Level,
    /// What is so when it passes.
    pub title: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen, what is wrong, or why it is not known.
    pub message: String,
    /// What was seen, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// What to do, most useful first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// What `--fix` would do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
    /// Where it is documented.
    pub doc: String,
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Are so.
    pub passed: usize,
    /// Failed, of level error.
    pub errors: usize,
    /// Failed, of level warning.
    pub warnings: usize,
    /// Failed, of level note.
    pub notes: usize,
    /// Could not be seen.
    pub unknown: usize,
    /// The lab has no such thing.
    pub skipped: usize,
}

/// The answers of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of this format.
    pub schema: u32,
    /// The lab's name.
    pub lab: String,
    /// When it was looked.
    pub at: Timestamp,
    /// The sum.
    pub counts: Counts,
    /// In the order of the list of checks.
    pub answers: Vec<Answer>,
}

impl Report {
    /// Judges the evidence.
    #[must_use]
    pub fn of(checks: &[&Check], evidence: &Evidence) -> Self {
        let answers: Vec<Answer> = checks.iter().map(|check| judged(check, evidence)).collect();
        let mut counts = Counts::default();
        for answer in &answers {
            *match (answer.outcome, answer.level) {
                (Outcome::Passed, _) => &mut counts.passed,
                (Outcome::Unknown, _) => &mut counts.unknown,
                (Outcome::Skipped, _) => &mut counts.skipped,
                (Outcome::Failed, Level::Error) => &mut counts.errors,
                (Outcome::Failed, Level::Warning) => &mut counts.warnings,
                (Outcome::Failed, Level::Note) => &mut counts.notes,
            } += 1;
        }
        Report { schema: 1, lab: evidence.lab.name.clone(), at: evidence.now, counts, answers }
    }

    /// Whether the lab did not pass: with `strict` also for warnings, and for what is not known.
    #[must_use]
    pub fn is_failed(&self, strict: bool) -> bool {
        self.counts.errors > 0 || (strict && self.counts.warnings + self.counts.unknown > 0)
    }
}

fn judged(check: &Check, evidence: &Evidence) -> Answer {
    let (outcome, message, facts, mut next) = match (check.judge)(evidence) {
        Ok(Verdict::Passed(proof)) => (Outcome::Passed, proof, Vec::new(), Vec::new()),
        Ok(Verdict::Skipped(why)) => (Outcome::Skipped, why, Vec::new(), Vec::new()),
        Ok(Verdict::Failed(problem)) => (Outcome::Failed, problem.message, problem.facts, problem.next),
        Err(why) => (Outcome::Unknown, why, Vec::new(), Vec::new()),
    };
    let mut fixes = Vec::new();
    if outcome == Outcome::Failed {
        next.push(check.hint.to_owned());
        fixes.extend(check.mend.iter().flat_map(|mend| mend(evidence)).map(|mend| mend.to_string()));
    }
    Answer {
        id: check.id,
        category: check.category,
        level: check.level,
        title: check.title,
        outcome,
        message,
        facts,
        next,
        fixes,
        doc: check.doc(),
    }
}
