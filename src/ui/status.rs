//! `status` as a person reads it.

use std::fmt::Write as _;

use crate::observe::Status;

/// The screen.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let cluster = &status.cluster;
    let nodes: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| if node.ready { node.name.clone() } else { format!("{} (not ready)", node.name) })
        .collect();
    let version = cluster.version.as_ref().map(|version| format!(", Kubernetes {version}")).unwrap_or_default();
    rows.push(("cluster", format!("{} {}{version}", cluster.context, cluster.state)));
    if !nodes.is_empty() {
        rows.push(("nodes", nodes.join(", ")));
    }
    for release in &status.releases {
        rows.push((
            "release",
            format!("{} {}, revision {}, {}", release.name, release.chart, release.revision, release.status),
        ));
    }
    let spire = &status.spire;
    if spire.chart.is_some() || !spire.servers.is_empty() {
        let versions =
            |versions: &[String]| if versions.is_empty() { "none answers".to_owned() } else { versions.join(", ") };
        let ready = spire.servers_ready.as_ref().map(|ready| format!(" ({ready})")).unwrap_or_default();
        rows.push(("servers", format!("{}{ready}", versions(&spire.servers))));
        let attested = spire.attested_agents.map(|count| format!(" ({count} attested)")).unwrap_or_default();
        rows.push(("agents", format!("{}{attested}", versions(&spire.agents))));
        if let (Some(schema), Some(code)) = (spire.schema, &spire.code_version) {
            rows.push(("database", format!("schema {schema}, written by SPIRE {code}")));
        }
        if let Some(count) = spire.authorities {
            let first =
                spire.first_authority_expires_at.map(|at| format!(", the first expires {at:.0}")).unwrap_or_default();
            rows.push(("bundle", format!("{count} X.509 authorities{first}")));
        }
        if let Some(entries) = spire.entries {
            rows.push(("entries", entries.to_string()));
        }
    }
    let workload = &status.workload;
    if workload.pods > 0 {
        let first = workload.first_svid_expires_at.map(|at| format!(", the first expires {at:.0}")).unwrap_or_default();
        rows.push(("workload", format!("{} of {} pods hold an SVID{first}", workload.with_svid, workload.wanted)));
        rows.push(("identity", workload.spiffe_id.clone()));
    } else if cluster.state == "running" {
        rows.push(("workload", "not deployed".to_owned()));
    }
    for url in &status.urls {
        rows.push(("url", url.clone()));
    }
    for trouble in &status.troubles {
        rows.push(("trouble", trouble.clone()));
    }
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<10}{}", super::style::tame(&value));
    }
    text
}
