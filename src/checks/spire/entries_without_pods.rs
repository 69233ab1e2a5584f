//! Every registration entry matches a pod.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-entries-without-pods",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "every registration entry matches a pod",
    why: "Nobody needs such an entry now, and whoever comes to match it gets its identity. The controller manager removes its own within seconds.",
    hint: "`coastal entries delete ID`; entries that come back are the controller manager's: see its log",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(evidence, &[Rule::EntryWithoutPod], "registered, and there is no such pod", "every entry has its pod")
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
                (&|e| find(e, Rule::EntryWithoutPod, "it"), Expect::Fails("registered, and there is no such pod: it")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
