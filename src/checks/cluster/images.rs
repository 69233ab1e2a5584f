//! Every image could be had.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::named;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, none_of};

/// What the kubelet says of an image that it cannot get.
const REASONS: [&str; 4] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];

pub(super) const CHECK: Check = Check {
    id: "cluster-images",
    category: Category::Cluster,
    level: Level::Error,
    before_up: false,
    title: "no pod waits for an image that cannot be pulled",
    why: "A wrong name, a missing login or policy `Always` without a network is retried for ever, and never mends itself.",
    hint: "correct the name, or load the image: list its archive under `[images] archives` of lab.toml and run `coastal up`",
    judge,
    mend: None,
};

/// The statuses of all containers, init containers first.
pub(super) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let lists = pod.status.iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
    lists.flatten().flatten()
}

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let pods = evidence.pods.as_ref()?;
    let mut waiting = Vec::new();
    for pod in pods {
        for status in statuses(pod) {
            let state = status.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = state.and_then(|state| state.reason.as_deref()).unwrap_or_default();
            if REASONS.contains(&reason) {
                waiting.push(format!("{} {}: {reason} of {}", named(pod), status.name, status.image));
            }
        }
    }
    let message = format!("{} cannot get an image", count(waiting.len(), "container"));
    none_of(waiting, message, format!("{} looked at", count(pods.len(), "pod")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases, change_pod};

    #[test]
    fn judged() {
        let pull: &dyn Fn(&mut Evidence) = &|e| {
            change_pod(e, "workload-0", |pod| {
                pod["status"]["containerStatuses"] = json!([{"name": "workload", "image": "w:2", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
            });
        };
        cases(
            &CHECK,
            &[
                (pull, Expect::Fails("1 container cannot get an image")),
                (&|e| e.pods = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
