//! `--explain`: before a step does its work, why it is there and what a person would type instead.

use crate::plan::Step;
use crate::ui::style::Style;

/// The reason and the commands, one line each, indented.
pub(super) fn render(step: &Step, style: Style) -> Vec<String> {
    let mut lines = vec![format!("  {}: {}", style.strong(&step.title), step.explanation.why)];
    lines.extend(step.explanation.by_hand.iter().map(|command| format!("    $ {command}")));
    lines
}
