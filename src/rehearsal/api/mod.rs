//! The API server in front of a [`Store`], spoken to in real HTTP over an in-memory connection, so that streams,
//! broken connections and upgrades are what they are on a network.

pub mod admission;
pub mod defaults;
mod forward;
pub mod kinds;
pub mod merge;
pub mod read;
pub mod select;
mod serve;
pub mod status;
pub mod write;

use std::io;

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tower::BoxError;

use crate::error::{Failure, Kind};
use crate::rehearsal::clusters::Clusters;
use crate::rehearsal::store::Store;
use crate::world::Connector;

pub use write::{Part, WriteOptions, apply, create};

/// Bytes that are on their way before the writer has to wait.
const PIPE: usize = 64 * 1024;

/// What connecting to a port says on which nobody listens (`ECONNREFUSED`).
fn refused() -> BoxError {
    io::Error::from_raw_os_error(111).into()
}

/// Sends one request over a connection of its own.
async fn send(store: Option<Store>, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
    let store = store.filter(|store| !store.is_shut()).ok_or_else(refused)?;
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let service = hyper::service::service_fn(move |request| {
        let store = store.clone();
        async move { Ok::<_, std::convert::Infallible>(serve::answer(store, request).await) }
    });
    // Either end sees the other one go; there is nobody left to tell about it.
    tokio::spawn(async move {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades()
            .await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok(sender.send_request(request).await?)
}

/// A client of one cluster. Must be called on a tokio runtime.
#[must_use]
pub fn client(store: &Store) -> kube::Client {
    let store = store.clone();
    kube::Client::new(tower::service_fn(move |request| send(Some(store.clone()), request)), "default")
}

/// Connects to the clusters of the world.
pub struct RehearsalConnector {
    clusters: Clusters,
}

impl RehearsalConnector {
    /// Connects to `clusters`, to those as well that are added later.
    #[must_use]
    pub fn new(clusters: Clusters) -> Self {
        RehearsalConnector { clusters }
    }
}

#[async_trait]
impl Connector for RehearsalConnector {
    async fn connect(&self, kubeconfig: &str, context: &str) -> Result<kube::Client, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(Kind::Prerequisite, format!("the kubeconfig cannot be used for context `{context}`: {error}"))
        };
        let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| unusable(&error))?;
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(parsed, &options).await.map_err(|error| unusable(&error))?;
        let (clusters, server) = (self.clusters.clone(), config.cluster_url.to_string());
        let service = tower::service_fn(move |request| send(clusters.get(&server), request));
        Ok(kube::Client::new(service, config.default_namespace))
    }
}
