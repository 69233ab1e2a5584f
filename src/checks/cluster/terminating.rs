//! Nothing hangs on its way out.

use kube::ResourceExt;

use super::named;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};

/// Longer than any grace period of the lab's pods.
const PATIENCE_S: i64 = 300;

pub(super) const CHECK: Check = Check {
    id: "cluster-terminating",
    category: Category::Cluster,
    level: Level::Warning,
    before_up: false,
    title: "no pod and no namespace has been going away for more than five minutes",
    why: "A pod that mounts the SPIFFE CSI driver cannot go once the driver is gone, and holds up its namespace and every teardown.",
    hint: "bring the CSI driver back (`coastal spire-install`) so that the volume can be unmounted, or `kubectl delete pod --force`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let late = |gone: Option<jiff::Timestamp>| {
        gone.is_some_and(|gone| evidence.now.duration_since(gone).as_secs() > PATIENCE_S)
    };
    let pods = evidence.pods.as_ref()?.iter();
    let pods = pods.filter(|pod| late(pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)));
    let mut stuck: Vec<String> = pods.map(|pod| format!("pod {}", named(pod))).collect();
    let namespaces = evidence.namespaces.as_ref()?.iter();
    let namespaces = namespaces.filter(|found| late(found.metadata.deletion_timestamp.as_ref().map(|time| time.0)));
    stuck.extend(namespaces.map(|namespace| format!("namespace {}", namespace.name_any())));
    let message = format!("{} cannot go away", count(stuck.len(), "object"));
    none_of(stuck, message, "nothing hangs")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases, change_pod};

    fn going(evidence: &mut Evidence, since: &str) {
        change_pod(evidence, "workload-0", |pod| pod["metadata"]["deletionTimestamp"] = json!(since));
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| going(e, "2026-02-01T00:00:00Z"), Expect::Fails("1 object cannot go away")),
                (&|e| going(e, &e.now.to_string()), Expect::Passes),
                (&|e| e.namespaces = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
