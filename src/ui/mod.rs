//! The only place that prints.
//!
//! Results go to standard output, everything else to standard error; with `--output json` standard output carries
//! JSON and nothing else. What is said during a run is made of its events by one of three renderers (live lines, plain
//! lines, JSON lines); nothing here knows tools or clusters. No text needs colour to be understood.

mod access;
mod audit;
mod checks;
mod continuity;
mod explain;
mod failure;
mod findings;
mod hops;
mod json;
mod learn;
mod metrics;
mod plain;
mod plan;
mod recovery;
pub mod report;
mod run;
mod status;
mod style;
mod summary;
mod table;
mod terminal;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tty;
mod writer;
mod xml;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use indicatif::ProgressDrawTarget;
use jiff::Timestamp;
use serde::Serialize;

use crate::checks::{Check, Report};
use crate::engine::{Event, Sink};
use crate::error::Failure;
use crate::learn::{self as course, Lesson};
use crate::observe::Status;
use crate::plan::{Explanation, Plan};
use crate::spire::audit::Audit;
use crate::spire::path::Outcome;
use crate::spire::recovery::Diagnosis;
use crate::steps::metrics::Metrics;

pub use access::{Opened, PageRow, Pages};
pub use terminal::{Format, Progress, Surroundings, Terminal, Wishes};

use report::Reports;
use style::Style;
use writer::Writer;

/// The forms of an audit's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFormat {
    /// For a person; or one JSON document, if that is what is wanted of every command.
    Text,
    /// SARIF 2.1.0.
    Sarif,
    /// JUnit's XML.
    Junit,
}

/// The forms of what the checks said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksFormat {
    /// For a person; or one JSON document, if that is what is wanted of every command.
    Text {
        /// Those that passed, too.
        all: bool,
    },
    /// SARIF 2.1.0.
    Sarif,
    /// JUnit's XML.
    Junit,
}

/// Everything that a command says, and hears.
pub struct Ui {
    terminal: Terminal,
    out: Writer,
    err: Writer,
    input: Mutex<Box<dyn BufRead + Send>>,
    reports: Reports,
    wording: OnceLock<Box<Wording>>,
}

/// Puts advice into other words.
type Wording = dyn Fn(&str) -> String + Send + Sync;

impl Ui {
    /// On this process' standard streams.
    #[must_use]
    pub fn standard(wishes: Wishes) -> Self {
        Ui::new(
            Terminal::decide(Surroundings::look(), wishes),
            Box::new(std::io::stdout()),
            Box::new(std::io::stderr()),
            Box::new(BufReader::new(std::io::stdin())),
        )
    }

    /// On other streams.
    #[must_use]
    pub fn new(
        terminal: Terminal,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        input: Box<dyn BufRead + Send>,
    ) -> Self {
        let (out, err) = (Writer::new(out), Writer::new(err));
        Ui { terminal, out, err, input: Mutex::new(input), reports: Reports::default(), wording: OnceLock::new() }
    }

    /// With reports of every run.
    #[must_use]
    pub fn with_reports(self, reports: Reports) -> Self {
        Ui { reports, ..self }
    }

    /// From now on what to do next is said in these words: a rehearsal's commands lead back to it.
    pub fn advise_as(&self, wording: impl Fn(&str) -> String + Send + Sync + 'static) {
        // A process rehearses once.
        let _ = self.wording.set(Box::new(wording));
    }

    fn advised(&self, text: &str) -> String {
        self.wording.get().map_or_else(|| text.to_owned(), |wording| wording(text))
    }

    /// The reports that are wanted of every run.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The decisions that were made.
    #[must_use]
    pub fn terminal(&self) -> Terminal {
        self.terminal
    }

    /// Whether standard output carries JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.terminal.format == Format::Json
    }

    /// What shows a run: give it the run's events. It ends with the summary, and with the failure if there is one.
    /// `journal` is where the journal lies, for the person who has to look into a failure.
    #[must_use]
    pub fn renderer(&self, journal: Option<PathBuf>) -> Arc<dyn Sink> {
        let (terminal, style) = (self.terminal, self.err_style());
        match terminal.progress {
            Progress::None => Arc::new(json::JsonLines(self.out.clone())),
            Progress::Lines => {
                Arc::new(plain::Lines { out: self.err.clone(), terminal, style, journal, state: Mutex::default() })
            }
            Progress::Live => {
                Arc::new(tty::Live::new(self.err.clone(), ProgressDrawTarget::stderr(), terminal, style, journal))
            }
        }
    }

    /// Shows a run that is over, as lines.
    pub fn replay(&self, events: &[Event]) {
        let renderer: Arc<dyn Sink> = if self.is_json() {
            Arc::new(json::JsonLines(self.out.clone()))
        } else {
            let (terminal, style) = (self.terminal, self.out_style());
            Arc::new(plain::Lines { out: self.out.clone(), terminal, style, journal: None, state: Mutex::default() })
        };
        for event in events {
            renderer.take(event);
        }
    }

    /// A plan, as the result of a command.
    pub fn plan(&self, plan: &Plan) {
        if self.is_json() {
            self.document(&plan::document(plan));
        } else {
            self.out.write(&plan::render(plan, self.terminal.explain, self.out_style()));
        }
    }

    /// One JSON document, as the result of a command that reads.
    pub fn document(&self, document: &impl Serialize) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => self.out.line(&text),
            Err(error) => self.failure(&Failure::unexpected(format!("the result is no JSON: {error}"))),
        }
    }

    /// Text, as the result of a command. Ends the line if the text does not.
    pub fn text(&self, text: &str) {
        if text.ends_with('\n') || text.is_empty() { self.out.write(text) } else { self.out.line(text) }
    }

    /// A table, as the result of a command.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        self.out.write(&table::render(head, rows, self.terminal.table_width));
    }

    /// What `status` saw, as text.
    #[must_use]
    pub fn status(&self, status: &Status, now: Timestamp) -> String {
        status::render(status, now)
    }

    /// Where a page was opened, as a result of a command that goes on.
    pub fn opened(&self, opened: &Opened) {
        if self.is_json() {
            self.record(opened);
        } else {
            self.out.write(&access::opened(opened));
        }
    }

    /// Where every page is, as the result of a command.
    pub fn pages(&self, pages: &Pages) {
        if self.is_json() {
            self.document(pages);
        } else {
            self.out.write(&access::pages(pages, self.terminal.table_width));
        }
    }

    /// What Prometheus knows, as the result of a command.
    pub fn metrics(&self, metrics: &Metrics) {
        if self.is_json() {
            self.document(metrics);
        } else {
            self.out.write(&metrics::render(metrics, self.out_style(), self.terminal.table_width));
        }
    }

    /// One line of JSON, as a result of a command that goes on.
    pub fn record(&self, record: &impl Serialize) {
        match serde_json::to_string(record) {
            Ok(text) => self.out.line(&text),
            Err(error) => self.failure(&Failure::unexpected(format!("the result is no JSON: {error}"))),
        }
    }

    /// What an audit found. `lab` is the file that holds the allow-list.
    pub fn audit(&self, mut audit: Audit, format: AuditFormat, strict: bool, lab: &str) {
        for next in audit.findings.iter_mut().filter_map(|finding| finding.next.as_mut()) {
            *next = self.advised(next);
        }
        match format {
            AuditFormat::Sarif => self.document(&audit::sarif(&audit, lab)),
            AuditFormat::Junit => self.out.write(&audit::junit(&audit, strict)),
            AuditFormat::Text if self.is_json() => self.document(&audit),
            AuditFormat::Text => {
                self.out.write(&audit::render(&audit, self.out_style(), self.terminal.table_width));
            }
        }
    }

    /// What the checks said. `lab` is the lab's file.
    pub fn checks(&self, mut report: Report, checks: &[&Check], format: ChecksFormat, strict: bool, lab: &str) {
        for next in report.answers.iter_mut().flat_map(|answer| &mut answer.next) {
            *next = self.advised(next);
        }
        match format {
            ChecksFormat::Sarif => self.document(&checks::sarif(&report, checks, lab)),
            ChecksFormat::Junit => self.out.write(&checks::junit(&report, strict)),
            ChecksFormat::Text { .. } if self.is_json() => self.document(&report),
            ChecksFormat::Text { all } => self.out.write(&checks::render(&report, all, self.out_style())),
        }
    }

    /// Where a student stands.
    pub fn progress(&self, steps: &[course::Progress], lab: &str) {
        if self.is_json() {
            self.document(&serde_json::json!({"schema": 1, "lab": lab, "steps": steps}));
        } else {
            self.out.write(&learn::progress(steps, self.out_style()));
        }
    }

    /// A step of the lab.
    pub fn lesson(&self, lesson: &Lesson, by_hand: &[String]) {
        if self.is_json() {
            self.document(&learn::document(lesson, by_hand));
        } else {
            self.out.write(&learn::lesson(lesson, by_hand, self.out_style()));
        }
    }

    /// What a command that only looks does, on standard error.
    pub fn explain(&self, explanation: &Explanation) {
        self.err.line(&format!("  {}", explanation.why));
        for command in &explanation.by_hand {
            self.err.line(&format!("    $ {}", style::tame(command)));
        }
    }

    /// The list of checks.
    pub fn list_of_checks(&self, checks: &[&Check]) {
        if self.is_json() {
            self.document(&checks::list(checks));
        } else {
            self.table(&["check", "level", "", "what is so when it passes"], &checks::rows(checks));
        }
    }

    /// The judgement of a change of versions, as the result of `upgrade --plan`.
    pub fn upgrade(&self, outcome: &Outcome) {
        if self.is_json() {
            self.document(outcome);
        } else {
            self.out.write(&hops::render(outcome, self.terminal.table_width, self.out_style()));
            self.next(&hops::next(outcome));
        }
    }

    /// The same on standard error, before it is carried out. With JSON the plan of the run says it.
    pub fn announce(&self, outcome: &Outcome) {
        if !self.is_json() {
            self.err.write(&hops::render(outcome, self.terminal.table_width, self.err_style()));
        }
    }

    /// What is broken, as the result of a command that found nothing to do.
    pub fn diagnosis(&self, diagnosis: &Diagnosis) {
        if self.is_json() {
            self.document(diagnosis);
        } else {
            self.out.write(&recovery::render(diagnosis, self.out_style(), self.terminal.table_width));
        }
    }

    /// The same on standard error, before it is mended. With JSON the events of the run say it.
    pub fn announce_diagnosis(&self, diagnosis: &Diagnosis) {
        if !self.is_json() {
            self.err.write(&recovery::render(diagnosis, self.err_style(), self.terminal.table_width));
        }
    }

    /// A remark on standard error.
    pub fn note(&self, text: &str) {
        self.err.line(&style::tame(text));
    }

    /// A warning on standard error.
    pub fn warning(&self, text: &str) {
        self.err.line(&format!("{} {}", self.err_style().warn("warning:"), style::tame(text)));
    }

    /// The next useful commands, on standard error. With JSON they are part of the result.
    pub fn next(&self, commands: &[String]) {
        if !self.is_json() {
            let lines: Vec<String> = commands.iter().map(|command| format!("`{}`", self.advised(command))).collect();
            self.err.write(&failure::next(&lines, self.err_style()));
        }
    }

    /// What helps against something that was warned of, in sentences.
    pub fn advice(&self, sentences: &[String]) {
        if !self.is_json() {
            let sentences: Vec<String> = sentences.iter().map(|sentence| self.advised(sentence)).collect();
            self.err.write(&failure::next(&sentences, self.err_style()));
        }
    }

    /// The failure of a command that has no run, or did not come to it; a run's renderer tells of its own.
    pub fn failure(&self, failure: &Failure) {
        if self.is_json() {
            self.out.line(&json::failed(failure));
        }
        self.err.write(&failure::render("error", failure, &[], self.err_style()));
    }

    /// Asks for a yes before something is done. `yes` is the flag that answers beforehand.
    ///
    /// # Errors
    /// Nobody can be asked (a usage failure), or the answer is not yes.
    pub fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !self.terminal.can_ask {
            return Err(Failure::usage(format!("this needs a yes, and nobody can be asked here: {question}"))
                .next("if it is meant, add `--yes`"));
        }
        self.err.write(&format!("{} [y/N] ", style::tame(question)));
        let mut answer = String::new();
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input
            .read_line(&mut answer)
            .map_err(|error| Failure::usage(format!("the answer could not be read: {error}")))?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Failure::usage("not confirmed; nothing was done"))
        }
    }

    /// Whether somebody can be asked.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        self.terminal.can_ask
    }

    /// Whether everything could be written. To be asked last; a reader that has gone does not count.
    ///
    /// # Errors
    /// Standard output could not be written, e.g. to a full disk.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.out.trouble() {
            Some(trouble) => Err(Failure::prerequisite(format!("could not write to standard output: {trouble}"))),
            None => Ok(()),
        }
    }

    fn out_style(&self) -> Style {
        Style { colour: self.terminal.colour_out, unicode: self.terminal.unicode }
    }

    fn err_style(&self) -> Style {
        Style { colour: self.terminal.colour_err, unicode: self.terminal.unicode }
    }
}
