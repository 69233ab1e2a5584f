//! The controllers, the scheduler and the kubelets of a cluster, as one task in virtual time.
//!
//! They are level-triggered like the real ones: a change puts the keys of whom it concerns into a queue, and whoever
//! handles a key looks at how things are now. Nothing is remembered that could not be told from the objects, except
//! by the kubelet.

mod fate;
mod kubelet;
mod lifecycle;
mod pods;
mod scheduler;
mod seed;
mod workloads;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use super::api::select;
use super::changes::{Change, ChangeKind, Subscription};
use super::object::{items, text};
use super::store::{Key, Store};

pub use fate::{Crash, ImageError, Kubelet, PodFate, Probe, Readiness};
pub use pods::{is_ready, owned};
pub use seed::{NODE_READY_AFTER, seed_cluster};

/// Starts the controllers on the current runtime. They end when the store is shut down.
pub fn start(store: &Store, hook: Arc<dyn Kubelet>) -> JoinHandle<()> {
    let store = store.clone();
    let mut changes = store.subscribe();
    let mut manager = Manager {
        kubelet: kubelet::Kubelets::new(hook),
        store,
        queue: VecDeque::new(),
        queued: BTreeSet::new(),
        timers: BinaryHeap::new(),
        timed: 0,
    };
    tokio::spawn(async move {
        for change in changes.everything() {
            manager.concern(&change);
        }
        loop {
            manager.work_off(&mut changes);
            let timer = manager.timers.peek().map(|Reverse((at, ..))| *at);
            let due = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In a fixed order, so that a rehearsal is the same each time.
                biased;
                more = changes.next() => match more {
                    Some(more) => more.iter().for_each(|change| manager.concern(change)),
                    None => return,
                },
                () = due => manager.ring(),
            }
        }
    })
}

struct Manager {
    store: Store,
    kubelet: kubelet::Kubelets,
    queue: VecDeque<Key>,
    queued: BTreeSet<Key>,
    timers: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// Counts timers, so that those for the same instant ring in the order in which they were set.
    timed: u64,
}

impl Manager {
    fn enqueue(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    fn ring(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, _, key))) = self.timers.pop() {
            if at > now {
                self.timers.push(Reverse((at, self.timed, key)));
                self.timed += 1;
                return;
            }
            self.enqueue(key);
        }
    }

    fn work_off(&mut self, changes: &mut Subscription) {
        while let Some(key) = self.queue.pop_front() {
            self.queued.remove(&key);
            if let Some(delay) = self.handle(&key) {
                self.timed += 1;
                self.timers.push(Reverse((Instant::now() + delay, self.timed, key)));
            }
            for change in changes.ready() {
                self.concern(&change);
            }
        }
    }

    /// Queues whom a change concerns.
    fn concern(&mut self, change: &Change) {
        let object = &change.object;
        if change.kind == ChangeKind::Deleted {
            self.kubelet.forget(text(object, "/metadata/uid"));
            for dependent in self.store.dependents(text(object, "/metadata/uid")) {
                self.enqueue(Key::of(&dependent));
            }
        } else {
            self.enqueue(change.key.clone());
        }
        for owner in items(object, "/metadata/ownerReferences") {
            self.enqueue(owner_key(owner, change.key.namespace()));
        }
        let namespace = change.key.namespace();
        let mut also = Vec::new();
        match change.key.kind.as_str() {
            "Pod" => {
                also.extend(self.store.list_shared("v1", "Service", Some(namespace)).into_iter().filter(|service| {
                    let selects = |pod: &Value| select::selects_plainly(&service["spec"]["selector"], pod);
                    selects(object) || change.before.as_deref().is_some_and(selects)
                }));
                for volume in items(object, "/spec/volumes") {
                    let claim = text(volume, "/persistentVolumeClaim/claimName");
                    also.extend(self.store.shared(&Key::new("v1", "PersistentVolumeClaim", namespace, claim)));
                }
                if change.kind == ChangeKind::Deleted || pods::has_ended(object) {
                    also.extend(scheduler::unscheduled(&self.store));
                }
            }
            "Node" => {
                also.extend(scheduler::unscheduled(&self.store));
                also.extend(self.store.list_shared("apps/v1", "DaemonSet", None));
            }
            "PersistentVolumeClaim" => also.extend(scheduler::unscheduled(&self.store)),
            _ => {}
        }
        for object in also {
            self.enqueue(Key::of(&object));
        }
        if change.kind == ChangeKind::Deleted {
            let namespace = self.store.get(&Key::new("v1", "Namespace", "", namespace));
            let crds = self.store.list_shared("apiextensions.k8s.io/v1", "CustomResourceDefinition", None);
            let crds = crds
                .into_iter()
                .filter(|crd| text(crd, "/spec/names/kind") == change.key.kind)
                .map(|crd| Key::of(&crd));
            for key in namespace.iter().map(Key::of).chain(crds) {
                self.enqueue(key);
            }
        }
    }

    /// Looks after one object; says when to look again although nothing changed.
    fn handle(&mut self, key: &Key) -> Option<Duration> {
        let store = &self.store;
        let object = store.shared(key)?;
        if lifecycle::collect(store, key, &object) {
            return None;
        }
        let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
        match key.kind.as_str() {
            "Namespace" => lifecycle::namespace(store, key, deleting),
            "CustomResourceDefinition" => lifecycle::definition(store, key, &object, deleting),
            "PersistentVolumeClaim" => lifecycle::claim(store, key, &object, deleting),
            "Service" => lifecycle::endpoints(store, key, &object),
            "Node" => seed::node(store, key, &object),
            "Pod" if text(&object, "/spec/nodeName").is_empty() => {
                if !deleting {
                    scheduler::place(store, key, &object);
                }
                None
            }
            "Pod" => self.kubelet.sync(store, key, &object),
            _ if deleting => None,
            "Deployment" => workloads::deployment(store, key, &object),
            "ReplicaSet" => workloads::replica_set(store, key, &object),
            "StatefulSet" => workloads::stateful_set(store, key, &object),
            "DaemonSet" => workloads::daemon_set(store, key, &object),
            "Job" => workloads::job(store, key, &object),
            _ => None,
        }
    }
}

/// The key of an owner of an object in `namespace`. Owners of objects in namespaces live there too, in the lab.
fn owner_key(owner: &Value, namespace: &str) -> Key {
    Key::new(text(owner, "/apiVersion"), text(owner, "/kind"), namespace, text(owner, "/name"))
}
