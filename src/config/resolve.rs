//! From a lab file to the lab: derived defaults, paths made absolute, and what no single key can tell: whether
//! the keys agree with one another.

use std::path::{Path, PathBuf};

use crate::config::file::{
    AddonTable, ChartTable, ClusterTable, Field, IdentitiesTable, LabFile, ProviderName, SpireTable,
};
use crate::config::problems::Source;
use crate::config::reader::At;
use crate::config::syntax::is_url;
use crate::config::{
    BackupSpec, CaSubject, ChartRef, ClusterSpec, DatabaseSpec, Identities, ImageSpec, Lab, MaliciousSpec, ManifestRef,
    MonitoringSpec, Provider, SpireSpec, Timeouts, ToolRequirements, WorkloadSpec,
};

/// Namespaces of Kubernetes itself: SPIRE's own are labelled, and removed with the lab.
const SYSTEM_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Namespaces that the controller manager passes over (`ignoreNamespaces` in `values/spire.yaml`).
pub const WITHOUT_IDENTITIES: &[&str] = &["kube-system", "kube-public", "local-path-storage"];

/// Where paths in a lab file start.
pub(super) struct Base {
    /// The file's own directory, absolute.
    pub(super) directory: PathBuf,
    /// What `~/` stands for.
    pub(super) home: Option<PathBuf>,
}

impl Base {
    fn path(&self, written: &str) -> PathBuf {
        let joined = match (written.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.directory.join(written),
        };
        // Only takes out `.` and repeated slashes.
        joined.components().collect()
    }

    fn optional(&self, written: Field<String>) -> Option<PathBuf> {
        written.map(|written| self.path(&written.value))
    }
}

/// The lab, if nothing is missing. Where something is, it has been reported to `source`, here or before.
pub(super) fn resolve(file: LabFile, path: Option<PathBuf>, base: &Base, source: &Source) -> Option<Lab> {
    agree(&file, source);
    let is_kind = file.cluster.provider.as_ref().is_none_or(|provider| provider.value == ProviderName::Kind);
    // An existing cluster is somebody's: nothing cluster-wide is put there unless it is asked for.
    let wanted = |enabled: &Field<bool>| enabled.as_ref().map_or(is_kind, |enabled| enabled.value);
    let monitoring_wanted = wanted(&file.monitoring.enabled);
    let addon = |addon: AddonTable| -> Option<Option<ManifestRef>> {
        let wanted = wanted(&addon.enabled);
        let manifest = addon.manifest?.value;
        let source =
            if is_url(&manifest) { ManifestRef::Url(manifest) } else { ManifestRef::File(base.path(&manifest)) };
        Some(wanted.then_some(source))
    };
    let monitoring = MonitoringSpec {
        release: value(file.monitoring.release)?,
        namespace: value(file.monitoring.namespace)?,
        chart: chart(file.monitoring.chart, base)?,
        values: base.optional(file.monitoring.values),
    };
    let (tools, timeouts) = (file.tools, file.timeouts);
    let spire = spire(file.spire, base)?;
    let identities = identities(file.identities, &spire.trust_domain)?;
    Some(Lab {
        name: value(file.name)?,
        file: path,
        cluster: cluster(file.cluster, base)?,
        tools: ToolRequirements {
            kind: value(tools.kind)?,
            helm: value(tools.helm)?,
            kubectl: value(tools.kubectl)?,
            docker: value(tools.docker)?,
        },
        cert_manager: addon(file.cert_manager)?,
        contour: addon(file.contour)?,
        monitoring: monitoring_wanted.then_some(monitoring),
        database: DatabaseSpec {
            image: value(file.database.image)?,
            storage: value(file.database.storage)?,
            database: value(file.database.database)?,
            username: value(file.database.username)?,
            manifest: base.optional(file.database.manifest),
        },
        workload: WorkloadSpec {
            namespace: value(file.workload.namespace)?,
            name: value(file.workload.name)?,
            image: value(file.workload.image)?,
            replicas: value(file.workload.replicas)?,
            cpu: value(file.workload.cpu)?,
            memory: value(file.workload.memory)?,
        },
        malicious: MaliciousSpec { image: value(file.malicious_image)? },
        images: ImageSpec {
            pull: value(file.images.pull)?,
            archives: file.images.archives?.iter().map(|archive| base.path(&archive.value)).collect(),
        },
        identities,
        backup: BackupSpec {
            dir: base.optional(file.backup.dir),
            recipients: file.backup.recipients?.into_iter().map(|at| at.value).collect(),
            keep: usize::from(value(file.backup.keep)?),
            max_age: value(file.backup.max_age),
        },
        timeouts: Timeouts {
            cluster: value(timeouts.cluster)?,
            download: value(timeouts.download)?,
            image: value(timeouts.image)?,
            rollout: value(timeouts.rollout)?,
            identity: value(timeouts.identity)?,
            removal: value(timeouts.removal)?,
        },
        spire,
    })
}

fn value<T>(field: Field<T>) -> Option<T> {
    field.map(|at| at.value)
}

fn identities(table: IdentitiesTable, trust_domain: &str) -> Option<Identities> {
    let plain = |list: Vec<At<String>>| list.into_iter().map(|at| at.value);
    let whole = |id: String| match id {
        path if path.starts_with('/') => format!("spiffe://{trust_domain}{path}"),
        id => id,
    };
    Some(Identities {
        allow: plain(table.allow?).map(whole).collect(),
        agents: plain(table.agents?).map(whole).collect(),
        namespaces: plain(table.namespaces?).collect(),
        service_accounts: plain(table.service_accounts?).collect(),
    })
}

fn cluster(cluster: ClusterTable, base: &Base) -> Option<ClusterSpec> {
    let provider = match cluster.provider?.value {
        ProviderName::Kind => Provider::Kind {
            name: value(cluster.name)?,
            node_image: value(cluster.node_image),
            http_port: value(cluster.http_port)?,
            https_port: value(cluster.https_port)?,
        },
        ProviderName::Existing => {
            Provider::Existing { kubeconfig: base.path(&cluster.kubeconfig?.value), context: value(cluster.context)? }
        }
    };
    Some(ClusterSpec { provider })
}

fn chart(chart: ChartTable, base: &Base) -> Option<ChartRef> {
    Some(match chart.path {
        Some(path) => ChartRef::Path(base.path(&path.value)),
        None => ChartRef::Repo {
            repo_name: value(chart.repo_name)?,
            url: value(chart.repo)?,
            chart: value(chart.name)?,
            version: value(chart.version)?,
        },
    })
}

fn spire(spire: SpireTable, base: &Base) -> Option<SpireSpec> {
    let crds_chart = match spire.crds_chart {
        Some(crds_chart) => Some(chart(crds_chart, base)?),
        None => None,
    };
    let server_version = value(spire.server_version)?;
    let trust_domain = value(spire.trust_domain)?;
    Some(SpireSpec {
        release: value(spire.release)?,
        release_namespace: value(spire.release_namespace)?,
        server_namespace: value(spire.server_namespace)?,
        system_namespace: value(spire.system_namespace)?,
        cluster_name: value(spire.cluster_name)?,
        agent_version: value(spire.agent_version).unwrap_or_else(|| server_version.clone()),
        server_version,
        servers: value(spire.servers)?,
        chart: chart(spire.chart, base)?,
        crds_chart,
        ca_subject: CaSubject {
            country: value(spire.country)?,
            organization: value(spire.organization)?,
            common_name: value(spire.common_name).unwrap_or_else(|| trust_domain.clone()),
        },
        trust_domain,
        tornjak: value(spire.tornjak)?,
        values: base.optional(spire.values),
    })
}

/// Reports where keys contradict each other. A key that is absent here has its report already.
fn agree(file: &LabFile, source: &Source) {
    let (cluster, spire, workload, monitoring) = (&file.cluster, &file.spire, &file.workload, &file.monitoring);
    let server_namespace = Key("spire.server-namespace", &spire.server_namespace);
    let system_namespace = Key("spire.system-namespace", &spire.system_namespace);
    let workload_namespace = Key("workload.namespace", &workload.namespace);
    let monitoring_namespace = Key("monitoring.namespace", &monitoring.namespace);

    let ports = (Key("cluster.http-port", &cluster.http_port), Key("cluster.https-port", &cluster.https_port));
    differ(source, ports.0, ports.1, "");
    differ(source, server_namespace, system_namespace, "; agents need `privileged`, servers run `restricted`");
    for tenant in [workload_namespace, monitoring_namespace] {
        for namespace in [server_namespace, system_namespace] {
            differ(source, namespace, tenant, "; SPIRE's namespaces are removed with it");
        }
    }
    if value(monitoring.namespace.clone()) == value(spire.release_namespace.clone()) {
        differ(source, Key("spire.release", &spire.release), Key("monitoring.release", &monitoring.release), "");
    }
    for Key(key, namespace) in [server_namespace, system_namespace] {
        if let Some(At { value, place }) = namespace
            && SYSTEM_NAMESPACES.contains(&value.as_str())
        {
            let message = format!("expected a namespace of SPIRE's own, found {value:?}; it is removed with the lab");
            source.problem(*place, key, message);
        }
    }
    if let Some(At { value, place }) = &workload.namespace
        && WITHOUT_IDENTITIES.contains(&value.as_str())
    {
        let message = format!("expected a namespace whose pods get identities, found {value:?}");
        source.problem(*place, "workload.namespace", message);
    }
    if let (Some(server), Some(agent)) = (&spire.server_version, &spire.agent_version)
        && agent.value > server.value
    {
        let message = format!(
            "expected at most spire.server-version ({}), found {}; SPIRE supports no agent that is newer than its servers",
            server.value, agent.value
        );
        source.problem(agent.place.or(server.place), "spire.agent-version", message);
    }
    let has_archives = file.images.archives.as_ref().is_some_and(|archives| !archives.is_empty());
    if has_archives && value(cluster.provider.clone()) == Some(ProviderName::Existing) {
        let message = "belongs to `provider = \"kind\"`; archives can be loaded onto the nodes of a kind cluster only";
        source.problem(file.images.archives_place, "images.archives", message);
    }
    repositories_agree(file, source);
}

/// A key's path and its value.
struct Key<'a, T>(&'static str, &'a Field<T>);

impl<T> Clone for Key<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<'_, T> {}

/// Reports two keys of the same value; at the second, or at the first if the second is a default.
fn differ<T: PartialEq + std::fmt::Debug>(source: &Source, first: Key<'_, T>, second: Key<'_, T>, why: &str) {
    let (Key(_, Some(a)), Key(_, Some(b))) = (first, second) else { return };
    if a.value == b.value {
        let (blamed, place, other) =
            if b.place.is_some() { (second, b.place, first) } else { (first, a.place, second) };
        source.problem(
            place,
            blamed.0,
            format!("expected another than {}, found {:?} for both{why}", other.0, a.value),
        );
    }
}

/// A repository's name stands for one address.
fn repositories_agree(file: &LabFile, source: &Source) {
    let charts = [
        ("monitoring.chart", Some(&file.monitoring.chart)),
        ("spire.chart", Some(&file.spire.chart)),
        ("spire.crds-chart", file.spire.crds_chart.as_ref()),
    ];
    let mut known: Vec<(&str, &At<String>, &At<String>)> = Vec::new();
    for (key, chart) in charts {
        let Some(ChartTable { repo: Some(repo), repo_name: Some(name), .. }) = chart else { continue };
        match known.iter().find(|(_, known, _)| known.value == name.value) {
            Some((other, _, address)) if address.value != repo.value => {
                let message = format!(
                    "expected a name of its own: {:?} is {} in {other}, and {} here",
                    name.value, address.value, repo.value
                );
                source.problem(name.place.or(repo.place).or(address.place), format!("{key}.repo-name"), message);
            }
            Some(_) => {}
            None => known.push((key, name, repo)),
        }
    }
}

/// `path` in full, so that it means the same wherever a tool is started.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
