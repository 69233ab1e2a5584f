//! What is broken, and which parts the way back has. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::facts::{AgentPod, Facts};
use super::loss::{Database, JournalPlace, Keys, Loss, Outlook, TrustAfter, outlook};
use super::rows;
use super::score::Budget;

/// A claim that is so much younger than the oldest authority was not there when that was made.
const YOUNGER: SignedDuration = SignedDuration::from_mins(2);

/// A plane of SPIRE's state, or what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// The cluster's nodes.
    Nodes,
    /// The data store.
    Database,
    /// Registration entries.
    Entries,
    /// The servers' private keys.
    Keys,
    /// The record of which key is which authority.
    Journal,
    /// The trust bundle.
    Bundle,
    /// helm's release.
    Release,
    /// The servers.
    Servers,
    /// The controller manager's webhook.
    Webhook,
    /// The agents.
    Agents,
    /// Whether agents trust the servers.
    AgentsTrust,
    /// Whether workloads hold valid SVIDs, and trust what the servers sign with.
    WorkloadsTrust,
}

impl Plane {
    /// As a person calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Plane::Nodes => "nodes",
            Plane::Database => "database",
            Plane::Entries => "entries",
            Plane::Keys => "CA keys",
            Plane::Journal => "journal",
            Plane::Bundle => "bundle",
            Plane::Release => "release",
            Plane::Servers => "servers",
            Plane::Webhook => "webhook",
            Plane::Agents => "agents",
            Plane::AgentsTrust => "agents' trust",
            Plane::WorkloadsTrust => "workloads' trust",
        }
    }
}

/// How a plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As it should be.
    Sound,
    /// Nobody can tell now.
    Unknown,
    /// On its way: time will do.
    Coming,
    /// Not as it should be.
    Broken,
    /// Gone, and nothing brings it back but a backup.
    Lost,
}

impl Condition {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Condition::Sound => "ok",
            Condition::Unknown => "unknown",
            Condition::Coming => "coming",
            Condition::Broken => "BROKEN",
            Condition::Lost => "LOST",
        }
    }

    /// Whether something has to be done, or waited for.
    #[must_use]
    pub fn hurts(self) -> bool {
        matches!(self, Condition::Coming | Condition::Broken | Condition::Lost)
    }
}

/// How one plane is, and what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub plane: Plane,
    /// How it is.
    pub condition: Condition,
    /// What was seen.
    pub seen: String,
}

/// A part of the way back, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Stopped nodes run again.
    #[serde(rename = "recover-node")]
    Node,
    /// The data store answers.
    #[serde(rename = "recover-database")]
    Database,
    /// What is left of keys that would keep the servers from starting is gone.
    #[serde(rename = "recover-keys")]
    Keys,
    /// The release is as lab.toml wants it, at the current versions.
    #[serde(rename = "recover-release")]
    Release,
    /// Every server serves, at the current version.
    #[serde(rename = "recover-servers")]
    Servers,
    /// A ClusterSPIFFEID can be written.
    #[serde(rename = "recover-webhook")]
    Webhook,
    /// Every agent serves, and trusts the servers.
    #[serde(rename = "recover-agents")]
    Agents,
    /// Every workload pod holds an SVID of the servers' bundle.
    #[serde(rename = "recover-workloads")]
    Workloads,
    /// New pods get SVIDs.
    #[serde(rename = "recover-gate")]
    Gate,
    /// What it cost.
    #[serde(rename = "recover-verdict")]
    Verdict,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Part; 10] = [
        Part::Node,
        Part::Database,
        Part::Keys,
        Part::Release,
        Part::Servers,
        Part::Webhook,
        Part::Agents,
        Part::Workloads,
        Part::Gate,
        Part::Verdict,
    ];
}

/// A part that is needed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// Which.
    pub part: Part,
    /// Why.
    pub because: String,
}

/// What is broken, and the way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The version of this format.
    pub schema: u32,
    /// When it was looked.
    pub at: Timestamp,
    /// Every plane.
    pub planes: Vec<Row>,
    /// What is lost.
    pub loss: Loss,
    /// What follows from that, if anything is lost and the version is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlook: Option<Outlook>,
    /// The versions that are the current ones, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<super::Current>,
    /// The way back. Empty if nothing is broken.
    pub way: Vec<Needed>,
    /// How long the SVIDs that are held last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

impl Diagnosis {
    /// Whether nothing is broken.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.way.is_empty()
    }

    /// How a plane is.
    #[must_use]
    pub fn condition(&self, plane: Plane) -> Condition {
        self.planes.iter().find(|row| row.plane == plane).map_or(Condition::Unknown, |row| row.condition)
    }

    /// The planes that are not as they should be, in words.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let hurt = self.planes.iter().filter(|row| row.condition.hurts());
        hurt.map(|row| format!("{}: {}", row.plane.word(), row.seen)).collect()
    }

    /// Whether that part is on the way.
    #[must_use]
    pub fn needs(&self, part: Part) -> bool {
        self.way.iter().any(|needed| needed.part == part)
    }
}

/// Whether an agent trusts the servers, as far as anybody can tell.
#[must_use]
pub fn distrust(facts: &Facts, agent: &AgentPod) -> Option<String> {
    // What a workload was given says more than what the agent said some minutes ago.
    match facts.knows_bundle(&agent.node) {
        Some(true) => None,
        Some(false) if gone(facts) => Some("it hands out a bundle that has nothing in common with the servers'".into()),
        _ => agent.complains.clone(),
    }
}

/// Whether the servers' bundle has nothing in common with what any workload was given: it began anew.
fn gone(facts: &Facts) -> bool {
    let Some(bundle) = facts.bundle_ids() else { return false };
    let mut told =
        facts.workloads.iter().filter_map(|workload| workload.held.as_ref()).filter(|h| !h.bundle.is_empty());
    let all: Vec<_> = told.by_ref().collect();
    !all.is_empty() && !bundle.is_empty() && all.iter().all(|held| held.bundle.is_disjoint(&bundle))
}

/// Whether workloads hold SVIDs of an authority that the servers' bundle does not have any more, though it has others
/// that they know: it is older than they are.
fn older(facts: &Facts) -> bool {
    let Some(bundle) = facts.bundle_ids() else { return false };
    let held = || facts.workloads.iter().filter_map(|workload| workload.held.as_ref());
    let valid = held().filter(|held| held.not_after > facts.at).filter_map(|held| held.anchor.as_ref());
    let foreign: BTreeSet<&String> = valid.filter(|anchor| !bundle.contains(*anchor)).collect();
    !foreign.is_empty() && !gone(facts)
}

/// What is lost.
fn loss(facts: &Facts) -> Loss {
    let database = match (&facts.database.silent, &facts.database.row) {
        _ if gone(facts) => Database::Lost,
        (None, None) => Database::Lost,
        // A server has begun it anew, and did not come to make a bundle.
        (None, Some(_)) if facts.database.bundle == Some(false) => Database::Lost,
        _ if older(facts) => Database::Older,
        _ => Database::Kept,
    };
    let oldest = facts.bundle.iter().flatten().filter_map(|authority| authority.not_before).min();
    let complains = facts.agents.pods.iter().any(|agent| distrust(facts, agent).is_some());
    let younger =
        oldest.is_some_and(|oldest| facts.servers.claims_made.iter().any(|made| made.duration_since(oldest) > YOUNGER));
    let keys = if !facts.servers.claims_missing.is_empty() || (database == Database::Kept && complains && younger) {
        Keys::Lost
    } else {
        Keys::Kept
    };
    Loss { database, keys }
}

/// What is broken, and the way back.
#[must_use]
pub fn diagnose(facts: &Facts) -> Diagnosis {
    let mut diagnosis = Diagnosis {
        schema: 1,
        at: facts.at,
        planes: vec![rows::nodes(facts)],
        loss: Loss::NONE,
        outlook: None,
        current: facts.current.clone(),
        way: Vec::new(),
        budget: None,
    };
    if facts.reached {
        diagnosis.loss = loss(facts);
        let version = facts.current.as_ref().map(|current| current.server.clone());
        let seen = outlook(diagnosis.loss, version.as_ref().unwrap_or(&Version::new(1, 15, 3)));
        diagnosis.planes.extend([
            rows::database(facts, diagnosis.loss),
            rows::entries(facts, diagnosis.loss),
            rows::keys(facts, diagnosis.loss),
            rows::journal(version.as_ref(), diagnosis.loss),
            rows::bundle(facts, diagnosis.loss),
            rows::release(facts),
            rows::servers(facts),
            rows::webhook(facts),
            rows::agents(facts),
            rows::agents_trust(facts),
            rows::workloads(facts),
        ]);
        diagnosis.outlook = Some(seen).filter(|_| !diagnosis.loss.is_none());
        diagnosis.budget = Budget::left(facts);
    } else {
        diagnosis.planes.push(rows::row(Plane::Servers, Condition::Unknown, "the API server does not answer"));
    }
    diagnosis.way = way(facts, &diagnosis);
    diagnosis
}

/// The parts that are needed, each with its reason.
fn way(facts: &Facts, diagnosis: &Diagnosis) -> Vec<Needed> {
    let seen = |plane: Plane| {
        let row = diagnosis.planes.iter().find(|row| row.plane == plane && row.condition.hurts())?;
        Some(row.seen.clone())
    };
    let outlook = diagnosis.outlook.as_ref();
    let mut way: Vec<Needed> = Vec::new();
    let mut need = |part: Part, because: Option<String>| {
        if let Some(because) = because {
            way.push(Needed { part, because });
        }
    };
    need(Part::Node, seen(Plane::Nodes));
    need(Part::Database, facts.database.silent.clone().filter(|_| facts.reached));
    // A bundle that began anew was made by servers that start: nothing keeps them from it.
    let clears = outlook.is_some_and(|outlook| outlook.clear_keys) && facts.bundle.is_none();
    let on_disk =
        facts.current.as_ref().is_some_and(|current| JournalPlace::of(&current.server) != JournalPlace::Database);
    let hidden = facts.reached && facts.database.silent.is_some() && on_disk && facts.servers.claims_missing.is_empty();
    let clears = clears.then(|| "the journal beside the keys names authorities that the database has lost".to_owned());
    need(
        Part::Keys,
        clears
            .or_else(|| hidden.then(|| "whether the database has lost what they name is seen when it answers".into())),
    );
    let set_missing = |there: bool, what: &str| (!there && facts.reached).then(|| format!("{what} is not there"));
    let release = seen(Plane::Release)
        .or_else(|| set_missing(facts.servers.there, "the servers' StatefulSet"))
        .or_else(|| set_missing(facts.agents.there, "the agents' DaemonSet"))
        .or_else(|| {
            let differ = facts.reached && facts.servers.there && facts.servers.asked != facts.servers.wanted;
            differ.then(|| format!("{} servers are wanted, not {}", facts.servers.wanted, facts.servers.asked))
        });
    need(Part::Release, release.clone());
    let fresh = outlook.filter(|outlook| outlook.restarts.servers && facts.bundle.is_none());
    let servers =
        seen(Plane::Servers).or_else(|| fresh.map(|_| "their processes believe in a database that is gone".to_owned()));
    need(Part::Servers, servers.clone().or_else(|| release.clone()));
    need(Part::Webhook, seen(Plane::Webhook).or_else(|| servers.clone()));
    let trust = outlook.filter(|outlook| outlook.trust != TrustAfter::Kept && outlook.restarts.agents);
    let agents = seen(Plane::Agents)
        .or_else(|| seen(Plane::AgentsTrust))
        .or_else(|| trust.filter(|_| facts.bundle.is_none()).map(|_| "they may not trust the servers any more".into()))
        .or_else(|| set_missing(facts.agents.there, "their DaemonSet"));
    need(Part::Agents, agents.or_else(|| release.clone()).or_else(|| servers.clone()));
    let workloads = seen(Plane::WorkloadsTrust);
    if !way.is_empty() || workloads.is_some() {
        way.push(Needed {
            part: Part::Workloads,
            because: workloads.unwrap_or_else(|| "each has to hold an SVID that the servers' bundle covers".into()),
        });
        way.push(Needed { part: Part::Gate, because: "a new pod has to get an identity".into() });
        way.push(Needed { part: Part::Verdict, because: "how long anybody was without".into() });
    }
    way
}
