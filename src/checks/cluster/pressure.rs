//! No node runs out of something.

use kube::ResourceExt;

use super::is_true;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

pub(super) const CHECK: Check = Check {
    id: "cluster-pressure",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "no node is short of memory, disk or process ids",
    why: "A kubelet under pressure evicts pods and starts no new ones.",
    hint: "free what the node is short of; kind nodes share the host's disk: `docker system df`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let nodes = evidence.nodes.as_ref()?;
    let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
    let all = nodes.iter().flat_map(|node| kinds.map(|kind| (node, kind)));
    let culprits = all.filter(|(node, kind)| is_true(node, kind));
    let culprits = culprits.map(|(node, kind)| format!("{}: {kind}", node.name_any())).collect::<Vec<_>>();
    let message = culprits.join(", ");
    none_of(culprits, message, "none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, node};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| e.nodes = Ok(vec![node("w", "v1.32.3", &["Ready", "DiskPressure"])]),
                    Expect::Fails("w: DiskPressure"),
                ),
                (&|e| e.nodes = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
