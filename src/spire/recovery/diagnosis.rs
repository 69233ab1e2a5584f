//! What is broken, plane by plane, and which parts the way back has. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::facts::{AgentPod, Facts, PodState, Workload};
use super::loss::{Database, JournalPlace, Keys, Loss, Outlook, TrustAfter, outlook, reaction};
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
        planes: vec![nodes(facts)],
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
            database(facts, diagnosis.loss),
            entries(facts, diagnosis.loss),
            keys(facts, diagnosis.loss),
            journal(version.as_ref(), diagnosis.loss),
            bundle(facts, diagnosis.loss),
            release(facts),
            servers(facts),
            webhook(facts),
            agents(facts),
            agents_trust(facts),
            workloads(facts),
        ]);
        diagnosis.outlook = Some(seen).filter(|_| !diagnosis.loss.is_none());
        diagnosis.budget = Budget::left(facts);
    } else {
        diagnosis.planes.push(row(Plane::Servers, Condition::Unknown, "the API server does not answer"));
    }
    diagnosis.way = way(facts, &diagnosis);
    diagnosis
}

fn row(plane: Plane, condition: Condition, seen: impl Into<String>) -> Row {
    Row { plane, condition, seen: seen.into() }
}

fn nodes(facts: &Facts) -> Row {
    let ready = facts.nodes.iter().filter(|node| node.ready && !node.stopped).count();
    let all = format!("{ready} of {} ready", facts.nodes.len());
    match facts.nodes.iter().find(|node| node.stopped || (facts.reached && !node.ready)) {
        None => row(Plane::Nodes, Condition::Sound, all),
        Some(node) if node.stopped => row(Plane::Nodes, Condition::Broken, format!("{all}; {} is stopped", node.name)),
        Some(node) => row(Plane::Nodes, Condition::Coming, format!("{all}; {} is not ready", node.name)),
    }
}

fn database(facts: &Facts, loss: Loss) -> Row {
    let (condition, seen) = match (&facts.database.silent, &facts.database.row, loss.database) {
        (Some(why), ..) => (Condition::Broken, why.clone()),
        (None, None, _) => (Condition::Lost, "it answers and is empty: SPIRE's tables are not there".to_owned()),
        (None, Some((schema, _)), Database::Lost) if facts.database.bundle == Some(false) => {
            (Condition::Lost, format!("it was begun anew (schema {schema}), and there is no bundle in it"))
        }
        (None, Some((schema, _)), Database::Lost) => {
            (Condition::Lost, format!("it was begun anew (schema {schema}): no workload knows any of its authorities"))
        }
        (None, Some((schema, code)), Database::Older) => (
            Condition::Lost,
            format!("it is older than what workloads hold (schema {schema}, written by SPIRE {code})"),
        ),
        (None, Some((schema, code)), Database::Kept) => {
            (Condition::Sound, format!("schema {schema}, written by SPIRE {code}"))
        }
    };
    row(Plane::Database, condition, seen)
}

fn entries(facts: &Facts, loss: Loss) -> Row {
    let (condition, seen) = match (facts.entries, loss.database) {
        (_, Database::Lost) => {
            (Condition::Lost, "those made by hand are gone; the controller manager makes its own again".to_owned())
        }
        (_, Database::Older) => (Condition::Lost, "those made by hand since the backup are gone".to_owned()),
        (Some(count), Database::Kept) => (Condition::Sound, format!("{count} registered")),
        (None, Database::Kept) => (Condition::Unknown, "no server tells".to_owned()),
    };
    row(Plane::Entries, condition, seen)
}

fn keys(facts: &Facts, loss: Loss) -> Row {
    let (wanted, missing) = (facts.servers.wanted, &facts.servers.claims_missing);
    let there = wanted.saturating_sub(missing.len());
    match (missing.first(), loss.keys) {
        (Some(first), _) => {
            row(Plane::Keys, Condition::Lost, format!("{there} of {wanted} claims are there; {first} is not"))
        }
        (None, Keys::Lost) => {
            row(Plane::Keys, Condition::Lost, "the claims are younger than the authorities: their keys were lost")
        }
        (None, Keys::Kept) => row(Plane::Keys, Condition::Sound, format!("{there} of {wanted} claims")),
    }
}

fn journal(version: Option<&Version>, loss: Loss) -> Row {
    let Some(version) = version else { return row(Plane::Journal, Condition::Unknown, "the version is not known") };
    let place = JournalPlace::of(version);
    let seen = match place {
        JournalPlace::Disk => "journal.pem, beside the keys",
        JournalPlace::Both => "in the database, and journal.pem beside the keys",
        JournalPlace::Database => "in the database",
    };
    let condition = if place.survives(loss) { Condition::Sound } else { Condition::Lost };
    row(Plane::Journal, condition, seen)
}

fn bundle(facts: &Facts, loss: Loss) -> Row {
    match (&facts.bundle, loss.database, loss.keys) {
        (Some(bundle), Database::Kept, Keys::Kept) => {
            row(Plane::Bundle, Condition::Sound, format!("{} X.509 authorities", bundle.len()))
        }
        (None, Database::Kept, Keys::Kept) => row(Plane::Bundle, Condition::Unknown, "no server tells"),
        (_, Database::Lost, _) => row(Plane::Bundle, Condition::Lost, "it begins anew"),
        (_, Database::Older, _) => row(Plane::Bundle, Condition::Lost, "it is that of the backup"),
        (_, Database::Kept, Keys::Lost) => row(
            Plane::Bundle,
            Condition::Sound,
            "kept; new authorities join it, and the old ones stay until they expire",
        ),
    }
}

fn release(facts: &Facts) -> Row {
    match &facts.release {
        None => row(Plane::Release, Condition::Broken, "there is none"),
        Some(release) if !release.deployed => {
            row(Plane::Release, Condition::Broken, format!("revision {} is {}", release.revision, release.status))
        }
        Some(release) => match wrong_version(facts) {
            Some(wrong) => row(Plane::Release, Condition::Broken, wrong),
            None => row(Plane::Release, Condition::Sound, format!("revision {} is deployed", release.revision)),
        },
    }
}

/// A template that asks for another version than the current one.
fn wrong_version(facts: &Facts) -> Option<String> {
    let current = facts.current.as_ref()?;
    let off = |what: &str, asks: Option<&Version>, wanted: &Version| {
        let asks = asks.filter(|asks| *asks != wanted)?;
        Some(format!("its {what} are to be {asks}, and {wanted} is what the database and the others are at"))
    };
    off("servers", facts.servers.template.as_ref(), &current.server)
        .or_else(|| off("agents", facts.agents.template.as_ref(), &current.agent))
}

fn servers(facts: &Facts) -> Row {
    let servers = &facts.servers;
    let serving = servers.pods.iter().filter(|pod| pod.state.serves()).count();
    let mut seen = vec![format!("{serving} of {} serve", servers.wanted)];
    if !servers.there {
        seen.push("their StatefulSet is not there".to_owned());
        return row(Plane::Servers, Condition::Broken, seen.join("; "));
    }
    let broken = servers.pods.iter().find(|pod| matches!(pod.state, PodState::Broken(_)));
    if let Some(pod) = broken.or_else(|| servers.pods.iter().find(|pod| !pod.state.serves())) {
        seen.push(format!("{}: {}", pod.name, pod.state.words().unwrap_or_default()));
        if pod.outdated && broken.is_some() {
            seen.push("it is of an older template, and the StatefulSet would wait for it for ever".to_owned());
        }
    }
    let condition = if broken.is_some() || servers.asked != servers.wanted {
        Condition::Broken
    } else if serving < servers.wanted {
        Condition::Coming
    } else {
        Condition::Sound
    };
    if servers.asked != servers.wanted {
        seen.push(format!("the StatefulSet asks for {}", servers.asked));
    }
    row(Plane::Servers, condition, seen.join("; "))
}

fn webhook(facts: &Facts) -> Row {
    match &facts.webhook {
        None => row(Plane::Webhook, Condition::Sound, "a ClusterSPIFFEID can be written"),
        Some(why) => row(Plane::Webhook, Condition::Broken, why.clone()),
    }
}

fn agents(facts: &Facts) -> Row {
    let agents = &facts.agents;
    let serving = agents.pods.iter().filter(|pod| pod.state.serves()).count();
    let all = format!("{serving} of {} serve the Workload API", agents.wanted.max(agents.pods.len()));
    if !agents.there {
        return row(Plane::Agents, Condition::Broken, format!("{all}; their DaemonSet is not there"));
    }
    let broken = agents.pods.iter().find(|pod| matches!(pod.state, PodState::Broken(_)));
    match broken.or_else(|| agents.pods.iter().find(|pod| !pod.state.serves())) {
        Some(pod) => {
            let condition = if broken.is_some() { Condition::Broken } else { Condition::Coming };
            row(Plane::Agents, condition, format!("{all}; {}: {}", pod.name, pod.state.words().unwrap_or_default()))
        }
        None if agents.pods.len() < agents.wanted.max(1) => row(Plane::Agents, Condition::Coming, all),
        None => row(Plane::Agents, Condition::Sound, all),
    }
}

fn agents_trust(facts: &Facts) -> Row {
    let chart = facts.current.as_ref().and_then(|current| current.chart.as_ref());
    for agent in &facts.agents.pods {
        if let Some(why) = distrust(facts, agent) {
            let version = agent.version.as_ref().or(facts.agents.template.as_ref());
            let then = version.map_or("", |version| reaction(version, chart).words());
            return row(Plane::AgentsTrust, Condition::Broken, format!("{}: {why}; {then}", agent.name));
        }
    }
    let Some(bundle) = &facts.bundle else {
        return row(Plane::AgentsTrust, Condition::Unknown, "no server to trust");
    };
    match facts.agents.pods.iter().find(|agent| agent.state.serves() && agent.attested == Some(false)) {
        Some(agent) => {
            row(Plane::AgentsTrust, Condition::Coming, format!("the servers have no record of {} yet", agent.name))
        }
        None => {
            row(Plane::AgentsTrust, Condition::Sound, format!("none complains of the {} authorities", bundle.len()))
        }
    }
}

/// Why a workload pod is not as it should be.
#[must_use]
pub fn trouble(facts: &Facts, workload: &Workload) -> Option<(Condition, String)> {
    let Some(held) = &workload.held else {
        return Some((Condition::Coming, format!("{} has no SVID yet", workload.name)));
    };
    if held.not_after <= facts.at {
        return Some((Condition::Broken, format!("the SVID of {} expired at {:.0}", workload.name, held.not_after)));
    }
    let bundle = facts.bundle_ids()?;
    match &held.anchor {
        Some(anchor) if !bundle.contains(anchor) => Some((
            Condition::Broken,
            format!("{} holds an SVID of an authority that is trusted no more", workload.name),
        )),
        _ if !held.bundle.is_empty() && held.bundle.is_disjoint(&bundle) => {
            Some((Condition::Broken, format!("{} trusts nothing that the servers sign with", workload.name)))
        }
        _ => None,
    }
}

/// How the workloads are.
#[must_use]
pub fn workloads(facts: &Facts) -> Row {
    if facts.workloads_wanted == 0 {
        return row(Plane::WorkloadsTrust, Condition::Sound, "the lab's workload is not deployed");
    }
    let troubles: Vec<_> = facts.workloads.iter().filter_map(|workload| trouble(facts, workload)).collect();
    let good = facts.workloads.len() - troubles.len();
    let all = format!("{good} of {} hold a valid SVID", facts.workloads_wanted);
    let worst = troubles.iter().find(|(condition, _)| *condition == Condition::Broken).or_else(|| troubles.first());
    match worst {
        Some((condition, words)) => row(Plane::WorkloadsTrust, *condition, format!("{all}; {words}")),
        None if good < facts.workloads_wanted => row(Plane::WorkloadsTrust, Condition::Coming, all),
        None => row(Plane::WorkloadsTrust, Condition::Sound, all),
    }
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
    need(Part::Keys, clears.then(|| "the journal beside the keys names authorities that the database has lost".into()));
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
