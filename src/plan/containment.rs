//! Cutting off an identity: what stands behind it first, for as long as a pod matches, its entry comes back; then the
//! entries, then the agents.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, StepId, build};
use crate::spire::incident::Incident;

/// How often the controller manager looks whether an entry is missing (its `gcInterval`: facts, section 7), in seconds.
pub const RECONCILE_S: u64 = 10;
/// How often an agent asks for its entries (facts, section 4), in seconds.
pub const SYNC_S: u64 = 5;

/// A containment that is carried out, or undone.
pub struct Containment {
    incident: Mutex<Incident>,
    undo: bool,
}

impl Containment {
    /// One that is to be carried out.
    #[must_use]
    pub fn new(incident: Incident) -> Self {
        Containment { incident: Mutex::new(incident), undo: false }
    }

    /// One that is to be undone.
    #[must_use]
    pub fn undoing(incident: Incident) -> Self {
        Containment { incident: Mutex::new(incident), undo: true }
    }

    /// Its record.
    pub fn incident(&self) -> MutexGuard<'_, Incident> {
        self.incident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steps, one after the other.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let parts: &[StepId] = if self.undo {
            &[StepId::UndoContainment]
        } else {
            &[StepId::CutOff, StepId::EntriesGone, StepId::AgentsSynced, StepId::IncidentReport]
        };
        let incident = self.incident();
        let mut needs = vec![StepId::Cluster];
        let mut steps = vec![
            build::step(StepId::Tools, Vec::new(), Role::Need, lab),
            build::step(StepId::Cluster, vec![StepId::Tools], Role::Need, lab),
        ];
        for &part in parts {
            let mut step = build::step(part, needs, Role::Goal, lab);
            step.title = title(part, &incident);
            step.explanation = explanation(part, &incident, lab);
            needs = vec![part];
            steps.push(step);
        }
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }
}

fn title(part: StepId, incident: &Incident) -> String {
    let (holders, entries) = (incident.holders.len(), incident.entries.len());
    match part {
        StepId::CutOff if holders == 1 => "take away the pod that can present it".into(),
        StepId::CutOff => format!("take away the {holders} pods that can present it"),
        StepId::EntriesGone if entries == 1 => "see its registration entry go, and stay gone".into(),
        StepId::EntriesGone => format!("see its {entries} registration entries go, and stay gone"),
        StepId::AgentsSynced => "wait until the agents know".into(),
        StepId::UndoContainment => format!("undo {}", incident.id),
        _ => "write the incident report".into(),
    }
}

fn explanation(part: StepId, incident: &Incident, lab: &Lab) -> Explanation {
    let spire = &lab.spire;
    let show = |id: &String| {
        format!(
            "kubectl -n {} exec {}-server-0 -c spire-server -- /opt/spire/bin/spire-server entry show -spiffeID {id}",
            spire.server_namespace, spire.release
        )
    };
    let (why, by_hand): (&str, Vec<String>) = match part {
        StepId::CutOff => (
            "The controller manager makes an entry for every pod that a ClusterSPIFFEID selects, and makes it again within ten seconds if it is deleted. So what makes the pods is stopped first.",
            incident.actions.iter().map(crate::spire::incident::Action::by_hand).collect(),
        ),
        StepId::EntriesGone => (
            "With the pods their entries go. What is not for single pods is deleted. They have to stay gone for two rounds of the controller manager.",
            incident.ids().iter().map(show).collect(),
        ),
        StepId::AgentsSynced => (
            "Agents ask for their entries every five seconds, and hand out what they know until then. What was handed out stays valid until it expires.",
            Vec::new(),
        ),
        StepId::UndoContainment => {
            ("What was stopped is started as it was. The controller manager makes the entries again.", Vec::new())
        }
        _ => ("What was found, what was done and when, and what remains: for whoever asks later.", Vec::new()),
    };
    Explanation { why: why.into(), by_hand }
}
