//! No agent is banned.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-agents-banned",
    category: Category::Spire,
    level: Level::Note,
    before_up: false,
    title: "no agent is banned",
    why: "A banned agent gets nothing, and cannot attest again before it is evicted: its node is without identities.",
    hint: "`coastal agents evict` lets it attest again, once the reason for the ban is gone",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(evidence, &[Rule::BannedAgent], "banned", "none")
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
                (&|e| find(e, Rule::BannedAgent, "it"), Expect::Fails("banned: it")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
