//! The Kubernetes cluster.

mod capacity;
mod claims;
mod crashes;
mod images;
mod nodes;
mod pending;
mod pod_security;
mod pressure;
mod storage_class;
mod terminating;
mod there;
mod version;
mod webhooks;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use semver::Version;

use super::Check;
use super::evidence::{Evidence, Known};

pub(super) const ALL: &[&Check] = &[
    &there::CHECK,
    &version::CHECK,
    &nodes::CHECK,
    &pressure::CHECK,
    &capacity::CHECK,
    &storage_class::CHECK,
    &claims::CHECK,
    &webhooks::CHECK,
    &pod_security::CHECK,
    &pending::CHECK,
    &images::CHECK,
    &crashes::CHECK,
    &terminating::CHECK,
];

/// Kubernetes' version, as the first node's kubelet tells it.
pub(super) fn version(evidence: &Evidence) -> Known<Version> {
    let nodes = evidence.nodes.as_ref()?;
    let info = nodes.iter().find_map(|node| node.status.as_ref()?.node_info.as_ref());
    let text = info.map(|info| info.kubelet_version.trim_start_matches('v').to_owned()).unwrap_or_default();
    text.parse().map_err(|_| "no node tells which Kubernetes it runs".to_owned())
}

/// Whether a condition of the node is true; absent is false.
fn is_true(node: &Node, condition: &str) -> bool {
    let all = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.into_iter().any(|found| found.type_ == condition && found.status == "True")
}

/// `NAMESPACE/POD`.
pub(super) fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// How many seconds ago the pod was made.
fn age(pod: &Pod, evidence: &Evidence) -> i64 {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(evidence.now, |made| made.0);
    evidence.now.duration_since(made).as_secs()
}
