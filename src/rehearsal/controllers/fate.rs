//! What a pod's programs do: the one thing that kubelets have to be told.

use serde_json::Value;
use tokio::time::Duration;

/// What the world says about the programs in pods.
pub trait Kubelet: Send + Sync {
    /// What becomes of the pod when it is started now. Asked at each attempt: after a failed pull or a crash again,
    /// each second while [`PodFate::held_in_init`], and for a pod that is found running after a restore.
    fn start(&self, pod: &Value) -> PodFate {
        let _ = pod;
        PodFate::default()
    }

    /// What a probe says, if the pod's readiness is [`Readiness::Probe`].
    fn probe(&self, pod: &Value) -> Probe {
        let _ = pod;
        Probe::Ready
    }

    /// How long the pod's programs take to end once they are told to.
    fn stop_after(&self, pod: &Value) -> Duration {
        let _ = pod;
        Duration::from_secs(1)
    }
}

/// What becomes of a pod.
#[derive(Debug, Clone)]
pub struct PodFate {
    /// From its being scheduled to its containers running: pulls, mounts, init containers.
    pub start_after: Duration,
    /// How it becomes ready once it runs.
    pub readiness: Readiness,
    /// An image that cannot be had.
    pub image_error: Option<ImageError>,
    /// A volume that cannot be mounted, in the kubelet's words. Missing Secrets, ConfigMaps and CSI drivers need no
    /// mention here.
    pub mount_error: Option<String>,
    /// The first init container runs and does not end yet.
    pub held_in_init: bool,
    /// A container that ends in error.
    pub crash: Option<Crash>,
    /// All containers end by themselves, after this long with this code: jobs and test pods.
    pub ends: Option<(Duration, i32)>,
}

impl Default for PodFate {
    fn default() -> Self {
        PodFate {
            start_after: Duration::from_secs(1),
            readiness: Readiness::After(Duration::from_secs(1)),
            image_error: None,
            mount_error: None,
            held_in_init: false,
            crash: None,
            ends: None,
        }
    }
}

/// How a running pod becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// So long after its start.
    After(Duration),
    /// Not at all.
    Never,
    /// When a probe says so; it may lose readiness again.
    Probe {
        /// From the start to the first probe.
        first: Duration,
        /// Between probes.
        period: Duration,
    },
}

/// An image that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// The container that needs it.
    pub container: String,
    /// `ErrImagePull`, or `ErrImageNeverPull`, or `InvalidImageName`.
    pub reason: String,
    /// The runtime's words.
    pub message: String,
}

/// A container that ends in error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// Which.
    pub container: String,
    /// So long after its start.
    pub after: Duration,
    /// Its exit code.
    pub code: i32,
    /// What it wrote last.
    pub lines: Vec<String>,
}

/// What a probe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It serves.
    Ready,
    /// It runs and does not serve.
    NotReady,
    /// It has crashed; [`Crash::after`] does not count.
    Dead(Crash),
}
