//! JUnit's XML: a run is a suite, each of its steps a test. Steps that were already so pass; steps that were never
//! started are skipped.

use std::fmt::Write;

use super::{Account, State, accounts};
use crate::engine::Event;
use crate::ui::xml::escaped;

/// The document.
#[must_use]
pub fn render(events: &[Event]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for account in accounts(events) {
        suite(&mut text, &account);
    }
    text.push_str("</testsuites>\n");
    text
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run, as seconds with three places")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn suite(text: &mut String, account: &Account) {
    let steps = account.in_order();
    let count = |states: &[State]| steps.iter().filter(|(_, turn)| states.contains(&turn.state)).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "<testsuite name=\"coastal {}\" timestamp=\"{:.0}\" time=\"{:.3}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\">",
        escaped(&account.run.command),
        account.began,
        seconds(account.took_ms()),
        steps.len(),
        count(&[State::Failed]),
        count(&[State::Stopped, State::Running]),
        count(&[State::Skipped, State::Waiting]),
    );
    for (step, turn) in &steps {
        let _ = write!(
            text,
            "<testcase classname=\"{}\" name=\"{step}: {}\" time=\"{:.3}\"",
            if account.is_goal(*step) { "step" } else { "need" },
            escaped(&account.run.title(*step)),
            seconds(turn.took_ms)
        );
        let words = escaped(&turn.words);
        let _ = match turn.state {
            State::Done | State::Same => {
                writeln!(text, "><system-out>{}: {words}</system-out></testcase>", turn.state.word())
            }
            State::Skipped | State::Waiting => writeln!(text, "><skipped message=\"{words}\"/></testcase>"),
            State::Stopped | State::Running => {
                writeln!(text, "><error type=\"interrupted\" message=\"{words}\"/></testcase>")
            }
            State::Failed => writeln!(
                text,
                "><failure type=\"{}\" message=\"{words}\">{}</failure></testcase>",
                turn.failure.as_ref().map_or_else(String::new, |failure| format!("{:?}", failure.kind).to_lowercase()),
                escaped(&details(account, *step)),
            ),
        };
    }
    text.push_str("</testsuite>\n");
}

/// Facts, next commands, and what the step's failed commands printed.
fn details(account: &Account, step: crate::plan::StepId) -> String {
    let mut lines = Vec::new();
    if let Some(failure) = account.steps.get(&step).and_then(|turn| turn.failure.as_ref()) {
        lines.extend(failure.facts.iter().cloned());
        lines.extend(failure.next.iter().map(|next| format!("next: {next}")));
    }
    for command in account.commands.values().filter(|command| command.step == step && !command.is_good()) {
        lines.push(format!("$ {}", command.line));
        lines.extend(command.output.iter().cloned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::testing::{failure, interrupted, nothing_to_change, success};

    #[test]
    fn every_step_is_a_test_and_the_sums_are_right() {
        for events in [success(), failure(), interrupted(), nothing_to_change()] {
            let text = render(&events);
            let number = |name: &str| {
                let (_, after) = text.split_once(&format!(" {name}=\"")).unwrap();
                after.split('"').next().unwrap().parse::<usize>().unwrap()
            };
            assert_eq!(number("tests"), text.matches("<testcase ").count());
            assert_eq!(number("failures"), text.matches("<failure ").count());
            assert_eq!(number("errors"), text.matches("<error ").count());
            assert_eq!(number("skipped"), text.matches("<skipped ").count());
        }
        assert!(render(&failure()).contains("<failure "));
    }
}
