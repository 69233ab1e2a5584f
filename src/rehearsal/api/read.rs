//! Requests that read: lists, watches and pod logs.

use std::collections::VecDeque;
use std::io;

use futures::stream::{self, Stream};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use kube::core::Status;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::kinds::{BUILT_IN, Served};
use super::select::Selection;
use super::status;
use crate::rehearsal::changes::{Change, ChangeKind};
use crate::rehearsal::object::{items, number, text};
use crate::rehearsal::store::{Key, Store};

/// API servers send bookmarks about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Objects of one kind, in one namespace or in all, that are selected.
#[derive(Clone)]
pub struct Scope {
    /// The kind.
    pub served: Served,
    /// Absent: all namespaces.
    pub namespace: Option<String>,
    /// Which of them.
    pub selection: Selection,
}

impl Scope {
    /// The objects, sorted by namespace and name.
    #[must_use]
    pub fn objects(&self, store: &Store) -> Vec<Value> {
        let all = store.list_shared(&self.served.api_version, &self.served.kind, self.namespace.as_deref());
        all.iter().filter(|object| self.selection.matches(object)).map(|object| Value::clone(object)).collect()
    }

    /// The list as the server sends it. Items of built-in kinds do not say what kind they are.
    #[must_use]
    pub fn list(&self, store: &Store) -> Value {
        let mut items = self.objects(store);
        if BUILT_IN.iter().any(|(api_version, ..)| *api_version == self.served.api_version) {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.shift_remove("kind");
                item.shift_remove("apiVersion");
            }
        }
        json!({
            "kind": format!("{}List", self.served.kind), "apiVersion": self.served.api_version,
            "metadata": {"resourceVersion": store.revision().to_string()}, "items": items,
        })
    }

    /// The event that a change is for a watch of this scope, if it is one. Objects come and go with the selection.
    fn event(&self, change: &Change) -> Option<Value> {
        let inside = change.key.kind == self.served.kind
            && change.key.api_version == self.served.api_version
            && self.namespace.as_deref().is_none_or(|namespace| change.key.namespace() == namespace);
        if !inside {
            return None;
        }
        let before = change.before.as_deref().is_some_and(|before| self.selection.matches(before));
        let after = change.kind != ChangeKind::Deleted && self.selection.matches(&change.object);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(json!({"type": kind, "object": &*change.object}))
    }
}

/// How a watch begins and ends.
pub struct WatchOptions {
    /// The version after which changes are sent; absent: the present objects first.
    pub after: Option<u64>,
    /// The client asks for the end of the initial objects to be marked.
    pub mark_initial: bool,
    /// Bookmarks are wanted.
    pub bookmarks: bool,
    /// The server ends the watch after this long.
    pub timeout: Duration,
}

struct Watch {
    store: Store,
    scope: Scope,
    cursor: u64,
    tick: tokio::sync::watch::Receiver<u64>,
    ends: Instant,
    bookmark: Option<Instant>,
    pending: VecDeque<Value>,
    over: bool,
}

/// The lines of a watch. It breaks when the server is shut down.
pub fn watch(store: &Store, scope: Scope, options: &WatchOptions) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let now = Instant::now();
    let mut watch = Watch {
        cursor: options.after.unwrap_or_else(|| store.revision()),
        tick: store.ticks(),
        ends: now + options.timeout,
        bookmark: options.bookmarks.then(|| now + BOOKMARK_EVERY),
        pending: VecDeque::new(),
        over: false,
        store: store.clone(),
        scope,
    };
    if options.after.is_none() {
        watch.pending =
            watch.scope.objects(store).into_iter().map(|object| json!({"type": "ADDED", "object": object})).collect();
        if options.mark_initial {
            let mark = watch.bookmark_event(&json!({"k8s.io/initial-events-end": "true"}));
            watch.pending.push_back(mark);
        }
    }
    stream::unfold(watch, Watch::step)
}

impl Watch {
    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            if self.store.is_shut() {
                return (!std::mem::replace(&mut self.over, true))
                    .then(|| (Err(io::ErrorKind::ConnectionReset.into()), self));
            }
            if let Some(event) = self.pending.pop_front() {
                return Some((Ok(format!("{event}\n").into()), self));
            }
            if self.over {
                return None;
            }
            self.tick.mark_unchanged();
            self.look();
            if !self.pending.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= self.ends {
                self.over = true;
                continue;
            }
            if self.bookmark.is_some_and(|at| now >= at) {
                self.bookmark = Some(now + BOOKMARK_EVERY);
                let event = self.bookmark_event(&json!({}));
                self.pending.push_back(event);
                continue;
            }
            tokio::select! {
                biased;
                changed = self.tick.changed() => if changed.is_err() { self.over = true },
                () = tokio::time::sleep_until(self.bookmark.map_or(self.ends, |at| at.min(self.ends))) => {}
            }
        }
    }

    fn look(&mut self) {
        let Some(changes) = self.store.changes_after(self.cursor) else {
            let expired = status::expired(self.cursor, self.store.revision());
            self.pending.push_back(json!({"type": "ERROR", "object": status::body(&expired)}));
            self.over = true;
            return;
        };
        self.cursor = changes.last().map_or(self.cursor, |change| change.revision);
        self.pending.extend(changes.iter().filter_map(|change| self.scope.event(change)));
    }

    fn bookmark_event(&self, annotations: &Value) -> Value {
        let served = &self.scope.served;
        json!({"type": "BOOKMARK", "object": {
            "kind": served.kind, "apiVersion": served.api_version,
            "metadata": {"resourceVersion": self.cursor.to_string(), "annotations": annotations},
        }})
    }
}

/// Which lines of a container's log are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The container; may be absent if the pod has only one.
    pub container: Option<String>,
    /// Of the life before the last restart.
    pub previous: bool,
    /// Only the last so many.
    pub tail: Option<usize>,
    /// Only those since then.
    pub since: Option<Timestamp>,
    /// Only those of the last so many seconds.
    pub since_seconds: Option<i64>,
    /// Each with its time.
    pub timestamps: bool,
    /// And those that are still to come.
    pub follow: bool,
}

/// The log of a container, in pieces.
///
/// # Errors
/// In the server's words: no such pod or container, or it has not started yet.
pub fn logs(
    store: &Store,
    served: &Served,
    key: &Key,
    options: LogOptions,
) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, Box<Status>> {
    let pod = store.get(key).ok_or_else(|| status::not_found(served, &key.name))?;
    let container = container_of(&pod, options.container.as_deref())?;
    let state = items(&pod, "/status/initContainerStatuses")
        .chain(items(&pod, "/status/containerStatuses"))
        .find(|status| text(status, "/name") == container);
    let waiting = state.is_none_or(|s| s.pointer("/state/waiting").is_some() && number(s, "/restartCount", 0) == 0);
    if waiting && !options.previous {
        let reason =
            state.map(|s| text(s, "/state/waiting/reason")).filter(|r| !r.is_empty()).unwrap_or("ContainerCreating");
        let message = format!("container \"{container}\" in pod \"{}\" is waiting to start: {reason}", key.name);
        return Err(status::bad_request(message));
    }
    let Some(lines) = store.logs(key, &container, options.previous) else {
        let message = format!("previous terminated container \"{container}\" in pod \"{}\" not found", key.name);
        return Err(status::bad_request(message));
    };
    let since = options.since_seconds.map(|s| store.now() - SignedDuration::from_secs(s)).or(options.since);
    let lines: Vec<_> = lines.into_iter().filter(|(at, _)| since.is_none_or(|since| *at >= since)).collect();
    let skip = options.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    let seen = store.logs(key, &container, false).map_or(0, |all| all.len());
    let follow =
        Follow { store: store.clone(), tick: store.ticks(), key: key.clone(), container, seen, options, over: false };
    let first = follow.written(&lines[skip..]);
    Ok(stream::unfold((Some(first), follow), |(first, follow)| async move {
        match first {
            Some(first) => Some((Ok(first), (None, follow))),
            None => follow.step().await.map(|(line, follow)| (line, (None, follow))),
        }
    }))
}

struct Follow {
    store: Store,
    tick: tokio::sync::watch::Receiver<u64>,
    key: Key,
    container: String,
    seen: usize,
    options: LogOptions,
    over: bool,
}

impl Follow {
    fn written(&self, lines: &[(Timestamp, String)]) -> Bytes {
        let line = |(at, line): &(Timestamp, String)| {
            if self.options.timestamps { format!("{at:.9} {line}\n") } else { format!("{line}\n") }
        };
        lines.iter().map(line).collect::<String>().into()
    }

    async fn step(mut self) -> Option<(io::Result<Bytes>, Self)> {
        while self.options.follow && !self.over && !self.store.is_shut() {
            self.tick.mark_unchanged();
            let lines = self.store.logs(&self.key, &self.container, false).unwrap_or_default();
            if let Some(new) = lines.get(self.seen..).filter(|new| !new.is_empty()) {
                let piece = self.written(new);
                self.seen = lines.len();
                return Some((Ok(piece), self));
            }
            // A restart or the pod's end is the end of the log.
            if lines.len() < self.seen || self.store.get(&self.key).is_none() {
                return None;
            }
            self.over = self.tick.changed().await.is_err();
        }
        None
    }
}

fn container_of(pod: &Value, asked: Option<&str>) -> Result<String, Box<Status>> {
    let all: Vec<&str> = items(pod, "/spec/containers").map(|c| text(c, "/name")).collect();
    let mut known = all.iter().copied().chain(items(pod, "/spec/initContainers").map(|c| text(c, "/name")));
    let name = text(pod, "/metadata/name");
    match (asked, all.as_slice()) {
        (Some(asked), _) if known.any(|container| container == asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            let message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "));
            Err(status::bad_request(message))
        }
    }
}
