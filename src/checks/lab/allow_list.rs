//! Nobody has an identity who is not expected.

use crate::checks::spire::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "lab-allow-list",
    category: Category::Lab,
    level: Level::Error,
    before_up: false,
    title: "entries, pods and agents are those of the allow-list of lab.toml",
    why: "The default ClusterSPIFFEID gives an identity to every pod, invited or not.",
    hint: "`coastal audit` says who can present what; what is meant belongs into `[identities]` of lab.toml",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let rules = [Rule::UnrecognisedId, Rule::UnrecognisedPod, Rule::UnrecognisedAgent];
    audited(evidence, &rules, "not on the allow-list", "everything is on the allow-list")
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
                    &|e| find(e, Rule::UnrecognisedId, "spiffe://td/x"),
                    Expect::Fails("not on the allow-list: spiffe://td/x"),
                ),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
