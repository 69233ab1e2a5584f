//! The plan of a key rotation: for each type of key the same chain of parts, the two chains side by side.
//!
//! What each part does is decided when it runs, by [`next_actions`](crate::spire::rotation::next_actions) from what is
//! seen then: a part whose work was done before, by an interrupted run or by the servers' own rotator, is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, Step, StepId, build};
use crate::spire::names;
use crate::spire::rotation::{self, Incident, KeyType};

/// For so long what was seen of the servers is what they hold. Each look costs six calls of kubectl.
const FRESH: Duration = Duration::from_secs(2);

/// A part of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RotatePart {
    /// What was prepared or not revoked before is out of the way.
    Clear,
    /// Each server has prepared an authority.
    Prepare,
    /// It is in every plane.
    Spread,
    /// Each server signs with it.
    Activate,
    /// What is issued now comes of it.
    Reissue,
    /// What each server signed with before is tainted.
    Taint,
    /// Nobody holds anything that came of it.
    Drain,
    /// It has left the bundle.
    Revoke,
}

impl RotatePart {
    const ALL: [RotatePart; 8] = [
        RotatePart::Clear,
        RotatePart::Prepare,
        RotatePart::Spread,
        RotatePart::Activate,
        RotatePart::Reissue,
        RotatePart::Taint,
        RotatePart::Drain,
        RotatePart::Revoke,
    ];

    fn word(self) -> &'static str {
        match self {
            RotatePart::Clear => "clear",
            RotatePart::Prepare => "prepare",
            RotatePart::Spread => "spread",
            RotatePart::Activate => "activate",
            RotatePart::Reissue => "reissue",
            RotatePart::Taint => "taint",
            RotatePart::Drain => "drain",
            RotatePart::Revoke => "revoke",
        }
    }
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RotateStep {
    /// Nobody else rotates, and what is to go is written down.
    Begin,
    /// A part of the chain of a type of key.
    Key(KeyType, RotatePart),
    /// The controller managers' webhook has certificates of the new authorities.
    Webhook,
    /// The `ConfigMap` that agents boot from holds what the servers do.
    ConfigMap,
    /// Nothing suspect is left in any plane.
    Verify,
}

impl fmt::Display for RotateStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RotateStep::Begin => f.write_str("rotate-begin"),
            RotateStep::Key(key, part) => write!(f, "rotate-{}-{}", key.word(), part.word()),
            RotateStep::Webhook => f.write_str("rotate-webhook"),
            RotateStep::ConfigMap => f.write_str("rotate-config-map"),
            RotateStep::Verify => f.write_str("rotate-verify"),
        }
    }
}

impl FromStr for RotateStep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let keys = KeyType::ALL.into_iter().flat_map(|key| RotatePart::ALL.map(|part| RotateStep::Key(key, part)));
        let mut all = keys.chain([RotateStep::Begin, RotateStep::Webhook, RotateStep::ConfigMap, RotateStep::Verify]);
        all.find(|step| step.to_string() == text).ok_or_else(|| format!("`{text}` is no step"))
    }
}

impl Serialize for RotateStep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RotateStep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A rotation that was agreed to: what its steps work from.
#[derive(Debug)]
pub struct Rotation {
    /// Which types of keys.
    pub keys: BTreeSet<KeyType>,
    /// If only one server's: its pod.
    pub server: Option<String>,
    /// Planes that may be unknown, by their names.
    pub accepted: BTreeSet<String>,
    /// From when on continuity is judged.
    pub since: Timestamp,
    /// Who carries it out, as others see it in the lease.
    pub holder: String,
    /// What is remembered; written down after each change. None until [`RotateStep::Begin`].
    incident: Mutex<Option<Incident>>,
    /// Gates that this run has seen open, so that the step after need not look again.
    open: Mutex<BTreeSet<(KeyType, RotatePart)>>,
    /// What was decided last for each type, and when; forgotten when anything is done.
    decided: Mutex<BTreeMap<KeyType, (Instant, rotation::Plan)>>,
    /// When the lease was last renewed. Both chains renew it, one at a time.
    pub held: tokio::sync::Mutex<Option<Instant>>,
}

impl Rotation {
    /// A rotation; with the incident that is gone on with, if there is one.
    #[must_use]
    pub fn new(
        (keys, server): (BTreeSet<KeyType>, Option<String>),
        accepted: BTreeSet<String>,
        since: Timestamp,
        holder: String,
        incident: Option<Incident>,
    ) -> Self {
        let (incident, open, held) = (Mutex::new(incident), Mutex::default(), tokio::sync::Mutex::default());
        Rotation { keys, server, accepted, since, holder, incident, open, decided: Mutex::default(), held }
    }

    /// What is remembered.
    pub fn incident(&self) -> MutexGuard<'_, Option<Incident>> {
        self.incident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was decided for that type a moment ago, if nothing was done since.
    #[must_use]
    pub fn decided(&self, key: KeyType) -> Option<rotation::Plan> {
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.get(&key).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, plan)| plan.clone())
    }

    /// Keeps what was decided.
    pub fn decide(&self, key: KeyType, plan: &rotation::Plan) {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.insert(key, (Instant::now(), plan.clone()));
    }

    /// Something was done: what was decided before is worth nothing.
    pub fn forget(&self) {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The gates that were seen open.
    pub fn open_gates(&self) -> MutexGuard<'_, BTreeSet<(KeyType, RotatePart)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steps.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let mut steps = vec![
            build::step(StepId::Tools, vec![], Role::Need, lab),
            build::step(StepId::Cluster, vec![StepId::Tools], Role::Need, lab),
        ];
        let begin = StepId::Rotate(RotateStep::Begin);
        steps.push(self.step(RotateStep::Begin, vec![StepId::Cluster], lab));

        let x509 = self.keys.contains(&KeyType::X509);
        let mut ends = Vec::new();
        for key in &self.keys {
            let mut before = begin;
            for part in RotatePart::ALL {
                let mut step = self.step(RotateStep::Key(*key, part), vec![before], lab);
                if part == RotatePart::Revoke && x509 {
                    // Servers restart for it, and no other command may be on its way to one.
                    step.needs.push(StepId::Rotate(RotateStep::Webhook));
                }
                before = step.id;
                steps.push(step);
            }
            ends.push(before);
        }
        if x509 {
            let tainted = |key: &KeyType| {
                RotateStep::Key(*key, if *key == KeyType::X509 { RotatePart::Drain } else { RotatePart::Taint })
            };
            let needs = self.keys.iter().map(|key| StepId::Rotate(tainted(key))).collect();
            steps.push(self.step(RotateStep::Webhook, needs, lab));
        }
        steps.push(self.step(RotateStep::ConfigMap, ends, lab));
        let repaired = StepId::Rotate(RotateStep::ConfigMap);
        steps.push(self.step(RotateStep::Verify, vec![repaired], lab));
        steps.push(build::step(StepId::IdentityTest, vec![repaired], Role::Goal, lab));
        steps.push(build::step(StepId::Continuity, vec![StepId::IdentityTest], Role::Goal, lab));
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }

    fn step(&self, of: RotateStep, needs: Vec<StepId>, lab: &Lab) -> Step {
        let servers = match &self.server {
            Some(pod) => pod.clone(),
            None => format!("{} servers", lab.spire.servers),
        };
        let mut step = build::step(StepId::Rotate(of), needs, Role::Goal, lab);
        step.title = title(of, &servers);
        step.explanation = explanation(of, lab, self.server.as_deref());
        // Each of these waits at most for agents and workloads; the probes have to be placed as well.
        step.timeout_s = (lab.timeouts.rollout + lab.timeouts.identity).as_secs();
        step
    }
}

fn title(step: RotateStep, servers: &str) -> String {
    use RotatePart as P;
    match step {
        RotateStep::Begin => "take the lease, write down which authorities are to go".into(),
        RotateStep::Key(key, P::Clear) => {
            format!("clear {key} authorities that were prepared or old before ({servers})")
        }
        RotateStep::Key(key, P::Prepare) => format!("prepare a new {key} authority ({servers})"),
        RotateStep::Key(key, P::Spread) => format!("wait until the new {key} authorities are in every plane"),
        RotateStep::Key(key, P::Activate) => format!("activate the new {key} authority ({servers})"),
        RotateStep::Key(KeyType::X509, P::Reissue) => "prove that new SVIDs come of the new authorities".into(),
        RotateStep::Key(KeyType::Jwt, P::Reissue) => "new JWT-SVIDs come of the new keys".into(),
        RotateStep::Key(key, P::Taint) => format!("taint the old {key} authority ({servers})"),
        RotateStep::Key(KeyType::X509, P::Drain) => "wait until nobody holds an SVID of an old authority".into(),
        RotateStep::Key(KeyType::Jwt, P::Drain) => "wait until agents have dropped the tokens of the old keys".into(),
        RotateStep::Key(key, P::Revoke) => format!("revoke the old {key} authority ({servers})"),
        RotateStep::Webhook => format!("give the webhook certificates of the new authority ({servers})"),
        RotateStep::ConfigMap => "bring the ConfigMap that agents boot from up to date".into(),
        RotateStep::Verify => "verify that nothing old is left in any plane".into(),
    }
}

fn explanation(step: RotateStep, lab: &Lab, only: Option<&str>) -> Explanation {
    use RotatePart as P;
    let spire = &lab.spire;
    let pods: Vec<String> = match only {
        Some(pod) => vec![pod.to_owned()],
        None => names::server_pods(spire),
    };
    let on_each = |words: &str| -> Vec<String> {
        let line = |pod: &String| {
            format!("kubectl -n {} exec {pod} -c spire-server -- spire-server {words}", spire.server_namespace)
        };
        pods.iter().map(line).collect()
    };
    let (why, by_hand) = match step {
        RotateStep::Begin => (
            "Two rotations at once would overwrite each other's slots. What is to go is written down first, so that an interrupted rotation can be gone on with.",
            on_each("localauthority x509 show -output json"),
        ),
        RotateStep::Key(key, P::Clear) => (
            "A prepare over an authority that is prepared or not yet revoked leaves it in the bundle for ever: no API reaches it any more. And it is as suspect as the active one.",
            on_each(&format!("localauthority {} show -output json", key.word())),
        ),
        RotateStep::Key(key, P::Prepare) => (
            "Each server has keys of its own, and each command acts on the process behind its socket only. Nothing is signed with the new key yet.",
            on_each(&format!("localauthority {} prepare -output json", key.word())),
        ),
        RotateStep::Key(_, P::Spread) => (
            "What is signed with a key that is not known everywhere is rejected somewhere.",
            on_each("bundle show -output json"),
        ),
        RotateStep::Key(key, P::Activate) => (
            "From here on the server signs with the new key. What was issued before stays valid.",
            on_each(&format!("localauthority {} activate -authorityID PREPARED -output json", key.word())),
        ),
        RotateStep::Key(KeyType::X509, P::Reissue) => (
            "A new pod on each node shows by whom SVIDs are signed now. Only then may what the old keys signed be thrown away.",
            vec![],
        ),
        RotateStep::Key(KeyType::Jwt, P::Reissue) => {
            ("Tokens are signed when they are asked for: by the new key.", vec![])
        }
        RotateStep::Key(key, P::Taint) => (
            "Agents drop what a tainted authority signed and ask anew, a hundred SVIDs each five seconds. It is still trusted meanwhile.",
            on_each(&format!("localauthority {} taint -authorityID OLD -output json", key.word())),
        ),
        RotateStep::Key(_, P::Drain) => (
            "Who still holds an SVID of an authority that is revoked is rejected by all others.",
            vec![format!("kubectl -n {} logs deployment/{}", lab.workload.namespace, lab.workload.name)],
        ),
        RotateStep::Key(key, P::Revoke) => (
            "It leaves the bundle: what a thief signs with it is worth nothing from now on.",
            on_each(&format!("localauthority {} revoke -authorityID OLD -output json", key.word())),
        ),
        RotateStep::Webhook => (
            "The controller manager keeps its webhook's certificate for half a day, whatever becomes of the CA: after the revocation no ClusterSPIFFEID could be written. A server's pod that starts anew mints one.",
            pods.iter().map(|pod| format!("kubectl -n {} delete pod {pod}", spire.server_namespace)).collect(),
        ),
        RotateStep::ConfigMap => (
            "The notifier of charts before 0.26 is not told of a revocation: an agent that boots from the ConfigMap would trust the revoked keys.",
            vec![format!("kubectl -n {} get configmap spire-bundle -o yaml", spire.system_namespace)],
        ),
        RotateStep::Verify => (
            "Database, servers, ConfigMap, agents and workloads are asked once more.",
            vec!["coastal bundle planes".into()],
        ),
    };
    Explanation { why: why.into(), by_hand }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    fn rotation(keys: &[KeyType]) -> Rotation {
        let keys = keys.iter().copied().collect();
        Rotation::new((keys, None), BTreeSet::new(), Timestamp::UNIX_EPOCH, "me".into(), None)
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let plan = rotation(&KeyType::ALL).plan(&embedded().unwrap());
        for step in &plan.steps {
            let text = serde_json::to_value(step.id).unwrap();
            assert_eq!(serde_json::from_value::<StepId>(text.clone()).unwrap(), step.id, "{text}");
        }
        assert!("rotate-x509-dance".parse::<RotateStep>().is_err());
    }

    #[test]
    fn types_go_side_by_side_and_each_part_after_the_one_before() {
        let plan = rotation(&KeyType::ALL).plan(&embedded().unwrap());
        let needs = |id: &str| {
            let step = plan.steps.iter().find(|step| step.id.as_str() == id).unwrap();
            step.needs.iter().map(|need| need.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(needs("rotate-x509-clear"), ["rotate-begin"]);
        assert_eq!(needs("rotate-jwt-clear"), ["rotate-begin"]);
        assert_eq!(needs("rotate-x509-activate"), ["rotate-x509-spread"]);
        assert_eq!(needs("rotate-webhook"), ["rotate-x509-drain", "rotate-jwt-taint"]);
        assert_eq!(needs("rotate-x509-revoke"), ["rotate-x509-drain", "rotate-webhook"]);
        assert_eq!(needs("rotate-config-map"), ["rotate-x509-revoke", "rotate-jwt-revoke"]);
        let one = rotation(&[KeyType::Jwt]).plan(&embedded().unwrap());
        assert!(one.steps.iter().all(|step| !step.id.as_str().contains("x509")));
    }
}
