//! Whether pods fit: requests added up against what the nodes can allocate, before anything is deployed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use crate::config::{WorkloadSpec, quantity};
use crate::error::Failure;

/// CPU in thousandths of a core, memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Room {
    cpu: i128,
    memory: i128,
}

/// Whether the workload's pods fit onto the nodes beside the pods that are there (its own do not count).
///
/// # Errors
/// They do not; says on which node how much is left and which number in lab.toml to change.
pub fn fits(workload: &WorkloadSpec, nodes: &[Node], pods: &[Pod]) -> Result<(), Failure> {
    let each = Room { cpu: milli(&workload.cpu), memory: bytes(&workload.memory) };
    let mut rooms = BTreeMap::new();
    for node in nodes.iter().filter(|node| takes_pods(node)) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
        let cpu = allocatable.get("cpu").map_or(0, |Quantity(text)| milli(text));
        let memory = allocatable.get("memory").map_or(0, |Quantity(text)| bytes(text));
        let used = requested(pods.iter().filter(|pod| on(pod, node) && !is_of(pod, workload)));
        rooms.insert(
            node.name_any(),
            (Room { cpu, memory }, Room { cpu: cpu - used.cpu, memory: memory - used.memory }),
        );
    }
    let fitting: i128 = rooms.values().map(|(_, free)| share(*free, each)).sum();
    let wanted = i128::from(workload.replicas);
    if fitting >= wanted {
        return Ok(());
    }
    let cpu_left: i128 = rooms.values().map(|(_, free)| free.cpu.max(0)).sum();
    let mut failure = Failure::prerequisite(format!(
        "{wanted} workload pods that request {} CPU and {} memory each do not fit: there is room for {fitting}",
        workload.cpu, workload.memory
    ));
    for (name, (all, free)) in &rooms {
        failure = failure.fact(format!(
            "node {name}: {} m CPU and {} Mi memory allocatable, {} m and {} Mi free",
            all.cpu,
            all.memory >> 20,
            free.cpu.max(0),
            free.memory.max(0) >> 20
        ));
    }
    if rooms.is_empty() {
        return Err(failure.fact("no node takes ordinary pods"));
    }
    Err(failure
        .next(format!("set `cpu` in [workload] of lab.toml to at most `{}m`", cpu_left / wanted.max(1)))
        .next(format!("or set `replicas` to {fitting}")))
}

fn share(free: Room, each: Room) -> i128 {
    let by = |free: i128, each: i128| if each <= 0 { i128::from(u32::MAX) } else { free.max(0) / each };
    by(free.cpu, each.cpu).min(by(free.memory, each.memory))
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let repelled =
        spec.taints.unwrap_or_default().iter().any(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    !repelled && spec.unschedulable != Some(true)
}

fn on(pod: &Pod, node: &Node) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&node.name_any())
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_of(pod: &Pod, workload: &WorkloadSpec) -> bool {
    pod.namespace().as_deref() == Some(&workload.namespace) && pod.labels().get("app") == Some(&workload.name)
}

/// As the scheduler counts: containers side by side, init containers one after the other.
fn requested<'a>(pods: impl Iterator<Item = &'a Pod>) -> Room {
    let mut sum = Room::default();
    for spec in pods.filter_map(|pod| pod.spec.as_ref()) {
        let of = |resources: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
            let requests = resources.and_then(|r| r.requests.clone()).unwrap_or_default();
            Room {
                cpu: requests.get("cpu").map_or(0, |Quantity(text)| milli(text)),
                memory: requests.get("memory").map_or(0, |Quantity(text)| bytes(text)),
            }
        };
        let mut pod = Room::default();
        for container in &spec.containers {
            let one = of(container.resources.as_ref());
            pod = Room { cpu: pod.cpu + one.cpu, memory: pod.memory + one.memory };
        }
        for container in spec.init_containers.iter().flatten() {
            let one = of(container.resources.as_ref());
            pod = Room { cpu: pod.cpu.max(one.cpu), memory: pod.memory.max(one.memory) };
        }
        sum = Room { cpu: sum.cpu + pod.cpu, memory: sum.memory + pod.memory };
    }
    sum
}

/// 0 if it cannot be read: lab.toml's were validated, and the server's are canonical.
fn milli(text: &str) -> i128 {
    quantity::milli_cpu(text).map_or(0, i128::from)
}

fn bytes(text: &str) -> i128 {
    quantity::bytes(text).map_or(0, i128::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cpu: &str, taint: bool) -> Node {
        let taints = if taint {
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
        } else {
            json!([])
        };
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"taints": taints}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi"}}}))
        .unwrap()
    }

    fn pod(app: &str, cpu: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": app, "namespace": "default", "labels": {"app": app}},
            "spec": {"nodeName": "worker", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": phase}}))
        .unwrap()
    }

    fn workload(cpu: &str) -> WorkloadSpec {
        WorkloadSpec {
            namespace: "default".into(),
            name: "workload".into(),
            image: "w:1".into(),
            replicas: 5,
            cpu: cpu.into(),
            memory: "32Mi".into(),
        }
    }

    #[test]
    fn the_seed_does_not_fit_two_cores() {
        let nodes = [node("control-plane", "2", true), node("worker", "2", false)];
        let failure = fits(&workload("0.5"), &nodes, &[]).unwrap_err();
        assert_eq!(
            failure.message,
            "5 workload pods that request 0.5 CPU and 32Mi memory each do not fit: there is room for 4"
        );
        assert!(failure.next[0].contains("at most `400m`"), "{:?}", failure.next);
    }

    #[test]
    fn others_count_and_finished_and_own_pods_do_not() {
        let nodes = [node("worker", "2", false)];
        let pods = [pod("other", "1700m", "Running"), pod("job", "2", "Succeeded"), pod("workload", "2", "Running")];
        assert!(fits(&workload("60m"), &nodes, &pods).is_ok());
        assert!(fits(&workload("61m"), &nodes, &pods).is_err());
    }
}
