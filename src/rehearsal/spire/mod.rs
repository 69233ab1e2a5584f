//! SPIRE: data store, servers, controller manager, agents, and what reaches the workloads.
//!
//! Each pass looks at the pods that run, moves on what has become due, and says when to look again. A process keeps
//! what it read when it started, as the real ones do.

mod agent;
mod authorities;
mod change;
mod config;
pub(super) mod dump;
pub(super) mod keys;
mod manager;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authority::Authority;
use super::faults::Faults;
use super::object::text;
use super::store::Store;
use super::{pods, workloads};

pub(super) use self::agent::{Agent, agent_container, cannot_attest};
pub(super) use self::authorities::struck_after_prepare;
pub(super) use self::config::{AgentSettings, Settings};
pub(super) use self::server::{Journal, REFUSES_AFTER, Server};

/// The state of everything SPIRE in one cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Spire {
    /// By where the data store keeps its files.
    pub(super) databases: BTreeMap<String, Database>,
    /// What servers keep on disk, by their claim.
    disks: BTreeMap<String, server::Disk>,
    /// Their JWT keys, by their claim, and how many each has made.
    #[serde(default)]
    jwt: BTreeMap<String, Journal>,
    #[serde(default)]
    jwt_made: BTreeMap<String, u32>,
    /// The bundle as each server's process read it last, and when.
    #[serde(skip)]
    heard: BTreeMap<String, (Timestamp, Value)>,
    /// When each running process was first seen.
    pub(super) since: BTreeMap<String, Timestamp>,
    /// The processes of servers that are up.
    pub(super) servers: BTreeMap<String, Server>,
    /// The processes of agents that serve the Workload API.
    pub(super) agents: BTreeMap<String, Agent>,
    /// The bundles that agents keep on a volume of their pods, by its uid.
    #[serde(default)]
    kept_bundles: BTreeMap<String, Vec<Authority>>,
    pub(super) workloads: BTreeMap<String, workloads::Workload>,
}

/// A data store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Database {
    /// Set when the data store makes its files, and not changed by a later environment.
    pub(super) password: String,
    /// The row of the table `migrations`.
    pub(super) migrations: Option<(u32, Version)>,
    /// The trust domain's bundle.
    pub(super) bundle: Vec<Authority>,
    /// The JWT keys in it.
    #[serde(default)]
    pub(super) jwt: Vec<Authority>,
    /// Seeds of those that are tainted, and since when.
    #[serde(default)]
    pub(super) tainted: BTreeMap<String, Timestamp>,
    /// Moves on when a CA comes or goes: workloads hear of nothing else in the bundle.
    #[serde(default)]
    pub(super) roots: u64,
    /// Moves on with each change of the bundle.
    pub(super) sequence: u64,
    pub(super) bundle_changed: Option<Timestamp>,
    /// Registration entries, by the uid of the pod that they are for.
    pub(super) entries: BTreeMap<String, Entry>,
    /// Attested agents, by the uid of their node.
    pub(super) agents: BTreeMap<String, AttestedAgent>,
    /// The journals of servers that keep them here, by their claim.
    pub(super) journals: BTreeMap<String, Journal>,
}

/// A registration entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    /// The path of its SPIFFE id.
    pub(super) path: String,
    /// The path of its parent's.
    pub(super) parent: String,
    pub(super) hint: String,
    /// The identity that it was made by, as it was then.
    origin: String,
    pub(super) created: Timestamp,
}

/// An attested agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttestedAgent {
    pub(super) path: String,
    pub(super) attested: Timestamp,
    pub(super) svid_ttl: SignedDuration,
    pub(super) version: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    /// The name of its node.
    #[serde(default)]
    pub(super) node: String,
    #[serde(default)]
    pub(super) banned: bool,
}

/// A pass over the cluster at one moment.
pub(super) struct Pass<'a> {
    pub(super) store: &'a Store,
    pub(super) faults: &'a Faults,
    pub(super) now: Timestamp,
    pub(super) pods: Vec<Arc<Value>>,
    /// The processes of servers that answer.
    up: BTreeSet<String>,
    /// The servers that agents are connected to, by their processes.
    pub(super) links: BTreeMap<String, String>,
    /// The soonest thing that is not due yet.
    next: Option<Timestamp>,
    /// Certificates of authorities that were asked for, by their seeds.
    certificates: BTreeMap<String, Vec<u8>>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(store: &'a Store, faults: &'a Faults) -> Self {
        Pass {
            store,
            faults,
            now: store.now(),
            pods: pods::all(store)
                .into_iter()
                .filter(|pod| store.down(text(pod, "/spec/nodeName")).is_none())
                .collect(),
            up: BTreeSet::new(),
            links: BTreeMap::new(),
            next: None,
            certificates: BTreeMap::new(),
        }
    }

    /// Whether `time` has come; if not, somebody will look again then.
    pub(super) fn due(&mut self, time: Timestamp) -> bool {
        if time > self.now {
            self.next = Some(self.next.map_or(time, |next| next.min(time)));
        }
        time <= self.now
    }

    /// The certificates of a bundle, in DER: made once for all who receive it at that moment.
    pub(super) fn certificates(&mut self, bundle: &[Authority]) -> Vec<Vec<u8>> {
        let certificate = |authority: &Authority| {
            if let Some(known) = self.certificates.get(&authority.seed) {
                return Some(known.clone());
            }
            let made = authority.certificate().ok()?;
            self.certificates.insert(authority.seed.clone(), made.clone());
            Some(made)
        };
        bundle.iter().filter_map(certificate).collect()
    }

    /// When to look again, if nothing changes before.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// A container writes a line as SPIRE does.
    pub(super) fn log(&self, pod: &Value, container: &str, line: &str) {
        log(self.store, pod, container, line);
    }
}

fn log(store: &Store, pod: &Value, container: &str, line: &str) {
    let line = format!("time=\"{}\" {line}", store.timestamp());
    store.append_log(pods::namespace(pod), pods::name(pod), container, &line);
}

impl Spire {
    /// Moves on what is due.
    pub(super) fn pass(&mut self, pass: &mut Pass<'_>) {
        let all = pass.pods.clone();
        self.forget_the_dead(&all);
        for pod in &all {
            if let Some(container) = pods::container(pod, "postgres")
                && pods::is_database(container)
                && pods::life(pod, text(container, "/name")).is_some()
            {
                let password = pods::env(pass.store, pod, container, "POSTGRES_PASSWORD").unwrap_or_default();
                self.databases
                    .entry(pods::home(pass.store, pod))
                    .or_insert_with(|| Database { password, ..Database::default() });
            }
        }
        for pod in &all {
            self.server(pass, pod);
        }
        let up = all.iter().filter_map(|pod| self.server_up(pass.store, pass.faults, pod));
        pass.up = up.map(|(life, _)| life).collect();
        self.entries(pass);
        for pod in &all {
            self.agent(pass, pod);
        }
        let links = self.agents.iter().filter_map(|(life, agent)| {
            let trusts = |server: &Server| agent.trusts(server);
            Some((life.clone(), self.reached(pass, &agent.settings, life, trusts)?))
        });
        pass.links = links.collect();
        for pod in &all {
            self.workload(pass, pod);
        }
    }

    fn forget_the_dead(&mut self, all: &[Arc<Value>]) {
        let uids: BTreeSet<&str> = all.iter().map(|pod| pods::uid(pod)).collect();
        let lives: BTreeSet<String> = all.iter().flat_map(|pod| pods::lives(pod)).collect();
        self.kept_bundles.retain(|uid, _| uids.contains(uid.as_str()));
        self.since.retain(|life, _| life.split('/').next().is_some_and(|uid| uids.contains(uid)));
        self.servers.retain(|life, _| lives.contains(life));
        self.agents.retain(|life, _| lives.contains(life));
        self.workloads.retain(|life, _| lives.contains(life));
    }

    /// As if it had always been so: the database holds this row, and the journals of all servers.
    pub(super) fn begin(&mut self, row: &(u32, Version)) {
        for database in self.databases.values_mut().filter(|database| database.migrations.is_some()) {
            database.migrations = Some(row.clone());
            let kept = self.disks.iter().filter_map(|(home, disk)| Some((home.clone(), disk.journal.clone()?)));
            database.journals.extend(kept);
        }
    }

    /// When a process was first seen to run: now, if it is new.
    pub(super) fn since(&mut self, life: &str, now: Timestamp) -> Timestamp {
        *self.since.entry(life.to_owned()).or_insert(now)
    }
}

/// The version of the program in a container, by its image's tag. One that is no version counts as the newest.
pub(super) fn version_of(container: &Value) -> Version {
    Version::parse(pods::tag(text(container, "/image"))).unwrap_or(Version::new(1, 15, 3))
}
