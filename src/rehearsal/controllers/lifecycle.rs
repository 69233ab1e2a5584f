//! Controllers of what is no workload: garbage, namespaces, definitions, claims, endpoints.

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{owner_key, pods};
use crate::rehearsal::api::{defaults, select};
use crate::rehearsal::object::{condition, items, set, set_condition, text};
use crate::rehearsal::store::{DEFINITION_FINALIZER, Key, Propagation, Store};

/// From the creation of a definition to its being served.
const ESTABLISHED_AFTER: SignedDuration = SignedDuration::from_millis(100);
/// A claim stays while a pod uses it.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";

/// The garbage collector: true if the object went because its owners are gone. An object that is deleted in the
/// foreground takes its dependents first.
pub fn collect(store: &Store, key: &Key, object: &Value) -> bool {
    let mut owners = items(object, "/metadata/ownerReferences").peekable();
    let owned = owners.peek().is_some();
    let orphaned = owned
        && owners.all(|owner| {
            let found =
                [key.namespace(), ""].into_iter().find_map(|namespace| store.shared(&owner_key(owner, namespace)));
            found.is_none_or(|found| found["metadata"]["uid"] != owner["uid"])
        });
    let going = pods::is_going(object);
    if orphaned && !going {
        store.delete(key, Propagation::Background);
        return true;
    }
    if going && items(object, "/metadata/finalizers").any(|finalizer| finalizer == "foregroundDeletion") {
        let dependents = store.dependents(text(object, "/metadata/uid"));
        for dependent in dependents.iter().filter(|dependent| !pods::is_going(dependent)) {
            store.delete(&Key::of(dependent), Propagation::Foreground);
        }
        if dependents.is_empty() {
            drop_finalizer(store, key, "foregroundDeletion");
        }
    }
    false
}

fn drop_finalizer(store: &Store, key: &Key, name: &str) {
    store.update(key, |object| {
        let others: Vec<Value> = items(object, "/metadata/finalizers").filter(|f| *f != name).cloned().collect();
        set(object, "/metadata/finalizers", others);
    });
}

fn add_finalizer(object: &mut Value, name: &str) {
    let mut all: Vec<Value> = items(object, "/metadata/finalizers").cloned().collect();
    if !all.iter().any(|finalizer| finalizer == name) {
        all.push(name.into());
        set(object, "/metadata/finalizers", all);
    }
}

/// A new namespace gets its default service account and the cluster's CA; a namespace that is deleted takes its
/// content first.
pub fn namespace(store: &Store, key: &Key, deleting: bool) -> Option<Duration> {
    if deleting {
        let content = store.select(|of, _| of.namespace.as_deref() == Some(&key.name));
        for object in content.iter().filter(|object| !pods::is_going(object)) {
            store.delete(&Key::of(object), Propagation::Background);
        }
        if content.is_empty() {
            store.update(key, |namespace| set(namespace, "/spec/finalizers", json!([])));
        }
        return None;
    }
    for made in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": key.name}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": key.name},
            "data": {"ca.crt": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}}),
    ] {
        if store.get(&Key::of(&made)).is_none() {
            store.upsert(made);
        }
    }
    None
}

/// A definition is served a moment after its creation, and goes when its instances are gone.
pub fn definition(store: &Store, key: &Key, crd: &Value, deleting: bool) -> Option<Duration> {
    if deleting {
        let (group, kind) = (text(crd, "/spec/group"), text(crd, "/spec/names/kind"));
        let of_group = |version: &str| version.split_once('/').is_some_and(|(of, _)| of == group);
        let instances = store.select(|of, _| of.kind == kind && of_group(&of.api_version));
        for instance in instances.iter().filter(|instance| !pods::is_going(instance)) {
            store.delete(&Key::of(instance), Propagation::Background);
        }
        if instances.is_empty() {
            drop_finalizer(store, key, DEFINITION_FINALIZER);
        }
        return None;
    }
    if condition(crd, "Established") {
        return None;
    }
    let created = text(crd, "/metadata/creationTimestamp").parse::<jiff::Timestamp>().unwrap_or_default();
    if store.now().duration_since(created) < ESTABLISHED_AFTER {
        return Some(Duration::from_millis(100));
    }
    let now = store.timestamp();
    store.update(key, |crd| {
        set_condition(crd, "NamesAccepted", true, "NoConflicts", "no conflicts found", &now);
        set_condition(crd, "Established", true, "InitialNamesAccepted", "the initial names have been accepted", &now);
    });
    None
}

/// A claim is bound once a pod that uses it has a node (`WaitForFirstConsumer`), and goes when no pod uses it.
pub fn claim(store: &Store, key: &Key, claim: &Value, deleting: bool) -> Option<Duration> {
    let users = store.list_shared("v1", "Pod", Some(key.namespace()));
    let users: Vec<_> = users
        .iter()
        .filter(|pod| items(pod, "/spec/volumes").any(|v| text(v, "/persistentVolumeClaim/claimName") == key.name))
        .filter(|pod| !text(pod, "/spec/nodeName").is_empty() && !pods::has_ended(pod))
        .collect();
    let volume = format!("pvc-{}", text(claim, "/metadata/uid"));
    let volume_key = Key::new("v1", "PersistentVolume", "", &volume);
    if deleting {
        if users.is_empty() {
            store.remove(&volume_key);
            drop_finalizer(store, key, CLAIM_FINALIZER);
        }
        return None;
    }
    let capacity = json!({"storage": claim["spec"]["resources"]["requests"]["storage"]});
    if !users.is_empty() && text(claim, "/status/phase") != "Bound" {
        store.upsert(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": capacity, "accessModes": claim["spec"]["accessModes"], "storageClassName": "standard",
                "persistentVolumeReclaimPolicy": "Delete",
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": key.namespace, "name": key.name},
            },
            "status": {"phase": "Bound"},
        }));
    }
    store.update(key, |claim| {
        add_finalizer(claim, CLAIM_FINALIZER);
        if !users.is_empty() {
            set(claim, "/spec/volumeName", volume);
            set(claim, "/status/phase", "Bound");
            set(claim, "/status/accessModes", claim["spec"]["accessModes"].clone());
            set(claim, "/status/capacity", capacity);
        }
    });
    None
}

/// The addresses behind a service.
pub fn endpoints(store: &Store, key: &Key, service: &Value) -> Option<Duration> {
    let selector = &service["spec"]["selector"];
    let (mut ready, mut unready) = (Vec::new(), Vec::new());
    for pod in store.list_shared("v1", "Pod", Some(key.namespace())) {
        if select::selects_plainly(selector, &pod) && !text(&pod, "/status/podIP").is_empty() && !pods::has_ended(&pod)
        {
            let address = json!({
                "ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"],
                "targetRef": {"kind": "Pod", "namespace": key.namespace, "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            });
            (if pods::is_ready(&pod) && !pods::is_going(&pod) { &mut ready } else { &mut unready }).push(address);
        }
    }
    let ports: Vec<Value> = items(service, "/spec/ports")
        .map(|port| json!({"name": port["name"], "port": port["targetPort"], "protocol": port["protocol"]}))
        .collect();
    if selector.is_null() {
        return None;
    }
    let mut subset = json!({"ports": ports});
    for (list, addresses) in [("/addresses", &ready), ("/notReadyAddresses", &unready)] {
        if !addresses.is_empty() {
            set(&mut subset, list, addresses.clone());
        }
    }
    let subsets = if ready.is_empty() && unready.is_empty() { json!([]) } else { json!([subset]) };
    store.upsert(json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": key.namespace, "name": key.name, "ownerReferences": [pods::reference_to(service)]},
        "subsets": subsets,
    }));
    None
}

/// A pod's address in the cluster's network.
#[must_use]
pub fn pod_address(key: &Key) -> String {
    defaults::address(10, 244, key)
}
