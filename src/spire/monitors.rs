//! Whether the PodMonitors that there are see SPIRE. Pure.

use serde_json::Value;

use crate::config::SpireSpec;

/// What no PodMonitor sees, one line each. Each monitor is its namespace and its spec.
#[must_use]
pub fn blind(spire: &SpireSpec, monitors: &[(String, Value)]) -> Vec<String> {
    let parts = [("server", &spire.server_namespace), ("agent", &spire.system_namespace)];
    let unseen = parts.into_iter().filter(|(what, namespace)| {
        !monitors.iter().any(|(home, spec)| sees(home, spec, namespace) && selects(spec, what))
    });
    unseen.map(|(what, namespace)| format!("no PodMonitor sees the {what}s in {namespace}")).collect()
}

/// Without a selector of namespaces a monitor sees its own.
fn sees(home: &str, spec: &Value, namespace: &str) -> bool {
    let selector = &spec["namespaceSelector"];
    let names = selector["matchNames"].as_array().map(Vec::as_slice).unwrap_or_default();
    selector["any"] == true || names.iter().any(|name| name == namespace) || (names.is_empty() && home == namespace)
}

fn selects(spec: &Value, what: &str) -> bool {
    let name = &spec["selector"]["matchLabels"]["app.kubernetes.io/name"];
    name.is_null() || name == what
}
