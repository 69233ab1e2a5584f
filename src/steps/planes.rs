//! Reads every place that holds the trust bundle.
//!
//! No API shows an agent's bundle: it is what the agent last handed to a pod on its node. What the workload logs tells
//! of both, the pod and its agent. On a node without a workload pod the agent is unknown, and said to be.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::spire::bundles::{Keys, PEM_KEY, SPIFFE_KEY};
use crate::spire::cli::Bundle;
use crate::spire::names;
use crate::spire::planes::{Content, Layer, Plane, Planes};
use crate::spire::rotation::Held;
use crate::steps::identity::server_json_of;
use crate::steps::workload::Holder;
use crate::steps::{database, live, reach, workload};
use crate::workload::Update;

/// The `ConfigMap` that agents boot from.
pub const CONFIG_MAP: &str = "spire-bundle";

/// Reads all of them. What cannot be read is unknown.
///
/// # Errors
/// The cluster or its pods cannot be reached.
pub async fn collect(cx: &StepContext) -> Result<Planes, Failure> {
    let cluster = reach::cluster(cx).await?;
    let (kept, followed) = tokio::try_join!(keepers(cx, &cluster), followers(cx, &cluster))?;
    Ok(Planes::new(cx.session.world.clock.now(), kept.into_iter().chain(followed).collect()))
}

/// Database, servers, `ConfigMap`: those that show JWT keys as well.
///
/// # Errors
/// As [`collect`].
pub async fn keepers(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Plane>, Failure> {
    let (row, servers, map) =
        tokio::join!(database_plane(cx), server_planes(cx, cluster), config_map_plane(cx, cluster));
    Ok([row, map].into_iter().chain(servers?).collect())
}

fn read(layer: Layer, of: &str, keys: Result<Keys, String>) -> Plane {
    let content = match keys {
        Ok(Keys { x509, jwt }) => Content::Read { x509, jwt, svids_of: BTreeSet::new() },
        Err(why) => Content::Unknown(why),
    };
    Plane { layer, of: of.to_owned(), content }
}

async fn database_plane(cx: &StepContext) -> Plane {
    let row = database::bundle_row(cx).await.map_err(|failure| failure.message);
    read(Layer::Database, "", row.and_then(|row| Keys::of_row(&row)))
}

/// The server pods that are not going away.
///
/// # Errors
/// They cannot be listed.
pub async fn server_pods(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let mut pods = live::pods(cluster, &cx.session.lab.spire.server_namespace, names::SERVER_SELECTOR).await?;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

async fn server_planes(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Plane>, Failure> {
    let pods = server_pods(cx, cluster).await?;
    Ok(join_all(pods.iter().map(|pod| async move {
        let name = pod.name_any();
        let bundle = server_json_of::<Bundle>(cx, &name, &["bundle", "show"]).await;
        read(Layer::Server, &name, bundle.map(|bundle| Keys::of_cli(&bundle)).map_err(|failure| last_words(&failure)))
    }))
    .await)
}

/// What a program said last is more than that it failed.
pub(super) fn last_words(failure: &Failure) -> String {
    let said = failure.facts.iter().find_map(|fact| fact.split_once("Error: ").map(|(_, words)| words.to_owned()));
    said.unwrap_or_else(|| failure.message.clone())
}

async fn config_map_plane(cx: &StepContext, cluster: &Cluster) -> Plane {
    let keys = match config_map(cx, cluster).await {
        Err(failure) => Err(failure.message),
        Ok(None) => Err("it is not there".to_owned()),
        Ok(Some(map)) => {
            let data = map.data.unwrap_or_default();
            let text = |key: &str| data.get(key).map(String::as_str);
            Keys::of_config_map(text(PEM_KEY), text(SPIFFE_KEY))
        }
    };
    read(Layer::ConfigMap, CONFIG_MAP, keys)
}

/// The `ConfigMap` that agents boot from, in their namespace.
///
/// # Errors
/// The API server does not answer.
pub async fn config_map(cx: &StepContext, cluster: &Cluster) -> Result<Option<ConfigMap>, Failure> {
    cluster.get(&cx.session.lab.spire.system_namespace, CONFIG_MAP).await
}

async fn followers(cx: &StepContext, cluster: &Cluster) -> Result<Vec<Plane>, Failure> {
    let spire = &cx.session.lab.spire;
    let (holders, agents) = tokio::try_join!(
        workload::holders(cx, cluster),
        live::pods(cluster, &spire.system_namespace, names::AGENT_SELECTOR)
    )?;
    let is_agent = |pod: &Pod| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.into_iter().any(|container| container.name == names::AGENT_CONTAINER)
    };
    let agents = agents.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_agent(pod));
    let nodes: BTreeSet<String> = agents.filter_map(|pod| node_of(pod).map(str::to_owned)).collect();
    let mut newest: BTreeMap<&str, &Update> = BTreeMap::new();
    for Holder { pod, update } in &holders {
        let (Some(node), Some(update)) = (node_of(pod), update) else { continue };
        if newest.get(node).is_none_or(|known| known.received_at <= update.received_at) {
            newest.insert(node, update);
        }
    }
    let agents = nodes.iter().map(|node| {
        let content = match newest.get(node.as_str()) {
            Some(update) => followed(update, false),
            None => Content::Unknown("no workload pod on that node shows what it hands out".to_owned()),
        };
        Plane { layer: Layer::Agent, of: node.clone(), content }
    });
    let workloads = holders.iter().map(|Holder { pod, update }| {
        let content = match update {
            Some(update) => followed(update, true),
            None => Content::Unknown("it has logged no SVID".to_owned()),
        };
        Plane { layer: Layer::Workload, of: pod.name_any(), content }
    });
    Ok(agents.chain(workloads).collect())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// What an update of the Workload API tells.
fn followed(update: &Update, with_svid: bool) -> Content {
    if update.bundle_key_ids.len() < update.authorities {
        return Content::Unknown("its program does not print the authorities of its bundle".to_owned());
    }
    let x509 = update.bundle_key_ids.iter().map(|id| (id.clone(), Held::default())).collect();
    let svids_of = update.anchor_key_id.iter().filter(|_| with_svid).cloned().collect();
    Content::Read { x509, jwt: None, svids_of }
}
