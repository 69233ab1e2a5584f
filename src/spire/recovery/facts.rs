//! What was seen of a lab, as far as its recovery is concerned.

use std::collections::BTreeSet;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::version::Current;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// When.
    pub at: Timestamp,
    /// The cluster's nodes.
    pub nodes: Vec<Node>,
    /// Whether the API server answers. If not, nothing below is known.
    pub reached: bool,
    /// The data store.
    pub database: DatabaseFacts,
    /// helm's release; none if there is none.
    pub release: Option<ReleaseFacts>,
    /// The versions that are the current ones; none if nothing that is known could start.
    pub current: Option<Current>,
    /// The servers.
    pub servers: ServerFacts,
    /// Why a write of a ClusterSPIFFEID is refused, if it is; none also if there is no such kind.
    pub webhook: Option<String>,
    /// The agents.
    pub agents: AgentFacts,
    /// The bundle as a server shows it: key ids of its authorities, with the time since which each is valid.
    pub bundle: Option<Vec<Authority>>,
    /// Registration entries, if a server tells.
    pub entries: Option<u64>,
    /// The lab's workload.
    pub workloads: Vec<Workload>,
    /// How many workload pods the lab wants; 0 if it is not deployed.
    pub workloads_wanted: usize,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether its container is stopped; only of kind's nodes this is known.
    pub stopped: bool,
    /// Its Ready condition.
    pub ready: bool,
}

/// The data store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Why it does not answer, if it does not.
    pub silent: Option<String>,
    /// The row of `migrations`: schema, and the newest version that wrote there. None if it is empty.
    pub row: Option<(u32, Version)>,
    /// Whether it has a bundle: a server that ends before it has made one leaves tables without. Absent if not known.
    #[serde(default)]
    pub bundle: Option<bool>,
}

/// helm's release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFacts {
    /// The newest revision.
    pub revision: u32,
    /// helm's word for its state.
    pub status: String,
    /// Whether that is `deployed`.
    pub deployed: bool,
}

/// The servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Whether their StatefulSet is there.
    pub there: bool,
    /// How many the lab wants.
    pub wanted: usize,
    /// How many the StatefulSet asks for.
    pub asked: usize,
    /// What its template asks for.
    pub template: Option<Version>,
    /// Their pods.
    pub pods: Vec<ServerPod>,
    /// Their claims that are not there, by name.
    pub claims_missing: Vec<String>,
    /// When the claims that are there were made.
    pub claims_made: Vec<Timestamp>,
}

/// A server pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPod {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: PodState,
    /// The version of the process, if it answers.
    pub version: Option<Version>,
    /// Made from another template than the newest: an ordered StatefulSet replaces it only once it is ready.
    pub outdated: bool,
}

/// How a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "words", rename_all = "kebab-case")]
pub enum PodState {
    /// It serves.
    Serving,
    /// It is on its way, and time will do.
    Starting(String),
    /// It does not serve, and time alone will not do.
    Broken(String),
}

impl PodState {
    /// Whether it serves.
    #[must_use]
    pub fn serves(&self) -> bool {
        *self == PodState::Serving
    }

    /// Why it does not.
    #[must_use]
    pub fn words(&self) -> Option<&str> {
        match self {
            PodState::Serving => None,
            PodState::Starting(words) | PodState::Broken(words) => Some(words),
        }
    }
}

/// The agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Whether their DaemonSet is there.
    pub there: bool,
    /// How many nodes it wants one on.
    pub wanted: usize,
    /// What its template asks for.
    pub template: Option<Version>,
    /// Their pods.
    pub pods: Vec<AgentPod>,
}

/// An agent's pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPod {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// How it is.
    pub state: PodState,
    /// The version of the process, if it answers.
    pub version: Option<Version>,
    /// Whether the servers have a record of it; none if no server tells.
    pub attested: Option<bool>,
    /// Whether it says that it does not trust the servers, in its own words.
    pub complains: Option<String>,
}

/// An authority of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Authority {
    /// Its key id.
    pub key_id: String,
    /// Valid since.
    pub not_before: Option<Timestamp>,
}

/// A workload pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// What it holds, if it has logged any.
    pub held: Option<Held>,
}

/// An SVID with the bundle that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// Key id of the authority that it chains to; not every program logs it.
    pub anchor: Option<String>,
    /// Key ids of the bundle; empty if the program does not log them.
    pub bundle: BTreeSet<String>,
}

impl Facts {
    /// Key ids of the servers' bundle.
    #[must_use]
    pub fn bundle_ids(&self) -> Option<BTreeSet<String>> {
        self.bundle.as_ref().map(|bundle| bundle.iter().map(|authority| authority.key_id.clone()).collect())
    }

    /// Whether the bundle that a workload of that node was given is the servers': if so, the node's agent trusts them.
    /// None if nobody can tell.
    #[must_use]
    pub fn knows_bundle(&self, node: &str) -> Option<bool> {
        let bundle = self.bundle_ids()?;
        let told: Vec<&Held> = self
            .workloads
            .iter()
            .filter(|workload| workload.node == node)
            .filter_map(|workload| workload.held.as_ref())
            .filter(|held| !held.bundle.is_empty())
            .collect();
        if told.is_empty() { None } else { Some(told.iter().any(|held| held.bundle == bundle)) }
    }

    /// When the first SVID that a workload holds runs out.
    #[must_use]
    pub fn first_expiry(&self) -> Option<Timestamp> {
        self.workloads.iter().filter_map(|workload| Some(workload.held.as_ref()?.not_after)).min()
    }
}
