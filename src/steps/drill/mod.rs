//! Disasters on purpose: what is broken, and until it is seen to be broken.

mod inject;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::backup::{catalog, cover};
use crate::config::{Lab, Provider};
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::plan::{Finding, Notes};
use crate::spire::audit::AuthorityKind;
use crate::spire::recovery::{Diagnosis, Drill, Loss};
use crate::steps::recover::{examine, recovery, remember};
use crate::steps::{inspect, registrations};

/// How long it is looked for damage.
fn patience(drill: Drill) -> Duration {
    Duration::from_secs(match drill {
        // Its successor may serve before anybody has seen that it was gone; on a real cluster that takes some 8 s.
        Drill::Pod => 15,
        Drill::Servers | Drill::Agents | Drill::Database | Drill::Keys | Drill::Node => 90,
    })
}

/// What is at stake, before anybody is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stake {
    /// SPIFFE ids of entries that nobody makes again: they are not for single pods.
    pub by_hand: Vec<String>,
    /// Whether the last backup covers what would be lost, in words.
    pub cover: String,
}

/// Whether this lab may be hurt: only one that was made to be.
///
/// # Errors
/// It is somebody's own cluster.
pub fn allowed(lab: &Lab) -> Result<(), Failure> {
    match lab.cluster.provider {
        Provider::Kind { .. } => Ok(()),
        Provider::Existing { .. } => Err(Failure::refused(format!(
            "drills are for a lab's own cluster; `{}` is somebody's, and nothing was touched",
            lab.cluster.context()
        ))
        .next(
            "a lab with `[cluster] provider = \"kind\"` can be drilled, and `coastal rehearse drill` needs no cluster",
        )),
    }
}

/// Whether the lab is whole: a disaster on top of another teaches nothing.
///
/// # Errors
/// It is not.
pub fn whole(diagnosis: &Diagnosis) -> Result<(), Failure> {
    if diagnosis.is_healthy() {
        return Ok(());
    }
    Err(Failure::refused("the lab is not whole; a drill begins from a healthy one")
        .facts(diagnosis.broken())
        .next("`coastal recover` first"))
}

/// Looks what would be lost.
///
/// # Errors
/// The servers do not tell their entries.
pub async fn stake(cx: &StepContext, drill: Drill) -> Result<Stake, Failure> {
    use std::sync::{Arc, Mutex, PoisonError};
    let found = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&found);
    registrations::each(cx, move |entry| {
        if entry.pod_uid().next().is_none() {
            into.lock().unwrap_or_else(PoisonError::into_inner).push(entry.spiffe_id.to_string());
        }
    })
    .await?;
    let by_hand = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Stake { by_hand, cover: cover(cx, drill.loss()).await? })
}

/// Whether the newest backup covers a loss: only while every authority that signs now is in it, with its key.
///
/// # Errors
/// The directory of backups cannot be read.
pub async fn cover(cx: &StepContext, loss: Loss) -> Result<String, Failure> {
    if loss.is_none() {
        return Ok("no data is lost, so none is needed".to_owned());
    }
    let lab = &cx.session.lab;
    let directory = lab.backup.dir.clone().unwrap_or_else(|| cx.session.paths.backups());
    let backups = catalog::read(&directory)?.described;
    let Some(newest) = backups.iter().rev().find(|backup| backup.manifest.lab == lab.name) else {
        return Ok("no backup known; `coastal backup` takes one".to_owned());
    };
    let now = cx.session.world.clock.now();
    let servers = inspect::servers(cx).await.unwrap_or_default();
    let own = servers.iter().filter_map(|server| server.own.get(&AuthorityKind::X509));
    let active: BTreeSet<String> = own.map(|own| own.active.authority_id.clone()).collect();
    // Older servers do not tell which authorities are theirs: then it is the backup's own word.
    let told = !active.is_empty() && active.len() == servers.len();
    let cover = if told { cover::of(&newest.manifest, &active, now) } else { cover::until(&newest.manifest, now) };
    let words = format!("{} of {:.0} {cover}", newest.file, newest.manifest.taken_at);
    Ok(if cover.holds() { words } else { format!("none covers it: {words}") })
}

/// [`crate::plan::StepId::Drill`].
pub struct Inject(pub Drill);

#[async_trait]
impl Body for Inject {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        allowed(&cx.session.lab)?;
        Ok(Finding::Differs("it is whole".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        // Once more, under the lock: somebody may have been at work since it was asked.
        let (facts, diagnosis) = examine(cx).await?;
        whole(&diagnosis)?;
        let before = super::recover::identities(cx).await?;
        {
            let mut notes = recovery(cx)?.notes();
            let cover = notes.cover.clone();
            *notes = Notes {
                drill: Some(self.0),
                identities: Some(before),
                first_expiry: facts.first_expiry(),
                workloads: facts.workloads_wanted > 0,
                cover,
                ..Notes::new(cx.session.world.clock.now())
            };
        }
        remember(cx)?;
        inject::inject(cx, self.0).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let begun = tokio::time::Instant::now();
        loop {
            match examine(cx).await {
                Ok((_, diagnosis)) if !diagnosis.is_healthy() => {
                    let broken = diagnosis.broken();
                    let seen = format!("seen: {}", broken.first().map_or("it is not whole", String::as_str));
                    {
                        let mut notes = recovery(cx)?.notes();
                        notes.detected_at = Some(diagnosis.at);
                        notes.broken = broken;
                        notes.diagnosis = Some(diagnosis);
                    }
                    remember(cx)?;
                    return Ok(seen);
                }
                Err(failure) if failure.kind == Kind::Interrupted => return Err(failure),
                // While it breaks, it may not answer.
                Err(failure) => cx.progress(failure.message),
                Ok(_) => cx.progress("nothing is seen to be broken yet"),
            }
            if begun.elapsed() > patience(self.0) || cx.remaining() < Duration::from_secs(2) {
                return Ok("it healed before anybody could see it".into());
            }
            cx.sleep(Duration::from_millis(200)).await?;
        }
    }
}
