//! What of the lab is there, and how it is: everything that [`crate::spire::recovery`] judges by. Changes nothing.
//!
//! Whatever does not answer becomes a fact. Only if the cluster is not the lab's, or nobody can be asked, is it an
//! error.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::DynamicObject;
use serde_json::json;

use crate::config::Provider;
use crate::engine::StepContext;
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, LogOf, api_failure, describe_pod};
use crate::spire::cli::{Agents, Bundle, Count, X509Authority};
use crate::spire::names;
use crate::spire::recovery::facts::{
    self, AgentFacts, AgentPod, Authority, DatabaseFacts, Facts, Held, PodState, ReleaseFacts, ServerFacts, ServerPod,
    Workload,
};
use crate::spire::recovery::{Current, Known, current};
use crate::steps::identity::server_json_of;
use crate::steps::live::{self, Live};
use crate::steps::recover::revisions::revisions;
use crate::steps::{database, inspect, reach, registrations, release, spire, values, workload};
use crate::tools::{docker, helm};

/// A pod that runs and does not serve is on its way for so long; after that, time alone will not do.
const BOOT: SignedDuration = SignedDuration::from_secs(45);
/// How far back an agent's complaints count: it tries again after four minutes at most (facts, section 4).
const COMPLAINTS: SignedDuration = SignedDuration::from_mins(5);
/// What an agent says when it does not trust a server (facts, section 5).
const DISTRUST: [&str; 3] =
    ["certificate signed by unknown authority", "Trust Bundle and Server don't agree", "x509svid: could not verify"];
/// How long a dry run may take; a webhook that is not there is waited for by the API server.
const ASKING: Duration = Duration::from_secs(12);

/// Everything, as it is now.
///
/// # Errors
/// The cluster is not the lab's, or there is none.
#[must_use = "it only looks once it is awaited"]
pub fn look(cx: &StepContext) -> BoxFuture<'_, Result<Facts, Failure>> {
    // So many questions at once are a large future; it lies on the heap once, not in each who asks.
    Box::pin(everything(cx))
}

async fn everything(cx: &StepContext) -> Result<Facts, Failure> {
    let stopped = stopped_nodes(cx).await?;
    let at = cx.session.world.clock.now();
    if stopped.iter().any(|node| node.name.ends_with("control-plane") && node.stopped) {
        known_to_be_ours(cx)?;
        return Ok(Facts { nodes: stopped, ..nothing(at) });
    }
    let cluster = reach::cluster(cx).await?;
    let spire = &cx.session.lab.spire;
    let (nodes, live, database, release, claims, workloads) = tokio::try_join!(
        nodes(&cluster, &stopped),
        Live::look(cx),
        async { Ok(database_facts(cx).await) },
        release::current(cx, &spire.release, &spire.release_namespace),
        claims(cx, &cluster),
        workloads(cx, &cluster),
    )?;
    let (servers, bundle, entries) = servers(cx, &cluster, &live, claims).await?;
    let agents = agents(cx, &cluster, &live, &servers).await?;
    let webhook = if release.is_some() { webhook(&cluster).await } else { None };
    let release = release.map(|release| ReleaseFacts {
        revision: release.revision,
        status: release.status.to_string(),
        deployed: release.status == helm::ReleaseStatus::Deployed,
    });
    let current = versions(cx, &live, &database, release.as_ref()).await?;
    let at = cx.session.world.clock.now();
    let (workloads, workloads_wanted) = workloads;
    Ok(Facts {
        at,
        nodes,
        reached: true,
        database,
        release,
        current,
        servers,
        webhook,
        agents,
        bundle,
        entries,
        workloads,
        workloads_wanted,
    })
}

fn nothing(at: jiff::Timestamp) -> Facts {
    Facts {
        at,
        nodes: Vec::new(),
        reached: false,
        database: DatabaseFacts::default(),
        release: None,
        current: None,
        servers: ServerFacts::default(),
        webhook: None,
        agents: AgentFacts::default(),
        bundle: None,
        entries: None,
        workloads: Vec::new(),
        workloads_wanted: 0,
    }
}

/// kind's nodes, and which of them are stopped; empty on a cluster of somebody's own.
async fn stopped_nodes(cx: &StepContext) -> Result<Vec<facts::Node>, Failure> {
    let Provider::Kind { name, .. } = &cx.session.lab.cluster.provider else { return Ok(Vec::new()) };
    let output = cx
        .run(&docker::kind_containers(name))
        .await
        .map_err(|error| docker::explain_daemon_trouble(&error).unwrap_or_else(|| Failure::from(error)))?;
    let containers = docker::parse_kind_containers(&output)?;
    let node = |container: docker::Container| facts::Node {
        stopped: !container.is_running(),
        ready: container.is_running(),
        name: container.name,
    };
    Ok(containers.into_iter().map(node).collect())
}

/// A cluster that does not answer cannot prove whose it is; that its credentials are in the lab's own file is what is
/// left to go by.
fn known_to_be_ours(cx: &StepContext) -> Result<(), Failure> {
    let file = cx.session.paths.kubeconfig();
    if file.is_file() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "cluster `{}` is stopped, and the lab has never been in it; nothing was touched",
        cx.session.lab.cluster.context()
    ))
    .fact(format!("there is no `{}`", file.display()))
    .next("if it is the lab's all the same, `docker start` its containers yourself"))
}

async fn nodes(cluster: &Cluster, stopped: &[facts::Node]) -> Result<Vec<facts::Node>, Failure> {
    let list = cluster.all::<Node>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the nodes", &error))?;
    Ok(list
        .items
        .iter()
        .map(|node| {
            let name = node.name_any();
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let stopped = stopped.iter().any(|other| other.name == name && other.stopped);
            facts::Node { name, stopped, ready }
        })
        .collect())
}

/// Whether the data store answers, and what is in it.
pub(super) async fn database_facts(cx: &StepContext) -> DatabaseFacts {
    let (row, contents) = tokio::join!(database::migrations(cx), database::contents(cx));
    match row {
        Ok((schema, code)) => DatabaseFacts {
            silent: None,
            row: code.parse().ok().map(|code| (schema, code)),
            bundle: contents.ok().map(|(bundle, _)| bundle),
        },
        Err(failure) => {
            let words = failure.facts.iter().chain(std::iter::once(&failure.message));
            let empty = words.clone().any(|words| words.contains("does not exist") && words.contains("relation"));
            let why = words.clone().find(|words| words.contains("rror")).unwrap_or(&failure.message);
            let silent = (!empty).then(|| format!("it does not answer: {why}"));
            DatabaseFacts { silent, row: None, bundle: None }
        }
    }
}

/// Claims of the servers that are not there, and when the others were made.
async fn claims(cx: &StepContext, cluster: &Cluster) -> Result<(Vec<String>, Vec<jiff::Timestamp>), Failure> {
    let spire = &cx.session.lab.spire;
    let (mut missing, mut made) = (Vec::new(), Vec::new());
    for name in names::server_pods(spire).iter().map(|pod| names::server_claim(pod)) {
        match cluster.get::<PersistentVolumeClaim>(&spire.server_namespace, &name).await? {
            Some(claim) => made.extend(claim.metadata.creation_timestamp.map(|made| made.0)),
            None => missing.push(name),
        }
    }
    Ok((missing, made))
}

async fn servers(
    cx: &StepContext,
    cluster: &Cluster,
    live: &Live,
    (claims_missing, claims_made): (Vec<String>, Vec<jiff::Timestamp>),
) -> Result<(ServerFacts, Option<Vec<Authority>>, Option<u64>), Failure> {
    let spire = &cx.session.lab.spire;
    let namespace = &spire.server_namespace;
    let set = cluster.get::<StatefulSet>(namespace, &names::server(spire)).await?;
    let newest = set.as_ref().and_then(|set| set.status.as_ref()?.update_revision.clone());
    let pods = live::pods(cluster, namespace, names::SERVER_SELECTOR).await?;
    let pods = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let pods = join_all(pods.map(|pod| server(cx, live, newest.as_deref(), pod))).await;
    let serving = pods.iter().find(|pod| pod.state.serves()).map(|pod| pod.name.clone());
    let (bundle, entries) = match &serving {
        None => (None, None),
        Some(pod) => {
            let (bundle, entries) = tokio::join!(
                server_json_of::<Bundle>(cx, pod, &["bundle", "show"]),
                server_json_of::<Count>(cx, pod, &["entry", "count"]),
            );
            (bundle.ok().map(|bundle| authorities(&bundle)), entries.ok().map(|count| count.count))
        }
    };
    let wanted = spire.servers as usize;
    let asked = set
        .as_ref()
        .and_then(|set| set.spec.replicas)
        .map_or(wanted, |replicas| usize::try_from(replicas).unwrap_or_default());
    let (there, template) = (set.is_some(), live.server_template.clone());
    Ok((ServerFacts { there, wanted, asked, template, pods, claims_missing, claims_made }, bundle, entries))
}

fn authorities(bundle: &Bundle) -> Vec<Authority> {
    let facts = bundle.x509_authorities.iter().filter_map(X509Authority::facts);
    facts.map(|facts| Authority { key_id: facts.id, not_before: Some(facts.not_before) }).collect()
}

async fn server(cx: &StepContext, live: &Live, newest: Option<&str>, pod: Pod) -> ServerPod {
    let spire = &cx.session.lab.spire;
    let name = pod.name_any();
    let revision = pod.labels().get("controller-revision-hash");
    let outdated = newest.is_some_and(|newest| revision.is_some_and(|revision| revision != newest));
    let argv = ["/opt/spire/bin/spire-server", "healthcheck"];
    let healthy = reach::exec(cx, &spire.server_namespace, &name, names::SERVER_CONTAINER, &argv).await;
    let state = match healthy {
        Ok(_) => PodState::Serving,
        Err(error) => state(cx, &pod, &Failure::from(error)),
    };
    let version = live.servers.iter().find(|(other, _)| *other == name).and_then(|(_, version)| version.clone());
    ServerPod { name, state, version, outdated }
}

/// How a pod is whose program does not say that it is well.
fn state(cx: &StepContext, pod: &Pod, failure: &Failure) -> PodState {
    let statuses = pod.status.iter().flat_map(|status| {
        [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten()
    });
    let failed = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        let waits = status.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.clone());
        waits.is_some_and(|reason| !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"))
    };
    let described = describe_pod(pod);
    if statuses.clone().any(failed) {
        return PodState::Broken(described);
    }
    let now = cx.session.world.clock.now();
    let since = statuses
        .filter_map(|status| status.state.as_ref()?.running.as_ref()?.started_at.as_ref())
        .map(|started| started.0)
        .max()
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|made| made.0));
    let init = described.contains("PodInitializing");
    match since {
        // An init container that waits for the servers is not broken: they are.
        Some(since) if !init && now.duration_since(since) > BOOT => {
            let words = failure.facts.last().unwrap_or(&failure.message);
            PodState::Broken(format!("{described}; it runs since {since:.0} and does not serve: {words}"))
        }
        _ => PodState::Starting(described),
    }
}

async fn agents(
    cx: &StepContext,
    cluster: &Cluster,
    live: &Live,
    servers: &ServerFacts,
) -> Result<AgentFacts, Failure> {
    let spire = &cx.session.lab.spire;
    let set = cluster.get::<DaemonSet>(&spire.system_namespace, &names::agent(spire)).await?;
    let wanted = set.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.desired_number_scheduled);
    let asked = servers.pods.iter().find(|pod| pod.state.serves()).map(|pod| pod.name.clone());
    let known = match asked {
        None => None,
        Some(pod) => server_json_of::<Agents>(cx, &pod, &["agent", "list"]).await.ok(),
    };
    let nodes = inspect::nodes(cluster).await?;
    let pods = live::pods(cluster, &spire.system_namespace, names::AGENT_SELECTOR).await?;
    let pods = pods.into_iter().filter(|pod| {
        let runs_agent = pod.spec.iter().flat_map(|spec| &spec.containers).any(|c| c.name == names::AGENT_CONTAINER);
        pod.metadata.deletion_timestamp.is_none() && runs_agent
    });
    let pods = join_all(pods.map(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let uid = nodes.iter().find(|(_, name)| **name == node).map(|(uid, _)| uid.clone());
        let attested = known.as_ref().map(|known| {
            let of_node = |id: &str| uid.as_ref().is_some_and(|uid| id.ends_with(&format!("/{uid}")));
            known.agents.iter().any(|agent| of_node(&agent.id.path))
        });
        agent(cx, cluster, live, pod, node, attested)
    }))
    .await;
    let wanted = usize::try_from(wanted).unwrap_or_default();
    Ok(AgentFacts { there: set.is_some(), wanted, template: live.agent_template.clone(), pods })
}

async fn agent(
    cx: &StepContext,
    cluster: &Cluster,
    live: &Live,
    pod: Pod,
    node: String,
    attested: Option<bool>,
) -> AgentPod {
    let (lab, name) = (&cx.session.lab.spire, pod.name_any());
    let argv = ["/opt/spire/bin/spire-agent", "healthcheck", "-socketPath", spire::socket_of(&pod)];
    let healthy = reach::exec(cx, &lab.system_namespace, &name, names::AGENT_CONTAINER, &argv).await;
    let state = match healthy {
        Ok(_) => PodState::Serving,
        Err(error) => state(cx, &pod, &Failure::from(error)),
    };
    let since = cx.session.world.clock.now().checked_sub(COMPLAINTS).ok();
    let namespace = &lab.system_namespace;
    let of = LogOf { namespace, pod: &name, container: names::AGENT_CONTAINER, previous: false, since };
    let log = cluster.log_text(of).await.map(|log| log.text).unwrap_or_default();
    let complaint = log.lines().rev().find(|line| DISTRUST.iter().any(|words| line.contains(words)));
    let version = live.agents.iter().find(|(other, _)| *other == name).and_then(|(_, version)| version.clone());
    AgentPod { name, node, state, version, attested, complains: complaint.map(complaint_of) }
}

/// The part of a log line that is the reason: gRPC's errors hold one another, and the last one is it.
fn complaint_of(line: &str) -> String {
    let reason = match line.rfind("x509: ") {
        Some(at) => &line[at..],
        None => line.split("msg=").nth(1).unwrap_or(line).trim_start_matches('"'),
    };
    let reason = reason.split(['"', '\\']).next().unwrap_or(reason);
    reason.chars().take(160).collect()
}

/// Why a ClusterSPIFFEID cannot be written, if it cannot.
pub(in crate::steps) async fn webhook(cluster: &Cluster) -> Option<String> {
    let probe: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterSPIFFEID",
        "metadata": {"name": "coastal-webhook-check"},
        "spec": {"spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}",
            "podSelector": {"matchLabels": {"coastal": "nobody"}}},
    }))
    .ok()?;
    let asked = tokio::time::timeout(ASKING, cluster.apply_one(&probe, true)).await;
    match asked {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) if failure.kind == Kind::Interrupted => None,
        Ok(Err(failure)) => {
            let words = failure.facts.iter().chain(std::iter::once(&failure.message));
            let words = words.clone().find(|words| words.contains("webhook")).cloned();
            // Anything else (no such kind, a quota) is not about the webhook.
            words.map(|words| format!("a ClusterSPIFFEID cannot be written: {words}"))
        }
        Err(_) => Some("a ClusterSPIFFEID cannot be written: no answer in time".to_owned()),
    }
}

/// The workload's pods with what they hold, and how many are wanted.
async fn workloads(cx: &StepContext, cluster: &Cluster) -> Result<(Vec<Workload>, usize), Failure> {
    let lab = &cx.session.lab;
    let deployed = cluster.get::<Deployment>(&lab.workload.namespace, &lab.workload.name).await?;
    let wanted = if deployed.is_some() { lab.workload.replicas as usize } else { 0 };
    let holders = workload::holders(cx, cluster).await?;
    let of = |holder: workload::Holder| Workload {
        name: holder.pod.name_any(),
        node: holder.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        held: holder.update.map(|update| Held {
            not_before: update.not_before,
            not_after: update.not_after,
            anchor: update.anchor_key_id,
            bundle: update.bundle_key_ids.into_iter().collect::<BTreeSet<_>>(),
        }),
    };
    Ok((holders.into_iter().map(of).collect(), wanted))
}

/// The current versions, by what runs, what helm remembers and what the data store permits.
async fn versions(
    cx: &StepContext,
    live: &Live,
    database: &DatabaseFacts,
    release: Option<&ReleaseFacts>,
) -> Result<Option<Current>, Failure> {
    let lab = &cx.session.lab.spire;
    let settled = live.is_settled() && !live.servers.is_empty() && release.is_some_and(|release| release.deployed);
    // What helm remembers is asked only if what runs does not say it all.
    let revisions = match release {
        Some(_) if !settled => revisions(cx).await?,
        _ => Vec::new(),
    };
    let chart = live.chart.clone().or_else(|| values::spire_chart_version(&cx.session.lab).ok());
    Ok(current(&Known {
        servers: live.server_versions(),
        agents: live.agent_versions(),
        server_template: live.server_template.clone(),
        agent_template: live.agent_template.clone(),
        row: database.row.clone(),
        revisions,
        lab: (Some(lab.server_version.clone()), Some(lab.agent_version.clone()), chart),
    }))
}

/// Only what workloads hold and what the servers trust.
///
/// # Errors
/// The cluster does not answer.
pub(super) async fn held(cx: &StepContext) -> Result<Facts, Failure> {
    let cluster = reach::cluster(cx).await?;
    let server = registrations::server(cx).await?;
    let (workloads, bundle) =
        tokio::join!(workloads(cx, &cluster), server_json_of::<Bundle>(cx, &server, &["bundle", "show"]));
    let (workloads, workloads_wanted) = workloads?;
    let bundle = bundle.ok().map(|bundle| authorities(&bundle));
    Ok(Facts { reached: true, bundle, workloads, workloads_wanted, ..nothing(cx.session.world.clock.now()) })
}
