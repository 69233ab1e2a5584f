//! Progress without a terminal: a line per turn of a step, with the run's time, a verb and the step's id in fixed columns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::engine::{Event, Sink, What};
use crate::error::Kind;
use crate::plan::StepId;
use crate::ui::run::Run;
use crate::ui::style::{Style, duration, tame};
use crate::ui::terminal::Terminal;
use crate::ui::writer::Writer;
use crate::ui::{continuity, explain, recovery, summary};

/// How long a message that only counts on (`waiting: 14 s`) is left out after its like was printed.
const COUNTING_MS: u64 = 10_000;

/// Writes lines.
pub(super) struct Lines {
    pub(super) out: Writer,
    pub(super) terminal: Terminal,
    pub(super) style: Style,
    pub(super) journal: Option<PathBuf>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    run: Run,
    /// The last progress of each step that was printed, and when.
    said: BTreeMap<StepId, (String, u64)>,
}

impl Lines {
    fn explain(&self, run: &Run, step: StepId) {
        if let Some(step) = run.step(step).filter(|_| self.terminal.explain) {
            for text in explain::render(step, self.style) {
                self.out.line(&text);
            }
        }
    }
}

impl Sink for Lines {
    fn take(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.run.absorb(event);
        let run = &state.run;
        let now = run.elapsed_ms(event);
        let line = |verb: &str, step: StepId, text: &str| {
            let names = run.steps().iter().map(|step| step.id.as_str().len()).max().unwrap_or(0);
            let verb = format!("{verb:<6}");
            let verb = match verb.trim_end() {
                "done" | "pass" => self.style.good(verb),
                "FAILED" => self.style.bad(verb),
                "retry" => self.style.warn(verb),
                _ => verb,
            };
            let text = format!("{:>8}  {verb}  {step:names$}  {}", duration(now), tame(text));
            self.out.line(text.trim_end());
        };
        let verbose = self.terminal.verbosity;
        match &event.what {
            What::StepStarted { step } if verbose > 0 => line("check", *step, &run.title(*step)),
            What::StepRunning { step, because } => {
                line("start", *step, &format!("{}: {because}", run.title(*step)));
                self.explain(run, *step);
            }
            What::StepVerifying { step } if verbose > 0 => line("verify", *step, &run.title(*step)),
            What::StepProgress { step, message } => {
                let repeats = state.said.get(step).is_some_and(|(said, at)| {
                    said == message || (alike(said, message) && now.saturating_sub(*at) < COUNTING_MS)
                });
                if !repeats {
                    line("wait", *step, message);
                    state.said.insert(*step, (message.clone(), now));
                }
            }
            What::StepReport { report, .. } => {
                let width = self.terminal.table_width;
                let card = recovery::details(report, self.style, width);
                for text in continuity::details(report, verbose > 0, width).into_iter().chain(card) {
                    self.out.line(&text);
                }
            }
            What::StepRetry { step, attempt, because } => {
                line("retry", *step, &format!("attempt {attempt}: {because}"));
            }
            What::StepSkipped { step, because, .. } if verbose > 0 || !run.is_need(*step) => {
                line("same", *step, because);
                // What is so already is worth knowing how, too; what the run only rests on is another command's.
                if !run.is_need(*step) {
                    self.explain(run, *step);
                }
            }
            What::StepDone { step, proof, took_ms } => {
                line(if step.is_test() { "pass" } else { "done" }, *step, &format!("{proof} ({})", duration(*took_ms)));
            }
            What::StepFailed { step, failure, took_ms } => {
                let verb = if failure.kind == Kind::Interrupted { "stop" } else { "FAILED" };
                line(verb, *step, &format!("{} ({})", failure.message, duration(*took_ms)));
            }
            What::StepCancelled { step, because_of } => {
                let why = because_of.map_or_else(String::new, |cause| format!("because of {cause}"));
                line("skip", *step, &format!("not started {why}"));
            }
            What::CommandStarted { step, line: command, .. } if verbose > 0 => {
                line("run", *step, &format!("$ {command}"));
            }
            What::CommandOutput { command, line: text, .. } if verbose > 1 => {
                if let Some(step) = run.step_of(*command) {
                    line("output", step, text);
                }
            }
            What::RunEnded { result } => {
                self.out.write(&summary::render(run, result, self.journal.as_deref(), self.style, self.terminal.width));
            }
            What::RunStarted { .. }
            | What::StepStarted { .. }
            | What::StepVerifying { .. }
            | What::StepSkipped { .. }
            | What::CommandStarted { .. }
            | What::CommandOutput { .. }
            | What::CommandEnded { .. } => {}
        }
    }
}

/// Whether two messages differ in their digits only.
fn alike(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}
