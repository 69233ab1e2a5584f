//! When each step ran, as a picture inside the page. Its colours are the page's.

use std::fmt::Write;

use super::{Account, State};
use crate::ui::style::duration;
use crate::ui::xml::escaped;

const WIDTH: u64 = 1000;
const NAMES: u64 = 210;
const ROW: u64 = 22;
const HEAD: u64 = 26;
/// About how many marks the axis has.
const MARKS: u64 = 8;

/// A row per step that was started.
pub(super) fn timeline(account: &Account) -> String {
    let spans = &account.run.spans;
    if spans.is_empty() {
        return String::new();
    }
    let total = account.took_ms().max(1);
    let (path, _) = account.run.critical_path();
    let height = HEAD + ROW * spans.len() as u64 + 6;
    let x = |ms: u64| NAMES + (WIDTH - NAMES - 70) * ms.min(total) / total;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"When each step ran\" class=\"timeline\">\n"
    );
    // Writing to a String cannot fail.
    for ms in (0..).map(|n| n * step(total)).take_while(|ms| *ms <= total) {
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{0}\" x2=\"{0}\" y1=\"{HEAD}\" y2=\"{height}\"/><text class=\"axis\" x=\"{0}\" y=\"16\">{1}</text>",
            x(ms),
            duration(ms)
        );
    }
    for (row, span) in (0_u64..).zip(spans) {
        let y = HEAD + ROW * row;
        let state = account.steps.get(&span.step).map_or(State::Running, |turn| turn.state);
        // What never ended ran to the end.
        let took = if state == State::Running { total.saturating_sub(span.start_ms) } else { span.took_ms };
        let width = (x(span.start_ms + took) - x(span.start_ms)).max(3);
        let on_path = path.contains(&span.step);
        let _ = writeln!(
            svg,
            "<a href=\"#{id}-{step}\"><text class=\"name\" x=\"{}\" y=\"{}\">{}{step}</text><rect class=\"bar {}{}\" x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{}\" rx=\"3\"><title>{}: {}, {}</title></rect><text class=\"took\" x=\"{}\" y=\"{}\">{}</text></a>",
            NAMES - 10,
            y + 15,
            if on_path { "* " } else { "" },
            class(state),
            if on_path { " path" } else { "" },
            x(span.start_ms),
            y + 4,
            ROW - 8,
            escaped(&account.run.title(span.step)),
            state.word(),
            duration(took),
            x(span.start_ms) + width + 6,
            y + 15,
            duration(took),
            id = escaped(&account.run.id),
            step = span.step,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The colour's name in the page's style sheet.
pub(super) fn class(state: State) -> &'static str {
    match state {
        State::Done => "done",
        State::Same => "same",
        State::Failed => "failed",
        State::Running | State::Stopped => "stopped",
        State::Waiting | State::Skipped => "skipped",
    }
}

/// Milliseconds from one mark of the axis to the next: 1, 2 or 5 of a round unit.
fn step(total: u64) -> u64 {
    const STEPS: &[u64] = &[
        100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
        3_600_000,
    ];
    let least = total / MARKS;
    STEPS.iter().copied().find(|step| *step >= least).unwrap_or(least.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_has_a_few_round_marks() {
        for (total, expected) in [(1, 100), (900, 200), (60_000, 10_000), (141_000, 20_000), (100_000_000, 12_500_000)]
        {
            assert_eq!(step(total), expected, "{total}");
        }
    }
}
