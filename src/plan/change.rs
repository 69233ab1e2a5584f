//! The plan of a change of SPIRE's versions: the parts of each hop, one after the other, and the proof at the end.
//!
//! Which hops there are is decided by [`crate::spire::path`]; here they become steps.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use semver::Version;

use crate::config::Lab;
use crate::plan::{Explanation, HopPart, HopStep, Plan, Role, Step, StepId, build};
use crate::spire::path::{Hop, Order};

/// A change that was decided: what the steps of its plan work from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In order. Never empty.
    pub hops: Vec<Hop>,
    /// Dump the database before each hop that cannot be undone without it.
    pub backup: bool,
    /// From when on continuity is judged.
    pub since: Timestamp,
    /// Where the archives `spire-VERSION.tgz` and `spire-crds-VERSION.tgz` lie, if not in a repository.
    pub charts: Option<PathBuf>,
}

impl Change {
    /// The hop of that number; the first is 1.
    #[must_use]
    pub fn hop(&self, number: u16) -> Option<&Hop> {
        self.hops.get(usize::from(number).checked_sub(1)?)
    }

    fn parts(&self, index: usize) -> Vec<HopPart> {
        use HopPart as P;
        let Some(hop) = self.hops.get(index) else { return Vec::new() };
        let mut parts = Vec::new();
        // A restore is itself a loss: what is there now is kept first.
        if hop.order == Order::Restore || (self.backup && !hop.reversible) {
            parts.push(P::Backup);
        }
        parts.extend_from_slice(match hop.order {
            Order::ServersFirst => &[P::Servers, P::ServersGate, P::Agents, P::AgentsGate],
            Order::AgentsFirst => &[P::Agents, P::AgentsGate, P::Servers, P::ServersGate],
            Order::ServersOnly => &[P::Servers, P::ServersGate],
            Order::AgentsOnly => &[P::Agents, P::AgentsGate],
            Order::Chart => &[P::Crds, P::Chart, P::ServersGate, P::AgentsGate],
            Order::Restore => &[P::Agents, P::AgentsGate, P::Restore, P::ServersGate],
        });
        parts
    }

    /// The steps that carry it out, each after the one before; only what has to be fetched is fetched at once.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let need = |id: StepId, needs: Vec<StepId>| build::step(id, needs, Role::Need, lab);
        let mut steps = vec![need(StepId::Tools, vec![]), need(StepId::Cluster, vec![StepId::Tools])];
        let mut fetched = BTreeSet::new();
        for (index, hop) in self.hops.iter().enumerate() {
            let chart = hop.chart.as_ref().or(hop.chart_from.as_ref());
            if chart.is_some_and(|chart| fetched.insert(chart.clone())) {
                steps.push(self.hop_step(index, HopPart::Fetch, vec![StepId::Cluster], lab));
            }
        }
        let mut before: Vec<StepId> = steps.iter().skip(1).map(|step| step.id).collect();
        for index in 0..self.hops.len() {
            for part in self.parts(index) {
                let step = self.hop_step(index, part, before, lab);
                before = vec![step.id];
                steps.push(step);
            }
        }
        steps.push(build::step(StepId::IdentityTest, before, Role::Goal, lab));
        steps.push(build::step(StepId::Continuity, vec![StepId::IdentityTest], Role::Goal, lab));
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }

    fn hop_step(&self, index: usize, part: HopPart, needs: Vec<StepId>, lab: &Lab) -> Step {
        let hop = u16::try_from(index + 1).unwrap_or(u16::MAX);
        let mut step = build::step(StepId::Hop(HopStep { hop, part }), needs, Role::Goal, lab);
        let timeouts = &lab.timeouts;
        let servers = lab.spire.servers.max(1);
        if let Some(hop) = self.hops.get(index) {
            step.title = title(part, hop, lab);
            step.explanation = explanation(part, hop, lab);
        }
        step.timeout_s = match part {
            HopPart::Fetch => timeouts.download,
            HopPart::Backup | HopPart::Crds | HopPart::Agents => timeouts.rollout,
            // One after the other.
            HopPart::Servers | HopPart::Restore | HopPart::Chart => timeouts.rollout * servers,
            HopPart::ServersGate | HopPart::AgentsGate => timeouts.rollout + timeouts.identity,
        }
        .as_secs();
        step
    }
}

fn chart_of(hop: &Hop) -> String {
    hop.chart.as_ref().or(hop.chart_from.as_ref()).map_or_else(String::new, Version::to_string)
}

fn title(part: HopPart, hop: &Hop, lab: &Lab) -> String {
    let Hop { from, to, .. } = hop;
    let servers = lab.spire.servers;
    match part {
        HopPart::Fetch => format!("fetch chart spire {}", chart_of(hop)),
        HopPart::Backup => "dump the database".into(),
        HopPart::Restore => format!("stop the servers, restore the database, start {servers} servers at {to}"),
        HopPart::Crds => format!("bring the CRDs to chart spire {}", chart_of(hop)),
        HopPart::Chart => format!("bring the release to chart spire {}", chart_of(hop)),
        HopPart::Servers => format!("roll {servers} servers from {from} to {to}, agents pinned"),
        HopPart::Agents => format!("roll the agents from {from} to {to}, servers pinned"),
        HopPart::ServersGate => format!("gate: servers healthy at {to}, SVIDs issued"),
        HopPart::AgentsGate => format!("gate: agents serve at {to}, SVIDs issued"),
    }
}

fn explanation(part: HopPart, hop: &Hop, lab: &Lab) -> Explanation {
    let (spire, Hop { to, .. }) = (&lab.spire, hop);
    let (server_ns, system_ns) = (&spire.server_namespace, &spire.system_namespace);
    let release = &spire.release;
    let upgrade = |values: &str| {
        let chart = chart_of(hop);
        let namespace = &spire.release_namespace;
        format!("helm upgrade {release} spire --version {chart} --namespace {namespace} --values spire.yaml {values}")
    };
    let (why, by_hand): (&str, Vec<String>) = match part {
        HopPart::Fetch => ("The chart is fetched once and kept; the run then uses exactly this file.", vec![]),
        HopPart::Backup => (
            "A server that starts at the new version migrates the database, and no server migrates it back. The dump is the only way back.",
            vec![format!(
                "kubectl -n {server_ns} exec spire-db-0 -- pg_dump --clean --if-exists -U {0} -d {1} > spire-db.sql",
                lab.database.username, lab.database.database
            )],
        ),
        HopPart::Restore => (
            "The schema in the database is too new for the version. What was registered since the dump is lost; the controller manager makes the pods' entries again.",
            vec![
                format!("kubectl -n {server_ns} scale statefulset {release}-server --replicas 0"),
                format!(
                    "kubectl -n {server_ns} exec -i spire-db-0 -- psql --single-transaction -U {} -d {} < spire-db.sql",
                    lab.database.username, lab.database.database
                ),
                upgrade(&format!("--set spire-server.image.tag={to}")),
            ],
        ),
        HopPart::Crds => (
            "Helm never upgrades CRDs that a chart brings in its directory `crds`; from chart 0.14 on they are a chart of their own, which goes first.",
            vec![],
        ),
        HopPart::Chart => (
            "The chart moves alone, at the images that run: were both moved at once, nobody could tell which of them broke.",
            vec![upgrade("")],
        ),
        HopPart::Servers => (
            "Servers go before agents on the way up, for an agent must never be newer than a server. Helm rolls both at once unless the agents' version is pinned.",
            vec![
                upgrade(&format!("--set spire-server.image.tag={to}")),
                format!("kubectl -n {server_ns} rollout status statefulset {release}-server"),
            ],
        ),
        HopPart::Agents => (
            "Agents are at most one minor version behind the servers, and never ahead: after them on the way up, before them on the way down.",
            vec![
                upgrade(&format!("--set spire-agent.image.tag={to}")),
                format!("kubectl -n {system_ns} rollout status daemonset {release}-agent"),
            ],
        ),
        HopPart::ServersGate => (
            "A pod's Ready says little. Each server is asked for its health, its version and its bundle, and an SVID must be issued now.",
            vec![
                format!("kubectl -n {server_ns} exec {release}-server-0 -c spire-server -- spire-server healthcheck"),
                format!("kubectl -n {server_ns} exec {release}-server-0 -c spire-server -- spire-server bundle show"),
            ],
        ),
        HopPart::AgentsGate => (
            "An agent serves up to a minute before its pod is Ready. What counts is an SVID that a new pod gets through it.",
            vec![format!(
                "kubectl -n {system_ns} exec daemonset/{release}-agent -c spire-agent -- /opt/spire/bin/spire-agent healthcheck"
            )],
        ),
    };
    Explanation { why: why.into(), by_hand }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    fn hop(from: &str, to: &str, order: Order, reversible: bool) -> Hop {
        Hop {
            chart_from: Some(Version::new(0, 13, 0)),
            chart: Some(Version::new(0, 13, 0)),
            reversible,
            ..Hop::new(from.parse().unwrap(), to.parse().unwrap(), order)
        }
    }

    fn steps(hops: Vec<Hop>, backup: bool) -> Vec<String> {
        let change = Change { hops, backup, since: Timestamp::UNIX_EPOCH, charts: None };
        change.plan(&embedded().unwrap()).steps.iter().map(|step| step.id.to_string()).collect()
    }

    #[test]
    fn servers_go_first_on_the_way_up_and_agents_on_the_way_down() {
        assert_eq!(
            steps(vec![hop("1.7.2", "1.8.0", Order::ServersFirst, true)], true),
            [
                "tools",
                "cluster",
                "hop-1-fetch",
                "hop-1-servers",
                "hop-1-servers-gate",
                "hop-1-agents",
                "hop-1-agents-gate",
                "identity-test",
                "continuity"
            ]
        );
        assert_eq!(
            steps(vec![hop("1.8.0", "1.7.2", Order::AgentsFirst, true)], true)[3..7],
            ["hop-1-agents", "hop-1-agents-gate", "hop-1-servers", "hop-1-servers-gate"]
        );
    }

    #[test]
    fn a_dump_before_each_hop_that_cannot_be_undone() {
        let hops = || {
            vec![
                hop("1.7.2", "1.8.0", Order::ServersFirst, true),
                hop("1.8.0", "1.9.6", Order::ServersFirst, false),
                hop("1.9.6", "1.10.4", Order::ServersFirst, false),
            ]
        };
        let dumps = |backup| steps(hops(), backup).into_iter().filter(|id| id.ends_with("backup")).collect::<Vec<_>>();
        assert_eq!(dumps(true), ["hop-2-backup", "hop-3-backup"]);
        assert!(dumps(false).is_empty());
    }

    #[test]
    fn each_step_waits_for_the_one_before_it() {
        let change = Change {
            hops: vec![
                hop("1.7.2", "1.8.0", Order::ServersFirst, false),
                hop("1.8.0", "1.8.0", Order::Chart, true),
                hop("1.8.0", "1.7.2", Order::Restore, true),
            ],
            backup: true,
            since: Timestamp::UNIX_EPOCH,
            charts: None,
        };
        let plan = change.plan(&embedded().unwrap());
        let chain: Vec<&Step> = plan.steps.iter().filter(|step| step.role == Role::Goal).skip(1).collect();
        for pair in chain.windows(2) {
            assert_eq!(pair[1].needs, [pair[0].id]);
        }
        assert!(plan.steps.iter().any(|step| step.id.as_str() == "hop-3-backup"));
    }
}
