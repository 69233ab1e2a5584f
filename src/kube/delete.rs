//! Deleting, and seeing it gone.

use std::fmt::Debug;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::config::Lab;
use crate::error::Failure;
use crate::kube::apply::{AT_ONCE, name_of};
use crate::kube::wait::{Judgement, Patience};
use crate::kube::{Cluster, api_failure, describe_pod, look_if_late};

impl Cluster {
    /// Deletes those of the objects that carry the lab's label, dependents first, and waits until each is gone. What
    /// is gone already is fine; what somebody else made under the same name is left alone.
    ///
    /// # Errors
    /// One is not gone in time; the sentence says what holds it.
    pub async fn delete(&self, objects: &[DynamicObject], lab: &Lab, patience: &Patience<'_>) -> Result<(), Failure> {
        let deletions: Vec<BoxFuture<'_, _>> =
            objects.iter().rev().map(|object| self.delete_one(object, lab, patience).boxed()).collect();
        stream::iter(deletions).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Which of the objects are there and carry the lab's label; names only.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn those_of(&self, objects: &[DynamicObject], lab: &Lab) -> Result<Vec<String>, Failure> {
        let looks: Vec<BoxFuture<'_, _>> = objects.iter().map(|object| self.is_of(object, lab).boxed()).collect();
        stream::iter(looks).buffered(AT_ONCE).try_filter_map(|found| ready(Ok(found))).try_collect().await
    }

    async fn is_of(&self, object: &DynamicObject, lab: &Lab) -> Result<Option<String>, Failure> {
        Ok(self.own(object, lab).await?.map(|_| name_of(object)))
    }

    async fn delete_one(&self, object: &DynamicObject, lab: &Lab, patience: &Patience<'_>) -> Result<(), Failure> {
        match self.own(object, lab).await? {
            Some(api) => self.delete_named(api, &object.name_any(), &name_of(object), patience).await,
            None => Ok(()),
        }
    }

    /// How to reach the object, if it is there and carries the lab's label: the one rule of what may be removed.
    async fn own(&self, object: &DynamicObject, lab: &Lab) -> Result<Option<Api<DynamicObject>>, Failure> {
        let types = object.types.clone().unwrap_or_default();
        let Ok(gvk) = kube::core::GroupVersionKind::try_from(&types) else { return Ok(None) };
        // A kind that the server does not know has no objects.
        let Some(api) = self.dynamic(&gvk, object.metadata.namespace.as_deref()).await? else { return Ok(None) };
        let live = self
            .look(&api, &object.name_any())
            .await
            .map_err(|error| api_failure(&format!("could not read {}", name_of(object)), &error))?;
        Ok(live.filter(|live| live.labels().get(Lab::LABEL) == Some(&lab.name)).map(|_| api))
    }

    /// Deletes one object with its dependents and waits until it is gone.
    ///
    /// # Errors
    /// Refused, or not gone in time.
    pub async fn delete_named<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        patience: &Patience<'_>,
    ) -> Result<(), Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        match api.delete(name, &DeleteParams::foreground()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(api_failure(&format!("could not delete {what}"), &error)),
        }
        let path = format!("{}/{name}", api.resource_url());
        let waiting = self.wait_one(api, name, patience, |object| match object {
            None => Judgement::Good(()),
            Some(object) => {
                let held = object.meta().finalizers.clone().unwrap_or_default().join(", ");
                let by = if held.is_empty() { String::new() } else { format!(", held by {held}") };
                Judgement::Waiting(format!("{what} is being deleted{by}"))
            }
        });
        look_if_late(waiting.await, || format!("get --raw {path}"))
    }

    /// Waits until no pod of `selector` is left in `namespace`.
    ///
    /// # Errors
    /// Not in time; names the pods.
    pub async fn pods_gone(&self, namespace: &str, selector: &str, patience: &Patience<'_>) -> Result<(), Failure> {
        let config = watcher::Config::default().labels(selector);
        let pods = self.namespaced::<Pod>(namespace);
        let waiting = self.wait_all(pods, config, patience, |pods| match pods.values().next() {
            None => Judgement::Good(()),
            Some(pod) => Judgement::Waiting(describe_pod(pod)),
        });
        look_if_late(waiting.await, || format!("-n {namespace} describe pods -l {selector}"))
    }
}
