//! Everything that checks judge, gathered once. What could not be had says why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use semver::Version;
use serde_json::Value;

use crate::config::Lab;
use crate::plan::{Finding, StepId};
use crate::spire::values::known::Unknown;
pub use crate::steps::audit::Audited;
use crate::steps::live::Live;
use crate::tools::docker::Info;
use crate::tools::helm::Release;
use crate::tools::{CommandError, Tool};
use crate::workload::record::Update;
use crate::world::HostFacts;

/// Something that was seen, or why not.
pub type Known<T> = Result<T, String>;

/// What there is of the lab's cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// None.
    Absent,
    /// One that an interrupted run left half-made.
    HalfMade,
    /// It runs, and is the lab's.
    Running,
}

/// Permission bits of the lab's own files; absent where the file is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The state directory and what is secret in it, with its bits and the most that it may have.
    pub modes: Vec<(PathBuf, u32, u32)>,
}

/// The newest revision of the release `spire`, as far as its values can be told without showing a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseValues {
    /// Keys that its chart does not read; the error is why the chart's keys are not known.
    pub unread: Option<Known<Vec<Unknown>>>,
    /// Paths at which a password stands in plain text.
    pub passwords: Vec<String>,
}

/// A ConfigMap with the trust bundle that agents boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleMap {
    /// The namespace it is in.
    pub namespace: String,
    /// Key ids of the X.509 authorities in it.
    pub x509: BTreeSet<String>,
}

/// The newest SVID of a workload pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// The pod.
    pub pod: String,
    /// What it logged last.
    pub update: Option<Update>,
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// When.
    pub now: Timestamp,
    /// What is wanted.
    pub lab: Lab,
    /// Each tool's version.
    pub tools: BTreeMap<Tool, Result<Version, CommandError>>,
    /// What Docker has to run containers with.
    pub docker: Known<Info>,
    /// The machine.
    pub host: HostFacts,
    /// The lab's own files.
    pub files: Files,
    /// The cluster; the error is also that it is not the lab's.
    pub there: Known<There>,
    /// All nodes.
    pub nodes: Known<Vec<Node>>,
    /// All pods.
    pub pods: Known<Vec<Pod>>,
    /// All services.
    pub services: Known<Vec<Service>>,
    /// All claims.
    pub claims: Known<Vec<PersistentVolumeClaim>>,
    /// All namespaces.
    pub namespaces: Known<Vec<Namespace>>,
    /// All storage classes.
    pub storage_classes: Known<Vec<StorageClass>>,
    /// All CSI drivers.
    pub csi_drivers: Known<Vec<CSIDriver>>,
    /// All validating webhooks.
    pub webhooks: Known<Vec<ValidatingWebhookConfiguration>>,
    /// The servers' StatefulSet.
    pub server_set: Known<Option<StatefulSet>>,
    /// The DaemonSets of SPIRE's system namespace.
    pub daemon_sets: Known<Vec<DaemonSet>>,
    /// The lab's releases that exist.
    pub releases: Known<Vec<Release>>,
    /// The values of the release `spire`, if there is one.
    pub values: Known<Option<ReleaseValues>>,
    /// Every step of `up`, as it is.
    pub drift: Known<Vec<(StepId, Finding)>>,
    /// Versions of the processes.
    pub live: Known<Live>,
    /// Whether the data store accepts SPIRE's login, or its words.
    pub login: Known<Result<(), String>>,
    /// Schema and code version in the database.
    pub row: Known<(u32, String)>,
    /// The audit.
    pub audited: Known<Audited>,
    /// Every ConfigMap `spire-bundle` of SPIRE's namespaces.
    pub bundle_maps: Known<Vec<BundleMap>>,
    /// The newest SVID of each workload pod.
    pub svids: Known<Vec<Svid>>,
    /// Every ClusterSPIFFEID.
    pub spiffe_ids: Known<Vec<Value>>,
    /// The servers' configuration.
    pub server_conf: Known<Value>,
    /// The controller manager's configuration.
    pub manager_conf: Known<Value>,
    /// Every PodMonitor, as namespace and spec.
    pub monitors: Known<Vec<(String, Value)>>,
    /// Names of pods that an earlier run left.
    pub leftovers: Known<Vec<String>>,
}

impl Evidence {
    /// Nothing of the cluster was looked at, for this reason.
    #[must_use]
    pub fn without_cluster(lab: Lab, now: Timestamp, there: Known<There>, why: &str) -> Self {
        let why = || why.to_owned();
        Evidence {
            now,
            lab,
            tools: BTreeMap::new(),
            docker: Err(why()),
            host: HostFacts::default(),
            files: Files::default(),
            there,
            nodes: Err(why()),
            pods: Err(why()),
            services: Err(why()),
            claims: Err(why()),
            namespaces: Err(why()),
            storage_classes: Err(why()),
            csi_drivers: Err(why()),
            webhooks: Err(why()),
            server_set: Err(why()),
            daemon_sets: Err(why()),
            releases: Err(why()),
            values: Err(why()),
            drift: Err(why()),
            live: Err(why()),
            login: Err(why()),
            row: Err(why()),
            audited: Err(why()),
            bundle_maps: Err(why()),
            svids: Err(why()),
            spiffe_ids: Err(why()),
            server_conf: Err(why()),
            manager_conf: Err(why()),
            monitors: Err(why()),
            leftovers: Err(why()),
        }
    }
}
