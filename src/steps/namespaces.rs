//! SPIRE's namespaces, with the Pod Security levels that they need.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::api_failure;
use crate::plan::Finding;
use crate::steps::addons::{found_by, gone};
use crate::steps::{manifests, reach};

/// [`crate::plan::StepId::Namespaces`].
pub struct Up;

#[async_trait]
impl Body for Up {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        let wanted = manifests::namespaces(&cx.session.lab)?;
        Ok(found_by(cluster.difference(&wanted).await?, || "both are there, with their Pod Security labels".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        // One that is still going from an earlier removal must be gone before it can be made.
        for namespace in ours(cx) {
            let going = cluster
                .all::<Namespace>()
                .get_opt(namespace)
                .await
                .map_err(|error| api_failure(&format!("could not read namespace {namespace}"), &error))?
                .is_some_and(|found| found.metadata.deletion_timestamp.is_some());
            if going {
                let what = format!("namespace {namespace}");
                cluster.delete_named::<Namespace>(cluster.all(), namespace, &what, &cx.patience()).await?;
            }
        }
        cluster.apply(&manifests::namespaces(&cx.session.lab)?, &cx.patience()).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        Ok(ours(cx).join(", "))
    }
}

/// [`crate::plan::StepId::RemoveNamespaces`].
pub struct Down;

#[async_trait]
impl Body for Down {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let Some(cluster) = reach::cluster_if_any(cx).await? else {
            return Ok(Finding::Satisfied("there is no cluster".into()));
        };
        let left = cluster.those_of(&manifests::namespaces(&cx.session.lab)?, &cx.session.lab).await?;
        Ok(if left.is_empty() {
            Finding::Satisfied("neither is there".into())
        } else {
            Finding::Differs(format!("{} there", left.join(", ")))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        reach::cluster(cx)
            .await?
            .delete(&manifests::namespaces(&cx.session.lab)?, &cx.session.lab, &cx.patience())
            .await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        gone(self.check(cx).await?)
    }
}

fn ours(cx: &StepContext) -> [&str; 2] {
    [&cx.session.lab.spire.server_namespace, &cx.session.lab.spire.system_namespace]
}
