//! What all controllers that own pods have in common.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::rehearsal::api::{admission, kinds::Served, select};
use crate::rehearsal::object::{at, condition, items, set, text};
use crate::rehearsal::store::{Key, Store, short_hash};

/// The objects of a kind that `owner` owns, by name.
#[must_use]
pub fn owned(store: &Store, owner: &Value, api_version: &str, kind: &str) -> Vec<Arc<Value>> {
    let uid = text(owner, "/metadata/uid");
    let mut all = store.list_shared(api_version, kind, Some(text(owner, "/metadata/namespace")));
    all.retain(|object| items(object, "/metadata/ownerReferences").any(|reference| text(reference, "/uid") == uid));
    all
}

/// Makes pods without an owner its own that its selector picks and that are `fit`: those of a set that was deleted and
/// left its pods behind.
pub fn adopt(store: &Store, owner: &Value, fit: impl Fn(&Value) -> bool) {
    for pod in store.list_shared("v1", "Pod", Some(text(owner, "/metadata/namespace"))) {
        let free = items(&pod, "/metadata/ownerReferences").next().is_none();
        if free && !is_going(&pod) && select::selects(&owner["spec"]["selector"], &pod) && fit(&pod) {
            store.update(&Key::of(&pod), |pod| set(pod, "/metadata/ownerReferences", vec![reference_to(owner)]));
        }
    }
}

/// Whether the pod is Ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

/// Whether the pod is being deleted.
#[must_use]
pub fn is_going(pod: &Value) -> bool {
    at(pod, "/metadata/deletionTimestamp").is_some()
}

/// Whether the pod's containers have run to their end.
#[must_use]
pub fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

/// A name for what a template says; the same template has the same name.
#[must_use]
pub fn template_hash(object: &Value) -> String {
    short_hash(&object["spec"]["template"].to_string(), 10)
}

/// The reference that makes `owner` the controller of an object.
#[must_use]
pub fn reference_to(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

/// Creates a pod of `owner` from `template`, unless the server refuses it: then an event says why.
pub fn create(
    store: &Store,
    owner: &Value,
    template: &Value,
    name: &str,
    labels: &[(&str, &str)],
    adjust: impl FnOnce(&mut Value),
) -> bool {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": template.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "spec": template["spec"], "status": {"phase": "Pending"},
    });
    set(&mut pod, "/metadata/name", name);
    set(&mut pod, "/metadata/namespace", text(owner, "/metadata/namespace"));
    set(&mut pod, "/metadata/ownerReferences", vec![reference_to(owner)]);
    for (label, value) in labels {
        set(&mut pod, &format!("/metadata/labels/{}", label.replace('/', "~1")), *value);
    }
    adjust(&mut pod);
    let served = Served::from(&("v1", "Pod", "pods", true));
    if store.get(&Key::of(&pod)).is_some() {
        // It is somebody else's.
        let message = format!("Error creating: pods \"{name}\" already exists");
        store.event(owner, "Warning", "FailedCreate", &message);
        return false;
    }
    match admission::pod(store, &served, &pod) {
        Ok(()) => {
            store.upsert(pod);
            true
        }
        Err(refusal) => {
            store.event(owner, "Warning", "FailedCreate", &format!("Error creating: {}", refusal.message));
            false
        }
    }
}

/// A name that no other pod of the owner had.
#[must_use]
pub fn fresh_name(store: &Store, owner: &Value) -> String {
    let prefix = text(owner, "/metadata/name");
    format!("{prefix}-{}", short_hash(&format!("{prefix}{}", store.revision()), 5))
}

/// `25%` or a number, of `whole`.
#[must_use]
pub fn share(value: Option<&Value>, whole: i64, round_up: bool, otherwise: &str) -> i64 {
    let text = match value {
        Some(Value::Number(number)) => return number.as_i64().unwrap_or_default(),
        Some(Value::String(text)) => text.as_str(),
        _ => otherwise,
    };
    let Some(percent) = text.strip_suffix('%') else { return text.parse().unwrap_or_default() };
    let hundredths = percent.parse().unwrap_or(0) * whole;
    if round_up { (hundredths + 99) / 100 } else { hundredths / 100 }
}

/// The key of a pod.
#[must_use]
pub fn key(pod: &Value) -> Key {
    Key::of(pod)
}
