//! The scheduler: taints, node selectors, and whether CPU and memory suffice.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::pods;
use crate::rehearsal::api::{defaults, select};
use crate::rehearsal::object::{items, set_condition, text};
use crate::rehearsal::store::{Key, Store};

/// Pods that no node was found for yet.
pub fn unscheduled(store: &Store) -> impl Iterator<Item = Arc<Value>> + use<> {
    store.list_shared("v1", "Pod", None).into_iter().filter(|pod| text(pod, "/spec/nodeName").is_empty())
}

/// Finds a node for a pod, or says on the pod why there is none.
pub fn place(store: &Store, key: &Key, pod: &Value) {
    let nodes = store.list_shared("v1", "Node", None);
    let mut free = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in &nodes {
        match obstacle(store, node, pod) {
            Ok(room) => free.push((room, text(node, "/metadata/name").to_owned())),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    let now = store.timestamp();
    let missing_claim =
        items(pod, "/spec/volumes").map(|volume| text(volume, "/persistentVolumeClaim/claimName")).find(|claim| {
            !claim.is_empty() && store.get(&Key::new("v1", "PersistentVolumeClaim", key.namespace(), claim)).is_none()
        });
    // The emptiest node is best, as with the default scoring; of equals the first.
    let best = free.into_iter().max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    let message = match (missing_claim, best) {
        (None, Some((_, node))) => {
            store.update(key, |pod| {
                crate::rehearsal::object::set(pod, "/spec/nodeName", node.as_str());
                set_condition(pod, "PodScheduled", true, "", "", &now);
            });
            let message = format!("Successfully assigned {}/{} to {node}", key.namespace(), key.name);
            store.event(pod, "Normal", "Scheduled", &message);
            return;
        }
        (Some(claim), _) => {
            format!(
                "0/{} nodes are available: persistentvolumeclaim \"{claim}\" not found. preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling.",
                nodes.len()
            )
        }
        (None, None) => unavailable(nodes.len(), &reasons),
    };
    store.update(key, |pod| set_condition(pod, "PodScheduled", false, "Unschedulable", &message, &now));
    store.event(pod, "Warning", "FailedScheduling", &message);
}

/// The scheduler's sentence.
fn unavailable(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    let (mut victims, mut useless) = (0, 0);
    for (reason, count) in reasons {
        *(if reason.starts_with("Insufficient") { &mut victims } else { &mut useless }) += count;
    }
    let preemption: Vec<String> = [
        (victims, "No preemption victims found for incoming pod"),
        (useless, "Preemption is not helpful for scheduling"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, why)| format!("{count} {why}"))
    .collect();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {}.",
        list.join(", "),
        preemption.join(", ")
    )
}

/// Why the pod cannot run on the node; if it can, how much CPU is left there.
fn obstacle(store: &Store, node: &Value, pod: &Value) -> Result<i64, String> {
    if let Some(taint) = untolerated(node, &pod["spec"]) {
        return Err(format!("node(s) had untolerated taint {{{}: {}}}", text(taint, "/key"), text(taint, "/value")));
    }
    if !wants(node, &pod["spec"]) {
        return Err("node(s) didn't match Pod's node affinity/selector".into());
    }
    let name = text(node, "/metadata/name");
    let others = store.list_shared("v1", "Pod", None);
    let others = others.iter().filter(|other| text(other, "/spec/nodeName") == name && !pods::has_ended(other));
    let used = others.map(|other| requests(other)).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    let asked = requests(pod);
    let allocatable = &node["status"]["allocatable"];
    let cpu = defaults::millicores(&allocatable["cpu"]).unwrap_or_default() - used.0 - asked.0;
    let memory = defaults::bytes(&allocatable["memory"]).unwrap_or_default() - used.1 - asked.1;
    match (cpu < 0, memory < 0) {
        (true, _) => Err("Insufficient cpu".into()),
        (_, true) => Err("Insufficient memory".into()),
        _ => Ok(cpu),
    }
}

/// CPU in thousandths and memory in bytes that the pod reserves.
fn requests(pod: &Value) -> (i64, i64) {
    let of = |container: &Value| {
        let requests = &container["resources"]["requests"];
        (
            defaults::millicores(&requests["cpu"]).unwrap_or_default(),
            defaults::bytes(&requests["memory"]).unwrap_or_default(),
        )
    };
    let together = items(pod, "/spec/containers").map(of).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    // Init containers run one by one before the others.
    items(pod, "/spec/initContainers").map(of).fold(together, |most, of| (most.0.max(of.0), most.1.max(of.1)))
}

/// The first taint that keeps the pod away.
#[must_use]
pub fn untolerated<'a>(node: &'a Value, spec: &Value) -> Option<&'a Value> {
    let tolerates = |toleration: &Value, taint: &Value| {
        let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
        let same_key = key == text(taint, "/key") || (key.is_empty() && text(toleration, "/operator") == "Exists");
        let same_value =
            text(toleration, "/operator") == "Exists" || text(toleration, "/value") == text(taint, "/value");
        same_key && same_value && (effect.is_empty() || effect == text(taint, "/effect"))
    };
    items(node, "/spec/taints")
        .filter(|taint| text(taint, "/effect") != "PreferNoSchedule")
        .find(|taint| !items(spec, "/tolerations").any(|toleration| tolerates(toleration, taint)))
}

/// Whether the pod's node selector and required node affinity allow the node.
#[must_use]
pub fn wants(node: &Value, spec: &Value) -> bool {
    let selector = &spec["nodeSelector"];
    let affinity = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let mut terms = items(spec, affinity).peekable();
    let by_name = |term: &Value| {
        items(term, "/matchFields").all(|field| items(field, "/values").any(|name| *name == node["metadata"]["name"]))
    };
    let labelled =
        selector.as_object().is_none_or(serde_json::Map::is_empty) || select::selects_plainly(selector, node);
    labelled && (terms.peek().is_none() || terms.any(|term| by_name(term) && select::selects(term, node)))
}

/// Pins a pod's template to a node, as the DaemonSet controller does.
pub fn pin(pod: &mut Value, node: &str) {
    let field = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    let pointer = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    crate::rehearsal::object::set(pod, pointer, field);
}
