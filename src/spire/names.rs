//! Names of the objects that the spire chart makes, for a release `R` (facts: the chart's templates, line 0.8
//! to 0.30). Where the name depends on the chart line, the doc says so.

use semver::Version;

use crate::config::SpireSpec;

/// The container of the server in a server pod. Always named explicitly: the default-container annotation
/// exists only from chart 0.17.0 on.
pub const SERVER_CONTAINER: &str = "spire-server";
/// The container of the agent in an agent pod.
pub const AGENT_CONTAINER: &str = "spire-agent";
/// The container of the controller manager in a server pod.
pub const MANAGER_CONTAINER: &str = "spire-controller-manager";
/// The CSI driver that mounts the Workload API into pods.
pub const CSI_DRIVER: &str = "csi.spiffe.io";
/// Selects server pods. Test pods carry the same name and instance with `component=test`, hence the component
/// (present from chart 0.12.0 on).
pub const SERVER_SELECTOR: &str = "app.kubernetes.io/name=server,app.kubernetes.io/component=server";
/// Selects agent pods.
pub const AGENT_SELECTOR: &str = "app.kubernetes.io/name=agent";
/// The agent's socket inside its container, up to chart 0.17.1.
pub const AGENT_SOCKET: &str = "/run/spire/agent-sockets/spire-agent.sock";
/// The agent's socket inside its container, from chart 0.17.2 on. The host's directory is the same.
pub const AGENT_SOCKET_SINCE_0_17_2: &str = "/tmp/spire-agent/public/spire-agent.sock";
/// The agent's image, without its tag.
pub const AGENT_IMAGE: &str = "ghcr.io/spiffe/spire-agent";
/// Where the lab's workload sees the Workload API.
pub const WORKLOAD_SOCKET: &str = "unix:///spiffe-workload-api/spire-agent.sock";

/// StatefulSet, Service, ConfigMap and ServiceAccount of the servers.
#[must_use]
pub fn server(spire: &SpireSpec) -> String {
    full_name(&spire.release, "server")
}

/// The servers' pods, in order.
#[must_use]
pub fn server_pods(spire: &SpireSpec) -> Vec<String> {
    (0..spire.servers).map(|ordinal| format!("{}-{ordinal}", server(spire))).collect()
}

/// The claim with the data of the server in that pod.
#[must_use]
pub fn server_claim(pod: &str) -> String {
    format!("spire-data-{pod}")
}

/// DaemonSet of the agents.
#[must_use]
pub fn agent(spire: &SpireSpec) -> String {
    full_name(&spire.release, "agent")
}

/// DaemonSet of the CSI driver.
#[must_use]
pub fn csi_driver(spire: &SpireSpec) -> String {
    full_name(&spire.release, "spiffe-csi-driver")
}

/// Deployment and Service of Tornjak's front end.
#[must_use]
pub fn tornjak_frontend(spire: &SpireSpec) -> String {
    full_name(&spire.release, "tornjak-frontend")
}

/// The `fullname` template that every subchart has: the release alone where it says the part already, and cut off
/// where a DNS label ends.
fn full_name(release: &str, part: &str) -> String {
    let mut name = if release.contains(part) { release.to_owned() } else { format!("{release}-{part}") };
    name.truncate(63);
    name.strip_suffix('-').map(ToOwned::to_owned).unwrap_or(name)
}

/// The agent's socket inside its container, for a version of the chart.
#[must_use]
pub fn agent_socket(chart: &Version) -> &'static str {
    if (chart.major, chart.minor, chart.patch) < (0, 17, 2) { AGENT_SOCKET } else { AGENT_SOCKET_SINCE_0_17_2 }
}

/// The SPIFFE id that the default ClusterSPIFFEID gives to a pod of that service account.
#[must_use]
pub fn workload_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_charts_templates() {
        let long = "r".repeat(53);
        let cut = format!("{long}-spiffe-cs");
        let dashed = format!("{}-spiffe-csi-drive", "r".repeat(46));
        for (release, part, name) in [
            ("spire", "server", "spire-server"),
            ("spire-server", "server", "spire-server"),
            ("my-agents", "agent", "my-agents"),
            ("spire", "spiffe-csi-driver", "spire-spiffe-csi-driver"),
            (&long, "spiffe-csi-driver", &cut),
            (&"r".repeat(46), "spiffe-csi-driver", &dashed),
            (&"r".repeat(62), "agent", &"r".repeat(62)),
        ] {
            assert_eq!(full_name(release, part), name, "{release} {part}");
        }
    }

    #[test]
    fn the_agents_socket_moved_once() {
        for (chart, socket) in
            [("0.13.0", AGENT_SOCKET), ("0.17.1", AGENT_SOCKET), ("0.17.2", AGENT_SOCKET_SINCE_0_17_2)]
        {
            assert_eq!(agent_socket(&chart.parse().unwrap()), socket, "{chart}");
        }
    }
}
