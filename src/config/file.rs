//! `lab.toml` as written: every table and key of schema 1, each with its form and its place in the file.
//!
//! Nothing is compared with anything else here; that is [`super::resolve`]'s part. A value is absent only if
//! its key is optional, or if it was wrong and has been reported.

use std::time::Duration;

use semver::{Version, VersionReq};

use crate::config::PullPolicy;
use crate::config::problems::Place;
use crate::config::reader::{At, Table};
use crate::config::syntax::{
    ACCOUNT_GLOB, AGE, BUILT_IMAGE, BYTES, CLUSTER_NAME, COUNTRY, CPU, DNS_LABEL, DURATION, IDENTITY_GLOB, IMAGE,
    KIND_NAME, NAME, NAMESPACE_GLOB, PATH, RECIPIENT, RELEASE, REQUIREMENT, SQL_NAME, SUBJECT, TRUST_DOMAIN, URL,
    URL_OR_PATH, VERSION,
};

/// The schema that this program reads.
pub const SCHEMA: u32 = 1;

/// A value with its place, or nothing.
pub type Field<T> = Option<At<T>>;

/// The whole file.
#[derive(Debug, Clone)]
pub struct LabFile {
    /// `name`
    pub name: Field<String>,
    /// `[cluster]`
    pub cluster: ClusterTable,
    /// `[tools]`
    pub tools: ToolsTable,
    /// `[addons.cert-manager]`
    pub cert_manager: AddonTable,
    /// `[addons.contour]`
    pub contour: AddonTable,
    /// `[monitoring]`
    pub monitoring: MonitoringTable,
    /// `[database]`
    pub database: DatabaseTable,
    /// `[spire]`
    pub spire: SpireTable,
    /// `[workload]`
    pub workload: WorkloadTable,
    /// `[malicious]`: `image`
    pub malicious_image: Field<String>,
    /// `[images]`
    pub images: ImagesTable,
    /// `[identities]`
    pub identities: IdentitiesTable,
    /// `[backup]`
    pub backup: BackupTable,
    /// `[timeouts]`
    pub timeouts: TimeoutsTable,
}

/// Who makes the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderName {
    /// `kind`
    Kind,
    /// `existing`
    Existing,
}

/// `[cluster]`. Only the keys of the provider are read; those of the other are refused.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct ClusterTable {
    pub provider: Field<ProviderName>,
    pub name: Field<String>,
    pub node_image: Field<String>,
    pub http_port: Field<u16>,
    pub https_port: Field<u16>,
    pub kubeconfig: Field<String>,
    pub context: Field<String>,
}

/// `[tools]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct ToolsTable {
    pub kind: Field<VersionReq>,
    pub helm: Field<VersionReq>,
    pub kubectl: Field<VersionReq>,
    pub docker: Field<VersionReq>,
}

/// `[addons.*]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct AddonTable {
    pub enabled: Field<bool>,
    pub manifest: Field<String>,
}

/// A chart: `path`, or the four others.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct ChartTable {
    pub path: Field<String>,
    pub repo: Field<String>,
    pub repo_name: Field<String>,
    pub name: Field<String>,
    pub version: Field<Version>,
}

/// `[monitoring]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct MonitoringTable {
    pub enabled: Field<bool>,
    pub release: Field<String>,
    pub namespace: Field<String>,
    pub chart: ChartTable,
    pub values: Field<String>,
}

/// `[database]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct DatabaseTable {
    pub image: Field<String>,
    pub storage: Field<String>,
    pub database: Field<String>,
    pub username: Field<String>,
    pub manifest: Field<String>,
}

/// `[spire]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct SpireTable {
    pub release: Field<String>,
    pub release_namespace: Field<String>,
    pub server_namespace: Field<String>,
    pub system_namespace: Field<String>,
    pub trust_domain: Field<String>,
    pub cluster_name: Field<String>,
    pub server_version: Field<Version>,
    pub agent_version: Field<Version>,
    pub servers: Field<u32>,
    pub chart: ChartTable,
    pub crds_chart: Option<ChartTable>,
    pub country: Field<String>,
    pub organization: Field<String>,
    pub common_name: Field<String>,
    pub tornjak: Field<bool>,
    pub values: Field<String>,
}

/// `[workload]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct WorkloadTable {
    pub namespace: Field<String>,
    pub name: Field<String>,
    pub image: Field<String>,
    pub replicas: Field<u32>,
    pub cpu: Field<String>,
    pub memory: Field<String>,
}

/// `[images]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct ImagesTable {
    pub pull: Field<PullPolicy>,
    pub archives: Option<Vec<At<String>>>,
    pub archives_place: Option<Place>,
}

/// `[identities]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct IdentitiesTable {
    pub allow: Option<Vec<At<String>>>,
    pub agents: Option<Vec<At<String>>>,
    pub namespaces: Option<Vec<At<String>>>,
    pub service_accounts: Option<Vec<At<String>>>,
}

/// `[backup]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct BackupTable {
    pub dir: Field<String>,
    pub recipients: Option<Vec<At<String>>>,
    pub keep: Field<u16>,
    pub max_age: Field<Duration>,
}

/// `[timeouts]`
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys, documented in lab.toml")]
pub struct TimeoutsTable {
    pub cluster: Field<Duration>,
    pub download: Field<Duration>,
    pub image: Field<Duration>,
    pub rollout: Field<Duration>,
    pub identity: Field<Duration>,
    pub removal: Field<Duration>,
}

impl LabFile {
    /// Reads all tables. Nothing if the file is of another schema: its keys would only be misunderstood.
    pub(super) fn read(root: Table<'_>) -> Option<LabFile> {
        if root.written("schema").is_none() {
            root.missing("schema", "a lab file starts with `schema = 1`");
        } else {
            root.number("schema", SCHEMA..=SCHEMA)?;
        }
        let addons = root.table("addons");
        let malicious = root.table("malicious");
        let cluster = ClusterTable::read(root.table("cluster"));
        let file = LabFile {
            name: root.text("name", &DNS_LABEL),
            tools: ToolsTable::read(root.table("tools")),
            cert_manager: AddonTable::read(addons.table("cert-manager")),
            contour: AddonTable::read(addons.table("contour")),
            monitoring: MonitoringTable::read(root.table("monitoring")),
            database: DatabaseTable::read(root.table("database")),
            spire: SpireTable::read(root.table("spire")),
            workload: WorkloadTable::read(root.table("workload")),
            malicious_image: malicious.text("image", &IMAGE),
            images: ImagesTable::read(root.table("images")),
            identities: IdentitiesTable::read(root.table("identities")),
            backup: BackupTable::read(root.table("backup")),
            timeouts: TimeoutsTable::read(root.table("timeouts")),
            cluster,
        };
        addons.finish();
        malicious.finish();
        root.finish();
        Some(file)
    }
}

impl ClusterTable {
    fn read(table: Table<'_>) -> Self {
        let provider = table.choice("provider", &[("kind", ProviderName::Kind), ("existing", ProviderName::Existing)]);
        let mut cluster = ClusterTable {
            provider: provider.clone(),
            name: None,
            node_image: None,
            http_port: None,
            https_port: None,
            kubeconfig: None,
            context: None,
        };
        match provider.map(|provider| provider.value) {
            Some(ProviderName::Existing) => {
                for key in ["name", "node-image", "http-port", "https-port"] {
                    table.refuse(key, "belongs to `provider = \"kind\"`; an existing cluster is used as it is");
                }
                cluster.kubeconfig = table.text("kubeconfig", &PATH);
                cluster.context = table.text("context", &NAME);
                for key in ["kubeconfig", "context"] {
                    if table.written(key).is_none() {
                        table.missing(key, "an existing cluster is never guessed from your current context");
                    }
                }
            }
            // An unreadable provider is reported already; its other keys are read as if it were the default.
            Some(ProviderName::Kind) | None => {
                cluster.name = table.text("name", &KIND_NAME);
                cluster.node_image = table.text("node-image", &IMAGE);
                cluster.http_port = table.number("http-port", 1..=u16::MAX);
                cluster.https_port = table.number("https-port", 1..=u16::MAX);
                for key in ["kubeconfig", "context"] {
                    table.refuse(
                        key,
                        "belongs to `provider = \"existing\"`; a kind cluster gets a kubeconfig of the lab's own",
                    );
                }
            }
        }
        table.finish();
        cluster
    }
}

impl ToolsTable {
    fn read(table: Table<'_>) -> Self {
        let tools = ToolsTable {
            kind: table.text("kind", &REQUIREMENT),
            helm: table.text("helm", &REQUIREMENT),
            kubectl: table.text("kubectl", &REQUIREMENT),
            docker: table.text("docker", &REQUIREMENT),
        };
        table.finish();
        tools
    }
}

impl AddonTable {
    fn read(table: Table<'_>) -> Self {
        let addon = AddonTable { enabled: table.flag("enabled"), manifest: table.text("manifest", &URL_OR_PATH) };
        table.finish();
        addon
    }
}

impl ChartTable {
    const FORMS: &'static str = "a chart, `{ repo, repo-name, name, version }` or `{ path }`";
    const REPO_KEYS: [&'static str; 4] = ["repo", "repo-name", "name", "version"];

    /// Keys that are not written are taken from the default chart, unless `path` replaces it altogether.
    fn read(table: Table<'_>) -> Self {
        let by_path = table.written("path").is_some();
        let table = if by_path { table.without_defaults() } else { table };
        let path = table.text("path", &PATH);
        if by_path {
            for key in Self::REPO_KEYS {
                table.refuse(key, "contradicts `path`: a chart comes from a repository or from a path, not from both");
            }
        }
        let from_repo = |key, rule| if by_path { None } else { table.text(key, rule) };
        let chart = ChartTable {
            path,
            repo: from_repo("repo", &URL),
            repo_name: from_repo("repo-name", &DNS_LABEL),
            name: from_repo("name", &DNS_LABEL),
            version: if by_path { None } else { table.text("version", &VERSION) },
        };
        table.finish();
        chart
    }

    /// A chart that has no default: all of it is written, or nothing.
    fn read_optional(table: Table<'_>) -> Option<Self> {
        if !table.is_written() {
            return None;
        }
        if table.written("path").is_none() {
            for key in Self::REPO_KEYS.into_iter().filter(|key| table.written(key).is_none()) {
                table.missing(key, &format!("expected {}", Self::FORMS));
            }
        }
        Some(ChartTable::read(table))
    }
}

impl MonitoringTable {
    fn read(table: Table<'_>) -> Self {
        let monitoring = MonitoringTable {
            enabled: table.flag("enabled"),
            release: table.text("release", &RELEASE),
            namespace: table.text("namespace", &DNS_LABEL),
            chart: ChartTable::read(table.table_like("chart", ChartTable::FORMS)),
            values: table.text("values", &PATH),
        };
        table.finish();
        monitoring
    }
}

impl DatabaseTable {
    fn read(table: Table<'_>) -> Self {
        let database = DatabaseTable {
            image: table.text("image", &IMAGE),
            storage: table.text("storage", &BYTES),
            database: table.text("database", &SQL_NAME),
            username: table.text("username", &SQL_NAME),
            manifest: table.text("manifest", &PATH),
        };
        table.finish();
        database
    }
}

impl SpireTable {
    fn read(table: Table<'_>) -> Self {
        let subject = table.table("ca-subject");
        let spire = SpireTable {
            release: table.text("release", &RELEASE),
            release_namespace: table.text("release-namespace", &DNS_LABEL),
            server_namespace: table.text("server-namespace", &DNS_LABEL),
            system_namespace: table.text("system-namespace", &DNS_LABEL),
            trust_domain: table.text("trust-domain", &TRUST_DOMAIN),
            cluster_name: table.text("cluster-name", &CLUSTER_NAME),
            server_version: table.text("server-version", &VERSION),
            agent_version: table.text("agent-version", &VERSION),
            servers: table.number("servers", 1..=99),
            chart: ChartTable::read(table.table_like("chart", ChartTable::FORMS)),
            crds_chart: ChartTable::read_optional(table.table_like("crds-chart", ChartTable::FORMS)),
            country: subject.text("country", &COUNTRY),
            organization: subject.text("organization", &SUBJECT),
            common_name: subject.text("common-name", &SUBJECT),
            tornjak: table.flag("tornjak"),
            values: table.text("values", &PATH),
        };
        subject.finish();
        table.finish();
        spire
    }
}

impl WorkloadTable {
    fn read(table: Table<'_>) -> Self {
        let workload = WorkloadTable {
            namespace: table.text("namespace", &DNS_LABEL),
            name: table.text("name", &DNS_LABEL),
            image: table.text("image", &BUILT_IMAGE),
            replicas: table.number("replicas", 1..=500),
            cpu: table.text("cpu", &CPU),
            memory: table.text("memory", &BYTES),
        };
        table.finish();
        workload
    }
}

impl ImagesTable {
    fn read(table: Table<'_>) -> Self {
        let policies = [("if-not-present", PullPolicy::IfNotPresent), ("always", PullPolicy::Always)];
        let images = ImagesTable {
            pull: table.choice("pull", &policies),
            archives_place: table.written("archives"),
            archives: table.list("archives", &PATH),
        };
        table.finish();
        images
    }
}

impl IdentitiesTable {
    fn read(table: Table<'_>) -> Self {
        let identities = IdentitiesTable {
            allow: table.list("allow", &IDENTITY_GLOB),
            agents: table.list("agents", &IDENTITY_GLOB),
            namespaces: table.list("namespaces", &NAMESPACE_GLOB),
            service_accounts: table.list("service-accounts", &ACCOUNT_GLOB),
        };
        table.finish();
        identities
    }
}

impl BackupTable {
    fn read(table: Table<'_>) -> Self {
        let backup = BackupTable {
            dir: table.text("dir", &PATH),
            recipients: table.list("recipients", &RECIPIENT),
            keep: table.number("keep", 1..=10_000),
            max_age: table.text("max-age", &AGE),
        };
        table.finish();
        backup
    }
}

impl TimeoutsTable {
    fn read(table: Table<'_>) -> Self {
        let timeouts = TimeoutsTable {
            cluster: table.text("cluster", &DURATION),
            download: table.text("download", &DURATION),
            image: table.text("image", &DURATION),
            rollout: table.text("rollout", &DURATION),
            identity: table.text("identity", &DURATION),
            removal: table.text("removal", &DURATION),
        };
        table.finish();
        timeouts
    }
}
