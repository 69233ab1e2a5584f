//! Every attested agent's node is in the cluster.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-agents-gone",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "every attested agent's node is in the cluster",
    why: "Whoever has the disk of a node that is gone may hold its agent's SVID, and with it those of its workloads.",
    hint: "`coastal agents evict` forgets it",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(
        evidence,
        &[Rule::AgentWithoutNode],
        "attested from a node that is not there",
        "every agent's node is there",
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
                    &|e| find(e, Rule::AgentWithoutNode, "it"),
                    Expect::Fails("attested from a node that is not there: it"),
                ),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
