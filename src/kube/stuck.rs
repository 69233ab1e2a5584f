//! Pods that a StatefulSet waits for and will never replace.
//!
//! An ordered StatefulSet replaces a pod only when the one above it is ready. A pod that was made from an older
//! template and cannot become ready therefore stops the rollout for ever, even the one that would mend it
//! (kubernetes/kubernetes#67250). It has to be deleted by whoever knows that it is of no use.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Preconditions};

use crate::error::Failure;
use crate::kube::diagnose::statuses;
use crate::kube::rollout::selector_text;
use crate::kube::{Cluster, api_failure};

/// Where a StatefulSet's controller writes from which template a pod was made.
const REVISION: &str = "controller-revision-hash";

impl Cluster {
    /// Deletes the pods of the StatefulSet that are of an older template and broken; their names. The claims stay,
    /// and the controller makes the pods anew from the newest template.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn free_stuck_pods(&self, namespace: &str, name: &str) -> Result<Vec<String>, Failure> {
        let Some(set) = self.get::<StatefulSet>(namespace, name).await? else { return Ok(Vec::new()) };
        let Some(newest) = set.status.as_ref().and_then(|status| status.update_revision.as_deref()) else {
            return Ok(Vec::new());
        };
        // Until its controller has seen the newest template, every pod is of the newest that it knows.
        if set.status.as_ref().and_then(|status| status.observed_generation) < set.metadata.generation {
            return Ok(Vec::new());
        }
        let api = self.namespaced::<Pod>(namespace);
        let params = ListParams::default().labels(&selector_text(&set.spec.selector));
        let pods = api.list(&params).await;
        let pods = pods.map_err(|error| api_failure(&format!("could not list the pods of {name}"), &error))?;
        let mut freed = Vec::new();
        for pod in pods.items.iter().filter(|pod| is_stuck(pod, newest)) {
            // Exactly this pod: its successor has the same name.
            let exactly = Preconditions { uid: pod.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
            match api.delete(&pod.name_any(), &params).await {
                Ok(_) => freed.push(pod.name_any()),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => return Err(api_failure(&format!("could not delete {}", pod.name_any()), &error)),
            }
        }
        Ok(freed)
    }
}

/// Whether the pod is of another template than `newest`, not on its way out, and broken: not merely starting.
fn is_stuck(pod: &Pod, newest: &str) -> bool {
    let of_newest = pod.labels().get(REVISION).is_none_or(|revision| revision == newest);
    if of_newest || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &pod.status else { return false };
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    !ready && statuses(pod).any(is_broken)
}

/// Whether a container has failed: it waits for something other than its start, or ended badly.
fn is_broken(container: &ContainerStatus) -> bool {
    let state = container.state.clone().unwrap_or_default();
    let waits = state.waiting.and_then(|waiting| waiting.reason);
    let waits = waits.is_some_and(|reason| !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"));
    let ended_badly = |ended: &ContainerStateTerminated| ended.exit_code != 0;
    let before = container.last_state.clone().unwrap_or_default().terminated;
    waits
        || state.terminated.as_ref().is_some_and(ended_badly)
        || (!container.ready && before.as_ref().is_some_and(ended_badly))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(revision: &str, ready: &str, container: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "spire-server-2", "labels": {REVISION: revision}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [container],
            }
        }))
        .unwrap()
    }

    fn container(ready: bool, state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        json!({"name": "spire-server", "image": "i", "imageID": "", "ready": ready, "restartCount": 2, "state": state, "lastState": last})
    }

    #[test]
    fn broken_pods_of_an_older_template_are_stuck() {
        let crashed = json!({"terminated": {"exitCode": 1}});
        let running = json!({"running": {}});
        let none = json!({});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        for (stuck, revision, ready, container) in [
            (true, "old", "False", container(false, &waiting("CrashLoopBackOff"), &crashed)),
            (true, "old", "False", container(false, &waiting("ImagePullBackOff"), &none)),
            (true, "old", "False", container(false, &crashed, &none)),
            (true, "old", "False", container(false, &running, &crashed)),
            // Of the newest template: replacing it would change nothing.
            (false, "new", "False", container(false, &waiting("CrashLoopBackOff"), &crashed)),
            // Serving still, or starting.
            (false, "old", "True", container(true, &running, &crashed)),
            (false, "old", "False", container(false, &waiting("ContainerCreating"), &none)),
            (false, "old", "False", container(false, &running, &none)),
        ] {
            assert_eq!(is_stuck(&pod(revision, ready, &container), "new"), stuck, "{revision} {ready} {container}");
        }
    }

    #[test]
    fn a_pod_on_its_way_out_is_left_alone() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let mut pod = pod("old", "False", &container(false, &state, &json!({})));
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(!is_stuck(&pod, "new"));
    }
}
