//! What SPIRE tells Prometheus, as far as an operator has to know it: which metrics, what they mean, and the dashboard
//! that is made of the same list.
//!
//! Names are SPIRE's keys joined by `_` after `spire_server` or `spire_agent`; a call is a counter by `status` beside a
//! summary `…_elapsed_time`. There is no metric of the number of entries or agents: `coastal entries` and
//! `coastal agents` ask the servers.

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Lab;

/// Name of the dashboard's ConfigMap.
pub const DASHBOARD: &str = "coastal-spire-dashboard";
/// The label by which Grafana's sidecar finds dashboards (kube-prometheus-stack's default).
pub const DASHBOARD_LABEL: &str = "grafana_dashboard";

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// A number of things.
    Count,
    /// Things per minute.
    PerMinute,
}

impl Unit {
    /// As Grafana calls it.
    fn grafana(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Milliseconds => "ms",
            Unit::Count => "short",
            Unit::PerMinute => "cpm",
        }
    }
}

/// One thing that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    /// Stable, for JSON.
    pub id: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What it means, and what to look for.
    pub about: &'static str,
    /// In Prometheus' query language. `$ns` is a matcher of the server's or the agents' namespace.
    query: &'static str,
    /// By which label its series differ; empty if there is one series.
    pub by: &'static str,
    /// How its values are read.
    pub unit: Unit,
    /// Of the agents; else of the servers.
    of_agents: bool,
    /// Any value but 0 is worth a look.
    pub is_trouble: bool,
}

const fn of_servers(id: &'static str, title: &'static str, query: &'static str, by: &'static str, unit: Unit) -> Panel {
    Panel { id, title, about: "", query, by, unit, of_agents: false, is_trouble: false }
}

const fn of_agents(id: &'static str, title: &'static str, query: &'static str, by: &'static str, unit: Unit) -> Panel {
    Panel { of_agents: true, ..of_servers(id, title, query, by, unit) }
}

impl Panel {
    const fn about(self, about: &'static str) -> Self {
        Panel { about, ..self }
    }

    const fn trouble(self) -> Self {
        Panel { is_trouble: true, ..self }
    }

    /// The query for this lab.
    #[must_use]
    pub fn query(&self, lab: &Lab) -> String {
        let namespace = if self.of_agents { &lab.spire.system_namespace } else { &lab.spire.server_namespace };
        self.query.replace("$ns", &format!("namespace=\"{namespace}\""))
    }
}

/// What matters, in the order in which it is shown.
pub const PANELS: &[Panel] = &[
    of_servers(
        "ca-time-left",
        "X.509 CA: time left",
        "spire_server_manager_x509_ca_rotate_expiration{$ns} - time()",
        "pod",
        Unit::Seconds,
    )
    .about("Until the CA that signs now expires. Told by SPIRE after 1.12.0; before, `coastal bundle --list` knows."),
    of_servers(
        "ca-lifetime",
        "X.509 CA: lifetime when activated",
        "spire_server_manager_x509_ca_rotate_ttl{$ns}",
        "pod",
        Unit::Seconds,
    )
    .about("Set when a CA becomes the one that signs, and does not count down. A step is a rotation."),
    of_servers(
        "svids-signed",
        "X.509-SVIDs signed",
        "sum by (pod) (rate(spire_server_server_ca_sign_x509_svid{$ns}[5m])) * 60",
        "pod",
        Unit::PerMinute,
    )
    .about("Each server's share. A burst is a rotation or many new workloads."),
    of_servers(
        "attestations",
        "agents attested",
        "sum by (pod) (increase(spire_server_rpc_agent_v1_agent_attest_agent{$ns,status=\"OK\"}[15m]))",
        "pod",
        Unit::Count,
    )
    .about("In the last 15 minutes. Agents attest when they start or when their own SVID was lost."),
    of_servers(
        "attestation-failures",
        "agents refused",
        "sum by (status) (increase(spire_server_rpc_agent_v1_agent_attest_agent{$ns,status!=\"OK\"}[15m]))",
        "status",
        Unit::Count,
    )
    .about("In the last 15 minutes: attestations that failed, by their status.")
    .trouble(),
    of_servers(
        "signing-failures",
        "SVIDs not signed",
        "sum by (status) (increase(spire_server_rpc_svid_v1_svid_batch_new_x509_svid{$ns,status!=\"OK\"}[15m]))",
        "status",
        Unit::Count,
    )
    .about("In the last 15 minutes: requests of agents for SVIDs that failed.")
    .trouble(),
    of_servers(
        "datastore-failures",
        "data store failures",
        "sum by (status) (increase(spire_server_datastore_registration_entry_list{$ns,status!=\"OK\"}[15m]))",
        "status",
        Unit::Count,
    )
    .about("In the last 15 minutes: listings of entries that failed. The data store is away, or slow.")
    .trouble(),
    of_servers("server-uptime", "server up for", "spire_server_uptime_in_ms{$ns}", "pod", Unit::Milliseconds)
        .about("Since the process started. A fall to 0 is a restart."),
    of_agents(
        "agent-syncs-failed",
        "agent syncs failed",
        "sum by (pod) (increase(spire_agent_manager_sync_fetch_entries_updates{$ns,status!=\"OK\"}[15m]))",
        "pod",
        Unit::Count,
    )
    .about("In the last 15 minutes: an agent that cannot sync serves on from its cache, until SVIDs expire.")
    .trouble(),
    of_agents(
        "svids-expiring",
        "SVIDs about to be renewed",
        "spire_agent_cache_manager_expiring_svids{$ns}",
        "pod",
        Unit::Count,
    )
    .about("Comes and goes. If it stays, renewals do not get through."),
    of_agents(
        "svids-tainted",
        "SVIDs of tainted authorities",
        "spire_agent_cache_manager_tainted_x509_svids_workload{$ns}",
        "pod",
        Unit::Count,
    )
    .about("During a forced rotation: what has still to be renewed. 0 before the old authority is revoked.")
    .trouble(),
    of_agents(
        "workload-connections",
        "workloads connected",
        "spire_agent_workload_api_connections{$ns}",
        "pod",
        Unit::Count,
    )
    .about("Open connections to the Workload API."),
    of_agents("agent-uptime", "agent up for", "spire_agent_uptime_in_ms{$ns}", "pod", Unit::Milliseconds)
        .about("Since the process started. A fall to 0 is a restart."),
];

/// The dashboard, in Grafana's JSON.
#[must_use]
pub fn dashboard(lab: &Lab) -> Value {
    const WIDTH: usize = 12;
    const HEIGHT: usize = 7;
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let panels: Vec<Value> = PANELS
        .iter()
        .enumerate()
        .map(|(number, panel)| {
            let legend = if panel.by.is_empty() { String::new() } else { format!("{{{{{}}}}}", panel.by) };
            json!({
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "description": panel.about,
                "gridPos": {"x": number % 2 * WIDTH, "y": number / 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
                "datasource": source,
                "fieldConfig": {"defaults": {"unit": panel.unit.grafana(), "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": [{"refId": "A", "expr": panel.query(lab), "legendFormat": legend, "datasource": source}],
            })
        })
        .collect();
    json!({
        "uid": "coastal-spire",
        "title": format!("SPIRE: {}", lab.spire.trust_domain),
        "tags": ["spire", "coastal"],
        "schemaVersion": 38,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Metrics that SPIRE is known to have: doc/telemetry/telemetry.md and pkg/common/telemetry of its source.
    const KNOWN: &[&str] = &[
        "spire_server_manager_x509_ca_rotate_ttl",
        "spire_server_manager_x509_ca_rotate_expiration",
        "spire_server_server_ca_sign_x509_svid",
        "spire_server_rpc_agent_v1_agent_attest_agent",
        "spire_server_rpc_svid_v1_svid_batch_new_x509_svid",
        "spire_server_datastore_registration_entry_list",
        "spire_server_uptime_in_ms",
        "spire_agent_manager_sync_fetch_entries_updates",
        "spire_agent_cache_manager_expiring_svids",
        "spire_agent_cache_manager_tainted_x509_svids_workload",
        "spire_agent_workload_api_connections",
        "spire_agent_uptime_in_ms",
    ];

    fn words(query: &str) -> impl Iterator<Item = &str> {
        query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.starts_with("spire_"))
    }

    #[test]
    fn every_query_is_about_a_metric_that_spire_has() {
        let lab = crate::config::embedded().unwrap();
        let dashboard = dashboard(&lab);
        let panels = dashboard["panels"].as_array().unwrap();
        assert_eq!(panels.len(), PANELS.len());
        let mut used = BTreeSet::new();
        for (panel, drawn) in PANELS.iter().zip(panels) {
            let query = drawn["targets"][0]["expr"].as_str().unwrap();
            assert_eq!(query, panel.query(&lab));
            assert!(!query.contains('$'), "{query}");
            let metrics: Vec<&str> = words(query).collect();
            let [metric] = metrics.as_slice() else { panic!("{query}") };
            assert!(KNOWN.contains(metric), "{metric}");
            let of_agents = metric.starts_with("spire_agent_");
            assert!(query.contains(if of_agents { "\"spire-system\"" } else { "\"spire-server\"" }), "{query}");
            used.insert(*metric);
        }
        assert_eq!(used.len(), KNOWN.len());
    }

    #[test]
    fn panels_have_names_of_their_own_and_do_not_overlap() {
        let ids: BTreeSet<&str> = PANELS.iter().map(|panel| panel.id).collect();
        assert_eq!(ids.len(), PANELS.len());
        let dashboard = dashboard(&crate::config::embedded().unwrap());
        let places: BTreeSet<String> =
            dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["gridPos"].to_string()).collect();
        assert_eq!(places.len(), PANELS.len());
        for panel in PANELS {
            assert!(!panel.about.is_empty() && panel.query.contains("$ns"), "{}", panel.id);
        }
    }
}
