//! What is wrong with a lab file: collected while it is read, told all at once.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use crate::error::{Failure, Kind};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as its user named it.
    pub file: String,
    /// Where in it; absent if it concerns the file as a whole.
    pub place: Option<Place>,
    /// The key's full path, e.g. `spire.chart.version`; empty where the text is no TOML at all.
    pub key: String,
    /// What was expected and what was found.
    pub message: String,
    /// All that would have been accepted, where that is a short list.
    pub allowed: Vec<String>,
}

/// A place in a file, both counted from 1. Columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.allowed.is_empty() {
            write!(f, " (allowed: {})", self.allowed.join(", "))?;
        }
        Ok(())
    }
}

/// The text of a lab file, and what was found wrong with it so far.
pub(super) struct Source {
    file: String,
    text: String,
    problems: RefCell<Vec<Problem>>,
}

impl Source {
    pub(super) fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Source { file: file.into(), text: text.into(), problems: RefCell::default() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place where a span of bytes starts.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        // The parser may point behind the end; a stray offset must not panic.
        let end = (0..=span.start.min(self.text.len())).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0);
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    pub(super) fn problem(&self, place: Option<Place>, key: impl Into<String>, message: impl Into<String>) {
        self.problem_with(place, key, message, Vec::new());
    }

    pub(super) fn problem_with(
        &self,
        place: Option<Place>,
        key: impl Into<String>,
        message: impl Into<String>,
        allowed: Vec<String>,
    ) {
        let (key, message) = (key.into(), message.into());
        self.problems.borrow_mut().push(Problem { file: self.file.clone(), place, key, message, allowed });
    }

    /// Everything found, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        problems
    }
}

/// All problems of a file as one failure: the sentence counts them, each is a fact.
#[must_use]
pub fn failure(file: &str, problems: &[Problem]) -> Failure {
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    Failure::new(Kind::Config, format!("{file} has {count} {noun}"))
        .facts(problems.iter().map(ToString::to_string))
        .next("correct the file; `coastal init` writes the default lab with every key explained")
}

/// Of `candidates`, the one that `written` was probably meant to be.
pub(crate) fn nearest<'a>(written: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let written = written.replace('_', "-").to_lowercase();
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, candidate), *candidate))
        // A third of the letters wrong is a typo; more is another word.
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let source = Source::new("f", "a\nüb = 1\n");
        for (offset, line, column) in [(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 2, 2), (3, 2, 1), (10, 3, 1), (999, 3, 1)] {
            assert_eq!(source.place(&(offset..offset)), Place { line, column }, "{offset}");
        }
    }

    #[test]
    fn the_nearest_key_is_a_typo_away() {
        let keys = ["servers", "server-version", "tornjak", "chart"];
        for (written, meant) in [
            ("severs", Some("servers")),
            ("server", Some("servers")),
            ("server_version", Some("server-version")),
            ("Tornjak", Some("tornjak")),
            ("chrat", Some("chart")),
            ("replicas", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, &keys), meant, "{written}");
        }
    }

    #[test]
    fn one_problem_is_not_many() {
        let source = Source::new("lab.toml", "");
        source.problem_with(Some(Place { line: 2, column: 1 }), "b", "no", vec!["x".into(), "y".into()]);
        source.problem(Some(Place { line: 1, column: 5 }), "", "no");
        let problems = source.into_problems();
        let told = failure("lab.toml", &problems);
        assert_eq!((told.kind, told.message.as_str()), (Kind::Config, "lab.toml has 2 problems"));
        assert_eq!(told.facts, ["lab.toml:1:5: no", "lab.toml:2:1: b: no (allowed: x, y)"]);
        assert_eq!(failure("lab.toml", &problems[..1]).message, "lab.toml has 1 problem");
    }
}
