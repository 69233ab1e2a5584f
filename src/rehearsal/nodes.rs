//! Nodes that are stopped and started again, as `docker stop` and `docker start` do with kind's.
//!
//! With a node its programs stop at once. The cluster hears of it when the node has not reported for a while; until
//! then its pods look as if they ran. Started again, the kubelet starts every container anew, in the same pods.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::State;
use super::cluster::Cluster;
use super::object::{items, number, set, set_condition, text};
use super::store::{Down, Key, Store};

/// A node counts as gone when it has not reported for so long (`node-monitor-grace-period`).
const UNNOTICED: SignedDuration = SignedDuration::from_secs(40);
/// From a node's start to its kubelet's first report.
const BOOT: SignedDuration = SignedDuration::from_secs(8);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The node that runs the API server.
fn is_control_plane(node: &str) -> bool {
    node.ends_with("control-plane")
}

/// A node stops.
pub(super) fn stop(state: &State, cluster: &Cluster, node: &str) {
    let now = cluster.store.now();
    cluster.store.set_down(node, Some(Down { since: now, starts: None }));
    if is_control_plane(node) {
        state.api_servers.remove(&cluster.server);
    }
    cluster.wake_spire();
}

/// It is started again.
pub(super) fn start(state: &State, cluster: &Arc<Cluster>, node: &str) {
    let Some(down) = cluster.store.down(node) else { return };
    if is_control_plane(node) {
        cluster.store.set_down(node, None);
        state.api_servers.insert(&cluster.server, cluster.store.clone());
    } else {
        let starts = Some(cluster.store.now() + BOOT);
        cluster.store.set_down(node, Some(Down { starts, ..down }));
    }
    cluster.wake_spire();
}

/// Moves on what is due; when something will be next.
pub(super) fn pass(store: &Store) -> Option<Timestamp> {
    let now = store.now();
    let mut next: Option<Timestamp> = None;
    let mut later = |at: Timestamp| next = Some(next.map_or(at, |next| next.min(at)));
    for (node, down) in store.downs() {
        match down.starts {
            Some(at) if at <= now => come_up(store, &node),
            Some(at) => later(at),
            None if is_control_plane(&node) => {}
            None if down.since + UNNOTICED <= now => lose(store, &node),
            None => later(down.since + UNNOTICED),
        }
    }
    next
}

fn pods_on(store: &Store, node: &str) -> Vec<Key> {
    let all = store.list_shared("v1", "Pod", None);
    all.iter().filter(|pod| text(pod, "/spec/nodeName") == node).map(|pod| Key::of(pod)).collect()
}

/// The cluster notices that a node is gone.
fn lose(store: &Store, node: &str) {
    let key = Key::new("v1", "Node", "", node);
    let noticed = |node: &Value| items(node, "/spec/taints").any(|taint| text(taint, "/key") == UNREACHABLE);
    if store.shared(&key).is_none_or(|node| noticed(&node)) {
        return;
    }
    let now = store.timestamp();
    store.update(&key, |node| {
        set_condition(node, "Ready", false, "NodeStatusUnknown", "Kubelet stopped posting node status.", &now);
        let mut taints: Vec<Value> = items(node, "/spec/taints").cloned().collect();
        taints.push(json!({"key": UNREACHABLE, "effect": "NoSchedule"}));
        set(node, "/spec/taints", taints);
    });
    for pod in pods_on(store, node) {
        store.update(&pod, |pod| set_condition(pod, "Ready", false, "", "", &now));
    }
}

/// A node reports again, and its containers are started anew.
fn come_up(store: &Store, node: &str) {
    store.set_down(node, None);
    let now = store.timestamp();
    store.update(&Key::new("v1", "Node", "", node), |node| {
        set_condition(node, "Ready", true, "KubeletReady", "kubelet is posting ready status", &now);
        let kept: Vec<Value> =
            items(node, "/spec/taints").filter(|taint| text(taint, "/key") != UNREACHABLE).cloned().collect();
        set(node, "/spec/taints", kept);
    });
    for key in pods_on(store, node) {
        let Some(pod) = store.get(&key) else { continue };
        let runs = |status: &&Value| status.pointer("/state/running").is_some();
        for status in items(&pod, "/status/containerStatuses").filter(runs) {
            store.restart_log(&key, text(status, "/name"));
        }
        store.update(&key, |pod| {
            for status in
                pod.pointer_mut("/status/containerStatuses").and_then(Value::as_array_mut).into_iter().flatten()
            {
                if status.pointer("/state/running").is_some() {
                    let ended = json!({"terminated": {"exitCode": 255, "reason": "Unknown", "finishedAt": now}});
                    let restarts = number(status, "/restartCount", 0) + 1;
                    set(status, "/lastState", ended);
                    set(status, "/state", json!({"running": {"startedAt": now}}));
                    set(status, "/ready", false);
                    set(status, "/restartCount", restarts);
                }
            }
            for kind in ["ContainersReady", "Ready"] {
                set_condition(pod, kind, false, "", "", &now);
            }
        });
    }
}

/// What a program says that needs the kubelet of a node which is down.
pub(super) fn unreachable(store: &Store, pod: &Value) -> Option<String> {
    let node = text(pod, "/spec/nodeName");
    store.down(node)?;
    let addresses = store.shared(&Key::new("v1", "Node", "", node))?;
    let address = items(&addresses, "/status/addresses").next().map(|found| text(found, "/address").to_owned())?;
    Some(format!("dial tcp {address}:10250: connect: no route to host"))
}
