//! The doctor: named checks over what was seen once ([`Evidence`]).
//!
//! Each check is one file: an id that never changes, how bad it is, why it matters, what to do, and a pure function.
//! A new one is a new file in the room of its category and a line in the list there; `docs/checks.md` is made from the
//! list (`coastal check --list --format markdown`). What could not be seen makes a check *unknown*, never passed.

mod cluster;
mod docs;
mod evidence;
mod gather;
mod host;
mod lab;
mod mend;
mod report;
mod spire;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use crate::error::Failure;

pub use crate::spire::audit::Level;
pub use docs::markdown;
pub use evidence::{Audited, BundleMap, Evidence, Files, Known, ReleaseValues, Svid, There};
pub use gather::gather;
pub use mend::Mend;
pub use report::{Answer, Counts, Outcome, Report};

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// The machine and its tools.
    Host,
    /// The Kubernetes cluster.
    Cluster,
    /// What lab.toml asks for, against what is there.
    Lab,
    /// SPIRE itself.
    Spire,
}

impl Category {
    /// All of them, in the order of reports.
    pub const ALL: [Category; 4] = [Category::Host, Category::Cluster, Category::Lab, Category::Spire];

    /// In one word, as on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Category::Host => "host",
            Category::Cluster => "cluster",
            Category::Lab => "lab",
            Category::Spire => "spire",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One check.
pub struct Check {
    /// Public and stable: `CATEGORY-WHAT`. Also its anchor in docs/checks.md.
    pub id: &'static str,
    /// What it is about.
    pub category: Category,
    /// How bad it is when it fails.
    pub level: Level,
    /// Whether it makes sense before `coastal up` (`check --pre`).
    pub before_up: bool,
    /// What is so when it passes.
    pub title: &'static str,
    /// Why that matters.
    pub why: &'static str,
    /// What to do when it fails; runnable commands in backticks.
    pub hint: &'static str,
    /// The question. An error is why it cannot be answered.
    pub judge: fn(&Evidence) -> Known<Verdict>,
    /// What `--fix` would do about it, where something is safe to do.
    pub mend: Option<fn(&Evidence) -> Vec<Mend>>,
}

impl Check {
    /// Where it is documented.
    #[must_use]
    pub fn doc(&self) -> String {
        format!("docs/checks.md#{}", self.id)
    }
}

/// The answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is so; what was seen.
    Passed(String),
    /// It is not so.
    Failed(Problem),
    /// The lab has no such thing; which.
    Skipped(String),
}

/// What is not so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    /// A sentence without a full stop.
    pub message: String,
    /// What was seen, one line each.
    pub facts: Vec<String>,
    /// What to do in this very case, before the check's hint.
    pub next: Vec<String>,
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a judge, which may also not know")]
fn passed(what: impl Into<String>) -> Known<Verdict> {
    Ok(Verdict::Passed(what.into()))
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a judge, which may also not know")]
fn skipped(why: impl Into<String>) -> Known<Verdict> {
    Ok(Verdict::Skipped(why.into()))
}

fn failed(message: impl Into<String>) -> Problem {
    Problem { message: message.into(), ..Problem::default() }
}

impl Problem {
    fn facts(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        self.facts.extend(facts);
        self
    }

    fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    #[expect(clippy::unnecessary_wraps, reason = "it ends a judge, which may also not know")]
    fn verdict(self) -> Known<Verdict> {
        Ok(Verdict::Failed(self))
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Problem { message: failure.message, facts: failure.facts, next: failure.next }
    }
}

/// Passed with `proof` if there are no `culprits`; else failed with each of them as a fact.
fn none_of(culprits: Vec<String>, message: impl Into<String>, proof: impl Into<String>) -> Known<Verdict> {
    if culprits.is_empty() { passed(proof) } else { failed(message).facts(culprits).verdict() }
}

/// `1 pod`, `2 pods`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Every check, in the order of reports.
#[must_use]
pub fn all() -> Vec<&'static Check> {
    [host::ALL, cluster::ALL, lab::ALL, spire::ALL].concat()
}

/// The answer of one check.
///
/// # Errors
/// It cannot be answered; or there is no such check: a bug.
pub fn judge(id: &str, evidence: &Evidence) -> Known<Verdict> {
    let check = all().into_iter().find(|check| check.id == id);
    check.ok_or_else(|| format!("there is no check {id}")).and_then(|check| (check.judge)(evidence))
}

/// The checks that `names` mean, each an id or a category; all if there are none.
///
/// # Errors
/// A usage failure: there is no such check.
pub fn select(names: &[String]) -> Result<Vec<&'static Check>, Failure> {
    let all = all();
    if names.is_empty() {
        return Ok(all);
    }
    for name in names {
        if !all.iter().any(|check| is_meant(check, name)) {
            let known: Vec<&str> = all.iter().map(|check| check.id).chain(Category::ALL.map(Category::word)).collect();
            let failure = Failure::usage(format!("there is no check `{name}`"));
            let failure = match crate::config::problems::nearest(name, &known) {
                Some(near) => failure.fact(format!("`{near}` comes nearest")),
                None => failure,
            };
            return Err(failure.next("`coastal check --list` shows all of them"));
        }
    }
    Ok(all.into_iter().filter(|check| names.iter().any(|name| is_meant(check, name))).collect())
}

fn is_meant(check: &Check, name: &str) -> bool {
    check.id == name || check.category.word() == name
}
