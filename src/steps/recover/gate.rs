//! The gate of a recovery: what must be proven before it counts as one.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::live::Live;
use crate::steps::recover::look;
use crate::steps::upgrade::gate;
use crate::steps::{probe, reach, spire};

/// What the API server says of a webhook whose certificate is of an authority that is gone. The controller manager mints
/// its certificate when it starts, and keeps it for half a day whatever becomes of the CA.
const UNTRUSTED: &str = "certificate signed by unknown authority";

/// [`crate::spire::recovery::Part::Webhook`].
pub(super) struct Webhook;

#[async_trait]
impl Body for Webhook {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        Ok(match look::webhook(&cluster).await {
            None => Finding::Satisfied("a ClusterSPIFFEID can be written".into()),
            Some(why) => Finding::Differs(why),
        })
    }

    async fn run(&self, cx: &StepContext, found: &Finding) -> Result<(), Failure> {
        // Else it runs beside the servers, and is waited for.
        if found.detail().contains(UNTRUSTED) {
            let cluster = reach::cluster(cx).await?;
            for pod in names::server_pods(&cx.session.lab.spire).iter().rev() {
                cx.progress(format!("restarting {pod}: its webhook's certificate is of an authority that is gone"));
                spire::restart_server(cx, &cluster, pod).await?;
            }
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        loop {
            let Some(why) = look::webhook(&cluster).await else {
                return Ok("a ClusterSPIFFEID can be written".into());
            };
            if cx.remaining() < Duration::from_secs(2) {
                return Err(Failure::timeout(why).next("`coastal logs server` shows what the controller manager says"));
            }
            cx.progress(why);
            cx.sleep(Duration::from_secs(1)).await?;
        }
    }
}

/// [`crate::spire::recovery::Part::Gate`].
pub(super) struct Gate;

#[async_trait]
impl Body for Gate {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("a gate looks each time".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        issued(cx, "recover", &BTreeSet::new()).await
    }
}

/// Proves that the servers are of one mind, that each signs with an authority of their bundle that is not among
/// `outgoing`, and that new pods on each node get SVIDs of such an authority.
///
/// # Errors
/// One of it is not so.
pub(in crate::steps) async fn issued(
    cx: &StepContext,
    purpose: &str,
    outgoing: &BTreeSet<String>,
) -> Result<String, Failure> {
    let since = cx.session.world.clock.now();
    let healthy = spire::healthy(cx).await?;
    let live = Live::look(cx).await?;
    let bundle = gate::one_bundle(cx).await?;
    let authorities: BTreeSet<String> = bundle.difference(outgoing).cloned().collect();
    if let [version] = live.server_versions().as_slice() {
        gate::own_authorities(cx, version, &authorities).await?;
    }
    let proofs = probe::prove(cx, probe::Asked { purpose, issued_after: since, authorities: &authorities }).await?;
    Ok(format!("{healthy}; one bundle of {} authorities; {}", bundle.len(), probe::in_words(&proofs)))
}
