//! What goes: the servers for a while, their keys and the bundle for good.

use async_trait::async_trait;
use futures::future::{join_all, try_join_all};

use super::marker::Phase;
use super::{ours, phase, through};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::backup::vault::{self, Vault};
use crate::steps::{database, reach, servers};

/// The files of a server that hold its keys, and until SPIRE 1.9 which of them is which.
const FILES: [&str; 2] = ["keys.json", "journal.pem"];

/// [`crate::plan::RekeyPart::Stop`].
pub(super) struct Stop;

#[async_trait]
impl Body for Stop {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let cluster = reach::cluster(cx).await?;
        if phase(cx).await?.is_some() && ours(cx, &cluster).await?.may_serve() {
            return Ok(Finding::Satisfied("they were, and what they were down for is done".into()));
        }
        servers::down(cx, &cluster).await
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        servers::stop(cx, &reach::cluster(cx).await?).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(_) => Ok("no server runs; workloads keep the SVIDs that they have".into()),
            other => Err(Failure::tool(other.detail().to_owned())),
        }
    }
}

/// That no server runs: one that did would write its keys anew.
async fn none_runs(cx: &StepContext, cluster: &Cluster) -> Result<(), Failure> {
    match servers::down(cx, cluster).await? {
        Finding::Satisfied(_) => Ok(()),
        other => Err(Failure::refused(format!("somebody has started the servers again: {}", other.detail()))),
    }
}

/// [`crate::plan::RekeyPart::Keys`].
pub(super) struct Keys;

#[async_trait]
impl Body for Keys {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(if phase(cx).await? >= Some(Phase::Keys) {
            Finding::Satisfied("they are away".into())
        } else {
            Finding::Differs(format!("{} servers have keys", cx.session.lab.spire.servers))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        none_runs(cx, &cluster).await?;
        let all = names::server_pods(&cx.session.lab.spire);
        let taken = try_join_all(all.iter().map(|server| take(cx, &cluster, server))).await;
        if taken.is_err() {
            join_all(all.iter().map(|server| vault::close_left(cx, &cluster, server))).await;
        }
        taken?;
        through(cx, Phase::Keys, &format!("the keys of {} servers are away", all.len())).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(_) => Ok(format!("no claim of {} servers holds keys", cx.session.lab.spire.servers)),
            other => Err(Failure::tool(other.detail().to_owned())),
        }
    }
}

async fn take(cx: &StepContext, cluster: &Cluster, server: &str) -> Result<(), Failure> {
    // Without a claim there are no keys, and the StatefulSet makes an empty one.
    let Some(vault) = Vault::open(cx, cluster, server).await? else { return Ok(()) };
    for file in FILES {
        vault.remove(cx, file).await?;
        if vault.get(cx, file).await?.is_some() {
            return Err(Failure::tool(format!("{file} of {server} is still there after it was removed")));
        }
    }
    vault.close(cx, cluster).await
}

/// [`crate::plan::RekeyPart::Bundle`].
pub(super) struct Bundle;

#[async_trait]
impl Body for Bundle {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        Ok(if phase(cx).await? >= Some(Phase::Bundle) {
            Finding::Satisfied("it is out".into())
        } else {
            Finding::Differs("the data store holds the old authorities".into())
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        none_runs(cx, &reach::cluster(cx).await?).await?;
        database::drop_bundle(cx).await?;
        through(cx, Phase::Bundle, "the trust domain's row of table `bundles` is deleted").await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(_) => Ok("the data store has no bundle: nothing old is trusted from now on".into()),
            other => Err(Failure::tool(other.detail().to_owned())),
        }
    }
}
