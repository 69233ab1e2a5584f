//! Names of the objects that the spire chart makes, for a release `R` (facts: the chart's templates, line 0.8
//! to 0.30). Where the name depends on the chart line, the doc says so.

use crate::config::SpireSpec;

/// The container of the server in a server pod. Always named explicitly: the default-container annotation
/// exists only from chart 0.17.0 on.
pub const SERVER_CONTAINER: &str = "spire-server";
/// The container of the agent in an agent pod.
pub const AGENT_CONTAINER: &str = "spire-agent";
/// The CSI driver that mounts the Workload API into pods.
pub const CSI_DRIVER: &str = "csi.spiffe.io";
/// Selects server pods. Test pods carry the same name and instance with `component=test`, hence the component
/// (present from chart 0.12.0 on).
pub const SERVER_SELECTOR: &str = "app.kubernetes.io/name=server,app.kubernetes.io/component=server";
/// Selects agent pods.
pub const AGENT_SELECTOR: &str = "app.kubernetes.io/name=agent";
/// The agent's socket inside its container, up to chart 0.17.1.
pub const AGENT_SOCKET: &str = "/run/spire/agent-sockets/spire-agent.sock";
/// Where the lab's workload sees the Workload API.
pub const WORKLOAD_SOCKET: &str = "unix:///spiffe-workload-api/spire-agent.sock";

/// StatefulSet, Service, ConfigMap and ServiceAccount of the servers.
#[must_use]
pub fn server(spire: &SpireSpec) -> String {
    if spire.release.contains("server") { spire.release.clone() } else { format!("{}-server", spire.release) }
}

/// DaemonSet of the agents.
#[must_use]
pub fn agent(spire: &SpireSpec) -> String {
    format!("{}-agent", spire.release)
}

/// DaemonSet of the CSI driver.
#[must_use]
pub fn csi_driver(spire: &SpireSpec) -> String {
    format!("{}-spiffe-csi-driver", spire.release)
}

/// Deployment and Service of Tornjak's front end.
#[must_use]
pub fn tornjak_frontend(spire: &SpireSpec) -> String {
    format!("{}-tornjak-frontend", spire.release)
}

/// The SPIFFE id that the default ClusterSPIFFEID gives to a pod of that service account.
#[must_use]
pub fn workload_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}
