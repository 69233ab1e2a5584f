//! The machine that `coastal` runs on in this world: its clock, its Docker, its kind clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::faults::{Fault, Faults};
use super::object::{items, text};
use super::store::{Clusters, Store};
use crate::tools::{Tool, docker::full_reference};
use crate::world::{Clock, HostFacts};

/// Tells the time of day as `begins` and what has passed on tokio's clock since.
pub(super) struct VirtualClock {
    pub(super) begins: Mutex<Timestamp>,
    pub(super) started: Instant,
}

impl VirtualClock {
    pub(super) fn now(&self) -> Timestamp {
        let begins = *self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        begins.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

pub(super) struct StateClock(pub(super) Arc<State>);

impl Clock for StateClock {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

/// A laptop with room for the lab, whose limits are those that kind asks for.
pub(super) struct StateHost(pub(super) Arc<State>);

impl crate::world::Host for StateHost {
    fn look(&self, ports: &[u16], _directory: &Path) -> HostFacts {
        let taken = |port: &u16| self.0.port_trouble(&BTreeSet::from([*port])).is_some();
        HostFacts {
            memory_available: Some(12 << 30),
            disk_free: Some(80 << 30),
            ports_taken: ports.iter().copied().filter(taken).collect(),
            inotify_watches: Some(524_288),
            inotify_instances: Some(512),
        }
    }
}

/// The machine that `coastal` runs on, and its clusters.
pub(super) struct State {
    pub(super) clock: VirtualClock,
    pub(super) api_servers: Clusters,
    pub(super) faults: Arc<Mutex<Faults>>,
    pub(super) host: Mutex<Host>,
    pub(super) file: Option<PathBuf>,
}

/// What is on the machine.
#[derive(Default)]
pub(super) struct Host {
    pub(super) clusters: BTreeMap<String, Arc<Cluster>>,
    /// Images in Docker's own store.
    pub(super) images: BTreeSet<String>,
    /// API servers so far: each gets a port of its own.
    pub(super) servers: u16,
}

impl State {
    pub(super) fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tool's version: those that the facts were gathered with, or one that no lab accepts.
    pub(super) fn version_of(&self, tool: Tool) -> &'static str {
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

    pub(super) fn cluster_names(&self) -> Vec<String> {
        self.host().clusters.keys().cloned().collect()
    }

    pub(super) fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.host().clusters.get(name).cloned()
    }

    pub(super) fn clusters_of_kind(&self) -> Vec<Arc<Cluster>> {
        self.host().clusters.values().cloned().collect()
    }

    pub(super) fn make_cluster(
        self: &Arc<Self>,
        name: &str,
        nodes: BTreeMap<String, BTreeMap<String, String>>,
        ports: BTreeSet<u16>,
    ) -> Arc<Cluster> {
        let mut host = self.host();
        host.servers += 1;
        let server = format!("https://127.0.0.1:{}", 40_000 + host.servers);
        let cluster = Arc::new(self.new_cluster(name, server, nodes, ports));
        host.clusters.insert(name.to_owned(), Arc::clone(&cluster));
        cluster
    }

    pub(super) fn new_cluster(
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
    pub(super) fn make_foreign(self: &Arc<Self>, name: &str) {
        if self.cluster(name).is_none() {
            let nodes = ["control-plane", "worker"].map(|role| (format!("{name}-{role}"), BTreeMap::new()));
            self.make_cluster(name, nodes.into(), BTreeSet::new()).boot(self);
        }
    }

    pub(super) fn remove_cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        let cluster = self.host().clusters.remove(name)?;
        self.api_servers.remove(&cluster.server);
        cluster.store.shut_down();
        Some(cluster)
    }

    /// Docker's words if one of the ports is taken, by another program or by another cluster.
    pub(super) fn port_trouble(&self, ports: &BTreeSet<u16>) -> Option<String> {
        let taken = |port: &u16| self.faults().any(|fault| *fault == Fault::PortTaken(*port));
        if let Some(port) = ports.iter().find(|port| taken(port)) {
            return Some(format!(
                "Error starting userland proxy: listen tcp4 127.0.0.1:{port}: bind: address already in use."
            ));
        }
        let published: BTreeSet<u16> =
            self.host().clusters.values().flat_map(|cluster| cluster.ports.iter().copied()).collect();
        ports
            .intersection(&published)
            .next()
            .map(|port| format!("Bind for 127.0.0.1:{port} failed: port is already allocated."))
    }

    pub(super) fn has_host_image(&self, image: &str) -> bool {
        self.host().images.contains(&full_reference(image))
    }

    pub(super) fn add_host_image(&self, image: &str) {
        self.host().images.insert(full_reference(image));
    }

    /// The cluster that a context of a kubeconfig file leads to; if there is none, what a client says.
    pub(super) fn reach(&self, kubeconfig: Option<&str>, context: Option<&str>) -> Result<Store, String> {
        let refused = |server: &str| {
            let host = server.trim_start_matches("https://").trim_start_matches("http://");
            format!("Get \"{server}/version\": dial tcp {host}: connect: connection refused")
        };
        let server = server_of(kubeconfig, context).ok_or_else(|| refused("http://localhost:8080"))?;
        self.api_servers.get(&server).ok_or_else(|| refused(&server))
    }

    pub(super) fn cluster_at(&self, kubeconfig: Option<&str>, context: Option<&str>) -> Option<Arc<Cluster>> {
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
