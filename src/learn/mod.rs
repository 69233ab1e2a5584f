//! The lab as a course: its steps, and where a student stands, found by observing. What was made by hand counts as
//! much as what coastal made: a step is done when what it is for works.

mod lessons;
mod proofs;
mod reset;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::checks::{Evidence, Known};
use crate::error::Failure;

pub use lessons::ALL;
pub use reset::{Move, made_by, reset};

/// A step of the lab.
#[derive(Debug)]
pub struct Lesson {
    /// What it is called on the command line.
    pub id: &'static str,
    /// Its number in the lab's text.
    pub number: &'static str,
    /// What is done in it.
    pub title: &'static str,
    /// Why, in a sentence or two.
    pub why: &'static str,
    /// The coastal commands that do it.
    pub commands: &'static [&'static str],
    /// What to look at once it is done.
    pub look: &'static str,
    /// Where the student stands.
    proof: fn(&Evidence) -> Known<Stand>,
}

/// What was seen of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// What it makes works; what was seen.
    Works(String),
    /// What it makes is not there; what is missing.
    Missing(String),
    /// What it makes is there and does not work; what is wrong, and what each part says.
    Broken(String, Vec<String>),
    /// It makes nothing; it can be done, or rests on what does not work yet.
    Look(bool),
    /// It leaves no trace by which it could be told; what is known.
    Traceless(String),
}

/// Where the student stands with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was done, and works.
    Done,
    /// It is the one to do now.
    Next,
    /// Its turn comes later.
    Later,
    /// It was done, and does not work.
    Broken,
    /// There is something to look at, whenever one likes.
    Open,
    /// It could not be seen.
    Unknown,
}

impl State {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Next => "next",
            State::Later => "later",
            State::Broken => "broken",
            State::Open => "open",
            State::Unknown => "unknown",
        }
    }
}

/// A step, as the student has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The lesson's id.
    pub id: &'static str,
    /// Its number in the lab's text.
    pub number: &'static str,
    /// What is done in it.
    pub title: &'static str,
    /// Where the student stands.
    pub state: State,
    /// What was seen, what is missing, or why it is not known.
    pub message: String,
    /// What each part says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// The commands that do it.
    pub commands: &'static [&'static str],
}

/// The lesson of that id.
///
/// # Errors
/// A usage failure: there is none.
pub fn find(id: &str) -> Result<&'static Lesson, Failure> {
    ALL.iter().find(|lesson| lesson.id == id || lesson.number == id).ok_or_else(|| {
        Failure::usage(format!("there is no step `{id}`"))
            .fact(format!("there are: {}", ALL.iter().map(|lesson| lesson.id).collect::<Vec<_>>().join(", ")))
            .next("`coastal learn` shows the steps and where you stand")
    })
}

/// All steps, and which of them comes next: the first that is not done. One that is broken comes before it.
#[must_use]
pub fn progress(evidence: &Evidence) -> Vec<Progress> {
    let mut is_open = true;
    ALL.iter()
        .map(|lesson| {
            let (state, message, facts) = match (lesson.proof)(evidence) {
                Ok(Stand::Works(proof)) => (State::Done, proof, Vec::new()),
                Ok(Stand::Broken(message, facts)) => (State::Broken, message, facts),
                Ok(Stand::Look(true)) => (State::Open, "look whenever you like".to_owned(), Vec::new()),
                Ok(Stand::Look(false)) => (State::Later, "there is nothing to look at yet".to_owned(), Vec::new()),
                Ok(Stand::Traceless(known)) => (State::Open, known, Vec::new()),
                Ok(Stand::Missing(message)) if is_open => (State::Next, message, Vec::new()),
                Ok(Stand::Missing(message)) => (State::Later, message, Vec::new()),
                Err(why) => (State::Unknown, why, Vec::new()),
            };
            is_open &= !matches!(state, State::Next | State::Broken);
            let Lesson { id, number, title, commands, .. } = lesson;
            Progress { id, number, title, state, message, facts, commands }
        })
        .collect()
}
