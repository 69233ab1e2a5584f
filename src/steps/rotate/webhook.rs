//! The controller managers' webhook: each mints its certificate from its own server when it starts, and keeps it for
//! half a day whatever becomes of the CA (spire-controller-manager, pkg/webhookmanager). After the revocation nobody
//! would trust it, and no ClusterSPIFFEID could be written. So each server's pod is started anew before that.

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

use super::{hold, record_of, remember, rotation};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::rotation::{KeyType, Verb};
use crate::steps::recover::look;
use crate::steps::{planes, reach, spire};

/// [`crate::plan::RotateStep::Webhook`].
pub(super) struct Webhook;

/// The pods whose managers started before their servers signed with the new authority.
async fn stale(cx: &StepContext, cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    let list = cluster.all::<ValidatingWebhookConfiguration>().list(&ListParams::default()).await;
    let list = list.map_err(|error| api_failure("could not list the validating webhooks", &error))?;
    let ours =
        list.items.iter().flat_map(|found| found.webhooks.iter().flatten()).any(|webhook| {
            webhook.client_config.service.as_ref().is_some_and(|service| service.namespace == *namespace)
        });
    if !ours {
        return Ok(Vec::new());
    }
    let record = record_of(cx, KeyType::X509)?;
    let activated = record.done_at.get(&Verb::Activate).copied().unwrap_or(Timestamp::MAX);
    let pods = planes::server_pods(cx, cluster).await?;
    let covered = pods.iter().filter(|pod| record.covers(&pod.name_any()));
    let old = covered.filter(|pod| started(pod).is_none_or(|started| started <= activated));
    let mut names: Vec<String> = old.map(ResourceExt::name_any).collect();
    names.sort();
    names.reverse(); // as a StatefulSet does it
    Ok(names)
}

/// Since when the pod's manager runs.
fn started(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let manager = statuses.iter().find(|status| status.name == names::MANAGER_CONTAINER)?;
    Some(manager.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

#[async_trait]
impl Body for Webhook {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        Ok(match stale(cx, &cluster).await? {
            pods if pods.is_empty() => Finding::Satisfied("no webhook has a certificate of an old authority".into()),
            pods => Finding::Differs(format!("certificates of old authorities: {}", pods.join(", "))),
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        for pod in stale(cx, &cluster).await? {
            if cx.cancel.is_cancelled() {
                return Err(Failure::interrupted().next("`coastal rotate --yes` goes on where this one stopped"));
            }
            hold(cx).await?;
            cx.progress(format!("restarting {pod}, for a certificate of the new authority"));
            spire::restart_server(cx, &cluster, &pod).await?;
            rotation(cx)?.forget();
            remember(cx, |incident| incident.note(cx.session.world.clock.now(), format!("{pod}: restarted")))?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        loop {
            let Some(why) = look::webhook(&cluster).await else {
                let servers = if rotation(cx)?.server.is_some() { "it has" } else { "each manager has" };
                return Ok(format!("{servers} a certificate of the new authority; a ClusterSPIFFEID can be written"));
            };
            if cx.remaining() < std::time::Duration::from_secs(2) {
                return Err(Failure::timeout(why).next("`coastal logs server` shows what the controller manager says"));
            }
            cx.progress(why);
            cx.sleep(std::time::Duration::from_secs(1)).await?;
        }
    }
}
