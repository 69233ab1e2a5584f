//! The lab as the rest of the program sees it: validated, defaults applied, paths resolved.

use std::path::PathBuf;
use std::time::Duration;

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// Names the state directory and is written into the label [`Lab::LABEL`] of everything the lab makes.
    /// A DNS label.
    pub name: String,
    /// The file it was read from; absent for the embedded default.
    pub file: Option<PathBuf>,
    /// The cluster.
    pub cluster: ClusterSpec,
    /// Which versions of the tools are accepted.
    pub tools: ToolRequirements,
    /// cert-manager's manifest; absent: not installed.
    pub cert_manager: Option<ManifestRef>,
    /// Contour's manifest; absent: not installed.
    pub contour: Option<ManifestRef>,
    /// The monitoring stack; absent: not installed.
    pub monitoring: Option<MonitoringSpec>,
    /// The data store.
    pub database: DatabaseSpec,
    /// SPIRE.
    pub spire: SpireSpec,
    /// The workload.
    pub workload: WorkloadSpec,
    /// The pirate ship.
    pub malicious: MaliciousSpec,
    /// How images get to the nodes.
    pub images: ImageSpec,
    /// The allow-list of `audit`.
    pub identities: Identities,
    /// Where backups go, who may open them, and how many are kept.
    pub backup: BackupSpec,
    /// How long things may take.
    pub timeouts: Timeouts,
}

impl Lab {
    /// The label that everything the lab makes carries; its value is the lab's name. Also the marker on the
    /// nodes of a kind cluster.
    pub const LABEL: &'static str = "coastal-containers.example/lab";
    /// The field manager of our server-side apply.
    pub const FIELD_MANAGER: &'static str = "coastal";

    /// Whether the cluster is kind's, which we make and remove.
    #[must_use]
    pub fn is_kind(&self) -> bool {
        matches!(self.cluster.provider, Provider::Kind { .. })
    }

    /// Name and URL of every chart repository that the lab uses, without repetition.
    #[must_use]
    pub fn chart_repositories(&self) -> Vec<(String, String)> {
        let charts = [
            self.monitoring.as_ref().map(|monitoring| &monitoring.chart),
            Some(&self.spire.chart),
            self.spire.crds_chart.as_ref(),
        ];
        let mut repositories = Vec::new();
        for chart in charts.into_iter().flatten() {
            if let ChartRef::Repo { repo_name, url, .. } = chart {
                let repository = (repo_name.clone(), url.clone());
                if !repositories.contains(&repository) {
                    repositories.push(repository);
                }
            }
        }
        repositories
    }
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Whose it is.
    pub provider: Provider,
}

/// Who makes the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// kind makes it on this machine: one control plane, one worker.
    Kind {
        /// kind's cluster name; the context is `kind-NAME`.
        name: String,
        /// Node image; absent: kind's default.
        node_image: Option<String>,
        /// Host port that leads to port 80 of the worker.
        http_port: u16,
        /// Host port that leads to port 443 of the worker.
        https_port: u16,
    },
    /// Somebody else made it. It is never created or deleted.
    Existing {
        /// The kubeconfig file that holds the context.
        kubeconfig: PathBuf,
        /// The context, always named: the ambient one is never used.
        context: String,
    },
}

impl ClusterSpec {
    /// The context's name in the kubeconfig that is used.
    #[must_use]
    pub fn context(&self) -> String {
        match &self.provider {
            Provider::Kind { name, .. } => format!("kind-{name}"),
            Provider::Existing { context, .. } => context.clone(),
        }
    }
}

/// Accepted versions of the tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRequirements {
    /// kind.
    pub kind: VersionReq,
    /// helm.
    pub helm: VersionReq,
    /// kubectl.
    pub kubectl: VersionReq,
    /// The Docker server.
    pub docker: VersionReq,
}

/// Where a manifest comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestRef {
    /// Downloaded once into the lab's cache.
    Url(String),
    /// A local file.
    File(PathBuf),
}

/// Where a chart comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChartRef {
    /// From a repository.
    Repo {
        /// Under which name the repository is added to the lab's helm home.
        repo_name: String,
        /// Its URL.
        url: String,
        /// The chart's name.
        chart: String,
        /// Its version.
        version: Version,
    },
    /// A directory or an archive.
    Path(PathBuf),
}

/// The monitoring stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitoringSpec {
    /// Helm release name.
    pub release: String,
    /// Its namespace.
    pub namespace: String,
    /// kube-prometheus-stack.
    pub chart: ChartRef,
    /// A values file that is merged over ours.
    pub values: Option<PathBuf>,
}

/// PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSpec {
    /// The image.
    pub image: String,
    /// The claim's size, a Kubernetes quantity.
    pub storage: String,
    /// The database's name.
    pub database: String,
    /// The role that SPIRE logs in as.
    pub username: String,
    /// A manifest that replaces ours (then the other keys say only how to log in).
    pub manifest: Option<PathBuf>,
}

impl DatabaseSpec {
    /// Name of the StatefulSet, the Service and the ServiceAccount.
    pub const NAME: &'static str = "spire-db";
    /// Name of the Secret with the keys `username`, `password` and `database`.
    pub const SECRET: &'static str = "spire-db";
}

/// SPIRE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpireSpec {
    /// Helm release name; objects are named after it (`spire-server`, `spire-agent`).
    pub release: String,
    /// The release's namespace.
    pub release_namespace: String,
    /// Where servers, Tornjak and the database live.
    pub server_namespace: String,
    /// Where agents and the CSI driver live.
    pub system_namespace: String,
    /// E.g. `coastal-containers.example`.
    pub trust_domain: String,
    /// The name that agents attest with.
    pub cluster_name: String,
    /// Version of the servers.
    pub server_version: Version,
    /// Version of the agents.
    pub agent_version: Version,
    /// How many servers.
    pub servers: u32,
    /// The chart `spire`.
    pub chart: ChartRef,
    /// The chart `spire-crds`, for chart lines that have it.
    pub crds_chart: Option<ChartRef>,
    /// Subject of the CA certificates.
    pub ca_subject: CaSubject,
    /// Whether Tornjak is installed.
    pub tornjak: bool,
    /// A values file that is merged over ours.
    pub values: Option<PathBuf>,
}

/// Subject of SPIRE's CA certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSubject {
    /// Two letters.
    pub country: String,
    /// Organisation.
    pub organization: String,
    /// Common name.
    pub common_name: String,
}

/// The workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// Its namespace.
    pub namespace: String,
    /// Name of the Deployment and the ServiceAccount.
    pub name: String,
    /// Its image.
    pub image: String,
    /// How many pods.
    pub replicas: u32,
    /// CPU request of a pod, a Kubernetes quantity.
    pub cpu: String,
    /// Memory request and limit of a pod, a Kubernetes quantity.
    pub memory: String,
}

/// The pirate ship: a workload that nobody expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaliciousSpec {
    /// Its image, which runs as it is.
    pub image: String,
}

impl MaliciousSpec {
    /// Its namespace, which comes and goes with it.
    pub const NAMESPACE: &'static str = "pirate-coast";
    /// Name of the Deployment, the Service and the ServiceAccount.
    pub const NAME: &'static str = "pirate-ship";
}

/// How images get to the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Reaches every chart value that decides it.
    pub pull: PullPolicy,
    /// Image archives that are loaded onto the nodes of a kind cluster before anything is installed.
    pub archives: Vec<PathBuf>,
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Only if the node does not have it.
    IfNotPresent,
    /// At every start.
    Always,
}

impl PullPolicy {
    /// In Kubernetes' spelling.
    #[must_use]
    pub fn as_kubernetes(self) -> &'static str {
        match self {
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Always => "Always",
        }
    }
}

/// What is expected, for `audit`. Globs (`*` within one path segment, `**` across).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    /// SPIFFE ids that registration entries may give.
    pub allow: Vec<String>,
    /// SPIFFE ids of agents.
    pub agents: Vec<String>,
    /// Namespaces in which pods may run.
    pub namespaces: Vec<String>,
    /// `NAMESPACE/ACCOUNT` under which pods may run.
    pub service_accounts: Vec<String>,
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSpec {
    /// The directory; absent: `backups` in the lab's state directory.
    pub dir: Option<PathBuf>,
    /// Recipients of age's, who can open them.
    pub recipients: Vec<String>,
    /// How many are kept, at least one.
    pub keep: usize,
    /// How old they may get.
    pub max_age: Option<Duration>,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Making the cluster.
    pub cluster: Duration,
    /// One download.
    pub download: Duration,
    /// One image archive.
    pub image: Duration,
    /// One add-on, release or rollout.
    pub rollout: Duration,
    /// From a running pod to its SVID.
    pub identity: Duration,
    /// Removing one thing.
    pub removal: Duration,
}
