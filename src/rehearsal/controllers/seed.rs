//! What a fresh kind cluster holds.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::rehearsal::object::{condition, items, set, set_condition, text};
use crate::rehearsal::store::{Key, Store};

/// From a node's registration to its being Ready: its network plugin has to start first.
pub const NODE_READY_AFTER: SignedDuration = SignedDuration::from_secs(8);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The version of kind's node image that the facts were gathered on.
const KUBERNETES: &str = "v1.32.3";

/// Fills the store of a new kind cluster: one control plane, one worker (2 CPU, 8 GB each), and what kind puts in.
/// `labels` are put on both nodes.
pub fn seed_cluster(store: &Store, name: &str, labels: &BTreeMap<String, String>) {
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease", "local-path-storage"] {
        store.upsert(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
    }
    for role in ["control-plane", "worker"] {
        store.upsert(new_node(name, role, labels));
    }
    store.upsert(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "rancher.io/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    }));
    store.upsert(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "kubernetes"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
    }));
    let control_plane = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    for (namespace, kind, name, image, cpu, replicas) in [
        ("kube-system", "Deployment", "coredns", "registry.k8s.io/coredns/coredns:v1.11.3", "100m", 2),
        (
            "local-path-storage",
            "Deployment",
            "local-path-provisioner",
            "docker.io/kindest/local-path-provisioner:v20250214-acbabc1a",
            "0",
            1,
        ),
        ("kube-system", "DaemonSet", "kindnet", "docker.io/kindest/kindnetd:v20250214-acbabc1a", "100m", 1),
        ("kube-system", "DaemonSet", "kube-proxy", "registry.k8s.io/kube-proxy:v1.32.3", "0", 1),
    ] {
        let labels = json!({"k8s-app": name});
        let everywhere = json!([{"operator": "Exists"}]);
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {
                    "tolerations": if kind == "DaemonSet" { everywhere } else { control_plane.clone() },
                    "containers": [{"name": name, "image": image, "resources": {"requests": {"cpu": cpu}}}],
                }},
            },
        });
        if kind == "Deployment" {
            set(&mut object, "/spec/replicas", replicas);
        }
        store.upsert(object);
    }
}

fn new_node(cluster: &str, role: &str, labels: &BTreeMap<String, String>) -> Value {
    let name = format!("{cluster}-{role}");
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
        "spec": {"providerID": format!("kind://docker/{cluster}/{name}"), "taints": [{"key": NOT_READY, "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "2", "memory": "8131672Ki", "pods": "110"},
            "capacity": {"cpu": "2", "memory": "8131672Ki", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": if role == "worker" { "172.18.0.2" } else { "172.18.0.3" }}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": KUBERNETES, "containerRuntimeVersion": "containerd://2.0.3", "osImage": "Debian GNU/Linux 12 (bookworm)"},
        },
    });
    for (label, value) in labels {
        set(&mut node, &format!("/metadata/labels/{}", label.replace('/', "~1")), value.as_str());
    }
    if role == "control-plane" {
        set(&mut node, "/metadata/labels/node-role.kubernetes.io~1control-plane", "");
        let taint = json!({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"});
        set(&mut node, "/spec/taints", json!([taint, {"key": NOT_READY, "effect": "NoSchedule"}]));
    }
    node
}

/// A node becomes Ready a while after it registered, and loses its taint then.
pub fn node(store: &Store, key: &Key, node: &Value) -> Option<Duration> {
    if condition(node, "Ready") {
        return None;
    }
    let registered = text(node, "/metadata/creationTimestamp").parse::<jiff::Timestamp>().unwrap_or_default();
    let left = NODE_READY_AFTER - store.now().duration_since(registered);
    let now = store.timestamp();
    if let Ok(left) = Duration::try_from(left)
        && !left.is_zero()
    {
        let message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
        store.update(key, |node| set_condition(node, "Ready", false, "KubeletNotReady", message, &now));
        return Some(left);
    }
    store.update(key, |node| {
        set_condition(node, "Ready", true, "KubeletReady", "kubelet is posting ready status", &now);
        let taints: Vec<Value> =
            items(node, "/spec/taints").filter(|taint| text(taint, "/key") != NOT_READY).cloned().collect();
        set(node, "/spec/taints", taints);
    });
    None
}
