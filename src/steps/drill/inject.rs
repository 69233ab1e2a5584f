//! What each drill does to the lab.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;

use crate::config::Provider;
use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::spire::names;
use crate::spire::recovery::Drill;
use crate::steps::{database, reach};
use crate::tools::docker;

/// Breaks it.
///
/// # Errors
/// The cluster does not do it.
pub(super) async fn inject(cx: &StepContext, drill: Drill) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    let spire = &cx.session.lab.spire;
    let (servers, agents) = (&spire.server_namespace, &spire.system_namespace);
    let server = names::server(spire);
    match drill {
        Drill::Pod => gone::<Pod>(cx, &cluster, servers, &format!("{server}-0")).await,
        Drill::Servers => gone::<StatefulSet>(cx, &cluster, servers, &server).await,
        Drill::Agents => gone::<DaemonSet>(cx, &cluster, agents, &names::agent(spire)).await,
        Drill::Database => {
            // A claim goes when no pod uses it: the claim first, then the pod, or its successor would use it again.
            gone::<PersistentVolumeClaim>(cx, &cluster, servers, database::CLAIM).await?;
            gone::<Pod>(cx, &cluster, servers, database::POD).await
        }
        Drill::Keys => {
            let pods = names::server_pods(spire);
            for pod in &pods {
                gone::<PersistentVolumeClaim>(cx, &cluster, servers, &names::server_claim(pod)).await?;
            }
            for pod in &pods {
                gone::<Pod>(cx, &cluster, servers, pod).await?;
            }
            Ok(())
        }
        Drill::Node => {
            let node = worker(cx).await?;
            cx.progress(format!("stopping {node}"));
            cx.run(&docker::stop(&node)).await?;
            Ok(())
        }
    }
}

/// Deletes an object and does not wait for its end: the disaster is the beginning.
async fn gone<K>(cx: &StepContext, cluster: &Cluster, namespace: &str, name: &str) -> Result<(), Failure>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    cx.progress(format!("deleting {what}"));
    match cluster.namespaced::<K>(namespace).delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(api_failure(&format!("could not delete {what}"), &error)),
    }
}

/// The first worker node of the lab's kind cluster that runs.
async fn worker(cx: &StepContext) -> Result<String, Failure> {
    let Provider::Kind { name, .. } = &cx.session.lab.cluster.provider else {
        return Err(Failure::refused("only nodes of a kind cluster can be stopped"));
    };
    let output = cx.run(&docker::kind_containers(name)).await?;
    let mut nodes: Vec<String> = docker::parse_kind_containers(&output)?
        .into_iter()
        .filter(|node| node.is_running() && !node.name.ends_with("control-plane"))
        .map(|node| node.name)
        .collect();
    nodes.sort();
    nodes
        .into_iter()
        .next()
        .ok_or_else(|| Failure::refused(format!("cluster `kind-{name}` has no worker node that runs")))
}
