//! The gate of a restore: the CAs of the backup are the ones that sign. Only then is what was there before given up.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{marker, ours, restoration, stands};
use crate::backup::{Authority, Slot};
use crate::engine::{Body, StepContext};
use crate::error::{Failure, io_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::steps::upgrade::gate;
use crate::steps::{probe, reach, rekey, spire};

/// [`crate::plan::RestorePart::Gate`].
pub(super) struct Gate;

#[async_trait]
impl Body for Gate {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("a gate looks each time".into()))
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let proof = passed(cx).await.map_err(|failure| stands(cx, failure))?;
        let restoration = restoration(cx)?;
        let cluster = reach::cluster(cx).await?;
        if ours(cx, &cluster).await?.is_some() {
            marker::write(cx, &cluster, None).await?;
        }
        // New keys that were under way are taken back by it.
        rekey::marker::write(cx, &cluster, None).await?;
        // They hold private keys, and are worth nothing any more.
        for aside in [restoration.aside.parent(), Some(cx.session.paths.rekey().as_path())] {
            if let Some(directory) = aside.filter(|directory| directory.is_dir()) {
                std::fs::remove_dir_all(directory).map_err(|error| io_failure("remove", directory, &error))?;
            }
        }
        Ok(proof)
    }
}

async fn passed(cx: &StepContext) -> Result<String, Failure> {
    let restoration = restoration(cx)?;
    let since = cx.session.world.clock.now();
    let healthy = spire::healthy(cx).await?;
    let bundle = gate::one_bundle(cx).await?;
    gate::own_authorities(cx, &restoration.version, &bundle).await?;
    let wanted = names::server_pods(&cx.session.lab.spire);
    let is_wanted = |one: &&Authority| one.server.as_ref().is_some_and(|server| wanted.contains(server));
    let active: Vec<&Authority> =
        restoration.contents.authorities.iter().filter(|one| one.slot == Slot::Active).filter(is_wanted).collect();
    let known: BTreeSet<&String> = restoration.contents.authorities.iter().map(|one| &one.id).collect();
    let living = active.iter().filter(|one| one.key && one.trusted && one.succeeded_at() > since).count();
    if let Some(lost) = active.iter().find(|one| one.trusted && one.not_after > since && !bundle.contains(&one.id)) {
        return Err(Failure::check_failed(format!("CA {} of the backup is not in the servers' bundle", lost.id)));
    }
    let made: Vec<&String> = bundle.iter().filter(|id| !known.contains(id)).collect();
    // With the keys of every server back and none of them due to be succeeded, nobody has a reason to make a new one.
    if living == wanted.len() && !made.is_empty() {
        return Err(Failure::check_failed("servers have made new CAs although the backup holds theirs")
            .facts(made.iter().map(|id| format!("new: {id}")))
            .next("`coastal logs server` says why a server could not use its key"));
    }
    let asked = probe::Asked { purpose: "restore", issued_after: since, authorities: &bundle };
    let proofs = probe::prove(cx, asked).await?;
    let cas = if made.is_empty() {
        format!("the same {} CAs as in the backup", bundle.len())
    } else {
        format!(
            "{} CAs of the backup and {} new ones (the backup's are due to be succeeded)",
            bundle.len() - made.len(),
            made.len()
        )
    };
    Ok(format!("{healthy}; {cas}; {}", probe::in_words(&proofs)))
}
