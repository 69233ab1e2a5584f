//! What is there is what lab.toml asks for.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};
use crate::plan::{self, StepId};

pub(super) const CHECK: Check = Check {
    id: "lab-drift",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "`coastal up` would change nothing",
    why: "Somebody has changed the lab by hand, or lab.toml, or a step was never made.",
    hint: "`coastal plan` shows each difference, `coastal up` makes it as lab.toml says",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let steps = evidence.drift.as_ref()?;
    // The tools are looked at by checks of their own.
    let open = steps.iter().filter(|(step, finding)| *step != StepId::Tools && !finding.is_satisfied());
    let open: Vec<String> =
        open.map(|(step, finding)| format!("{step}: {} (`{}`)", finding.detail(), plan::command_for(*step))).collect();
    let message = format!("{} not as lab.toml says", count(open.len(), "step"));
    none_of(open, message, format!("{} as lab.toml says", count(steps.len(), "step")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, set_step};
    use crate::plan::Finding;

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| set_step(e, StepId::Monitors, Finding::Differs("another label".into())),
                    Expect::Fails("1 step not as lab.toml says"),
                ),
                (&|e| set_step(e, StepId::Tools, Finding::Missing("no kind".into())), Expect::Passes),
                (&|e| e.drift = Err("the API server is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
