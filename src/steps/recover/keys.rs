//! Keys whose journal names a bundle that the data store has lost: up to SPIRE 1.9 they would keep the servers from
//! starting (facts, section 5).

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::Facts;
use crate::steps::reach;
use crate::steps::recover::examine;
use crate::steps::recover::look::claim_names;

/// [`crate::spire::recovery::Part::Keys`].
pub(super) struct Clear;

async fn scale(cx: &StepContext, cluster: &Cluster, replicas: u32) -> Result<(), Failure> {
    let spire = &cx.session.lab.spire;
    let name = names::server(spire);
    let api = cluster.namespaced::<StatefulSet>(&spire.server_namespace);
    let patch = json!({"spec": {"replicas": replicas}});
    let scaled = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    scaled.map(drop).map_err(|error| api_failure(&format!("could not scale {name} to {replicas}"), &error))
}

fn there(facts: &Facts) -> usize {
    facts.servers.wanted.saturating_sub(facts.servers.claims_missing.len())
}

#[async_trait]
impl Body for Clear {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let (facts, diagnosis) = examine(cx).await?;
        let clears = diagnosis.outlook.as_ref().is_some_and(|outlook| outlook.clear_keys) && facts.bundle.is_none();
        Ok(match there(&facts) {
            count if clears && count > 0 => {
                Finding::Differs(format!("{count} claims hold keys whose bundle is lost with the database"))
            }
            _ => Finding::Satisfied("nothing of the keys keeps the servers from starting".into()),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let spire = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let namespace = &spire.server_namespace;
        let set = cluster.get::<StatefulSet>(namespace, &names::server(spire)).await?;
        if set.is_some() {
            cx.progress("stopping the servers");
            scale(cx, &cluster, 0).await?;
        }
        cluster.pods_gone(namespace, names::SERVER_SELECTOR, &cx.patience()).await?;
        for claim in claim_names(cx) {
            cx.progress(format!("deleting {claim}"));
            let api = cluster.namespaced::<PersistentVolumeClaim>(namespace);
            cluster.delete_named(api, &claim, &format!("claim {namespace}/{claim}"), &cx.patience()).await?;
        }
        if set.is_some() {
            scale(cx, &cluster, spire.servers).await?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let _ = cx;
        Ok("the servers begin with new keys".into())
    }
}
