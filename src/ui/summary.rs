//! What a run came to: what changed, how long each step took and which chain of them decided it, what failed and what
//! was left undone, where the journal is, and what to do next.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::engine::{Outcome, RunResult};
use crate::error::Kind;
use crate::plan::StepId;
use crate::ui::failure;
use crate::ui::run::{Run, Span};
use crate::ui::style::{Style, count, duration};

/// Columns of the bars that show when each step ran.
const BARS: u64 = 30;

/// The end of a run, beginning with a blank line. `width` is that of the terminal.
pub(super) fn render(run: &Run, result: &RunResult, journal: Option<&Path>, style: Style, width: usize) -> String {
    let mut text = String::from("\n");
    let quiet = result.outcome != Outcome::Ok && result.changed.is_empty() && result.passed.is_empty();
    if !quiet {
        let _ = writeln!(text, "{}", style.strong(headline(run, result)));
        text.push_str(&timeline(run, result, style, width));
    }
    let Some(cause) = &result.failure else {
        let next: Vec<String> = result.next.iter().map(|command| format!("`{command}`")).collect();
        text.push_str(&failure::next(&next, style));
        return text;
    };
    if !quiet {
        text.push('\n');
    }
    let mut cause = cause.clone();
    cause.next.extend(result.next.iter().map(|command| format!("`{command}` goes on where this run stopped")));
    text.push_str(&failure::render("error", &cause, &circumstances(run, result, journal), style));
    text
}

fn headline(run: &Run, result: &RunResult) -> String {
    let goals = |steps: &[StepId]| steps.iter().filter(|step| !run.is_need(**step)).count();
    let (done, same, passed) = (goals(&result.changed), goals(&result.unchanged), result.passed.len());
    let took = duration(result.took_ms);
    if result.outcome == Outcome::Ok && done == 0 && passed == 0 {
        return match same {
            0 => format!("nothing to do ({took})"),
            1 => format!("nothing to change: it is already so ({took})"),
            _ => format!("nothing to change: all {same} steps are already so ({took})"),
        };
    }
    let (stopped, failed): (Vec<StepId>, Vec<StepId>) = result
        .failed
        .iter()
        .partition(|step| run.failures.get(step).is_some_and(|failure| failure.kind == Kind::Interrupted));
    let rest = [
        (same, "already so"),
        (goals(&failed), "failed"),
        (goals(&stopped), "stopped"),
        (result.cancelled.len(), "not started"),
    ];
    let made = (done > 0 || passed == 0).then(|| format!("{} done", count(done, "step")));
    let tested = (passed > 0).then(|| format!("{} passed", count(passed, "test")));
    let mut line = made.into_iter().chain(tested).collect::<Vec<_>>().join(", ");
    for (n, what) in rest.into_iter().filter(|(n, _)| *n > 0) {
        let _ = write!(line, ", {n} {what}");
    }
    format!("{line}, in {took}")
}

/// A look at what is already so is worth a row if it held up what came after for this long.
const LONG_LOOK_MS: u64 = 1_000;

/// A row per step that did something, in the order in which they started. Nothing for a single one.
fn timeline(run: &Run, result: &RunResult, style: Style, width: usize) -> String {
    let shown: BTreeSet<StepId> = result.changed.iter().chain(&result.passed).chain(&result.failed).copied().collect();
    if shown.is_empty() {
        return String::new();
    }
    let (path, path_ms) = run.critical_path();
    let holds_up = |span: &Span| path.contains(&span.step) && span.took_ms >= LONG_LOOK_MS;
    let rows: Vec<&Span> = run.spans.iter().filter(|span| shown.contains(&span.step) || holds_up(span)).collect();
    if rows.len() < 2 {
        return String::new();
    }
    let names = rows.iter().map(|span| span.step.as_str().len()).max().unwrap_or(0);
    let bars = width >= 24 + names + usize::try_from(BARS).unwrap_or(0);
    let mut text = String::from("\n     start     took\n");
    for span in &rows {
        let mark = if path.contains(&span.step) { "*" } else { " " };
        let bar = if bars { bar(span, result.took_ms, style) } else { String::new() };
        let row = format!(
            "  {:>8} {:>8}  {mark} {:names$}  {bar}",
            duration(span.start_ms),
            duration(span.took_ms),
            span.step.to_string()
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    let all = run.spans.iter().filter(|span| shown.contains(&span.step) || path.contains(&span.step));
    let sum: u64 = all.map(|span| span.took_ms).sum();
    let _ = writeln!(
        text,
        "  * the longest chain: {} of {}; one after the other these steps take {}",
        duration(path_ms),
        duration(result.took_ms),
        duration(sum)
    );
    text
}

fn bar(span: &Span, total_ms: u64, style: Style) -> String {
    let column = |ms: u64| (ms * BARS / total_ms.max(1)).min(BARS);
    let start = column(span.start_ms).min(BARS - 1);
    let length = column(span.start_ms + span.took_ms).saturating_sub(start).max(1);
    (0..start).map(|_| ' ').chain((0..length).map(|_| style.bar())).collect()
}

/// What a person wants to know beside the failure itself.
fn circumstances(run: &Run, result: &RunResult, journal: Option<&Path>) -> Vec<String> {
    let list = |steps: &[StepId]| steps.iter().map(|step| format!("`{step}`")).collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    let goals: Vec<StepId> = result.failed.iter().copied().filter(|step| !run.is_need(*step)).collect();
    if result.outcome == Outcome::Interrupted {
        if !goals.is_empty() {
            lines.push(format!("under way: {}", list(&goals)));
        }
    } else if let [first, others @ ..] = goals.as_slice() {
        lines.push(format!("step: `{first}` ({})", run.title(*first)));
        for other in others {
            let why = run.failures.get(other).map_or("", |failure| failure.message.as_str());
            lines.push(format!("failed as well: `{other}`: {why}"));
        }
    }
    lines.push(match result.changed.as_slice() {
        [] if goals.iter().all(|step| step.is_test()) => "nothing was changed".to_owned(),
        [] => "nothing was changed by other steps".to_owned(),
        changed => format!("done before: {}", list(changed)),
    });
    if !result.passed.is_empty() {
        lines.push(format!("passed: {}", list(&result.passed)));
    }
    // Behind unmet needs nothing starts; that goes without saying.
    if !result.cancelled.is_empty() && !goals.is_empty() {
        lines.push(format!("not started: {}", list(&result.cancelled)));
    }
    if let Some(journal) = journal {
        lines.push(format!("journal: `{}`", journal.display()));
    }
    lines
}
