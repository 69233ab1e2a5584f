//! The plan of new keys without `localauthority`: servers down, their keys away, servers up, and everybody after them.
//!
//! How far it has come is a mark in the cluster; each part looks there and at what is, so that a run that was killed
//! anywhere is gone on with by the next one.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::backup::Seal;
use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, Step, StepId, build};
use crate::spire::names;
use crate::spire::rotation::Rekey;

/// Authorities leave the bundle so long after they ran out (facts, section 4).
pub const PRUNED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// A part of it, in the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RekeyPart {
    /// Nobody else changes keys, and what is to go is written down.
    #[serde(rename = "rekey-begin")]
    Begin,
    /// Database and keys are in an archive of their own.
    #[serde(rename = "rekey-aside")]
    Aside,
    /// No server runs.
    #[serde(rename = "rekey-stop")]
    Stop,
    /// No server's claim holds keys.
    #[serde(rename = "rekey-keys")]
    Keys,
    /// The data store has no bundle of the trust domain.
    #[serde(rename = "rekey-bundle")]
    Bundle,
    /// Every server runs, with an authority of its own that is new.
    #[serde(rename = "rekey-servers")]
    Servers,
    /// What agents boot from is what the servers have.
    #[serde(rename = "rekey-config-map")]
    ConfigMap,
    /// A ClusterSPIFFEID can be written.
    #[serde(rename = "rekey-webhook")]
    Webhook,
    /// Every agent has begun anew.
    #[serde(rename = "rekey-agents")]
    Agents,
    /// Every workload pod holds an SVID of a new authority.
    #[serde(rename = "rekey-workloads")]
    Workloads,
    /// New pods get SVIDs of new authorities.
    #[serde(rename = "rekey-gate")]
    Gate,
    /// Every plane is as it should be, and it is known what it cost.
    #[serde(rename = "rekey-verdict")]
    Verdict,
}

impl RekeyPart {
    /// In order.
    pub const ALL: [RekeyPart; 12] = [
        RekeyPart::Begin,
        RekeyPart::Aside,
        RekeyPart::Stop,
        RekeyPart::Keys,
        RekeyPart::Bundle,
        RekeyPart::Servers,
        RekeyPart::ConfigMap,
        RekeyPart::Webhook,
        RekeyPart::Agents,
        RekeyPart::Workloads,
        RekeyPart::Gate,
        RekeyPart::Verdict,
    ];
}

/// New keys that were agreed to: what the steps work from, beside the [`Rotation`](crate::plan::Rotation) with its lease
/// and its record.
pub struct Rekeying {
    /// By which way.
    pub method: Rekey,
    /// Where what is there now is kept until the end.
    pub aside: PathBuf,
    /// How that is closed.
    pub seal: Seal,
    /// When the last of the authorities that go runs out, if it is known.
    pub until: Option<Timestamp>,
    /// Whether the lab's workload is deployed, whose identity is to be tested.
    pub workloads: bool,
}

impl Rekeying {
    /// The command that goes on with it.
    #[must_use]
    pub fn command(&self) -> String {
        command(self.method)
    }

    /// The steps, one after the other.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let mut steps = vec![
            build::step(StepId::Tools, vec![], Role::Need, lab),
            build::step(StepId::Cluster, vec![StepId::Tools], Role::Need, lab),
        ];
        let mut push = |mut step: Step| {
            step.needs.extend(steps.last().map(|before| before.id));
            steps.push(step);
        };
        for part in RekeyPart::ALL.into_iter().filter(|part| self.has(*part)) {
            if part == RekeyPart::Verdict && self.workloads {
                push(build::step(StepId::IdentityTest, vec![], Role::Goal, lab));
            }
            let mut step = build::step(StepId::Rekey(part), vec![], Role::Goal, lab);
            step.title = self.title(part, lab);
            step.explanation = explanation(part, lab);
            step.timeout_s = timeout(part, lab);
            push(step);
        }
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }

    fn has(&self, part: RekeyPart) -> bool {
        match part {
            RekeyPart::Bundle => self.method == Rekey::NewBundle,
            RekeyPart::Workloads => self.workloads,
            _ => true,
        }
    }

    fn title(&self, part: RekeyPart, lab: &Lab) -> String {
        let servers = lab.spire.servers;
        match part {
            RekeyPart::Begin => "take the lease, write down which authorities are to go".into(),
            RekeyPart::Aside => "take aside what is there: database and keys".into(),
            RekeyPart::Stop => "stop the servers".into(),
            RekeyPart::Keys => format!("take away the keys of {servers} servers"),
            RekeyPart::Bundle => format!("take the bundle of {} out of the database", lab.spire.trust_domain),
            RekeyPart::Servers => format!("start {servers} servers, which make new keys"),
            RekeyPart::ConfigMap => "bring the ConfigMap that agents boot from up to date".into(),
            RekeyPart::Webhook => "see the webhook answer".into(),
            RekeyPart::Agents => "restart the agents: they trust what is published now".into(),
            RekeyPart::Workloads => "see every workload hold an SVID of a new authority".into(),
            RekeyPart::Gate => "gate: new pods get SVIDs of new authorities".into(),
            RekeyPart::Verdict => match (self.method, self.until) {
                (Rekey::NewBundle, _) => "verify that nothing old is left in any plane; add up the outage".into(),
                (Rekey::NewKeys, Some(until)) => {
                    format!("add up the outage; the old authorities stay trusted until {until:.0}")
                }
                (Rekey::NewKeys, None) => {
                    "add up the outage; the old authorities stay trusted until they expire".into()
                }
            },
        }
    }
}

/// The command that carries that way out, and goes on with it.
#[must_use]
pub fn command(method: Rekey) -> String {
    format!("coastal rotate --rekey {method} --yes")
}

fn timeout(part: RekeyPart, lab: &Lab) -> u64 {
    let timeouts = &lab.timeouts;
    match part {
        RekeyPart::Stop => timeouts.removal,
        // One server after the other.
        RekeyPart::Servers | RekeyPart::Webhook => timeouts.rollout * lab.spire.servers.max(1),
        RekeyPart::Gate | RekeyPart::Workloads => timeouts.rollout + timeouts.identity,
        _ => timeouts.rollout,
    }
    .as_secs()
}

fn explanation(part: RekeyPart, lab: &Lab) -> Explanation {
    let spire = &lab.spire;
    let (ns, system_ns, server) = (&spire.server_namespace, &spire.system_namespace, names::server(spire));
    let (user, database) = (&lab.database.username, &lab.database.database);
    let (why, by_hand): (&str, Vec<String>) = match part {
        RekeyPart::Begin => (
            "Two who change keys at once would undo each other's work. What is to go is written down first, in the cluster, so that an interrupted run can be gone on with.",
            vec![format!("kubectl -n {ns} exec {server}-0 -c spire-server -- /opt/spire/bin/spire-server bundle show")],
        ),
        RekeyPart::Aside => (
            "Keys that are taken away cannot be made again. Until the end is reached, `coastal restore` of this archive is the way back.",
            vec![format!(
                "kubectl -n {ns} exec spire-db-0 -- pg_dump --clean --if-exists -U {user} -d {database} > aside.sql"
            )],
        ),
        RekeyPart::Stop => (
            "A server has its keys in memory and would go on signing with them. Workloads keep the SVIDs that they have.",
            vec![format!("kubectl -n {ns} scale statefulset {server} --replicas 0")],
        ),
        RekeyPart::Keys => (
            "Through a short-lived pod on each claim, for the server's image has no shell. Up to SPIRE 1.9 the journal beside the keys goes with them.",
            vec![format!("kubectl -n {ns} exec keys -- rm -f /claim/keys.json /claim/journal.pem")],
        ),
        RekeyPart::Bundle => (
            "SPIRE's own commands refuse to delete the bundle of the own trust domain. Without it nothing that the old keys signed is trusted any more.",
            vec![format!(
                "kubectl -n {ns} exec spire-db-0 -- psql -U {user} -d {database} -c \"delete from bundles where trust_domain = 'spiffe://{}'\"",
                spire.trust_domain
            )],
        ),
        RekeyPart::Servers => (
            "A server that finds no key makes a new CA and a new JWT key, and adds them to the bundle.",
            vec![format!("kubectl -n {ns} scale statefulset {server} --replicas {}", spire.servers)],
        ),
        RekeyPart::ConfigMap => (
            "An agent that starts trusts what is in it, and nothing else.",
            vec![format!("kubectl -n {system_ns} get configmap spire-bundle -o yaml")],
        ),
        RekeyPart::Webhook => (
            "The controller manager mints its webhook's certificate when it starts. While nobody trusts it, no ClusterSPIFFEID can be written.",
            vec!["kubectl apply --dry-run=server -f clusterspiffeid.yaml".into()],
        ),
        RekeyPart::Agents => (
            "All servers sign with authorities that a running agent has never heard of: up to 1.8.6 it would retry for ever, later ones end. A new pod begins from the published bundle, and all SVIDs of its node are new.",
            vec![format!("kubectl -n {system_ns} rollout restart daemonset {}", names::agent(spire))],
        ),
        RekeyPart::Workloads => (
            "Those that follow the Workload API get their new SVID with the new agent; one that does not come after two minutes is started again.",
            vec![format!("kubectl -n {} rollout restart deployment {}", lab.workload.namespace, lab.workload.name)],
        ),
        RekeyPart::Gate => ("What counts is not a pod that is Ready but an SVID that was issued now.", vec![]),
        RekeyPart::Verdict => (
            "Database, servers, ConfigMap, agents and workloads are asked once more, and what the workloads logged is added up. Only then is what was taken aside given up.",
            vec!["coastal bundle planes".into()],
        ),
    };
    Explanation { why: why.into(), by_hand }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::embedded;

    fn rekeying(method: Rekey) -> Rekeying {
        let (aside, seal) = ("before.tar".into(), Seal::Plaintext);
        Rekeying { method, aside, seal, until: Some(Timestamp::UNIX_EPOCH), workloads: true }
    }

    fn ids(rekeying: &Rekeying) -> Vec<String> {
        rekeying.plan(&embedded().unwrap()).steps.iter().map(|step| step.id.to_string()).collect()
    }

    #[test]
    fn nothing_is_taken_away_before_it_is_kept_and_only_a_revocation_drops_the_bundle() {
        let all = [
            "tools",
            "cluster",
            "rekey-begin",
            "rekey-aside",
            "rekey-stop",
            "rekey-keys",
            "rekey-bundle",
            "rekey-servers",
            "rekey-config-map",
            "rekey-webhook",
            "rekey-agents",
            "rekey-workloads",
            "rekey-gate",
            "identity-test",
            "rekey-verdict",
        ];
        assert_eq!(ids(&rekeying(Rekey::NewBundle)), all);
        let without: Vec<&str> = all.into_iter().filter(|id| *id != "rekey-bundle").collect();
        assert_eq!(ids(&rekeying(Rekey::NewKeys)), without);
        let nobody = Rekeying { workloads: false, ..rekeying(Rekey::NewBundle) };
        assert!(ids(&nobody).iter().all(|id| id != "rekey-workloads" && id != "identity-test"));
    }

    #[test]
    fn each_step_waits_for_the_one_before_it_and_says_why() {
        for method in [Rekey::NewKeys, Rekey::NewBundle] {
            let plan = rekeying(method).plan(&embedded().unwrap());
            for pair in plan.steps.windows(2) {
                assert_eq!(pair[1].needs, [pair[0].id]);
            }
            assert!(plan.steps.iter().all(|step| !step.title.is_empty() && !step.explanation.why.is_empty()));
        }
    }

    #[test]
    fn the_end_says_until_when_the_old_ones_are_trusted() {
        let last = |method| rekeying(method).plan(&embedded().unwrap()).steps.pop().unwrap().title;
        assert!(last(Rekey::NewKeys).ends_with("stay trusted until 1970-01-01T00:00:00Z"), "{}", last(Rekey::NewKeys));
        assert!(last(Rekey::NewBundle).contains("nothing old is left in any plane"));
    }

    #[test]
    fn parts_are_steps_by_name() {
        for part in RekeyPart::ALL {
            let text = serde_json::to_string(&BTreeMap::from([(StepId::Rekey(part), 1)])).unwrap();
            let back: BTreeMap<StepId, i32> = serde_json::from_str(&text).unwrap();
            assert!(back.contains_key(&StepId::Rekey(part)) && text.contains("\"rekey-"), "{text}");
        }
    }
}
