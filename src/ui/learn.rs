//! The lab's steps as a student reads them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::style::{Style, tame};
use crate::learn::{Lesson, Progress, State};

/// One line a step, and below what is broken why.
#[must_use]
pub(super) fn progress(steps: &[Progress], style: Style) -> String {
    let mut text = String::new();
    for step in steps {
        let word = format!("{:<8}", step.state.word());
        let word = match step.state {
            State::Done => style.good(word),
            State::Next => style.strong(word),
            State::Broken => style.bad(word),
            State::Unknown => style.warn(word),
            State::Later | State::Open => style.faint(word),
        };
        let _ = writeln!(text, "{:<5}{:<12}{word} {}", step.number, step.id, tame(&step.message));
        for fact in &step.facts {
            let _ = writeln!(text, "{:26}{}", "", tame(fact));
        }
    }
    text
}

/// A step: why, how, and what to look at.
#[must_use]
pub(super) fn lesson(lesson: &Lesson, by_hand: &[String], style: Style) -> String {
    let mut text = format!("{}\n", style.strong(format!("Step {}: {}", lesson.number, lesson.title)));
    let _ = writeln!(text, "  {}", lesson.why);
    for command in lesson.commands {
        let _ = writeln!(text, "    $ {command}");
    }
    if !by_hand.is_empty() {
        let _ = writeln!(text, "  {}", style.faint("by hand, after `eval \"$(coastal env)\"`:"));
        for command in by_hand {
            let _ = writeln!(text, "    $ {command}");
        }
    }
    let _ = writeln!(text, "  look at: {}", lesson.look);
    text
}

/// A step, for a program.
#[must_use]
pub(super) fn document(lesson: &Lesson, by_hand: &[String]) -> Value {
    json!({
        "schema": 1, "id": lesson.id, "number": lesson.number, "title": lesson.title, "why": lesson.why,
        "commands": lesson.commands, "by_hand": by_hand, "look": lesson.look,
    })
}
