//! The present, read live and never remembered: what a plan would find, and what `status` shows.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Provider;
use crate::engine::StepContext;
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, Rollout, api_failure};
use crate::plan::{self, Finding, Goal, Observed, Plan, Role, StepId};
use crate::session::Session;
use crate::spire::audit::AuthorityKind;
use crate::spire::bundles::Keys;
use crate::spire::monitors;
use crate::spire::names;
use crate::spire::policy::Seen;
use crate::steps::live::Live;
use crate::steps::reach::{self, Presence};
use crate::steps::{self, database, monitoring, release, workload};

/// A context that only looks: it says nothing and has half a minute.
#[must_use]
pub fn looking(session: &Arc<Session>, cancel: &CancellationToken) -> StepContext {
    let deadline = Instant::now() + Duration::from_secs(30);
    StepContext::new(Arc::clone(session), StepId::Cluster, deadline, cancel.clone(), None)
}

/// The plan for `goal`, with what was seen of each of its steps. Writes nothing.
///
/// # Errors
/// The cluster is not the lab's, or a rule forbids a change that would be needed.
pub async fn plan(session: &Arc<Session>, goal: Goal, cancel: &CancellationToken) -> Result<Plan, Failure> {
    let cx = looking(session, cancel);
    let plan = plan::build(&session.lab, goal, None);
    let reached = match reach::presence(&cx).await {
        Ok(Presence::Ours(cluster)) => {
            let _ = session.cluster.set(cluster);
            true
        }
        Ok(Presence::Absent | Presence::Unfinished) => false,
        // Without Docker or kind nothing can be there; the step that checks the tools says so.
        Err(failure) if failure.kind == Kind::Prerequisite => false,
        Err(failure) => return Err(failure),
    };
    let looks = plan.steps.iter().filter(|step| step.role == Role::Goal || step.id == StepId::Tools).map(|step| {
        let cx = looking(session, cancel);
        async move {
            if !reached && plan::is_inside_cluster(step.id) {
                return Ok((step.id, Finding::Missing("there is no cluster yet".into())));
            }
            match steps::body(step.id).check(&cx).await {
                Ok(finding) => Ok((step.id, finding)),
                Err(failure) if matches!(failure.kind, Kind::Refused | Kind::Config | Kind::Interrupted) => {
                    Err(failure)
                }
                Err(failure) => Ok((step.id, Finding::Missing(failure.message))),
            }
        }
    });
    let findings = join_all(looks).await.into_iter().collect::<Result<_, Failure>>()?;
    Ok(plan::build(&session.lab, goal, Some(&Observed { findings })))
}

/// One screen of what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The version of this format.
    pub schema: u32,
    /// The lab's name.
    pub lab: String,
    /// The cluster.
    pub cluster: ClusterStatus,
    /// Helm releases of the lab that exist.
    pub releases: Vec<ReleaseStatus>,
    /// SPIRE, as far as it answers.
    pub spire: SpireStatus,
    /// The workload.
    pub workload: WorkloadStatus,
    /// Whether Prometheus is told where SPIRE is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitors: Option<MonitorStatus>,
    /// Where the host's ports lead.
    pub urls: Vec<String>,
    /// What could not be read, and why.
    pub troubles: Vec<String>,
}

/// The cluster's part of [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Its context.
    pub context: String,
    /// `absent`, `half-made`, `running`.
    pub state: String,
    /// Kubernetes version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Node name and whether it is ready.
    pub nodes: Vec<NodeStatus>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its Ready condition.
    pub ready: bool,
}

/// A helm release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseStatus {
    /// Its name.
    pub name: String,
    /// Chart and version, `spire-0.13.0`.
    pub chart: String,
    /// Newest revision.
    pub revision: u32,
    /// Helm's word for its state.
    pub status: String,
}

/// SPIRE's part of [`Status`]; its fields are also what `upgrade --plan --state` reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpireStatus {
    /// Versions of the running servers, as they tell them.
    pub servers: Vec<String>,
    /// Versions of the running agents, as they tell them.
    pub agents: Vec<String>,
    /// `3 of 3`, or what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_ready: Option<String>,
    /// Schema version in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
    /// Newest SPIRE version that wrote to the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_version: Option<String>,
    /// Version of the chart `spire`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chart: Option<String>,
    /// Registration entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Attested agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attested_agents: Option<usize>,
    /// How many agent pods there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_pods: Option<usize>,
    /// X.509 authorities of the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<usize>,
    /// When the first of them expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_authority_expires_at: Option<Timestamp>,
    /// Each authority, as the data store holds it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundle: Vec<AuthorityStatus>,
}

/// An authority of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuthorityStatus {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Its id.
    pub id: String,
    /// When it expires, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether it is on its way out.
    pub tainted: bool,
}

impl From<&SpireStatus> for Seen {
    fn from(status: &SpireStatus) -> Self {
        Seen {
            servers: status.servers.clone(),
            agents: status.agents.clone(),
            schema: status.schema,
            code_version: status.code_version.clone(),
            chart: status.chart.clone(),
        }
    }
}

/// The workload's part of [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WorkloadStatus {
    /// The SPIFFE id its pods should hold.
    pub spiffe_id: String,
    /// How many pods the lab wants.
    pub wanted: u32,
    /// How many exist.
    pub pods: usize,
    /// How many hold a valid SVID of that id.
    pub with_svid: usize,
    /// When the first of those SVIDs expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_svid_expires_at: Option<Timestamp>,
    /// When the oldest of them was issued: agents renew at half of a life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_svid_issued_at: Option<Timestamp>,
    /// How many are in the last quarter of their life, and should have been renewed.
    pub not_renewed: usize,
}

/// SPIRE's PodMonitors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MonitorStatus {
    /// How many there are.
    pub pod_monitors: usize,
    /// Of what none of them sees, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blind: Vec<String>,
}

/// Looks at everything at once.
///
/// # Errors
/// The cluster is not the lab's, or it should be there and does not answer. What cannot be read inside it is a
/// trouble in the status.
pub async fn status(session: &Arc<Session>, cancel: &CancellationToken) -> Result<Status, Failure> {
    let session = session.at_one_moment();
    let cx = looking(&session, cancel);
    let lab = &session.lab;
    let mut status = Status {
        schema: 1,
        lab: lab.name.clone(),
        cluster: ClusterStatus { context: lab.cluster.context(), ..ClusterStatus::default() },
        releases: Vec::new(),
        spire: SpireStatus::default(),
        workload: WorkloadStatus {
            spiffe_id: names::workload_id(&lab.spire.trust_domain, &lab.workload.namespace, &lab.workload.name),
            wanted: lab.workload.replicas,
            ..WorkloadStatus::default()
        },
        monitors: None,
        urls: Vec::new(),
        troubles: Vec::new(),
    };
    let cluster = match reach::presence(&cx).await? {
        Presence::Absent => {
            status.cluster.state = "absent".into();
            return Ok(status);
        }
        Presence::Unfinished => {
            status.cluster.state = "half-made".into();
            return Ok(status);
        }
        Presence::Ours(cluster) => cluster,
    };
    let _ = session.cluster.set(cluster.clone());
    status.cluster.state = "running".into();
    let (nodes, releases, spire, workload, monitors) = tokio::join!(
        nodes(&cluster),
        releases(&cx),
        spire_status(&cx, &cluster),
        workload::holders(&cx, &cluster),
        monitoring::pod_monitors(&cluster),
    );
    match monitors {
        Ok(_) if lab.monitoring.is_none() => {}
        Ok(all) => {
            let blind = monitors::blind(&lab.spire, &all);
            status.monitors = Some(MonitorStatus { pod_monitors: all.len(), blind });
        }
        Err(failure) => status.troubles.push(failure.in_one_line()),
    }
    match nodes {
        Ok((version, nodes)) => (status.cluster.version, status.cluster.nodes) = (version, nodes),
        Err(failure) => status.troubles.push(failure.in_one_line()),
    }
    match releases {
        Ok(releases) => status.releases = releases,
        Err(failure) => status.troubles.push(failure.in_one_line()),
    }
    let (spire, troubles) = spire;
    status.spire = spire;
    status.spire.chart = status
        .releases
        .iter()
        .find(|release| release.name == lab.spire.release)
        .and_then(|release| release.chart.strip_prefix("spire-").map(str::to_owned));
    if status.spire.chart.is_some() {
        status.troubles.extend(troubles);
    }
    match workload {
        Ok(holders) => {
            let now = session.world.clock.now();
            let good = |update: &&crate::workload::record::Update| {
                update.spiffe_id == status.workload.spiffe_id && update.is_valid_at(now)
            };
            let valid: Vec<_> = holders.iter().filter_map(|holder| holder.update.as_ref()).filter(good).collect();
            let (count, first) = (valid.len(), valid.iter().map(|update| update.not_after).min());
            status.workload.pods = holders.len();
            status.workload.with_svid = count;
            status.workload.first_svid_expires_at = first;
            status.workload.oldest_svid_issued_at = valid.iter().map(|update| update.not_before).min();
            status.workload.not_renewed = valid.iter().filter(|update| update.is_overdue_at(now)).count();
        }
        Err(failure) => status.troubles.push(failure.in_one_line()),
    }
    if let Provider::Kind { http_port, https_port, .. } = &lab.cluster.provider
        && lab.contour.is_some()
    {
        status.urls = vec![format!("http://localhost:{http_port}"), format!("https://localhost:{https_port}")];
    }
    Ok(status)
}

async fn nodes(cluster: &Cluster) -> Result<(Option<String>, Vec<NodeStatus>), Failure> {
    let list = cluster.all::<Node>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the nodes", &error))?;
    let version =
        list.items.iter().find_map(|node| Some(node.status.as_ref()?.node_info.as_ref()?.kubelet_version.clone()));
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    Ok((version, list.items.iter().map(|node| NodeStatus { name: node.name_any(), ready: ready(node) }).collect()))
}

async fn releases(cx: &StepContext) -> Result<Vec<ReleaseStatus>, Failure> {
    let lab = &cx.session.lab;
    let mut wanted = vec![(&lab.spire.release, &lab.spire.release_namespace)];
    wanted.extend(lab.monitoring.iter().map(|monitoring| (&monitoring.release, &monitoring.namespace)));
    let found = join_all(wanted.into_iter().map(|(name, namespace)| release::current(cx, name, namespace))).await;
    let mut releases = Vec::new();
    for release in found {
        if let Some(release) = release? {
            releases.push(ReleaseStatus {
                name: release.name,
                chart: release.chart,
                revision: release.revision,
                status: release.status.to_string(),
            });
        }
    }
    Ok(releases)
}

async fn spire_status(cx: &StepContext, cluster: &Cluster) -> (SpireStatus, Vec<String>) {
    let spire = &cx.session.lab.spire;
    let server = names::server(spire);
    let (versions, ready, shared) = tokio::join!(
        Live::look(cx),
        cluster.rollout_state(Rollout::StatefulSet, &spire.server_namespace, &server),
        database::shared(cx),
    );
    let mut troubles = Vec::new();
    let mut status = SpireStatus::default();
    match versions {
        Ok(versions) => {
            let text = |versions: Vec<semver::Version>| versions.iter().map(ToString::to_string).collect();
            status.agent_pods = Some(versions.agents.len());
            (status.servers, status.agents) = (text(versions.server_versions()), text(versions.agent_versions()));
        }
        Err(failure) => troubles.push(failure.in_one_line()),
    }
    match ready {
        Ok(Ok(state) | Err(state)) => status.servers_ready = Some(state),
        Err(failure) => troubles.push(failure.in_one_line()),
    }
    match shared {
        Ok(shared) => {
            (status.schema, status.code_version) = (Some(shared.schema), Some(shared.code_version));
            (status.entries, status.attested_agents) = (Some(shared.entries), Some(shared.attested_agents));
            match shared.bundle {
                Ok(bundle) => {
                    status.authorities = Some(bundle.x509.len());
                    status.first_authority_expires_at = bundle.x509.values().filter_map(|held| held.expires_at).min();
                    status.bundle = authorities_of(bundle);
                }
                Err(why) => troubles.push(why),
            }
        }
        Err(failure) => troubles.push(failure.in_one_line()),
    }
    (status, troubles)
}

fn authorities_of(bundle: Keys) -> Vec<AuthorityStatus> {
    let x509 = bundle.x509.into_iter().map(|(id, held)| (AuthorityKind::X509, id, held));
    let jwt = bundle.jwt.into_iter().flatten().map(|(id, held)| (AuthorityKind::Jwt, id, held));
    let mut all: Vec<AuthorityStatus> = x509
        .chain(jwt)
        .map(|(kind, id, held)| AuthorityStatus { kind, id, expires_at: held.expires_at, tainted: held.tainted })
        .collect();
    all.sort_by_key(|authority| (authority.kind, authority.expires_at));
    all
}
