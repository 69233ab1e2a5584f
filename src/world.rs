//! The five seams through which `coastal` touches anything outside itself, bundled.
//!
//! There are two implementations of each: the real machine's, and the rehearsal's ([`crate::rehearsal`]).
//! Nothing above this module asks which one it was given.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::error::Failure;
use crate::tools::Runner;
use crate::tools::once::Once;

/// Everything outside.
#[derive(Clone)]
pub struct World {
    /// Starts processes.
    pub runner: Arc<dyn Runner>,
    /// Connects to API servers.
    pub connector: Arc<dyn Connector>,
    /// Tells the time of day. Durations and sleeps go through `tokio::time`, which the rehearsal runs on a
    /// paused clock; this is only for time stamps and certificates.
    pub clock: Arc<dyn Clock>,
    /// Downloads files.
    pub fetcher: Arc<dyn Fetcher>,
    /// Tells what the machine has to spare.
    pub host: Arc<dyn Host>,
}

impl World {
    /// The same world for looking at one moment of it: each command that is asked twice runs once.
    #[must_use]
    pub fn at_one_moment(&self) -> World {
        World { runner: Arc::new(Once::before(Arc::clone(&self.runner))), ..self.clone() }
    }
}

/// Makes a Kubernetes client.
#[async_trait]
pub trait Connector: Send + Sync {
    /// A client for `context` of the kubeconfig text `kubeconfig`. Makes no request yet.
    ///
    /// # Errors
    /// The kubeconfig does not parse, or has no such context.
    async fn connect(&self, kubeconfig: &str, context: &str) -> Result<kube::Client, Failure>;
}

/// The time of day.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine, as far as no program has to be started for it.
pub trait Host: Send + Sync {
    /// Looks: whether something listens at these ports of the loopback interface, and at the file system that holds
    /// `directory`, which need not exist.
    fn look(&self, ports: &[u16], directory: &Path) -> HostFacts;
}

/// What the operating system tells; absent is what it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Bytes of memory that programs can still get.
    pub memory_available: Option<u64>,
    /// Bytes that can still be written.
    pub disk_free: Option<u64>,
    /// Those of the ports at which nothing can listen any more.
    pub ports_taken: Vec<u16>,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: Option<u64>,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: Option<u64>,
}

/// Downloads.
#[async_trait]
pub trait Fetcher: Send + Sync {
    /// Downloads `url` to the file `to`, whole or not at all (written beside it, then renamed).
    ///
    /// # Errors
    /// The server does not answer, answers with an error, or the file cannot be written; the sentence names
    /// the URL and the status.
    async fn fetch(&self, url: &str, to: &Path, cancel: &CancellationToken) -> Result<(), Failure>;
}
