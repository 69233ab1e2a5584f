//! Waiting by watch: a list, then every change, until a judgement is reached.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Failure;
use crate::kube::Cluster;

/// How long somebody is ready to wait, and how they hear about it.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// The end of it.
    pub deadline: Instant,
    /// The other end of it.
    pub cancel: &'a CancellationToken,
    /// Told what is being waited for, each time that changes.
    pub progress: &'a (dyn Fn(String) + Send + Sync),
}

impl Patience<'_> {
    /// `work`, unless the time is up or the run is to stop.
    ///
    /// # Errors
    /// `None` of the inner result means that the time is up; being stopped is [`Failure::interrupted`].
    pub async fn limit<T>(&self, work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
        tokio::select! {
            result = work => Ok(Some(result)),
            () = tokio::time::sleep_until(self.deadline) => Ok(None),
            () = self.cancel.cancelled() => Err(Failure::interrupted()),
        }
    }
}

/// What a look at the objects says.
pub enum Judgement<T> {
    /// What was waited for is so.
    Good(T),
    /// Not yet; says what is missing.
    Waiting(String),
    /// It will never be so.
    Hopeless(Failure),
}

impl Cluster {
    /// Watches one object until `judge` is content with it. It is judged first as it is, absent included.
    ///
    /// # Errors
    /// [`Judgement::Hopeless`], or a timeout whose sentence is the last [`Judgement::Waiting`].
    pub async fn wait_one<K, T>(
        &self,
        api: Api<K>,
        name: &str,
        patience: &Patience<'_>,
        mut judge: impl FnMut(Option<&K>) -> Judgement<T>,
    ) -> Result<T, Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        self.wait_all(api, config, patience, |objects| judge(objects.values().next())).await
    }

    /// Watches all objects that `config` selects until `judge` is content with them. Keys are
    /// `namespace/name`, or `name` for objects without a namespace.
    ///
    /// # Errors
    /// As [`Cluster::wait_one`].
    pub async fn wait_all<K, T>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        patience: &Patience<'_>,
        mut judge: impl FnMut(&BTreeMap<String, K>) -> Judgement<T>,
    ) -> Result<T, Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let began = Instant::now();
        let mut last = String::from("nothing was heard from the API server");
        let watching = async {
            let mut known: BTreeMap<String, K> = BTreeMap::new();
            let mut listing: BTreeMap<String, K> = BTreeMap::new();
            // The backoff keeps trying: an API server that restarts is no reason to give up before the deadline.
            let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
            loop {
                match events.try_next().await {
                    Ok(Some(Event::Init)) => {
                        listing.clear();
                        continue;
                    }
                    Ok(Some(Event::InitApply(object))) => {
                        listing.insert(key(&object), object);
                        continue;
                    }
                    Ok(Some(Event::InitDone)) => known = std::mem::take(&mut listing),
                    Ok(Some(Event::Apply(object))) => {
                        known.insert(key(&object), object);
                    }
                    Ok(Some(Event::Delete(object))) => {
                        known.remove(&key(&object));
                    }
                    Ok(None) => return Err(Failure::unexpected("a watch ended by itself")),
                    Err(error) => {
                        last = format!("the API server does not answer ({error})");
                        (patience.progress)(last.clone());
                        continue;
                    }
                }
                match judge(&known) {
                    Judgement::Good(result) => return Ok(result),
                    Judgement::Hopeless(failure) => return Err(failure),
                    Judgement::Waiting(state) => {
                        if state != last {
                            (patience.progress)(state.clone());
                            last = state;
                        }
                    }
                }
            }
        };
        match patience.limit(watching).await? {
            Some(result) => result,
            None => Err(Failure::timeout(format!("gave up after {} s: {last}", began.elapsed().as_secs()))),
        }
    }
}

fn key(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
