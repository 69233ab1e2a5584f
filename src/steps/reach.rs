//! Finding the lab's cluster, and the proof that it is the lab's, before anything is written to it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::config::{Lab, Provider};
use crate::engine::StepContext;
use crate::error::{Failure, Kind, io_failure};
use crate::files;
use crate::kube::{Cluster, api_failure};
use crate::tools::{CommandError, Target, Tool, docker, helm::Helm, kind, versions};

/// So many pods are asked at once: each question is a process of its own, and there may be a thousand agents.
pub const AT_ONCE: usize = 16;

/// What there is of the lab's cluster.
pub enum Presence {
    /// None.
    Absent,
    /// One of ours that an interrupted run left half-made.
    Unfinished,
    /// There, reached, proven.
    Ours(Cluster),
}

/// The lab's cluster. Looked for once per run.
///
/// # Errors
/// There is none, it does not answer, or it is not the lab's.
pub async fn cluster(cx: &StepContext) -> Result<Cluster, Failure> {
    let slot = &cx.session.cluster;
    if let Some(cluster) = slot.get() {
        return Ok(cluster.clone());
    }
    match presence(cx).await? {
        Presence::Ours(cluster) => {
            // A concurrent step may have been quicker; both found the same.
            let _ = slot.set(cluster.clone());
            Ok(cluster)
        }
        Presence::Unfinished => Err(Failure::prerequisite(format!(
            "cluster `{}` is half-made: an earlier run was interrupted",
            cx.session.lab.cluster.context()
        ))
        .next("`coastal cluster-up` makes it anew")),
        Presence::Absent => {
            Err(Failure::prerequisite(format!("there is no cluster `{}`", cx.session.lab.cluster.context()))
                .next("`coastal cluster-up` makes it; `coastal up` makes the whole lab"))
        }
    }
}

/// The lab's cluster if there is one: for removals, to which no cluster means nothing to do.
///
/// # Errors
/// It does not answer, or is not the lab's.
pub async fn cluster_if_any(cx: &StepContext) -> Result<Option<Cluster>, Failure> {
    if cx.session.cluster.get().is_none() && matches!(presence(cx).await?, Presence::Absent) {
        return Ok(None);
    }
    cluster(cx).await.map(Some)
}

/// Looks for the cluster, afresh.
///
/// # Errors
/// It does not answer, or is not the lab's.
pub async fn presence(cx: &StepContext) -> Result<Presence, Failure> {
    match &cx.session.lab.cluster.provider {
        Provider::Existing { kubeconfig, context } => {
            let text = std::fs::read_to_string(kubeconfig).map_err(|e| {
                io_failure("read the kubeconfig", kubeconfig, &e).next("set `kubeconfig` in [cluster] of lab.toml")
            })?;
            let cluster = connect(cx, &text, context).await?;
            nodes(&cluster, cx).await?;
            Ok(Presence::Ours(cluster))
        }
        Provider::Kind { name, .. } => kind_presence(cx, name).await,
    }
}

async fn kind_presence(cx: &StepContext, name: &str) -> Result<Presence, Failure> {
    let paths = &cx.session.paths;
    if paths.cluster_in_the_making().exists() {
        let known = clusters(cx).await?;
        return Ok(if known.iter().any(|known| known == name) { Presence::Unfinished } else { Presence::Absent });
    }
    // The private kubeconfig holds this very cluster's CA: if that one answers, nobody need be asked where it is.
    if let Ok(text) = std::fs::read_to_string(paths.kubeconfig())
        && let Ok(cluster) = connect(cx, &text, &cx.session.lab.cluster.context()).await
        && let Ok(Ok(nodes)) = tokio::time::timeout(Duration::from_secs(3), nodes(&cluster, cx)).await
    {
        prove(&nodes, &cx.session.lab)?;
        return Ok(Presence::Ours(cluster));
    }
    if !clusters(cx).await?.iter().any(|known| known == name) {
        return Ok(Presence::Absent);
    }
    let text = match cx.run(&kind::get_kubeconfig(name)).await {
        Ok(output) => output.stdout,
        Err(error) => return Err(stopped(cx, name, error.into()).await),
    };
    let cluster = connect(cx, &text, &cx.session.lab.cluster.context()).await?;
    let answer = tokio::time::timeout(Duration::from_secs(15), nodes(&cluster, cx)).await;
    let nodes = match answer {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(failure)) => return Err(stopped(cx, name, failure).await),
        Err(_) => {
            let silent =
                Failure::timeout(format!("the API server of cluster `kind-{name}` did not answer within 15 s"))
                    .next(format!("`docker logs {name}-control-plane` may say why; `docker ps --all` shows the nodes"));
            return Err(stopped(cx, name, silent).await);
        }
    };
    prove(&nodes, &cx.session.lab)?;
    // Written only now: this file is what later runs trust.
    files::write_private(&paths.kubeconfig(), text.as_bytes())?;
    Ok(Presence::Ours(cluster))
}

async fn clusters(cx: &StepContext) -> Result<Vec<String>, Failure> {
    match cx.run(&kind::get_clusters()).await {
        Ok(output) => Ok(kind::parse_clusters(&output)),
        Err(CommandError::NotFound { tool }) => Err(missing(cx, tool)),
        Err(error) => Err(error.into()),
    }
}

/// Where one tool is missing others may be, too: told at once, not one at each attempt.
fn missing(cx: &StepContext, tool: Tool) -> Failure {
    let runner = &cx.session.world.runner;
    let found = Tool::ALL.into_iter().filter(|other| *other == tool || runner.locate(*other).is_none());
    let found = found.map(|tool| (tool, Err(CommandError::NotFound { tool }))).collect();
    let judged = versions::judge(&cx.session.lab.tools, &found);
    judged.err().unwrap_or_else(|| CommandError::NotFound { tool }.into())
}

async fn connect(cx: &StepContext, kubeconfig: &str, context: &str) -> Result<Cluster, Failure> {
    Ok(Cluster::new(cx.session.world.connector.connect(kubeconfig, context).await?))
}

async fn nodes(cluster: &Cluster, cx: &StepContext) -> Result<Vec<Node>, Failure> {
    let what = format!("cluster `{}`", cx.session.lab.cluster.context());
    let list = cluster.all::<Node>().list(&ListParams::default()).await;
    Ok(list.map_err(|error| api_failure(&what, &error))?.items)
}

/// Adds to a failure whether the cluster's containers are stopped, which is the usual reason after a reboot.
async fn stopped(cx: &StepContext, name: &str, failure: Failure) -> Failure {
    let Ok(output) = cx.run(&docker::kind_containers(name)).await else { return failure };
    let stopped: Vec<String> = docker::parse_kind_containers(&output)
        .unwrap_or_default()
        .into_iter()
        .filter(|container| !container.is_running())
        .map(|container| container.name)
        .collect();
    if stopped.is_empty() {
        return failure;
    }
    Failure { kind: Kind::Prerequisite, ..failure }
        .fact(format!("stopped containers: {}", stopped.join(", ")))
        .next(format!("`docker start {}`, then run the same command again", stopped.join(" ")))
}

/// Whether these are the nodes of a kind cluster that this lab made.
///
/// # Errors
/// They are not: nothing may be written there.
pub fn prove(nodes: &[Node], lab: &Lab) -> Result<(), Failure> {
    let context = lab.cluster.context();
    if nodes.is_empty() {
        return Err(Failure::refused(format!("cluster `{context}` has no nodes: it cannot be told whose it is"))
            .next("`docker ps --all --filter label=io.x-k8s.kind.cluster` shows the nodes of kind clusters"));
    }
    for node in nodes {
        let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap_or_default();
        if !provider.starts_with("kind://") {
            return Err(Failure::refused(format!("`{context}` does not lead to a kind cluster; nothing was touched"))
                .fact(format!("node {} has provider id `{provider}`; kind's begin with `kind://`", node.name_any()))
                .next("to run on a cluster of your own, say so in lab.toml: `[cluster] provider = \"existing\"`"));
        }
        match node.labels().get(Lab::LABEL) {
            Some(owner) if *owner == lab.name => {}
            Some(owner) => {
                return Err(Failure::refused(format!(
                    "cluster `{context}` belongs to another lab, `{owner}`; nothing was touched"
                ))
                .fact(format!("this lab is `{}`; node {} carries {}={owner}", lab.name, node.name_any(), Lab::LABEL))
                .next("choose another cluster name in lab.toml: `[cluster] name`"));
            }
            None => {
                return Err(Failure::refused(format!(
                    "cluster `{context}` is not this lab's: coastal did not make it; nothing was touched"
                ))
                .fact(format!("node {} does not carry the label {}", node.name_any(), Lab::LABEL))
                .next("`coastal cluster-up --adopt` makes it the lab's, after showing what is in it")
                .next("or choose another cluster name in lab.toml: `[cluster] name`"));
            }
        }
    }
    Ok(())
}

/// What helm and kubectl are pinned to.
#[must_use]
pub fn target(cx: &StepContext) -> Target {
    let lab = &cx.session.lab;
    let kubeconfig = match &lab.cluster.provider {
        Provider::Kind { .. } => cx.session.paths.kubeconfig(),
        Provider::Existing { kubeconfig, .. } => kubeconfig.clone(),
    };
    Target { kubeconfig, context: lab.cluster.context() }
}

/// Helm with the lab's own home.
#[must_use]
pub fn helm(cx: &StepContext) -> Helm {
    let paths = &cx.session.paths;
    Helm { repositories: paths.helm_repositories(), cache: paths.helm_cache(), target: target(cx) }
}

/// Runs a command inside a container.
///
/// # Errors
/// As the command's.
pub async fn exec(
    cx: &StepContext,
    namespace: &str,
    pod: &str,
    container: &str,
    argv: &[&str],
) -> Result<crate::tools::Output, CommandError> {
    cx.run(&crate::tools::kubectl::exec(&target(cx), namespace, pod, container, argv.iter().copied())).await
}
