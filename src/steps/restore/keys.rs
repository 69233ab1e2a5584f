//! The keys, onto the servers' claims.

use async_trait::async_trait;
use futures::future::try_join_all;

use super::marker::Phase;
use super::{reached, restoration, stands, through};
use crate::backup::contents::ServerFiles;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::backup::vault::{self, Vault};
use crate::steps::reach;

/// [`crate::plan::RestorePart::Keys`].
pub(super) struct Keys;

#[async_trait]
impl Body for Keys {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if reached(cx, Phase::Keys).await? {
            return Ok(Finding::Satisfied("they are back already".into()));
        }
        let servers = restoration(cx)?.contents.servers.len();
        Ok(Finding::Differs(format!("the keys of {servers} servers go onto their claims")))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let restoration = restoration(cx)?;
        let cluster = reach::cluster(cx).await?;
        let wanted = names::server_pods(&cx.session.lab.spire);
        let files = restoration.contents.servers.iter().filter(|(server, _)| wanted.contains(server));
        let putting = files.map(|(server, files)| put(cx, &cluster, server, files));
        let done = try_join_all(putting).await;
        if done.is_err() {
            for server in &wanted {
                vault::close_left(cx, &cluster, server).await;
            }
        }
        done.map_err(|failure| stands(cx, failure))?;
        through(cx, Phase::Keys).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let wanted = names::server_pods(&cx.session.lab.spire);
        let back: Vec<&String> =
            restoration(cx)?.contents.servers.keys().filter(|server| wanted.contains(server)).collect();
        let without = wanted.iter().filter(|server| !back.contains(server)).count();
        let more = if without == 0 { String::new() } else { format!("; {without} servers will make a new CA") };
        Ok(format!("keys of {} servers written and read back{more}", back.len()))
    }
}

async fn put(cx: &StepContext, cluster: &Cluster, server: &str, files: &ServerFiles) -> Result<(), Failure> {
    vault::make_claim(cx, cluster, server).await?;
    let vault = Vault::open(cx, cluster, server).await?;
    let vault = vault.ok_or_else(|| Failure::tool(format!("the claim of {server} is gone again")))?;
    // The journal first: keys without one are no use, and a journal without its keys does no harm.
    match &files.journal {
        Some(journal) => vault.put(cx, "journal.pem", journal).await?,
        None => vault.remove(cx, "journal.pem").await?,
    }
    vault.put(cx, "keys.json", &files.keys).await?;
    vault.close(cx, cluster).await
}
