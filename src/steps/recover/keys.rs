//! Keys whose journal names a bundle that the data store has lost: up to SPIRE 1.9 they would keep the servers from
//! starting (facts, section 5).

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::Facts;
use crate::steps::reach;
use crate::steps::recover::examine;

/// [`crate::spire::recovery::Part::Keys`].
pub(super) struct Clear;

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
        let (namespace, server) = (&spire.server_namespace, names::server(spire));
        let set = cluster.get::<StatefulSet>(namespace, &server).await?;
        if set.is_some() {
            cx.progress("stopping the servers");
            cluster.scale(namespace, &server, 0).await?;
        }
        cluster.pods_gone(namespace, names::SERVER_SELECTOR, &cx.patience()).await?;
        for claim in names::server_pods(spire).iter().map(|pod| names::server_claim(pod)) {
            cx.progress(format!("deleting {claim}"));
            let api = cluster.namespaced::<PersistentVolumeClaim>(namespace);
            cluster.delete_named(api, &claim, &format!("claim {namespace}/{claim}"), &cx.patience()).await?;
        }
        if set.is_some() {
            cluster.scale(namespace, &server, spire.servers).await?;
        }
        Ok(())
    }

    async fn verify(&self, _cx: &StepContext) -> Result<String, Failure> {
        // That they are gone was waited for; whether servers come up with new ones is the next step's.
        Ok("the claims with the old keys are gone".into())
    }
}
