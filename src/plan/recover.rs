//! The plan of a recovery: the parts of the way back that are needed, one after the other, and the proof at the end.
//!
//! Which parts there are is decided by [`crate::spire::recovery`]; here they become steps. A drill with its score has
//! all of them, for what it breaks is seen only when it is broken: each then looks whether there is something for it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, Step, StepId, build};
use crate::spire::names;
use crate::spire::recovery::{Diagnosis, Drill, Part};

/// What is remembered of a disaster while it is recovered from; the first part of it is kept in a file, for `drill` and
/// `recover` may be two commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// When it began: the drill's moment; without a drill, when the recovery was begun.
    pub began_at: Timestamp,
    /// The drill, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
    /// SPIFFE ids that had an entry before; absent if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<BTreeSet<String>>,
    /// Whether the lab's workload is deployed, whose identity is to be tested.
    #[serde(default)]
    pub workloads: bool,
    /// When the first SVID that was held then expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_expiry: Option<Timestamp>,
    /// Whether a backup covers it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover: Option<String>,
    /// When it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_at: Option<Timestamp>,
    /// What was seen to be broken, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// What was seen at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
}

impl Notes {
    /// Of what begins now.
    #[must_use]
    pub fn new(began_at: Timestamp) -> Self {
        Notes {
            began_at,
            drill: None,
            identities: None,
            workloads: true,
            first_expiry: None,
            cover: None,
            detected_at: None,
            broken: Vec::new(),
            diagnosis: None,
        }
    }
}

impl Notes {
    /// Takes in what is seen later: of a disaster that has only begun, the worst is not seen at first.
    pub fn absorb(&mut self, seen: &Diagnosis) {
        // Before the first look that saw anything, what is seen is the healthy lab.
        let Some(known) = &mut self.diagnosis else { return };
        if known.loss.is_none() && !seen.loss.is_none() {
            known.loss = seen.loss;
            known.outlook.clone_from(&seen.outlook);
        }
        let plane = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        for line in seen.broken() {
            if !self.broken.iter().any(|known| plane(known) == plane(&line)) {
                self.broken.push(line);
            }
        }
    }
}

/// A recovery that is carried out, or a drill.
pub struct Recovery {
    notes: Mutex<Notes>,
    /// The disaster that comes first, if it is a drill.
    drill: Option<Drill>,
    /// Whether the way back is part of it.
    recovers: bool,
}

impl Recovery {
    /// A recovery.
    #[must_use]
    pub fn new(notes: Notes) -> Self {
        Recovery { notes: Mutex::new(notes), drill: None, recovers: true }
    }

    /// A drill, with the way back or without.
    #[must_use]
    pub fn drilling(drill: Drill, recovers: bool, notes: Notes) -> Self {
        Recovery { notes: Mutex::new(notes), drill: Some(drill), recovers }
    }

    /// What is remembered.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Timestamp {
        self.notes().began_at
    }

    /// The steps, one after the other.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let notes = self.notes();
        let way = notes.diagnosis.as_ref().map(|diagnosis| diagnosis.way.as_slice());
        let mut steps = vec![build::step(StepId::Tools, Vec::new(), Role::Need, lab)];
        // A stopped control plane is a thing to be recovered from: then the cluster cannot be looked for beforehand.
        let asleep = notes.diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.needs(Part::Node));
        if !asleep {
            steps.push(build::step(StepId::Cluster, vec![StepId::Tools], Role::Need, lab));
        }
        let mut before: Vec<StepId> = steps.iter().rev().take(1).map(|step| step.id).collect();
        let mut push = |steps: &mut Vec<Step>, id: StepId, title: String, explanation: Option<Explanation>| {
            let mut step = build::step(id, std::mem::take(&mut before), Role::Goal, lab);
            step.title = title;
            step.timeout_s = timeout(id, lab);
            if let Some(explanation) = explanation {
                step.explanation = explanation;
            }
            before.push(id);
            steps.push(step);
        };
        if let Some(drill) = self.drill {
            let explanation = Explanation { why: drill.stakes().join("; "), by_hand: by_hand_drill(drill, lab) };
            push(&mut steps, StepId::Drill(drill), drill.does().into(), Some(explanation));
        }
        let on_the_way = |part: Part| way.is_none_or(|way| way.iter().any(|needed| needed.part == part));
        if self.recovers {
            for part in Part::ALL.into_iter().filter(|part| on_the_way(*part)) {
                if part == Part::Verdict && notes.workloads {
                    push(&mut steps, StepId::IdentityTest, build::title(StepId::IdentityTest, lab), None);
                }
                push(&mut steps, StepId::Recover(part), title(part, lab), Some(explanation(part, lab)));
            }
        }
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }
}

fn timeout(id: StepId, lab: &Lab) -> u64 {
    let timeouts = &lab.timeouts;
    let servers = lab.spire.servers.max(1);
    match id {
        // One after the other.
        StepId::Recover(Part::Servers) => timeouts.rollout * servers,
        StepId::Recover(Part::Release) => timeouts.rollout + timeouts.download,
        StepId::Recover(Part::Workloads | Part::Gate) => timeouts.rollout + timeouts.identity,
        _ => return build::timeout(id, lab),
    }
    .as_secs()
}

fn title(part: Part, lab: &Lab) -> String {
    let servers = lab.spire.servers;
    match part {
        Part::Node => "start the nodes that are stopped".into(),
        Part::Database => "bring the database back".into(),
        Part::Keys => "take away the keys that name a lost bundle".into(),
        Part::Release => "bring the release back, at the current versions".into(),
        Part::Servers => format!("bring {servers} servers back"),
        Part::Webhook => "see the webhook answer".into(),
        Part::Agents => "bring the agents back, and their trust".into(),
        Part::Workloads => "see every workload hold an SVID".into(),
        Part::Gate => "gate: new pods get SVIDs".into(),
        Part::Verdict => "add up what it cost".into(),
    }
}

fn explanation(part: Part, lab: &Lab) -> Explanation {
    let spire = &lab.spire;
    let (server_ns, system_ns, release) = (&spire.server_namespace, &spire.system_namespace, &spire.release);
    let (why, by_hand): (&str, Vec<String>) = match part {
        Part::Node => {
            ("kind's nodes are containers; started again, they are the same nodes.", vec!["docker start NODE".into()])
        }
        Part::Database => (
            "Servers do not start without it. Its password is kept: a volume that is there knows no other.",
            vec![format!("kubectl -n {server_ns} rollout status statefulset spire-db")],
        ),
        Part::Keys => (
            "Up to SPIRE 1.9 a journal beside the keys names the authority to sign with. If the database has lost the bundle with it, the server does not start.",
            vec![
                format!("kubectl -n {server_ns} scale statefulset {release}-server --replicas 0"),
                format!("kubectl -n {server_ns} delete pvc spire-data-{release}-server-0"),
            ],
        ),
        Part::Release => (
            "Values come from lab.toml, versions from what runs, or from the newest revision that the database permits. Never `helm rollback`: an older revision may be one whose servers refuse the database.",
            vec![format!("helm upgrade {release} spire --namespace {} --values spire.yaml", spire.release_namespace)],
        ),
        Part::Servers => (
            "An ordered StatefulSet waits for ever for a broken pod of an older template; exactly that pod is deleted.",
            vec![format!("kubectl -n {server_ns} delete pod {release}-server-0")],
        ),
        Part::Webhook => (
            "It runs beside the servers. While it does not answer, no ClusterSPIFFEID can be written, by helm neither.",
            vec!["kubectl apply --dry-run=server -f clusterspiffeid.yaml".into()],
        ),
        Part::Agents => (
            "An agent that does not know the servers' authorities serves on from what it has, or ends; a new pod begins from the published bundle.",
            vec![format!("kubectl -n {system_ns} rollout restart daemonset {release}-agent")],
        ),
        Part::Workloads => (
            "Clients that met a missing socket may wait two minutes before they try again.",
            vec![format!("kubectl -n {} logs deployment/{}", lab.workload.namespace, lab.workload.name)],
        ),
        Part::Gate => ("What counts is not a pod that is Ready but an SVID that was issued now.", vec![]),
        Part::Verdict => ("The workload logs each SVID that it receives: that is added up over the outage.", vec![]),
    };
    Explanation { why: why.into(), by_hand }
}

fn by_hand_drill(drill: Drill, lab: &Lab) -> Vec<String> {
    let spire = &lab.spire;
    let (ns, release) = (&spire.server_namespace, &spire.release);
    match drill {
        Drill::Pod => vec![format!("kubectl -n {ns} delete pod {release}-server-0")],
        Drill::Servers => vec![format!("kubectl -n {ns} delete statefulset {release}-server")],
        Drill::Agents => vec![format!("kubectl -n {} delete daemonset {release}-agent", spire.system_namespace)],
        Drill::Database => vec![format!("kubectl -n {ns} delete pvc/data-spire-db-0 pod/spire-db-0")],
        Drill::Keys => names::server_pods(spire)
            .iter()
            .map(|pod| format!("kubectl -n {ns} delete pvc/{} pod/{pod}", names::server_claim(pod)))
            .collect(),
        Drill::Node => vec!["docker stop NODE".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    fn ids(recovery: &Recovery) -> Vec<String> {
        recovery.plan(&embedded().unwrap()).steps.iter().map(|step| step.id.to_string()).collect()
    }

    #[test]
    fn a_drill_is_one_step_and_with_its_score_the_whole_way_back() {
        let notes = || Notes::new(Timestamp::UNIX_EPOCH);
        assert_eq!(ids(&Recovery::drilling(Drill::Pod, false, notes())), ["tools", "cluster", "drill-pod"]);
        let whole = ids(&Recovery::drilling(Drill::Node, true, notes()));
        assert_eq!(whole[2..5], ["drill-node", "recover-node", "recover-database"]);
        assert_eq!(whole[whole.len() - 3..], ["recover-gate", "identity-test", "recover-verdict"]);
    }

    #[test]
    fn steps_of_a_recovery_are_steps_by_name() {
        for part in Part::ALL {
            let step = StepId::Recover(part);
            assert_eq!(serde_json::from_value::<StepId>(step.as_str().into()).unwrap(), step);
            let map = std::collections::BTreeMap::from([(step, 1)]);
            let text = serde_json::to_string(&map).unwrap();
            assert_eq!(serde_json::from_str::<std::collections::BTreeMap<StepId, i32>>(&text).unwrap(), map);
        }
        for drill in Drill::ALL {
            assert_eq!(StepId::Drill(drill).as_str(), format!("drill-{drill}"));
        }
    }

    #[test]
    fn each_step_waits_for_the_one_before_it() {
        let plan =
            Recovery::drilling(Drill::Servers, true, Notes::new(Timestamp::UNIX_EPOCH)).plan(&embedded().unwrap());
        for pair in plan.steps.windows(2) {
            assert_eq!(pair[1].needs, [pair[0].id]);
        }
    }
}
