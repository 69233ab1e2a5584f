//! The kind cluster: made, marked, removed. An existing cluster is only reached.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::runtime::watcher;

use crate::config::{Lab, Provider};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::files;
use crate::kube::{Judgement, look_if_late};
use crate::plan::Finding;
use crate::steps::reach::{self, Presence};
use crate::tools::kind;

/// [`crate::plan::StepId::Cluster`].
pub struct Up;

#[async_trait]
impl Body for Up {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let context = cx.session.lab.cluster.context();
        Ok(match reach::presence(cx).await? {
            Presence::Absent => Finding::Missing(format!("there is no cluster `{context}`")),
            Presence::Unfinished => {
                Finding::Differs(format!("cluster `{context}` is half-made, from an interrupted run"))
            }
            Presence::Ours(cluster) => {
                let _ = cx.session.cluster.set(cluster);
                Finding::Satisfied(format!("cluster `{context}` answers and is the lab's"))
            }
        })
    }

    async fn run(&self, cx: &StepContext, found: &Finding) -> Result<(), Failure> {
        let Provider::Kind { name, node_image, http_port, https_port } = &cx.session.lab.cluster.provider else {
            return Err(Failure::prerequisite(found.detail().to_owned())
                .next("set `kubeconfig` and `context` in [cluster] of lab.toml to a cluster that is there"));
        };
        let paths = &cx.session.paths;
        let kubeconfig = paths.kubeconfig();
        files::private_dir(paths.state())?;
        if matches!(found, Finding::Differs(_)) {
            cx.progress("removing what the interrupted run left");
            cx.run(&kind::delete_cluster(name, &kubeconfig, cx.remaining())).await?;
        }
        files::remove(&kubeconfig)?;
        files::write_private(&paths.cluster_in_the_making(), name.as_bytes())?;
        let config = kind::cluster_config(name, *http_port, *https_port, (Lab::LABEL, &cx.session.lab.name));
        let command = kind::create_cluster(name, config, &kubeconfig, node_image.as_deref(), cx.remaining());
        cx.progress("creating the nodes");
        if let Err(error) = cx.run(&command).await {
            return Err(kind::explain_create_error(&error).unwrap_or_else(|| error.into()));
        }
        files::remove(&paths.cluster_in_the_making())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let patience = cx.patience();
        let nodes = cluster.wait_all(cluster.all::<Node>(), watcher::Config::default(), &patience, |nodes| {
            if nodes.is_empty() {
                Judgement::Waiting("no node is registered yet".into())
            } else {
                Judgement::Good(nodes.clone())
            }
        });
        let nodes = look_if_late(nodes.await, || "get nodes -o wide".into())?;
        let version =
            nodes.values().find_map(|node| Some(node.status.as_ref()?.node_info.as_ref()?.kubelet_version.clone()));
        let names: Vec<String> = nodes.values().map(ResourceExt::name_any).collect();
        Ok(format!("Kubernetes {}: {}", version.unwrap_or_default(), names.join(", ")))
    }
}

/// [`crate::plan::StepId::RemoveCluster`].
pub struct Down;

#[async_trait]
impl Body for Down {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let context = cx.session.lab.cluster.context();
        Ok(match reach::presence(cx).await {
            Ok(Presence::Absent) => {
                files::remove(&cx.session.paths.cluster_in_the_making())?;
                Finding::Satisfied(format!("there is no cluster `{context}`"))
            }
            Ok(Presence::Unfinished) => Finding::Differs(format!("cluster `{context}` is half-made")),
            Ok(Presence::Ours(_)) => Finding::Differs(format!("cluster `{context}` is there")),
            Err(failure) => return Err(failure),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let Provider::Kind { name, .. } = &cx.session.lab.cluster.provider else {
            return Err(Failure::refused("an existing cluster is never deleted")
                .next("`coastal down --keep-cluster` removes the lab from it"));
        };
        let paths = &cx.session.paths;
        cx.run(&kind::delete_cluster(name, &paths.kubeconfig(), cx.remaining())).await?;
        files::remove(&paths.cluster_in_the_making())?;
        files::remove(&paths.kubeconfig())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let context = cx.session.lab.cluster.context();
        match reach::presence(cx).await? {
            Presence::Absent => Ok(format!("cluster `{context}` is gone")),
            _ => Err(Failure::tool(format!("kind says that cluster `{context}` is deleted, but it is still there"))
                .next("`docker ps -a --filter label=io.x-k8s.kind.cluster` shows what is left")),
        }
    }
}
