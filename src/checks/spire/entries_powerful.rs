//! No entry makes administrators or intermediate CAs, or matches everything.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-entries-powerful",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "no entry makes administrators or intermediate CAs, or matches everything",
    why: "Who holds such an SVID can make others, or everybody can have it.",
    hint: "narrow the entry's selectors, or take the right away; `coastal entries` shows them",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(
        evidence,
        &[Rule::Admin, Rule::Downstream, Rule::Wildcard],
        "an entry gives more than an identity to one workload",
        "none",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, find};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| find(e, Rule::Admin, "it"),
                    Expect::Fails("an entry gives more than an identity to one workload: it"),
                ),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
