//! `status` as a person reads it.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::observe::{AuthorityStatus, Status};
use crate::spire::audit::AuthorityKind;

/// The screen.
#[must_use]
pub fn render(status: &Status, now: Timestamp) -> String {
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
        let attested = match (spire.attested_agents, spire.agent_pods) {
            (Some(attested), Some(pods)) if attested > pods => {
                format!(" ({pods} running; {attested} attested, some on nodes that are gone)")
            }
            (Some(attested), Some(pods)) => format!(" ({attested} of {pods} attested)"),
            (Some(attested), None) => format!(" ({attested} attested)"),
            (None, _) => String::new(),
        };
        rows.push(("agents", format!("{}{attested}", versions(&spire.agents))));
        if let (Some(schema), Some(code)) = (spire.schema, &spire.code_version) {
            rows.push(("database", format!("schema {schema}, written by SPIRE {code}")));
        }
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let of: Vec<&AuthorityStatus> = spire.bundle.iter().filter(|authority| authority.kind == kind).collect();
            if !of.is_empty() {
                rows.push(("bundle", authorities(kind, &of, now)));
            }
        }
        if let Some(entries) = spire.entries {
            rows.push(("entries", entries.to_string()));
        }
    }
    let workload = &status.workload;
    if workload.pods > 0 {
        rows.push(("workload", format!("{} of {} pods hold an SVID", workload.with_svid, workload.wanted)));
        if let (Some(oldest), Some(first)) = (workload.oldest_svid_issued_at, workload.first_svid_expires_at) {
            let late = match workload.not_renewed {
                0 => String::new(),
                late => format!("; {late} should have been renewed"),
            };
            rows.push(("SVIDs", format!("the oldest issued {oldest:.0}, the first expires {first:.0}{late}")));
        }
        rows.push(("identity", workload.spiffe_id.clone()));
    } else if cluster.state == "running" {
        rows.push(("workload", "not deployed".to_owned()));
    }
    if let Some(monitors) = &status.monitors {
        let blind = if monitors.blind.is_empty() {
            "servers and agents are seen".to_owned()
        } else {
            monitors.blind.join(", ")
        };
        rows.push(("monitors", format!("{} PodMonitors, {blind}", monitors.pod_monitors)));
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

/// `6 X.509 authorities: 3 with 11 h left, 3 with 23 h left`.
fn authorities(kind: AuthorityKind, of: &[&AuthorityStatus], now: Timestamp) -> String {
    let mut groups: Vec<(String, usize)> = Vec::new();
    for authority in of {
        let left = authority.expires_at.map_or_else(|| "of unknown life".to_owned(), |at| time_left(at, now));
        let words = if authority.tainted { format!("{left}, tainted") } else { left };
        match groups.iter_mut().find(|(known, _)| *known == words) {
            Some((_, number)) => *number += 1,
            None => groups.push((words, 1)),
        }
    }
    let groups: Vec<String> = groups.into_iter().map(|(words, number)| format!("{number} {words}")).collect();
    let noun = if of.len() == 1 { "authority" } else { "authorities" };
    format!("{} {kind} {noun}: {}", of.len(), groups.join(", "))
}

/// As precise as it matters: who watches is not shown a new screen each second.
fn time_left(until: Timestamp, now: Timestamp) -> String {
    let seconds = until.duration_since(now).as_secs();
    match seconds {
        ..=0 => "expired".to_owned(),
        1..7200 => format!("with {} min left", seconds / 60),
        7200..172_800 => format!("with {} h left", seconds / 3600),
        _ => format!("with {} days left", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_told_by_the_time_that_they_have() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let authority = |expires: Option<i64>, tainted| AuthorityStatus {
            kind: AuthorityKind::X509,
            id: "a".into(),
            expires_at: expires.map(at),
            tainted,
        };
        let all = [
            authority(Some(500), false),
            authority(Some(1000 + 59 * 60), false),
            authority(Some(1000 + 86_390), true),
            authority(Some(1000 + 86_395), false),
            authority(Some(1000 + 86_399), false),
            authority(Some(1000 + 864_000), false),
            authority(None, false),
        ];
        let text = authorities(AuthorityKind::X509, &all.iter().collect::<Vec<_>>(), at(1000));
        assert_eq!(
            text,
            "7 X.509 authorities: 1 expired, 1 with 59 min left, 1 with 23 h left, tainted, 2 with 23 h left, \
             1 with 10 days left, 1 of unknown life"
        );
    }
}
