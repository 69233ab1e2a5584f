//! Which clusters there are, and where they answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::Store;

/// The running clusters of the world, by the URL of their API server without a slash at its end
/// (`https://127.0.0.1:40001`), as kubeconfigs name it.
#[derive(Clone, Default)]
pub struct Clusters(Arc<Mutex<BTreeMap<String, Store>>>);

impl Clusters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Store>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster that answers at `server`.
    #[must_use]
    pub fn get(&self, server: &str) -> Option<Store> {
        self.lock().get(server.trim_end_matches('/')).cloned()
    }

    /// A cluster answers at `server` from now on.
    pub fn insert(&self, server: &str, store: Store) {
        self.lock().insert(server.trim_end_matches('/').to_owned(), store);
    }

    /// The cluster at `server` is no more: it is shut down.
    pub fn remove(&self, server: &str) -> Option<Store> {
        let removed = self.lock().remove(server.trim_end_matches('/'));
        removed.inspect(Store::shut_down)
    }
}
