//! SPIRE itself.

mod agents;
mod agents_attested;
mod agents_banned;
mod agents_gone;
mod authorities_orphaned;
mod authorities_tainted;
mod authority_time;
mod bundle_map;
mod bundle_place;
mod bundles_agree;
mod chart_fits;
mod class_names;
mod conf_password;
mod csi_driver;
mod database_tls;
mod entries_powerful;
mod entries_without_pods;
mod high_availability;
mod manager_stats;
mod names_agree;
mod pods_without_entries;
mod processes;
mod published;
mod schema;
mod schema_ahead;
mod server_stuck;
mod servers;
mod skew;
mod svid_ttl;
mod svids_renewed;
mod webhook_open;

use super::evidence::{Audited, Evidence, Known};
use super::{Check, Problem, Verdict, passed};
use crate::spire::audit::Rule;
use crate::spire::policy::Seen;

pub(super) const ALL: &[&Check] = &[
    &servers::CHECK,
    &server_stuck::CHECK,
    &high_availability::CHECK,
    &agents::CHECK,
    &agents_attested::CHECK,
    &agents_gone::CHECK,
    &agents_banned::CHECK,
    &csi_driver::CHECK,
    &published::CHECK,
    &skew::CHECK,
    &processes::CHECK,
    &schema::CHECK,
    &schema_ahead::CHECK,
    &chart_fits::CHECK,
    &names_agree::CHECK,
    &authority_time::CHECK,
    &authorities_orphaned::CHECK,
    &authorities_tainted::CHECK,
    &bundles_agree::CHECK,
    &bundle_place::CHECK,
    &bundle_map::CHECK,
    &entries_without_pods::CHECK,
    &pods_without_entries::CHECK,
    &entries_powerful::CHECK,
    &manager_stats::CHECK,
    &class_names::CHECK,
    &webhook_open::CHECK,
    &svid_ttl::CHECK,
    &svids_renewed::CHECK,
    &conf_password::CHECK,
    &database_tls::CHECK,
];

/// The most findings that a check repeats; `coastal audit` has all.
const MOST: usize = 10;

/// Failed with what the audit found by these rules, if it found anything: `WHAT: SUBJECT, …`.
pub(super) fn audited(evidence: &Evidence, rules: &[Rule], what: &str, proof: &str) -> Known<Verdict> {
    let Audited { audit, .. } = evidence.audited.as_ref()?;
    let found: Vec<_> = audit.findings.iter().filter(|finding| rules.contains(&finding.rule)).collect();
    if found.is_empty() {
        return passed(proof);
    }
    let mut subjects: Vec<&str> = found.iter().take(3).map(|finding| finding.subject.as_str()).collect();
    let more = format!("{} more", found.len() - subjects.len());
    if found.len() > subjects.len() {
        subjects.push(&more);
    }
    let mut next: Vec<String> = Vec::new();
    for command in found.iter().filter_map(|finding| finding.next.as_ref()).map(|next| format!("`{next}`")) {
        if next.len() < 3 && !next.contains(&command) {
            next.push(command);
        }
    }
    Problem {
        message: format!("{what}: {}", subjects.join(", ")),
        facts: found.iter().take(MOST).map(|finding| format!("{}: {}", finding.subject, finding.message)).collect(),
        next,
    }
    .verdict()
}

/// What the version rules judge.
fn seen(evidence: &Evidence) -> Known<Seen> {
    let live = evidence.live.as_ref()?;
    let text = |versions: Vec<semver::Version>| versions.iter().map(ToString::to_string).collect::<Vec<_>>();
    let servers = text(live.server_versions());
    if servers.is_empty() {
        return Err("no server tells its version".to_owned());
    }
    let row = evidence.row.as_ref().ok();
    Ok(Seen {
        servers,
        agents: text(live.agent_versions()),
        schema: row.map(|(schema, _)| *schema),
        code_version: row.map(|(_, code)| code.clone()),
        chart: live.chart.as_ref().map(ToString::to_string),
    })
}
