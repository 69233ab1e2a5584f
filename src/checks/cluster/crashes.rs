//! Nothing crashes again and again.

use super::images::statuses;
use super::named;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};

pub(super) const CHECK: Check = Check {
    id: "cluster-crashes",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "no container ends each time that it is started",
    why: "The kubelet waits up to five minutes between tries: what depends on it is gone for that long.",
    hint: "`kubectl logs --previous` shows its last words; for SPIRE `coastal logs server` or `coastal logs agent`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let pods = evidence.pods.as_ref()?;
    let mut crashing = Vec::new();
    for pod in pods {
        for status in statuses(pod) {
            let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
            if waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CrashLoopBackOff") {
                let ended = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
                let code = ended.map(|ended| format!(", last exit code {}", ended.exit_code)).unwrap_or_default();
                crashing.push(format!("{} {}: {} restarts{code}", named(pod), status.name, status.restart_count));
            }
        }
    }
    let message = format!("{} in a crash loop", count(crashing.len(), "container"));
    none_of(crashing, message, format!("{} looked at", count(pods.len(), "pod")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases, change_pod};

    #[test]
    fn judged() {
        let crash: &dyn Fn(&mut Evidence) = &|e| {
            change_pod(e, "spire-server-2", |pod| {
                pod["status"]["containerStatuses"] = json!([{"name": "spire-server", "image": "s:1", "imageID": "", "ready": false,
                    "restartCount": 7, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 1}}}]);
            });
        };
        cases(
            &CHECK,
            &[
                (crash, Expect::Fails("1 container in a crash loop")),
                (&|e| e.pods = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
