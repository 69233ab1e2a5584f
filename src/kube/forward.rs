//! Ports of pods, reached through the API server.
//!
//! A [`Destination`] names pods by their labels, never one pod: whichever of them is ready carries the next connection.
//! Each connection has a stream of its own through the API server, so one that breaks takes no other with it, and a pod
//! that is replaced costs no more than the connections that were open to it. A connection that comes while no pod is
//! ready is held until one is; what it has sent by then is not lost.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::Failure;
use crate::kube::pump::{Carried, Client, Stream};
use crate::kube::{Cluster, api_failure, by_kubectl, describe_pod, is_ready};

/// How long a connection is held while no pod is ready, before it is closed.
const HELD: Duration = Duration::from_secs(60);
/// How long opening one stream may take.
const DIAL: Duration = Duration::from_secs(5);
/// Between two attempts for one connection, and between two looks at an API server that does not answer.
const AGAIN: Duration = Duration::from_millis(250);
/// The largest answer that [`Cluster::http_get`] takes.
const LARGEST: usize = 32 << 20;

/// A port of whichever pod of a selection is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The pods' namespace.
    pub namespace: String,
    /// Their labels.
    pub selector: String,
    /// The port inside the pod.
    pub port: u16,
}

/// Where a forward stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Connections go to this pod.
    Through(String),
    /// Connections are held; says for what.
    Waiting(String),
}

/// The pods of a destination as they are now.
type Now = watch::Receiver<Link>;

/// Looks again soon, however often it failed: somebody is sitting before a page that does not load.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(AGAIN)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

impl Cluster {
    /// Carries every connection to `listeners` to `destination` until `cancel`; `tell` hears of each change.
    ///
    /// # Errors
    /// Not for anything that may pass. A listener that fails for good, or no permission to see the pods.
    pub async fn forward(
        &self,
        destination: &Destination,
        listeners: Vec<TcpListener>,
        cancel: &CancellationToken,
        tell: &(dyn Fn(&Link) + Send + Sync),
    ) -> Result<(), Failure> {
        let (change, now) = watch::channel(Link::Waiting("no pod was seen yet".into()));
        let mut seen = now.clone();
        let telling = async {
            loop {
                if seen.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let link = seen.borrow_and_update().clone();
                tell(&link);
            }
        };
        let accepting = futures::future::try_join_all(
            listeners.iter().map(|listener| self.accept(listener, destination, now.clone())),
        );
        tokio::select! {
            // Ctrl-C ends everything, open connections included: they are dropped with `accepting`.
            () = cancel.cancelled() => Ok(()),
            failure = self.follow(destination, &change) => Err(failure),
            accepted = accepting => accepted.map(|_| ()),
            () = telling => Ok(()),
        }
    }

    /// Keeps the link true. Returns only for what will not pass.
    async fn follow(&self, destination: &Destination, change: &watch::Sender<Link>) -> Failure {
        let config = watcher::Config::default().labels(&destination.selector);
        let pods = self.namespaced::<Pod>(&destination.namespace);
        let mut events = pin!(watcher::watcher(pods, config).backoff(Steady));
        let mut known: BTreeMap<String, Pod> = BTreeMap::new();
        let mut listing = known.clone();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listing.clear();
                    continue;
                }
                Ok(Event::InitApply(pod)) => {
                    listing.insert(pod.name_any(), pod);
                    continue;
                }
                Ok(Event::InitDone) => known = std::mem::take(&mut listing),
                Ok(Event::Apply(pod)) => {
                    known.insert(pod.name_any(), pod);
                }
                Ok(Event::Delete(pod)) => {
                    known.remove(&pod.name_any());
                }
                Err(error) => {
                    if let Some(failure) = refusal(&error) {
                        return failure.context(format!("the pods of {destination} cannot be watched"));
                    }
                    // The pod may well be reachable still; only what is known of it grows old.
                    set(change, Link::Waiting(format!("the API server does not answer ({error})")));
                    continue;
                }
            }
            let held = match &*change.borrow() {
                Link::Through(pod) => Some(pod.clone()),
                Link::Waiting(_) => None,
            };
            set(change, choose(known.values(), held.as_deref(), destination));
        }
        Failure::unexpected("a watch ended by itself")
    }

    async fn accept(&self, listener: &TcpListener, destination: &Destination, now: Now) -> Result<(), Failure> {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    // A page is many small requests; none should wait for a full packet.
                    let _ = stream.set_nodelay(true);
                    let (cluster, destination, now) = (self.clone(), destination.clone(), now.clone());
                    connections.spawn(async move { cluster.carry(stream, &destination, now).await });
                }
                // Out of file descriptors, or a client that went while it was accepted: both pass.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// One connection, from its first byte to its last. What cannot be carried is closed, which is all that a client of
    /// a socket can be told.
    async fn carry<S>(&self, client: S, destination: &Destination, mut now: Now)
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let deadline = Instant::now() + HELD;
        let mut client = Client::new(client);
        while Instant::now() < deadline {
            let Ok(Some(pod)) = timeout_at(deadline, through(&mut now)).await else { return };
            if let Ok(Ok(stream)) = timeout(DIAL, self.dial(destination, &pod)).await
                && client.pump(stream).await == Carried::Done
            {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn dial(&self, destination: &Destination, pod: &str) -> Result<Stream, kube::Error> {
        let pods = self.namespaced::<Pod>(&destination.namespace);
        Ok(Stream::new(pods.portforward(pod, &[destination.port]).await?, destination.port))
    }

    /// Whether `destination` has any pod at all, ready or not.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn has_pods(&self, destination: &Destination) -> Result<bool, Failure> {
        let params = ListParams::default().labels(&destination.selector).limit(1);
        let pods = self.namespaced::<Pod>(&destination.namespace).list(&params).await;
        let pods = pods.map_err(|error| api_failure(&format!("could not list the pods of {destination}"), &error))?;
        Ok(!pods.items.is_empty())
    }

    /// A ready pod of `destination`.
    ///
    /// # Errors
    /// None is ready; says what they wait for.
    pub async fn pod_of(&self, destination: &Destination) -> Result<String, Failure> {
        let params = ListParams::default().labels(&destination.selector);
        let pods = self.namespaced::<Pod>(&destination.namespace).list(&params).await;
        let pods = pods.map_err(|error| api_failure(&format!("could not list the pods of {destination}"), &error))?;
        match choose(pods.items.iter(), None, destination) {
            Link::Through(pod) => Ok(pod),
            Link::Waiting(why) => Err(Failure::prerequisite(why)
                .next(by_kubectl(&format!("-n {} get pods -l {}", destination.namespace, destination.selector)))),
        }
    }

    /// The answer to `GET path`, asked of a ready pod: its status and its body.
    ///
    /// # Errors
    /// No pod is ready, it cannot be reached, or its answer is no HTTP, larger than 32 MiB, or not there in time.
    pub async fn http_get(
        &self,
        destination: &Destination,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let pod = self.pod_of(destination).await?;
        let broken = |error: &dyn fmt::Display| {
            Failure::tool(format!("{pod} does not answer on port {}: {error}", destination.port))
                .next(by_kubectl(&format!("-n {} describe pod {pod}", destination.namespace)))
        };
        let asking = async {
            let stream = self.dial(destination, &pod).await.map_err(|error| {
                api_failure(
                    &format!("could not reach port {} of {pod} through the API server", destination.port),
                    &error,
                )
            })?;
            let stream = stream.into_io().ok_or_else(|| broken(&"no stream was opened"))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
            let request = Request::get(path)
                .header(http::header::HOST, format!("localhost:{}", destination.port))
                .header(http::header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())
                .map_err(|error| Failure::unexpected(format!("`{path}` is no path: {error}")))?;
            let answering = async {
                let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
                let status = response.status();
                let body =
                    Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| broken(&error))?;
                Ok((status, body.to_bytes()))
            };
            let mut answering = pin!(answering);
            tokio::select! {
                biased;
                answer = &mut answering => answer,
                // What came before the end is still to be read.
                _ = connection => answering.await,
            }
        };
        timeout(limit, asking).await.unwrap_or_else(|_| Err(broken(&format!("nothing came in {} s", limit.as_secs()))))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace {} with {}", self.namespace, self.selector)
    }
}

fn set(change: &watch::Sender<Link>, link: Link) {
    change.send_if_modified(|current| {
        let differs = *current != link;
        if differs {
            *current = link;
        }
        differs
    });
}

/// Waits until connections can go somewhere. Nothing, once nobody looks any more.
async fn through(now: &mut Now) -> Option<String> {
    let link = now.wait_for(|link| matches!(link, Link::Through(_))).await.ok()?;
    match &*link {
        Link::Through(pod) => Some(pod.clone()),
        Link::Waiting(_) => None,
    }
}

/// The pod that carries connections: the one that does so now as long as it is ready, else the newest that is.
fn choose<'a>(pods: impl Iterator<Item = &'a Pod>, held: Option<&str>, destination: &Destination) -> Link {
    let pods: Vec<&Pod> = pods.collect();
    let serves = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
    let held = pods.iter().copied().filter(serves).find(|pod| Some(pod.name_any().as_str()) == held);
    let newest = || pods.iter().copied().filter(serves).max_by_key(|pod| pod.metadata.creation_timestamp.clone());
    if let Some(pod) = held.or_else(newest) {
        return Link::Through(pod.name_any());
    }
    match pods.as_slice() {
        [] => Link::Waiting(format!("there is no pod in {destination}")),
        pods => Link::Waiting(pods.iter().map(|pod| describe_pod(pod)).collect::<Vec<_>>().join(", ")),
    }
}

/// What asking again does not change.
fn refusal(error: &watcher::Error) -> Option<Failure> {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return None;
    };
    match cause {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            Some(api_failure("the API server refuses", cause))
        }
        _ => None,
    }
}
