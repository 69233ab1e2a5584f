//! A kind cluster of this world: its nodes and their images, its API server, and everything that lives in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::charts::Chart;
use super::faults::{Fault, Faults};
use super::release::{Info, Release};
use super::spire::{Pass, Spire};
use super::store::Store;
use super::{State, controllers, operators};
use crate::tools::docker::full_reference;

/// What kind's node image brings along.
const NODE_IMAGES: &[&str] = &[
    "docker.io/kindest/kindnetd:v20250214-acbabc1a",
    "docker.io/kindest/local-path-helper:v20241212-8ac705d0",
    "docker.io/kindest/local-path-provisioner:v20250214-acbabc1a",
    "registry.k8s.io/coredns/coredns:v1.11.3",
    "registry.k8s.io/etcd:3.5.16-0",
    "registry.k8s.io/kube-apiserver:v1.32.3",
    "registry.k8s.io/kube-controller-manager:v1.32.3",
    "registry.k8s.io/kube-proxy:v1.32.3",
    "registry.k8s.io/kube-scheduler:v1.32.3",
    "registry.k8s.io/pause:3.10",
];

/// A cluster.
pub(super) struct Cluster {
    /// kind's name for it.
    pub(super) name: String,
    pub(super) created: Timestamp,
    /// The nodes with their labels.
    pub(super) nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// Ports of the host that lead into it.
    pub(super) ports: BTreeSet<u16>,
    /// URL of its API server.
    pub(super) server: String,
    pub(super) store: Store,
    pub(super) images: Mutex<BTreeMap<String, BTreeSet<String>>>,
    spire: Mutex<Spire>,
    /// Something of SPIRE's state changed that is no object.
    changed: Notify,
    faults: Arc<Mutex<Faults>>,
}

impl Cluster {
    /// Nodes that do not run yet.
    pub(super) fn new(
        name: &str,
        store: Store,
        server: String,
        nodes: BTreeMap<String, BTreeMap<String, String>>,
        ports: BTreeSet<u16>,
        faults: Arc<Mutex<Faults>>,
    ) -> Self {
        let brought: BTreeSet<String> = NODE_IMAGES.iter().map(|image| (*image).to_owned()).collect();
        let images = nodes.keys().map(|node| (node.clone(), brought.clone())).collect();
        let created = store.now();
        Cluster {
            name: name.to_owned(),
            created,
            nodes,
            ports,
            server,
            store,
            images: Mutex::new(images),
            spire: Mutex::default(),
            changed: Notify::new(),
            faults,
        }
    }

    /// The control plane starts: objects of its own, the API server, the controllers.
    pub(super) fn boot(self: &Arc<Self>, state: &State) {
        let labels = self.nodes.values().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        controllers::seed_cluster(&self.store, &self.name, &labels);
        if let Some(age) =
            self.faults().find(|fault| if let Fault::ReleasePending(age) = fault { Some(*age) } else { None })
        {
            self.leave_pending(age);
        }
        self.run(state);
    }

    /// Everything in the cluster begins to act: after [`Cluster::boot`], and after being restored.
    pub(super) fn run(self: &Arc<Self>, state: &State) {
        state.api_servers.insert(&self.server, self.store.clone());
        controllers::start(&self.store, self.clone());
        let mut changes = self.store.subscribe();
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let next = cluster.pass();
                let soon = async {
                    match next {
                        Some(wait) => sleep_until(Instant::now() + wait).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    more = changes.next() => match more {
                        Some(more) => more.iter().for_each(|change| operators::follow(&cluster.store, change)),
                        None => return,
                    },
                    () = cluster.changed.notified() => {}
                    () = soon => {}
                }
            }
        });
    }

    /// Moves on the programs in the cluster; says how long nothing more will happen by itself.
    fn pass(&self) -> Option<Duration> {
        operators::pass(&self.store);
        let nodes = super::nodes::pass(&self.store);
        let faults = self.faults().clone();
        let mut pass = Pass::new(&self.store, &faults);
        self.spire().pass(&mut pass);
        let next = pass.next().into_iter().chain(nodes).min();
        next.map(|next| Duration::try_from(next.duration_since(pass.now)).unwrap_or_default())
    }

    pub(super) fn spire(&self) -> MutexGuard<'_, Spire> {
        self.spire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets SPIRE see what was changed in its state.
    pub(super) fn wake_spire(&self) {
        self.changed.notify_one();
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images on a node.
    pub(super) fn images(&self, node: &str) -> BTreeSet<String> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned().unwrap_or_default()
    }

    /// An image comes onto a node.
    pub(super) fn add_image(&self, node: &str, image: &str) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let image = if image.starts_with("sha256:") { image.to_owned() } else { full_reference(image) };
        images.entry(node.to_owned()).or_default().insert(image);
    }

    /// As kind writes it; the credentials are not real ones.
    pub(super) fn kubeconfig(&self) -> String {
        let context = format!("kind-{}", self.name);
        let secret = BASE64.encode("rehearsal");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": context,
            "clusters": [{"name": context, "cluster": {"certificate-authority-data": secret, "server": self.server}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "users": [{"name": context, "user": {"client-certificate-data": secret, "client-key-data": secret}}],
        });
        serde_yaml::to_string(&kubeconfig).unwrap_or_default()
    }

    /// The lab's own cure for lost servers (facts, section 9): the StatefulSet is deleted, then an old revision is gone
    /// back to. Returns when the wreck has settled.
    pub(super) async fn roll_back(&self, revision: u32) {
        for set in self.store.list("apps/v1", "StatefulSet", None) {
            if super::pods::name(&set) == "spire-server" {
                self.store.delete(&super::store::Key::of(&set), super::store::Propagation::Background);
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let deadline = Instant::now() + Duration::from_secs(300);
        // How it goes is the wreck.
        let _ = super::helm::roll_back(&self.store, "default", "spire", revision, deadline).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// What a helm leaves that was killed while it installed the release `spire` that long ago.
    pub(super) fn leave_pending(&self, age: Duration) {
        let (Some(chart), Ok(then)) = (Chart::find("spire", "0.13.0"), self.store.now().checked_sub(age)) else {
            return;
        };
        let past = super::release::history(&self.store, "default", "spire");
        let status = if past.is_empty() { "pending-install" } else { "pending-upgrade" };
        let info = Info {
            first_deployed: then,
            last_deployed: then,
            description: "Preparing upgrade".to_owned(),
            status: status.to_owned(),
        };
        Release {
            name: "spire".to_owned(),
            namespace: "default".to_owned(),
            version: past.last().map_or(1, |last| last.version + 1),
            info,
            chart: (&chart).into(),
            config: Value::Object(serde_json::Map::new()),
            manifest: Vec::new(),
            hooks: Vec::new(),
        }
        .save(&self.store);
    }
}
