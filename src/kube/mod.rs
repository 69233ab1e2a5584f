//! The API server: a pinned client, server-side apply, waits by watch, diagnosis, deletion.
//!
//! The only room that talks to Kubernetes. It knows nothing of steps: whoever waits brings a [`Patience`].

mod apply;
mod connect;
mod delete;
mod diagnose;
mod doom;
mod error;
mod lease;
mod logs;
mod objects;
mod rollout;
mod stuck;
mod wait;

use std::sync::Arc;

use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use tokio::sync::RwLock;

use crate::error::Failure;

pub use apply::{Difference, name_of};
pub use connect::RealConnector;
pub use diagnose::{describe_pod, is_ready};
pub use doom::{Doom, Trouble, doom_of};
pub use error::{api_failure, by_kubectl, look_if_late};
pub use lease::Holder;
pub use logs::{LogOf, LogText};
pub use objects::{differs, label, parse};
pub use rollout::Rollout;
pub use wait::{Judgement, Patience};

/// A reached API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    discovery: Arc<RwLock<Option<Arc<Discovery>>>>,
}

impl Cluster {
    /// Around a client.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Cluster { client, discovery: Arc::default() }
    }

    /// The objects of kind `K` in a namespace.
    #[must_use]
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The objects of kind `K` everywhere.
    #[must_use]
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Failure>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let what = || format!("could not read {} {namespace}/{name}", K::kind(&()));
        self.namespaced::<K>(namespace).get_opt(name).await.map_err(|error| api_failure(&what(), &error))
    }

    /// One object of a kind that may itself be gone by now: a server that has dropped the kind's CRD answers with a
    /// bare 404 page, which means that the object is not there either.
    async fn look<K>(&self, api: &Api<K>, name: &str) -> Result<Option<K>, kube::Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        match api.get_opt(name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other,
        }
    }

    /// How the server serves `object`, and the API to reach it.
    ///
    /// # Errors
    /// The server does not know the kind, or does not answer.
    pub async fn api_of(&self, object: &DynamicObject) -> Result<Api<DynamicObject>, Failure> {
        let types = object.types.clone().unwrap_or_default();
        let gvk = GroupVersionKind::try_from(&types).map_err(|error| {
            Failure::tool(format!("{} has no readable apiVersion: {error}", name_of(object)))
                .next("look at the manifest that it is from: every object needs `apiVersion` and `kind`")
        })?;
        let namespace = object.metadata.namespace.as_deref();
        self.dynamic(&gvk, namespace).await?.ok_or_else(|| {
            Failure::tool(format!("the cluster does not know the kind {} of {}", gvk.kind, gvk.api_version()))
                .next("is the CRD that defines it installed? `kubectl api-resources` lists what the cluster knows")
        })
    }

    /// The API of a kind, or nothing if the server does not know it. Without a namespace: all of them.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn dynamic(
        &self,
        gvk: &GroupVersionKind,
        namespace: Option<&str>,
    ) -> Result<Option<Api<DynamicObject>>, Failure> {
        let known = match self.resolve(gvk, false).await? {
            Some(known) => Some(known),
            // Kinds appear while we run: a CRD may have come since the last look.
            None => self.resolve(gvk, true).await?,
        };
        Ok(known.map(|(resource, capabilities)| match (capabilities.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        }))
    }

    async fn resolve(
        &self,
        gvk: &GroupVersionKind,
        again: bool,
    ) -> Result<Option<(ApiResource, ApiCapabilities)>, Failure> {
        if !again && let Some(discovery) = self.discovery.read().await.as_ref() {
            return Ok(discovery.resolve_gvk(gvk));
        }
        let mut slot = self.discovery.write().await;
        let discovery = Discovery::new(self.client.clone())
            .run_aggregated()
            .await
            .map_err(|error| api_failure("could not ask the cluster what kinds it knows", &error))?;
        let found = discovery.resolve_gvk(gvk);
        *slot = Some(Arc::new(discovery));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn an_object_of_a_kind_that_is_gone_is_not_there() {
        let service = tower::service_fn(|_: Request<Body>| async {
            let mut response = Response::new(Body::from(b"404 page not found\n".to_vec()));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        });
        let cluster = Cluster::new(kube::Client::new(service, "default"));
        let api = cluster.namespaced::<k8s_openapi::api::core::v1::ConfigMap>("default");
        assert!(cluster.look(&api, "gone").await.unwrap().is_none());
    }
}
