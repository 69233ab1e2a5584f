//! Every node is ready.

use kube::ResourceExt;

use super::is_true;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, none_of};

pub(super) const CHECK: Check = Check {
    id: "cluster-nodes",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "every node is ready, and takes pods",
    why: "Pods of a node that is not ready are given up after five minutes, its agent with them.",
    hint: "`kubectl describe node` says why; a kind node is a container, and `docker start` brings it back",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let nodes = evidence.nodes.as_ref()?;
    if nodes.is_empty() {
        return failed("the cluster has no node").verdict();
    }
    let mut culprits = Vec::new();
    for node in nodes {
        if !is_true(node, "Ready") {
            culprits.push(format!("{} is not ready", node.name_any()));
        } else if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            culprits.push(format!("{} takes no pods: it is cordoned", node.name_any()));
        }
    }
    let message = culprits.join(", ");
    none_of(culprits, message, format!("{} ready", count(nodes.len(), "node")))
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
                (&|e| e.nodes = Ok(Vec::new()), Expect::Fails("no node")),
                (&|e| e.nodes = Ok(vec![node("w", "v1.32.3", &[])]), Expect::Fails("w is not ready")),
                (
                    &|e| {
                        let mut cordoned = node("w", "v1.32.3", &["Ready"]);
                        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
                        e.nodes = Ok(vec![cordoned]);
                    },
                    Expect::Fails("cordoned"),
                ),
                (&|e| e.nodes = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
