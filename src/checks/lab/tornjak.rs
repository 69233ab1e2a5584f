//! Tornjak runs.

use super::step;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};
use crate::plan::{Finding, StepId};

pub(super) const CHECK: Check = Check {
    id: "lab-tornjak",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "Tornjak's front end runs",
    why: "Without it there is no page to look at entries and agents; SPIRE itself does not need it.",
    hint: "`coastal spire-install` mends it, `coastal logs tornjak` shows what it says",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.lab.spire.tornjak {
        return skipped("Tornjak is switched off in this lab");
    }
    match step(evidence, StepId::Tornjak)? {
        Finding::Satisfied(proof) => passed(proof.clone()),
        other => failed(other.detail()).verdict(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, set_step};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| set_step(e, StepId::Tornjak, Finding::Missing("0 of 1 pods available".into())),
                    Expect::Fails("0 of 1 pods available"),
                ),
                (&|e| e.lab.spire.tornjak = false, Expect::Skips),
                (&|e| e.drift = Err("silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
