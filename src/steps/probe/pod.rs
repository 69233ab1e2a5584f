//! What a probe pod looks like, and where probes are made. Pure.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::config::Lab;
use crate::error::Failure;
use crate::spire::{hex, names};
use crate::steps::manifests;

/// More nodes than this are not asked: what differs between nodes is seen on a few, and each probe takes room.
pub const MOST_NODES: usize = 5;

/// The `app` label of probes. No workload can be called so, a workload's name being a DNS label: neither its
/// Deployment nor a Service that selects its pods takes a probe for one of them.
const APP: &str = "coastal.probe";

/// The CPU that a probe requests; it does next to nothing.
pub const CPU: &str = "10m";

/// After so many seconds the kubelet ends a probe whose run was killed.
pub const LIFETIME: u32 = 900;

/// Selects the lab's probes.
pub fn selector(lab: &Lab) -> String {
    format!("app={APP},{}={}", Lab::LABEL, lab.name)
}

/// The probe's name: the same for the same purpose on the same node.
pub fn name(lab: &Lab, purpose: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{}\n{purpose}\n{node}", lab.name));
    format!("coastal-probe-{}", hex(&digest[..5]))
}

/// What a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs<'a> {
    /// The workload's image.
    Workload,
    /// `spire-agent api watch`, out of this image if one is known to be on the node.
    AgentWatch(Option<&'a str>),
}

/// A pod like the workload's on that node.
///
/// # Errors
/// See [`manifests::namespaces`].
pub fn manifest(lab: &Lab, purpose: &str, node: &str, service_account: &str, runs: Runs<'_>) -> Result<Pod, Failure> {
    let objects = match runs {
        Runs::Workload => manifests::workload(lab)?,
        Runs::AgentWatch(_) => manifests::watching_workload(lab)?,
    };
    let template = objects.iter().find_map(|object| object.data.pointer("/spec/template/spec"));
    let mut spec = template.cloned().ok_or_else(|| Failure::unexpected("the embedded workload has no pods"))?;
    spec["nodeName"] = json!(node);
    spec["serviceAccountName"] = json!(service_account);
    spec["activeDeadlineSeconds"] = json!(LIFETIME);
    spec["containers"][0]["resources"]["requests"]["cpu"] = json!(CPU);
    if let Runs::AgentWatch(Some(image)) = runs {
        spec["containers"][0]["image"] = json!(image);
        // The agent runs of it: the node has it.
        spec["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    }
    let pod: Value = json!({
        "metadata": {
            "name": name(lab, purpose, node),
            "namespace": lab.workload.namespace,
            "labels": { "app": APP, (Lab::LABEL): lab.name },
            "annotations": { "coastal-containers.example/purpose": purpose },
        },
        "spec": spec,
    });
    serde_json::from_value(pod).map_err(|error| Failure::unexpected(format!("the probe is no pod: {error}")))
}

/// The agents whose nodes are asked: one per node, spread over the zones if there are more than [`MOST_NODES`].
pub fn choose<'a>(agents: &'a [Pod], nodes: &[Node]) -> Vec<&'a Pod> {
    let zone = |node: &str| {
        let node = nodes.iter().find(|found| found.name_any() == node);
        node.and_then(|node| node.labels().get("topology.kubernetes.io/zone").cloned()).unwrap_or_default()
    };
    let runs = |agent: &&Pod| {
        let phase = agent.status.as_ref().and_then(|status| status.phase.as_deref());
        // The chart's test pods carry the agents' labels too.
        phase == Some("Running") && agent.metadata.deletion_timestamp.is_none() && agent_image(agent).is_some()
    };
    let mut candidates: Vec<((String, &str), &Pod)> =
        agents.iter().filter(runs).filter_map(|agent| node_of(agent).map(|node| ((zone(node), node), agent))).collect();
    candidates.sort_by(|(a, _), (b, _)| a.cmp(b));
    candidates.dedup_by(|(a, _), (b, _)| a == b);
    let (all, most) = (candidates.len(), MOST_NODES.min(candidates.len()));
    (0..most).filter_map(|index| candidates.get(index * all / most).map(|(_, agent)| *agent)).collect()
}

/// The node that a pod is on.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// The image that an agent pod runs of.
pub fn agent_image(agent: &Pod) -> Option<String> {
    let containers = agent.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter(|container| container.name == names::AGENT_CONTAINER)
        .find_map(|container| container.image.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    #[test]
    fn a_probe_is_like_the_workloads_pods_and_none_of_them() {
        let lab = embedded().unwrap();
        let probe = manifest(&lab, "1.8.0-agents", "node-1", "workload", Runs::Workload).unwrap();
        let spec = probe.spec.clone().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.containers[0].name, manifests::WORKLOAD_CONTAINER);
        assert_eq!(spec.containers[0].image.as_deref(), Some(lab.workload.image.as_str()));
        assert!(
            spec.volumes
                .iter()
                .flatten()
                .any(|volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == names::CSI_DRIVER))
        );
        assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
        assert_eq!(spec.active_deadline_seconds, Some(i64::from(LIFETIME)));
        assert_ne!(probe.labels()["app"], lab.workload.name);
        assert_eq!(probe.labels()[Lab::LABEL], lab.name);
        assert!(selector(&lab).split(',').all(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            probe.labels()[key] == value
        }));

        let watching =
            manifest(&lab, "x", "node-1", "default", Runs::AgentWatch(Some("agent:1"))).unwrap().spec.unwrap();
        assert_eq!(watching.containers[0].image.as_deref(), Some("agent:1"));
        assert!(watching.containers[0].command.iter().flatten().any(|word| word == "watch"));
        assert_eq!(watching.service_account_name.as_deref(), Some("default"));
    }

    #[test]
    fn names_are_stable_and_differ() {
        let lab = embedded().unwrap();
        let one = name(&lab, "1.8.0-agents", "node-1");
        assert_eq!(one, name(&lab, "1.8.0-agents", "node-1"));
        assert!(one.len() < 63 && one.starts_with("coastal-probe-"));
        for (purpose, node) in [("1.8.0-servers", "node-1"), ("1.8.0-agents", "node-2")] {
            assert_ne!(one, name(&lab, purpose, node));
        }
    }

    fn agent(node: &str, phase: &str) -> Pod {
        let containers = json!([{"name": names::AGENT_CONTAINER, "image": "agent:1"}]);
        let pod = json!({
            "metadata": {"name": format!("agent-on-{node}")}, "spec": {"nodeName": node, "containers": containers}, "status": {"phase": phase},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn node(name: &str, zone: &str) -> Node {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    #[test]
    fn few_nodes_are_all_asked_and_many_are_spread() {
        let agents: Vec<Pod> = ["a", "b", "a", "c"].into_iter().map(|name| agent(name, "Running")).collect();
        let nodes = |chosen: Vec<&Pod>| chosen.iter().map(|pod| node_of(pod).unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(nodes(choose(&agents, &[])), ["a", "b", "c"]);
        assert_eq!(nodes(choose(&[agent("a", "Pending"), agent("b", "Running")], &[])), ["b"]);
        let mut test_pod = agent("a", "Running");
        test_pod.spec.as_mut().unwrap().containers[0].name = "curl".into();
        assert!(choose(&[test_pod], &[]).is_empty());

        // 100 nodes whose names say nothing of their zones: each zone is asked.
        let names: Vec<String> = (0..100).map(|number| format!("node-{number:02}")).collect();
        let zones = ["north", "south", "west"];
        let all: Vec<Node> = names.iter().zip(zones.iter().cycle()).map(|(name, zone)| node(name, zone)).collect();
        let agents: Vec<Pod> = names.iter().map(|name| agent(name, "Running")).collect();
        let chosen = nodes(choose(&agents, &all));
        assert_eq!(chosen.len(), MOST_NODES);
        let zone_of = |name: &str| zones[name[5..].parse::<usize>().unwrap() % 3];
        assert!(zones.iter().all(|zone| chosen.iter().any(|name| zone_of(name) == *zone)), "{chosen:?}");
    }
}
