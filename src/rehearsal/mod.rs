//! The rehearsal world: everything outside `coastal`, in memory and in virtual time.
//!
//! It stands behind the same four seams as the real machine ([`crate::world`]), and nothing above them knows which
//! one it talks to. It models what our steps observe and no more; each behaviour is named after the fact that it
//! comes from. What it does not know is an error that names it.
//!
//! | file | plays |
//! |---|---|
//! | [`store`], [`api`], [`controllers`] | a Kubernetes cluster |
//! | `runner`, `process` | starting programs |
//! | `kind`, `docker`, `helm`, `kubectl` | these programs |
//! | `fetch` | the internet |
//! | `cluster`, `kubelet` | nodes and their images |
//! | [`charts`], `release` | the charts and helm's memory |
//! | `spire`, `workloads`, `authority`, `inside` | SPIRE, its workloads, and the programs in its containers |
//! | `operators` | what else makes objects in the cluster |
//! | [`faults`] | what can go wrong |
//! | `persist` | the world in a file, between calls |
//!
//! It must live inside a current-thread tokio runtime whose time is paused: then nothing sleeps really.

pub mod api;
mod archive;
mod authority;
pub mod changes;
pub mod charts;
mod cluster;
pub mod clusters;
pub mod controllers;
mod docker;
mod events;
pub mod faults;
mod fetch;
mod helm;
mod identity;
mod inside;
mod kind;
mod kubectl;
mod kubelet;
pub mod logs;
pub mod object;
mod operators;
mod persist;
mod pods;
mod process;
mod release;
mod runner;
mod spire;
pub mod store;
mod workloads;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod story_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use self::cluster::Cluster;
use self::faults::Faults;
use self::object::{items, text};
use self::store::{Clusters, Store};
use crate::error::Failure;
use crate::tools::{Tool, docker::full_reference};
use crate::world::{Clock, World};

pub use self::faults::Fault;

/// How a world begins.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is wrong in it from the start.
    pub faults: Vec<Fault>,
    /// Keeps the world between calls: read at the start if it is there, written by [`Rehearsal::save`].
    pub world_file: Option<PathBuf>,
    /// The time of day at which a new world begins.
    pub begins: Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        // Any moment would do; this one makes two runs of a story alike.
        let begins = Timestamp::constant(1_770_000_000, 0);
        Options { faults: Vec::new(), world_file: None, begins }
    }
}

/// A rehearsal world, from outside: what tests and `--world` do with it. Cheap to clone.
#[derive(Clone)]
pub struct Rehearsal {
    state: Arc<State>,
}

impl Rehearsal {
    /// A world. Must be called inside the runtime that it is to live in.
    ///
    /// # Errors
    /// [`Options::world_file`] is there and cannot be read.
    pub fn new(options: Options) -> Result<Self, Failure> {
        let faults = Arc::new(Mutex::new(Faults::new(options.faults)));
        let state = Arc::new(State {
            clock: VirtualClock { begins: Mutex::new(options.begins), started: Instant::now() },
            api_servers: Clusters::default(),
            faults,
            host: Mutex::default(),
            file: options.world_file,
        });
        persist::restore(&state)?;
        let foreign = state.faults().all(|fault| if let Fault::ForeignCluster(name) = fault { Some(name.clone()) } else { None });
        for name in foreign {
            state.make_foreign(&name);
        }
        Ok(Rehearsal { state })
    }

    /// The world as the rest of the program sees it.
    #[must_use]
    pub fn world(&self) -> World {
        World {
            runner: Arc::new(runner::RehearsalRunner(Arc::clone(&self.state))),
            connector: Arc::new(api::RehearsalConnector::new(self.state.api_servers.clone())),
            clock: Arc::new(StateClock(Arc::clone(&self.state))),
            fetcher: Arc::new(fetch::RehearsalFetcher(Arc::clone(&self.state))),
        }
    }

    /// Something goes wrong from now on.
    pub fn inject(&self, fault: Fault) {
        match &fault {
            Fault::ForeignCluster(name) => self.state.make_foreign(name),
            Fault::ReleasePending(age) => self.state.clusters_of_kind().iter().for_each(|cluster| cluster.leave_pending(*age)),
            _ => {}
        }
        self.state.faults().add(fault);
    }

    /// Nothing of that name (see [`Fault::ALL`]) is wrong any more.
    pub fn cure(&self, name: &str) {
        self.state.faults().cure(name);
    }

    /// The state of a kind cluster, if there is one of that name.
    #[must_use]
    pub fn store(&self, cluster: &str) -> Option<Store> {
        self.state.cluster(cluster).map(|cluster| cluster.store.clone())
    }

    /// Writes the world into [`Options::world_file`], if one was given.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> Result<(), Failure> {
        persist::save(&self.state)
    }
}

/// A new world.
///
/// # Errors
/// As [`Rehearsal::new`].
pub fn world(options: Options) -> Result<World, Failure> {
    Rehearsal::new(options).map(|rehearsal| rehearsal.world())
}

/// Tells the time of day as `begins` and what has passed on tokio's clock since.
struct VirtualClock {
    begins: Mutex<Timestamp>,
    started: Instant,
}

impl VirtualClock {
    fn now(&self) -> Timestamp {
        let begins = *self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        begins.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

struct StateClock(Arc<State>);

impl Clock for StateClock {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

/// The machine that `coastal` runs on, and its clusters.
struct State {
    clock: VirtualClock,
    api_servers: Clusters,
    faults: Arc<Mutex<Faults>>,
    host: Mutex<Host>,
    file: Option<PathBuf>,
}

#[derive(Default)]
struct Host {
    clusters: BTreeMap<String, Arc<Cluster>>,
    /// Images in Docker's own store.
    images: BTreeSet<String>,
    /// API servers so far: each gets a port of its own.
    servers: u16,
}

impl State {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tool's version: those that the facts were gathered with, or one that no lab accepts.
    fn version_of(&self, tool: Tool) -> &'static str {
        let old = self.faults().any(|fault| *fault == Fault::ToolOld(tool));
        match (tool, old) {
            (Tool::Docker, false) => "28.0.4",
            (Tool::Docker, true) => "17.3.2",
            (Tool::Kind, false) => "0.27.0",
            (Tool::Kind, true) => "0.7.0",
            (Tool::Helm, false) => "3.17.2",
            (Tool::Helm, true) => "2.17.0",
            (Tool::Kubectl, false) => "1.32.3",
            (Tool::Kubectl, true) => "1.12.10",
        }
    }

    fn cluster_names(&self) -> Vec<String> {
        self.host().clusters.keys().cloned().collect()
    }

    fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.host().clusters.get(name).cloned()
    }

    fn clusters_of_kind(&self) -> Vec<Arc<Cluster>> {
        self.host().clusters.values().cloned().collect()
    }

    fn make_cluster(self: &Arc<Self>, name: &str, nodes: BTreeMap<String, BTreeMap<String, String>>, ports: BTreeSet<u16>) -> Arc<Cluster> {
        let mut host = self.host();
        host.servers += 1;
        let server = format!("https://127.0.0.1:{}", 40_000 + host.servers);
        let cluster = Arc::new(self.new_cluster(name, server, nodes, ports));
        host.clusters.insert(name.to_owned(), Arc::clone(&cluster));
        cluster
    }

    fn new_cluster(
        self: &Arc<Self>,
        name: &str,
        server: String,
        nodes: BTreeMap<String, BTreeMap<String, String>>,
        ports: BTreeSet<u16>,
    ) -> Cluster {
        let state = Arc::downgrade(self);
        let store = Store::new(move || state.upgrade().map_or(Timestamp::UNIX_EPOCH, |state| state.clock.now()));
        Cluster::new(name, store, server, nodes, ports, Arc::clone(&self.faults))
    }

    /// A cluster that somebody else made: it carries no marker of a lab.
    fn make_foreign(self: &Arc<Self>, name: &str) {
        if self.cluster(name).is_none() {
            let nodes = ["control-plane", "worker"].map(|role| (format!("{name}-{role}"), BTreeMap::new()));
            self.make_cluster(name, nodes.into(), BTreeSet::new()).boot(self);
        }
    }

    fn remove_cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        let cluster = self.host().clusters.remove(name)?;
        self.api_servers.remove(&cluster.server);
        cluster.store.shut_down();
        Some(cluster)
    }

    /// Docker's words if one of the ports is taken, by another program or by another cluster.
    fn port_trouble(&self, ports: &BTreeSet<u16>) -> Option<String> {
        let taken = |port: &u16| self.faults().any(|fault| *fault == Fault::PortTaken(*port));
        if let Some(port) = ports.iter().find(|port| taken(port)) {
            return Some(format!("Error starting userland proxy: listen tcp4 127.0.0.1:{port}: bind: address already in use."));
        }
        let published: BTreeSet<u16> = self.host().clusters.values().flat_map(|cluster| cluster.ports.iter().copied()).collect();
        ports.intersection(&published).next().map(|port| format!("Bind for 127.0.0.1:{port} failed: port is already allocated."))
    }

    fn has_host_image(&self, image: &str) -> bool {
        self.host().images.contains(&full_reference(image))
    }

    fn add_host_image(&self, image: &str) {
        self.host().images.insert(full_reference(image));
    }

    /// The cluster that a context of a kubeconfig file leads to; if there is none, what a client says.
    fn reach(&self, kubeconfig: Option<&str>, context: Option<&str>) -> Result<Store, String> {
        let refused = |server: &str| {
            let host = server.trim_start_matches("https://").trim_start_matches("http://");
            format!("Get \"{server}/version\": dial tcp {host}: connect: connection refused")
        };
        let server = server_of(kubeconfig, context).ok_or_else(|| refused("http://localhost:8080"))?;
        self.api_servers.get(&server).ok_or_else(|| refused(&server))
    }

    fn cluster_at(&self, kubeconfig: Option<&str>, context: Option<&str>) -> Option<Arc<Cluster>> {
        let server = server_of(kubeconfig, context)?;
        self.clusters_of_kind().into_iter().find(|cluster| cluster.server == server)
    }
}

/// The URL that a context of a kubeconfig file names.
fn server_of(kubeconfig: Option<&str>, context: Option<&str>) -> Option<String> {
    let file: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig?).ok()?).ok()?;
    let named = |list: &str, name: &str| items(&file, list).find(|entry| text(entry, "/name") == name).cloned();
    let context = named("/contexts", context.unwrap_or_else(|| text(&file, "/current-context")))?;
    let cluster = named("/clusters", text(&context, "/context/cluster"))?;
    Some(text(&cluster, "/cluster/server").to_owned()).filter(|server| !server.is_empty())
}
