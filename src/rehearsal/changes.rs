//! What happened to the objects of a cluster, in order, and how to follow it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::store::{Key, Store};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is different.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of the change log.
#[derive(Debug, Clone)]
pub struct Change {
    /// The `resourceVersion` that the change made.
    pub revision: u64,
    /// Which object.
    pub key: Key,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after the change; for a deletion its last state.
    pub object: Arc<Value>,
    /// The object before the change.
    pub before: Option<Arc<Value>>,
}

/// Changes in order, as they come.
pub struct Subscription {
    store: Store,
    cursor: u64,
    tick: watch::Receiver<u64>,
}

impl Subscription {
    pub(super) fn new(store: &Store) -> Self {
        Subscription { store: store.clone(), cursor: store.revision(), tick: store.ticks() }
    }

    /// The next changes, at least one; waits for it. Nothing any more once the server is shut down. A subscriber
    /// that fell behind the log is told every object anew.
    pub async fn next(&mut self) -> Option<Vec<Change>> {
        loop {
            if self.store.is_shut() {
                return None;
            }
            self.tick.mark_unchanged();
            let changes = self.ready();
            if !changes.is_empty() {
                return Some(changes);
            }
            self.tick.changed().await.ok()?;
        }
    }

    /// The changes that are there already; possibly none.
    pub fn ready(&mut self) -> Vec<Change> {
        let changes = self.store.changes_after(self.cursor).unwrap_or_else(|| self.everything());
        self.cursor = changes.last().map_or(self.cursor, |change| change.revision);
        changes
    }

    /// Every object, as if it were new.
    #[must_use]
    pub fn everything(&self) -> Vec<Change> {
        let revision = self.store.revision();
        let added = |object: Arc<Value>| Change {
            revision,
            key: Key::of(&object),
            kind: ChangeKind::Added,
            object,
            before: None,
        };
        self.store.select(|_, _| true).into_iter().map(added).collect()
    }
}
