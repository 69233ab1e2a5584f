//! Every pod that mounts the Workload API has a registration entry.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-pods-without-entries",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "every pod that mounts the Workload API has a registration entry",
    why: "It waits for an SVID that does not come: no ClusterSPIFFEID selects it, or the controller manager does not work. From chart 0.17 on the default one leaves out the release's own namespace.",
    hint: "`coastal logs controller-manager`; look at `kubectl get clusterspiffeids` and their selectors",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(
        evidence,
        &[Rule::PodWithoutEntry],
        "mounts the Workload API and has no identity",
        "every pod that mounts it has an entry",
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
                    &|e| find(e, Rule::PodWithoutEntry, "it"),
                    Expect::Fails("mounts the Workload API and has no identity: it"),
                ),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
