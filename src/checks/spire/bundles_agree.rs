//! All servers trust the same authorities.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-bundles-agree",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "all servers trust the same authorities",
    why: "An agent trusts what its server says. Servers of one data store differ for about a second; longer means they do not share it.",
    hint: "`coastal bundle` shows who trusts what; look again in a few seconds",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(evidence, &[Rule::BundlesDiffer], "another bundle than the first server's", "all servers trust the same")
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
                (&|e| find(e, Rule::BundlesDiffer, "it"), Expect::Fails("another bundle than the first server's: it")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
