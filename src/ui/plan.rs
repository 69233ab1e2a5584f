//! A plan as text: what would be made, changed or left as it is, and in which order.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use crate::plan::{Finding, Plan, Role, Step, StepId, command_for};
use crate::ui::style::{Style, count};

/// A plan as a JSON document: the plan itself, and how much of it is pending.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    counts: Counts,
}

/// How many goals are in which state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    make: usize,
    test: usize,
    change: usize,
    same: usize,
    unknown: usize,
}

/// The document of `plan`.
pub(super) fn document(plan: &Plan) -> Document<'_> {
    Document { plan, counts: counts(plan) }
}

fn counts(plan: &Plan) -> Counts {
    let mut counts = Counts::default();
    for step in plan.steps.iter().filter(|step| step.role == Role::Goal) {
        match &step.finding {
            Some(Finding::Missing(_)) if step.id.is_test() => counts.test += 1,
            Some(Finding::Missing(_)) => counts.make += 1,
            Some(Finding::Differs(_)) => counts.change += 1,
            Some(Finding::Satisfied(_)) => counts.same += 1,
            None => counts.unknown += 1,
        }
    }
    counts
}

/// The text of `plan`; with `explain`, each pending step's reason and commands below it.
pub(super) fn render(plan: &Plan, explain: bool, style: Style) -> String {
    let (needs, goals): (Vec<&Step>, Vec<&Step>) = plan.steps.iter().partition(|step| step.role == Role::Need);
    let names = plan.steps.iter().map(|step| step.id.as_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    let missing = missing_needs(plan);
    let unmet: Vec<&Step> = needs.into_iter().filter(|step| missing.contains(&step.id)).collect();
    if !unmet.is_empty() {
        text.push_str("to be done first, by other commands:\n");
        for step in unmet {
            let seen = step.finding.as_ref().map_or("", Finding::detail);
            let _ = writeln!(
                text,
                "  {} {:names$}  {seen}: `{}`",
                style.bad("!"),
                step.id.to_string(),
                command_for(step.id)
            );
        }
        text.push('\n');
    }
    for step in goals {
        row(&mut text, step, names, plan, style);
        let pending = !step.finding.as_ref().is_some_and(Finding::is_satisfied);
        if explain && pending {
            let _ = writeln!(text, "      {}", step.explanation.why);
            for command in &step.explanation.by_hand {
                let _ = writeln!(text, "      $ {command}");
            }
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&total(plan));
    text.push('\n');
    text
}

fn row(text: &mut String, step: &Step, names: usize, plan: &Plan, style: Style) {
    let mark = match &step.finding {
        Some(Finding::Missing(_)) if step.id.is_test() => "*".to_owned(),
        Some(Finding::Missing(_)) => style.good("+"),
        Some(Finding::Differs(_)) => style.warn("~"),
        Some(Finding::Satisfied(_)) => style.faint("="),
        None => "?".to_owned(),
    };
    let _ = write!(text, "  {mark} {:names$}  {}", step.id.to_string(), step.title);
    if let Some(finding) = &step.finding {
        let _ = write!(text, ": {}", finding.detail());
    }
    let after: Vec<String> =
        step.needs.iter().filter(|need| is_pending(plan, **need)).map(ToString::to_string).collect();
    if !after.is_empty() && !step.finding.as_ref().is_some_and(Finding::is_satisfied) {
        let _ = write!(text, " {}", style.faint(format!("(after {})", after.join(", "))));
    }
    text.push('\n');
}

/// The needs that were seen not to be so and that something pending rests on; what is so stands for whatever it rests
/// on itself.
fn missing_needs(plan: &Plan) -> BTreeSet<StepId> {
    let mut missing = BTreeSet::new();
    // From the last step to the first, so that whatever rests on a step has been seen before the step itself.
    for step in plan.steps.iter().rev() {
        let seen_missing = step.finding.as_ref().is_some_and(|finding| !finding.is_satisfied());
        let wanted = plan
            .steps
            .iter()
            .any(|other| other.needs.contains(&step.id) && (other.role == Role::Goal || missing.contains(&other.id)));
        if step.role == Role::Need && seen_missing && wanted {
            missing.insert(step.id);
        }
    }
    missing
}

fn is_pending(plan: &Plan, id: StepId) -> bool {
    plan.step(id).is_some_and(|step| !step.finding.as_ref().is_some_and(Finding::is_satisfied))
}

fn total(plan: &Plan) -> String {
    let Counts { make, test, change, same, unknown } = counts(plan);
    if make + test + change + unknown == 0 {
        return format!("lab `{}`: nothing to change, {} already so", plan.lab, count(same, "step"));
    }
    let parts = [
        (make, "to make (+)"),
        (test, "to test (*)"),
        (change, "to change (~)"),
        (unknown, "not looked at (?)"),
        (same, "already so (=)"),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!("lab `{}`: {}", plan.lab, parts.join(", "))
}
