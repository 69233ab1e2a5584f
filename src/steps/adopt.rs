//! Making a kind cluster that coastal did not create the lab's, after showing it.

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::config::{Lab, Provider};
use crate::engine::StepContext;
use crate::error::Failure;
use crate::files;
use crate::kube::{Cluster, api_failure};
use crate::steps::reach;
use crate::tools::kind;

/// A kind cluster that may become the lab's.
pub struct Candidate {
    cluster: Cluster,
    kubeconfig: String,
    nodes: Vec<Node>,
    namespaces: Vec<String>,
    ours: bool,
}

/// Looks at the kind cluster of the lab's name, whoever made it.
///
/// # Errors
/// There is none, it does not answer, it is no kind cluster, or it belongs to another lab.
pub async fn look(cx: &StepContext) -> Result<Candidate, Failure> {
    let Provider::Kind { name, .. } = &cx.session.lab.cluster.provider else {
        return Err(Failure::usage("only a kind cluster can be adopted")
            .next("with `provider = \"existing\"` the cluster is used as it is, and never deleted"));
    };
    if !kind::parse_clusters(&cx.run(&kind::get_clusters()).await?).contains(name) {
        return Err(
            Failure::prerequisite(format!("there is no kind cluster `{name}` to adopt")).next("`coastal cluster-up`")
        );
    }
    let kubeconfig = cx.run(&kind::get_kubeconfig(name)).await?.stdout;
    let context = cx.session.lab.cluster.context();
    let cluster = Cluster::new(cx.session.world.connector.connect(&kubeconfig, &context).await?);
    let unread = |error: kube::Error| api_failure(&format!("could not look into cluster `{context}`"), &error);
    let nodes = cluster.all::<Node>().list(&ListParams::default()).await.map_err(unread)?.items;
    let namespaces = cluster.all::<Namespace>().list(&ListParams::default()).await.map_err(unread)?;
    let namespaces = namespaces.items.iter().map(ResourceExt::name_any).collect();
    let marked = nodes.iter().any(|node| node.labels().contains_key(Lab::LABEL));
    let proof = reach::prove(&nodes, &cx.session.lab);
    let unmarked_kind = !marked && nodes.iter().all(is_kind) && !nodes.is_empty();
    match proof {
        Err(failure) if !unmarked_kind => Err(failure),
        proof => Ok(Candidate { cluster, kubeconfig, nodes, namespaces, ours: proof.is_ok() }),
    }
}

fn is_kind(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).is_some_and(|id| id.starts_with("kind://"))
}

impl Candidate {
    /// It carries the lab's marker already.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// What is in it, for whoever has to say yes.
    #[must_use]
    pub fn describe(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(ResourceExt::name_any).collect();
        format!("nodes: {}\nnamespaces: {}", nodes.join(", "), self.namespaces.join(", "))
    }

    /// Marks its nodes as the lab's, and keeps its kubeconfig.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn mark(&self, cx: &StepContext) -> Result<(), Failure> {
        let patch = json!({ "metadata": { "labels": { Lab::LABEL: cx.session.lab.name } } });
        for node in &self.nodes {
            let name = node.name_any();
            self.cluster
                .all::<Node>()
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .map_err(|error| api_failure(&format!("could not mark node {name}"), &error))?;
        }
        files::write_private(&cx.session.paths.kubeconfig(), self.kubeconfig.as_bytes())
    }
}
