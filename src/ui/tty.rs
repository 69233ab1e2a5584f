//! Progress on a terminal: a live line per running step below, and what has ended above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::engine::{Event, Sink, What};
use crate::plan::StepId;
use crate::ui::run::Run;
use crate::ui::style::{Style, duration, tame};
use crate::ui::terminal::Terminal;
use crate::ui::writer::Writer;
use crate::ui::{continuity, explain, recovery, summary};

const TICK: Duration = Duration::from_millis(100);

/// Draws.
pub(super) struct Live {
    err: Writer,
    terminal: Terminal,
    style: Style,
    journal: Option<PathBuf>,
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    run: Run,
    bars: BTreeMap<StepId, ProgressBar>,
    /// Steps that said themselves what they do; of the others the output of their commands is shown.
    spoken: BTreeSet<StepId>,
}

impl Live {
    /// Live lines go to `target`, everything that stays to `err`; both are the same terminal.
    pub(super) fn new(
        err: Writer,
        target: ProgressDrawTarget,
        terminal: Terminal,
        style: Style,
        journal: Option<PathBuf>,
    ) -> Self {
        let multi = MultiProgress::with_draw_target(target);
        Live { err, terminal, style, journal, multi, state: Mutex::default() }
    }

    fn bar(&self) -> ProgressBar {
        let ticks = if self.style.unicode { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " };
        // The template is a constant; were it wrong, indicatif's own spinner would serve.
        let style = ProgressStyle::with_template("{spinner} {clock} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key("clock", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let ms = u64::try_from(state.elapsed().as_millis()).unwrap_or(u64::MAX);
                let _ = write!(out, "{:>6}", duration(ms));
            })
            .tick_chars(ticks);
        let bar = self.multi.add(ProgressBar::new_spinner().with_style(style));
        bar.enable_steady_tick(TICK);
        bar
    }

    /// Prints above the live lines.
    fn keep(&self, line: &str) {
        self.multi.suspend(|| self.err.line(line));
    }

    fn explain(&self, run: &Run, step: StepId) {
        if let Some(step) = run.step(step).filter(|_| self.terminal.explain) {
            for line in explain::render(step, self.style) {
                self.keep(&line);
            }
        }
    }
}

impl Sink for Live {
    fn take(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.run.absorb(event);
        let (run, style) = (&state.run, self.style);
        let verbose = self.terminal.verbosity;
        let doing = |step: StepId, what: &str| {
            if let Some(bar) = state.bars.get(&step) {
                bar.set_message(live_line(&run.title(step), what));
            }
        };
        let ended = match &event.what {
            What::StepStarted { step } => {
                let bar = self.bar();
                bar.set_message(live_line(&run.title(*step), "looking"));
                state.bars.insert(*step, bar);
                None
            }
            What::StepRunning { step, because } => {
                self.explain(run, *step);
                doing(*step, because);
                None
            }
            What::StepVerifying { step } => {
                doing(*step, "making sure");
                None
            }
            What::StepProgress { step, message } => {
                doing(*step, message);
                state.spoken.insert(*step);
                None
            }
            What::StepReport { report, .. } => {
                let width = self.terminal.table_width;
                let card = recovery::details(report, style, width);
                for line in continuity::details(report, verbose > 0, width).into_iter().chain(card) {
                    self.keep(&line);
                }
                None
            }
            What::StepRetry { step, attempt, because } => {
                let what = format!("attempt {attempt}: {because}");
                if verbose > 0 {
                    self.keep(&format!("  {}: {}", run.title(*step), style.warn(tame(&what))));
                }
                doing(*step, &what);
                None
            }
            What::CommandStarted { step, line, .. } => {
                if verbose > 0 {
                    self.keep(&style.faint(format!("  {step} $ {}", tame(line))));
                }
                None
            }
            What::CommandOutput { command, line, .. } => {
                if let Some(step) = run.step_of(*command) {
                    if !state.spoken.contains(&step) && !line.trim().is_empty() {
                        doing(step, line.trim());
                    }
                    if verbose > 1 {
                        self.keep(&style.faint(format!("  {step} | {}", tame(line))));
                    }
                }
                None
            }
            What::StepSkipped { step, because, .. } => {
                let shown = verbose > 0 || !run.is_need(*step);
                if !run.is_need(*step) {
                    self.explain(run, *step);
                }
                let line = format!("{} {}, already so: {}", style.same_mark(), run.title(*step), tame(because));
                Some((*step, shown.then_some(line)))
            }
            What::StepDone { step, proof, took_ms } => {
                let took = style.faint(format!("({})", duration(*took_ms)));
                let line = format!("{} {}: {} {took}", style.done_mark(), run.title(*step), tame(proof));
                Some((*step, Some(line)))
            }
            What::StepFailed { step, failure, took_ms } => {
                let took = style.faint(format!("({})", duration(*took_ms)));
                let line = format!("{} {}: {} {took}", style.failed_mark(), run.title(*step), tame(&failure.message));
                Some((*step, Some(line)))
            }
            What::RunEnded { result } => {
                let text = summary::render(run, result, self.journal.as_deref(), style, self.terminal.width);
                self.multi.suspend(|| self.err.write(&text));
                None
            }
            What::RunStarted { .. } | What::StepCancelled { .. } | What::CommandEnded { .. } => None,
        };
        if let Some((step, line)) = ended {
            if let Some(bar) = state.bars.remove(&step) {
                bar.finish_and_clear();
                self.multi.remove(&bar);
            }
            if let Some(line) = line {
                self.keep(&line);
            }
        }
    }
}

/// What stands behind the clock of a running step; cut to the terminal's width when it is drawn.
fn live_line(title: &str, what: &str) -> String {
    format!("{title}: {}", tame(what))
}
