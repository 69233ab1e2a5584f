//! `Event` objects: what controllers and kubelets report.

use serde_json::{Value, json};

use super::object::{number, text};
use super::store::{Key, Store};

impl Store {
    /// Adds an `Event` about an object, as controllers and the kubelet report; the same event again counts up.
    /// `kind` is `Normal` or `Warning`.
    pub fn event(&self, about: &Value, kind: &str, reason: &str, message: &str) {
        let namespace = match text(about, "/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        };
        let (name, uid, now) = (text(about, "/metadata/name"), text(about, "/metadata/uid"), self.timestamp());
        let same = self.list_shared("v1", "Event", Some(namespace)).into_iter().find(|event| {
            text(event, "/involvedObject/uid") == uid
                && text(event, "/reason") == reason
                && text(event, "/message") == message
        });
        // Their names hold the time, so that the events of an object are listed in the order in which they happened.
        let key = same.as_deref().map_or_else(
            || {
                let named = |nanosecond: i128| Key::new("v1", "Event", namespace, &format!("{name}.{nanosecond:x}"));
                let mut moment = self.now().as_nanosecond();
                while self.get(&named(moment)).is_some() {
                    moment += 1;
                }
                named(moment)
            },
            Key::of,
        );
        let count = same.as_deref().map_or(1, |event| number(event, "/count", 1) + 1);
        let first = same.as_deref().map_or(now.as_str(), |event| text(event, "/firstTimestamp"));
        self.upsert(json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"namespace": key.namespace, "name": key.name},
            "involvedObject": {
                "apiVersion": about["apiVersion"], "kind": about["kind"], "name": name, "namespace": key.namespace,
                "uid": uid,
            },
            "type": kind, "reason": reason, "message": message, "count": count,
            "firstTimestamp": first, "lastTimestamp": now,
        }));
    }
}
