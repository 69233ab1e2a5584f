//! What a pod's JSON says, for those who play the programs in its containers.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::object::{at, items, text};
use super::store::{Key, Store};

/// Every pod of the cluster.
pub(super) fn all(store: &Store) -> Vec<Arc<Value>> {
    store.list_shared("v1", "Pod", None)
}

/// The first container whose image's name contains `image`; initial ones are not looked at.
pub(super) fn container<'a>(pod: &'a Value, image: &str) -> Option<&'a Value> {
    items(pod, "/spec/containers").find(|container| text(container, "/image").contains(image))
}

/// Whether a container of PostgreSQL's image runs the server, and not a command of somebody's.
pub(super) fn is_database(container: &Value) -> bool {
    items(container, "/command").next().is_none()
}

/// The version in an image's reference: `1.7.2` of `ghcr.io/spiffe/spire-server:1.7.2`; empty if only a digest is given.
pub(super) fn tag(image: &str) -> &str {
    let (name, otherwise) = image.split_once('@').map_or((image, "latest"), |(name, _)| (name, ""));
    name.rsplit('/').next().and_then(|last| last.split_once(':')).map_or(otherwise, |(_, tag)| tag)
}

/// Identifies the running process of a container: it is another one after each restart. Nothing while it does not run.
pub(super) fn life(pod: &Value, container: &str) -> Option<String> {
    let status = items(pod, "/status/containerStatuses").find(|status| text(status, "/name") == container)?;
    at(status, "/state/running")?;
    Some(format!("{}/{container}/{}", uid(pod), status["restartCount"]))
}

/// All running processes of a pod, as [`life`] names them.
pub(super) fn lives(pod: &Value) -> impl Iterator<Item = String> + use<'_> {
    items(pod, "/status/containerStatuses").filter_map(|status| life(pod, text(status, "/name")))
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// Where a pod keeps what outlives it: the uid of its first claim, else its own.
pub(super) fn home(store: &Store, pod: &Value) -> String {
    let claim = items(pod, "/spec/volumes")
        .map(|volume| text(volume, "/persistentVolumeClaim/claimName"))
        .find(|claim| !claim.is_empty());
    let claim = claim.and_then(|claim| store.shared(&Key::new("v1", "PersistentVolumeClaim", namespace(pod), claim)));
    uid(claim.as_deref().unwrap_or(pod)).to_owned()
}

/// A variable of a container's environment, read out of the Secret that it names if it does.
pub(super) fn env(store: &Store, pod: &Value, container: &Value, variable: &str) -> Option<String> {
    let entry = items(container, "/env").find(|entry| text(entry, "/name") == variable)?;
    if let Some(value) = entry.get("value").and_then(Value::as_str) {
        return Some(value.to_owned());
    }
    let secret =
        store.shared(&Key::new("v1", "Secret", namespace(pod), text(entry, "/valueFrom/secretKeyRef/name")))?;
    let encoded = secret.get("data")?.get(text(entry, "/valueFrom/secretKeyRef/key"))?.as_str()?;
    String::from_utf8(BASE64.decode(encoded).ok()?).ok()
}

/// The file `key` of the first `ConfigMap` that the pod mounts and that has it.
pub(super) fn mounted(store: &Store, pod: &Value, key: &str) -> Option<String> {
    items(pod, "/spec/volumes").find_map(|volume| {
        let map = store.shared(&Key::new("v1", "ConfigMap", namespace(pod), text(volume, "/configMap/name")))?;
        Some(map.get("data")?.get(key)?.as_str()?.to_owned())
    })
}
