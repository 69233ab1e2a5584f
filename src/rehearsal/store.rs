//! The state of one cluster: objects, their change log, and pod logs. What etcd and the API server's registry do.
//!
//! Objects are JSON in full Kubernetes form. Every write moves one revision number on, which is the
//! `resourceVersion` that clients see, so that watches can be resumed from any version that is still in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::api::{defaults, kinds};
use super::identity::uid_from;
use super::logs::{Lines, Logs};
use super::object::{items, number, set, text, unset};

pub use super::changes::{Change, ChangeKind, Subscription};
pub use super::clusters::Clusters;
pub use super::identity::short_hash;

/// So many changes can be watched back to; older versions are answered with 410.
const LOG_LENGTH: usize = 2048;
/// Instances of a definition go before it does.
pub(super) const DEFINITION_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What identifies an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// `apps/v1`, or `v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Absent for objects without a namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key; an empty namespace is none.
    #[must_use]
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Key {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    /// The key of a pod.
    #[must_use]
    pub fn pod(namespace: &str, name: &str) -> Self {
        Key::new("v1", "Pod", namespace, name)
    }

    /// The key of `object`.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        Key::new(
            text(object, "/apiVersion"),
            text(object, "/kind"),
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        )
    }

    /// The namespace, or the empty text.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// What becomes of the objects that an object owns when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes at once, the garbage collector takes its dependents later.
    Background,
    /// The object goes when its dependents are gone.
    Foreground,
    /// The dependents stay and lose their owner.
    Orphan,
}

/// A node that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Since when.
    pub since: Timestamp,
    /// When it is up again, if it is being started.
    pub starts: Option<Timestamp>,
}

/// One cluster's state. Cheap to clone; all clones are the same state.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    tick: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Arc<Value>>,
    /// What each field manager applied last (server-side apply): the fields it owns.
    applied: BTreeMap<Key, BTreeMap<String, Value>>,
    revision: u64,
    log: VecDeque<Change>,
    logs: Logs,
    /// Nodes that are down: no program runs there.
    down: BTreeMap<String, Down>,
    shut: bool,
}

/// A cluster's state as it is kept in a file between runs.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    revision: u64,
    objects: Vec<Value>,
    applied: Vec<(Key, BTreeMap<String, Value>)>,
    logs: Logs,
    #[serde(default)]
    down: BTreeMap<String, Down>,
}

#[expect(clippy::must_use_candidate, reason = "most are called for what they do to the state")]
impl Store {
    /// An empty cluster whose wall clock is `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Store { inner: Arc::default(), now: Arc::new(now), tick: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// The time of day as objects carry it, in whole seconds.
    #[must_use]
    pub fn timestamp(&self) -> String {
        self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// The object, if it is there.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.shared(key).map(|object| Value::clone(&object))
    }

    /// As [`Store::get`], without copying the object.
    #[must_use]
    pub fn shared(&self, key: &Key) -> Option<Arc<Value>> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a kind, of one namespace or of all, sorted by namespace and name.
    #[must_use]
    pub fn list(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Vec<Value> {
        self.list_shared(api_version, kind, namespace).iter().map(|object| Value::clone(object)).collect()
    }

    /// As [`Store::list`], without copying the objects.
    #[must_use]
    pub fn list_shared(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let inner = self.lock();
        let from =
            Key { api_version: api_version.to_owned(), kind: kind.to_owned(), namespace: None, name: String::new() };
        inner
            .objects
            .range(from..)
            .take_while(|(key, _)| key.api_version == api_version && key.kind == kind)
            .filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace() == namespace))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Every object for which `wanted` is true, of whatever kind.
    pub fn select(&self, wanted: impl Fn(&Key, &Value) -> bool) -> Vec<Arc<Value>> {
        self.lock()
            .objects
            .iter()
            .filter(|(key, object)| wanted(key, object))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// The revision of the last change: the `resourceVersion` of lists.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Creates or replaces, as an all-powerful controller: no admission. A status that is not given is kept, and so
    /// is what the server itself manages in the metadata. Returns the object as it is stored.
    pub fn upsert(&self, object: Value) -> Value {
        self.put(object, None)
    }

    /// Changes an object in place, e.g. its status. Nothing if it is not there.
    pub fn update(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut inner = self.lock();
        let before = inner.objects.get(key).cloned()?;
        let mut object = Value::clone(&before);
        change(&mut object);
        let settled = self.settle(&inner, Some(&before), object);
        Some(self.commit(&mut inner, key.clone(), Some(before), settled))
    }

    /// What [`Store::put`] would store: defaults and bookkeeping filled in. Changes nothing (a dry run).
    #[must_use]
    pub fn preview(&self, object: Value) -> Value {
        let inner = self.lock();
        let before = inner.objects.get(&Key::of(&object)).cloned();
        self.settle(&inner, before.as_deref(), object)
    }

    /// Creates or replaces for the API. With `manager`, remembers what that field manager applied.
    pub fn put(&self, object: Value, manager: Option<(&str, &Value)>) -> Value {
        let key = Key::of(&object);
        let mut inner = self.lock();
        let before = inner.objects.get(&key).cloned();
        let settled = self.settle(&inner, before.as_deref(), object);
        if let Some((manager, applied)) = manager {
            inner.applied.entry(key.clone()).or_default().insert(manager.to_owned(), applied.clone());
        }
        self.commit(&mut inner, key, before, settled)
    }

    /// What each field manager applied to the object.
    #[must_use]
    pub fn applied(&self, key: &Key) -> BTreeMap<String, Value> {
        self.lock().applied.get(key).cloned().unwrap_or_default()
    }

    /// `object` with defaults, and with the metadata that the server manages.
    fn settle(&self, inner: &Inner, before: Option<&Value>, mut object: Value) -> Value {
        defaults::fill(&mut object);
        if object.get("status").is_none()
            && let Some(status) = before.and_then(|before| before.get("status"))
        {
            set(&mut object, "/status", status.clone());
        }
        let uid = || uid_from(&format!("{}{:?}", inner.revision, Key::of(&object)));
        let managed = match before {
            Some(before) => [
                "uid",
                "creationTimestamp",
                "resourceVersion",
                "generation",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ]
            .map(|field| (field, before.pointer(&format!("/metadata/{field}")).cloned())),
            None => [
                ("uid", Some(uid().into())),
                ("creationTimestamp", Some(self.timestamp().into())),
                ("resourceVersion", None),
                ("generation", has_generation(&object).then(|| 1.into())),
                ("deletionTimestamp", None),
                ("deletionGracePeriodSeconds", None),
            ],
        };
        for (field, value) in managed {
            match value {
                Some(value) => set(&mut object, &format!("/metadata/{field}"), value),
                None => drop(unset(&mut object, &format!("/metadata/{field}"))),
            }
        }
        if let Some(before) = before
            && has_generation(&object)
            && !same_specification(before, &object)
        {
            let generation = number(before, "/metadata/generation", 1) + 1;
            set(&mut object, "/metadata/generation", generation);
        }
        object
    }

    /// Stores `object` and tells the watchers; does neither if it is what is stored already. An object that is being
    /// deleted and has lost its last finalizer goes.
    fn commit(&self, inner: &mut Inner, key: Key, before: Option<Arc<Value>>, mut object: Value) -> Value {
        if before.as_deref() == Some(&object) {
            return object;
        }
        inner.revision += 1;
        set(&mut object, "/metadata/resourceVersion", inner.revision.to_string());
        let shared = Arc::new(object.clone());
        let being_deleted = object.pointer("/metadata/deletionTimestamp").is_some();
        let stopping = key.kind == "Pod" && number(&object, "/metadata/deletionGracePeriodSeconds", 0) > 0;
        let kind = if being_deleted && !stopping && !held(&object) {
            inner.objects.remove(&key);
            inner.applied.remove(&key);
            ChangeKind::Deleted
        } else {
            inner.objects.insert(key.clone(), Arc::clone(&shared));
            if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added }
        };
        let revision = inner.revision;
        self.record(inner, Change { revision, key, kind, object: shared, before });
        object
    }

    fn record(&self, inner: &mut Inner, change: Change) {
        inner.log.push_back(change);
        while inner.log.len() > LOG_LENGTH {
            inner.log.pop_front();
        }
        self.tick.send_replace(inner.revision);
    }

    /// Begins to delete an object, as the API does: what has finalizers, is a running pod, or is deleted in the
    /// foreground, gets a deletion time stamp and goes later. False if it is not there.
    pub fn delete(&self, key: &Key, propagation: Propagation) -> bool {
        self.delete_within(key, propagation, None)
    }

    /// As [`Store::delete`], with a grace period for pods in seconds; 0 takes a pod away at once.
    pub fn delete_within(&self, key: &Key, propagation: Propagation, grace: Option<i64>) -> bool {
        let Some(object) = self.get(key) else { return false };
        let uid = text(&object, "/metadata/uid").to_owned();
        if propagation == Propagation::Orphan {
            for dependent in self.dependents(&uid) {
                self.update(&Key::of(&dependent), |dependent| {
                    let others: Vec<Value> = items(dependent, "/metadata/ownerReferences")
                        .filter(|o| text(o, "/uid") != uid)
                        .cloned()
                        .collect();
                    set(dependent, "/metadata/ownerReferences", others);
                });
            }
        }
        let foreground = propagation == Propagation::Foreground;
        let grace = grace.unwrap_or_else(|| number(&object, "/spec/terminationGracePeriodSeconds", 30));
        let graceful = key.kind == "Pod" && grace > 0 && !text(&object, "/spec/nodeName").is_empty();
        let definition = key.kind == "CustomResourceDefinition";
        if !graceful && !foreground && !definition && !held(&object) {
            return self.remove(key);
        }
        let mut inner = self.lock();
        let Some(before) = inner.objects.get(key).cloned() else { return false };
        let mut object = Value::clone(&before);
        if foreground && !items(&object, "/metadata/finalizers").any(|f| f == "foregroundDeletion") {
            let mut finalizers: Vec<Value> = items(&object, "/metadata/finalizers").cloned().collect();
            finalizers.push("foregroundDeletion".into());
            set(&mut object, "/metadata/finalizers", finalizers);
        }
        if object.pointer("/metadata/deletionTimestamp").is_none() {
            if definition {
                // Its instances go first. The server adds this when the definition is deleted, not before.
                let mut finalizers: Vec<Value> = items(&object, "/metadata/finalizers").cloned().collect();
                finalizers.push(DEFINITION_FINALIZER.into());
                set(&mut object, "/metadata/finalizers", finalizers);
            }
            set(&mut object, "/metadata/deletionTimestamp", self.timestamp());
            set(&mut object, "/metadata/deletionGracePeriodSeconds", if graceful { grace } else { 0 });
        }
        if key.kind == "Namespace" {
            set(&mut object, "/status/phase", "Terminating");
        }
        self.commit(&mut inner, key.clone(), Some(before), object);
        true
    }

    /// Takes an object away, whatever holds it. False if it is not there.
    pub fn remove(&self, key: &Key) -> bool {
        let mut inner = self.lock();
        let Some(before) = inner.objects.remove(key) else { return false };
        inner.applied.remove(key);
        if key.kind == "Pod" {
            inner.logs.forget(key);
        }
        inner.revision += 1;
        let revision = inner.revision;
        let mut last = Value::clone(&before);
        set(&mut last, "/metadata/resourceVersion", revision.to_string());
        let change = Change {
            revision,
            key: key.clone(),
            kind: ChangeKind::Deleted,
            object: Arc::new(last),
            before: Some(before),
        };
        self.record(&mut inner, change);
        true
    }

    /// Every object that names the owner with this uid.
    #[must_use]
    pub fn dependents(&self, uid: &str) -> Vec<Arc<Value>> {
        self.select(|_, object| items(object, "/metadata/ownerReferences").any(|owner| text(owner, "/uid") == uid))
    }

    /// The changes after `revision`, or nothing if the log no longer reaches back so far.
    #[must_use]
    pub fn changes_after(&self, revision: u64) -> Option<Vec<Change>> {
        let inner = self.lock();
        // After a compaction the log is empty: then only the present itself is a known version.
        let complete = inner.log.front().map_or(revision >= inner.revision, |first| revision + 1 >= first.revision);
        let known = inner.log.partition_point(|change| change.revision <= revision);
        complete.then(|| inner.log.iter().skip(known).cloned().collect())
    }

    /// Forgets the change log, as etcd's compaction does: watches from older versions get 410.
    pub fn compact(&self) {
        self.lock().log.clear();
    }

    /// All changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self)
    }

    /// Wakes whoever waits for changes or log lines.
    #[must_use]
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }

    /// The kinds that the server serves now: its own, and those of the established CRDs in the store.
    #[must_use]
    pub fn kinds(&self) -> Vec<kinds::Served> {
        let crds = self.list_shared("apiextensions.k8s.io/v1", "CustomResourceDefinition", None);
        let added = crds.iter().flat_map(|crd| kinds::defined_by(crd));
        kinds::BUILT_IN.iter().map(kinds::Served::from).chain(added).collect()
    }

    /// How a kind is served, if it is.
    #[must_use]
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<kinds::Served> {
        let own = kinds::BUILT_IN.iter().find(|served| served.0 == api_version && served.1 == kind);
        let added = || self.kinds().into_iter().find(|served| served.api_version == api_version && served.kind == kind);
        own.map(kinds::Served::from).or_else(added)
    }

    /// A container writes a line.
    pub fn append_log(&self, namespace: &str, pod: &str, container: &str, line: &str) {
        let now = self.now();
        self.lock().logs.append(&Key::pod(namespace, pod), container, now, line);
        self.tick.send_modify(|_| ());
    }

    /// A container starts again: see [`Logs::restart`].
    pub fn restart_log(&self, pod: &Key, container: &str) {
        self.lock().logs.restart(pod, container);
    }

    /// What a container wrote: see [`Logs::of`].
    #[must_use]
    pub fn logs(&self, pod: &Key, container: &str, previous: bool) -> Option<Lines> {
        self.lock().logs.of(pod, container, previous)
    }

    /// A node goes down, is being started, or is up again.
    pub fn set_down(&self, node: &str, down: Option<Down>) {
        let mut inner = self.lock();
        match down {
            Some(down) => drop(inner.down.insert(node.to_owned(), down)),
            None => drop(inner.down.remove(node)),
        }
    }

    /// Whether a node is down, and since when.
    #[must_use]
    pub fn down(&self, node: &str) -> Option<Down> {
        self.lock().down.get(node).copied()
    }

    /// The nodes that are down.
    #[must_use]
    pub fn downs(&self) -> BTreeMap<String, Down> {
        self.lock().down.clone()
    }

    /// The server stops: connections break and new ones are refused.
    pub fn shut_down(&self) {
        self.lock().shut = true;
        self.tick.send_modify(|_| ());
    }

    /// Whether the server has stopped.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.lock().shut
    }

    /// The state, to be kept in a file.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            revision: inner.revision,
            objects: inner.objects.values().map(|object| Value::clone(object)).collect(),
            applied: inner.applied.iter().map(|(key, applied)| (key.clone(), applied.clone())).collect(),
            logs: inner.logs.clone(),
            down: inner.down.clone(),
        }
    }

    /// Puts a kept state in the place of this one.
    pub fn restore(&self, snapshot: Snapshot) {
        let mut inner = self.lock();
        inner.objects = snapshot.objects.into_iter().map(|object| (Key::of(&object), Arc::new(object))).collect();
        inner.applied = snapshot.applied.into_iter().collect();
        inner.logs = snapshot.logs;
        inner.down = snapshot.down;
        inner.revision = snapshot.revision;
        inner.log.clear();
    }
}

/// Whether something must happen before a deleted object may go.
fn held(object: &Value) -> bool {
    items(object, "/metadata/finalizers").next().is_some()
        || (text(object, "/kind") == "Namespace" && items(object, "/spec/finalizers").next().is_some())
}

/// Whether the server counts the object's changes: not for the core kinds, RBAC, storage and leases.
fn has_generation(object: &Value) -> bool {
    !["v1", "rbac.authorization.k8s.io/v1", "storage.k8s.io/v1", "coordination.k8s.io/v1"]
        .contains(&text(object, "/apiVersion"))
}

/// Whether two objects ask for the same: all but metadata and status counts. A change of it is a new generation.
fn same_specification(a: &Value, b: &Value) -> bool {
    fn specified(object: &Value) -> BTreeMap<&String, &Value> {
        let all = object.as_object().into_iter().flatten();
        all.filter(|(field, _)| *field != "metadata" && *field != "status").collect()
    }
    specified(a) == specified(b)
}
