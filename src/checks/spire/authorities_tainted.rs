//! No authority is tainted.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-authorities-tainted",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "no authority is tainted",
    why: "A tainted authority is still trusted: a rotation was begun and not brought to its end.",
    hint: "finish the rotation: see that everything has new SVIDs, then revoke the authority on each server",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(evidence, &[Rule::TaintedAuthority], "tainted and not revoked", "none")
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
                (&|e| find(e, Rule::TaintedAuthority, "it"), Expect::Fails("tainted and not revoked: it")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
