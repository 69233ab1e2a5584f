//! Why something does not become ready: what its pods wait for, say, and suffer from.

use k8s_openapi::api::core::v1::{ContainerStatus, Event as CoreEvent, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};

use crate::error::Failure;
use crate::kube::Cluster;

/// One line: the pod, its phase, and what it waits for.
#[must_use]
pub fn describe_pod(pod: &Pod) -> String {
    let name = qualified(pod);
    if pod.metadata.deletion_timestamp.is_some() {
        return format!("{name}: Terminating");
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "no phase yet".into());
    let waiting = statuses(pod).find_map(|container| {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.clone().unwrap_or_else(|| "waiting".into());
            return Some(match &waiting.message {
                Some(message) => format!("{}: {reason} ({message})", container.name),
                None => format!("{}: {reason}", container.name),
            });
        }
        if let Some(ended) = &state.terminated
            && ended.exit_code != 0
        {
            let reason = ended.reason.clone().unwrap_or_else(|| "Error".into());
            return Some(format!("{}: ended with code {} ({reason})", container.name, ended.exit_code));
        }
        (!container.ready && state.running.is_some()).then(|| format!("{}: running, not ready", container.name))
    });
    let unschedulable = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"))
        .and_then(|condition| condition.message.clone());
    match unschedulable.or(waiting) {
        Some(why) => format!("{name}: {phase}, {why}"),
        None => format!("{name}: {phase}"),
    }
}

pub(super) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let lists = pod.status.iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
    lists.flatten().flatten()
}

fn qualified(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

impl Cluster {
    /// Adds to a failure what the pods of `selector` in `namespace` have to say: their state, the last lines of
    /// those that are in trouble, and the warnings about them. Never fails: what cannot be read is said.
    pub async fn explain(&self, failure: Failure, namespace: &str, selector: &str) -> Failure {
        let pods = match self.namespaced::<Pod>(namespace).list(&ListParams::default().labels(selector)).await {
            Ok(pods) => pods.items,
            Err(error) => return failure.fact(format!("pods of {namespace} could not be read: {error}")),
        };
        if pods.is_empty() {
            return failure.fact(format!("no pod in namespace {namespace} matches {selector}"));
        }
        let mut facts = Vec::new();
        for pod in &pods {
            facts.push(describe_pod(pod));
            if is_ready(pod) {
                continue;
            }
            facts.extend(self.last_lines(pod, 5).await);
            facts.extend(self.warnings(pod, 3).await);
        }
        failure.facts(facts)
    }

    async fn last_lines(&self, pod: &Pod, lines: i64) -> Vec<String> {
        let api = self.namespaced::<Pod>(&pod.namespace().unwrap_or_default());
        let mut found = Vec::new();
        for container in statuses(pod).filter(|c| !c.ready && !ended_well(c)) {
            let waiting = container.state.as_ref().is_some_and(|s| s.waiting.is_some());
            if waiting && container.restart_count == 0 {
                continue; // never ran: has said nothing
            }
            let params = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(lines),
                previous: waiting,
                ..LogParams::default()
            };
            if let Ok(text) = api.logs(&pod.name_any(), &params).await {
                found.extend(text.lines().map(|line| format!("{} said: {line}", container.name)));
            }
        }
        found
    }

    async fn warnings(&self, pod: &Pod, most: usize) -> Vec<String> {
        let fields = format!("involvedObject.name={},type=Warning", pod.name_any());
        let api = self.namespaced::<CoreEvent>(&pod.namespace().unwrap_or_default());
        let Ok(events) = api.list(&ListParams::default().fields(&fields)).await else { return Vec::new() };
        let skip = events.items.len().saturating_sub(most);
        events
            .items
            .into_iter()
            .skip(skip)
            .map(|e| format!("event {}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect()
    }
}

fn ended_well(container: &ContainerStatus) -> bool {
    container.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
}

/// Whether the pod's Ready condition is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
