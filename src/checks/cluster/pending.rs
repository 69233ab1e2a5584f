//! No pod waits for a node.

use super::age;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};
use crate::kube::describe_pod;

/// A pod that has just been made is allowed to wait.
const PATIENCE_S: i64 = 60;

pub(super) const CHECK: Check = Check {
    id: "cluster-pending",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "no pod has waited for a node for more than a minute",
    why: "What the scheduler cannot place now it can place only when something else goes.",
    hint: "make room, or request less; the scheduler's own words say what is missing",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let pods = evidence.pods.as_ref()?;
    let homeless = pods.iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        !placed && matches!(phase, None | Some("Pending")) && age(pod, evidence) > PATIENCE_S
    });
    let homeless: Vec<String> = homeless.map(describe_pod).collect();
    let message = format!("{} without a node", count(homeless.len(), "pod"));
    none_of(homeless, message, format!("{} have one", count(pods.len(), "pod")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases, change_pod};

    fn homeless(evidence: &mut Evidence, made: &str) {
        change_pod(evidence, "workload-0", |pod| {
            pod["metadata"]["creationTimestamp"] = json!(made);
            pod["spec"]["nodeName"] = json!(null);
            pod["status"] = json!({"phase": "Pending"});
        });
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| homeless(e, "2026-02-01T00:00:00Z"), Expect::Fails("1 pod without a node")),
                (&|e| homeless(e, &e.now.to_string()), Expect::Passes),
                (&|e| e.pods = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
