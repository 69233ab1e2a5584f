//! Bringing a backup back. Nothing is lost on the way: what was there is kept in an archive of its own until what was
//! brought has passed its gate, and a run that was cut off anywhere is gone on with by the next one.

mod gate;
mod keys;
pub mod look;
pub mod marker;
mod servers;
#[cfg(test)]
mod tests;

use std::path::Path;

use async_trait::async_trait;

use self::marker::{Marker, Phase};
use crate::backup::catalog;
use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind, io_failure};
use crate::kube::Cluster;
use crate::plan::{Finding, Restoration, RestorePart};
use crate::steps::backup::gather;
use crate::steps::{database, dump, reach};

/// The body of a part of a restore.
#[must_use]
pub fn body(part: RestorePart) -> Box<dyn Body> {
    match part {
        RestorePart::Aside => Box::new(Aside),
        RestorePart::Stop => Box::new(servers::Stop),
        RestorePart::Database => Box::new(Database),
        RestorePart::Keys => Box::new(keys::Keys),
        RestorePart::Servers => Box::new(servers::Start),
        RestorePart::Agents => Box::new(servers::Agents),
        RestorePart::Gate => Box::new(gate::Gate),
    }
}

fn restoration(cx: &StepContext) -> Result<&Restoration, Failure> {
    let restoration = cx.session.restore.as_ref();
    restoration.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a restore", cx.step())))
}

/// The marker of this very restore.
async fn ours(cx: &StepContext, cluster: &Cluster) -> Result<Option<Marker>, Failure> {
    let id = &restoration(cx)?.id;
    Ok(marker::read(cx, cluster).await?.filter(|marker| marker.backup == *id))
}

async fn reached(cx: &StepContext, phase: Phase) -> Result<bool, Failure> {
    let cluster = reach::cluster(cx).await?;
    Ok(ours(cx, &cluster).await?.is_some_and(|marker| marker.phase >= phase))
}

/// Writes down that a phase is through.
async fn through(cx: &StepContext, phase: Phase) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    let marker = ours(cx, &cluster).await?.ok_or_else(|| {
        Failure::refused("somebody else has taken away the mark of this restore")
            .next("run the same command again: it begins anew")
    })?;
    marker::write(cx, &cluster, Some(&Marker { phase, ..marker })).await
}

/// What a failed step adds: where things stand.
fn stands(cx: &StepContext, failure: Failure) -> Failure {
    if failure.kind == Kind::Interrupted {
        return failure;
    }
    let Ok(restoration) = restoration(cx) else { return failure };
    let failure =
        failure.next(format!("forward: mend the cause, then `coastal restore {}` goes on", restoration.file.display()));
    if !restoration.aside.is_file() {
        return failure;
    }
    failure
        .fact(format!("what was there before is kept in `{}`", restoration.aside.display()))
        .next(format!("back: `coastal restore {}`", restoration.aside.display()))
}

/// [`RestorePart::Aside`].
struct Aside;

#[async_trait]
impl Body for Aside {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if reached(cx, Phase::Aside).await? {
            let aside = &restoration(cx)?.aside;
            return Ok(Finding::Satisfied(if aside.is_file() {
                format!("kept in {}", aside.display())
            } else {
                "there was nothing to keep".into()
            }));
        }
        Ok(Finding::Missing("what is there is kept until what comes has passed its gate".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let restoration = restoration(cx)?;
        let cluster = reach::cluster(cx).await?;
        let present = look::Present::look(cx).await?;
        let before = present.marker.as_ref();
        // A way back from a restore that was cut off: what it had taken aside is what is brought back.
        let aside = if present.is_empty() || same_file(&restoration.file, &restoration.aside) {
            None
        } else {
            clear(&restoration.aside)?;
            let described = gather::salvage(cx, &restoration.aside, &restoration.seal).await?;
            catalog::write(&restoration.aside, &described)?;
            for missing in &described.manifest.incomplete {
                cx.progress(missing.clone());
            }
            Some(restoration.aside.display().to_string())
        };
        let anew = present.agents_begin_anew(&restoration.contents.manifest)
            || before.is_some_and(|before| before.agents_begin_anew || before.phase > Phase::Aside);
        let marker = Marker {
            backup: restoration.id.clone(),
            file: restoration.file.display().to_string(),
            aside,
            phase: Phase::Aside,
            agents_begin_anew: anew && present.installed,
            since: cx.session.world.clock.now(),
        };
        marker::write(cx, &cluster, Some(&marker)).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        match self.check(cx).await? {
            Finding::Satisfied(proof) => Ok(proof),
            other => Err(Failure::tool(other.detail().to_owned())),
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What a run that was killed before it could say so has left.
pub(super) fn clear(aside: &Path) -> Result<(), Failure> {
    let Some(directory) = aside.parent() else { return Ok(()) };
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_failure("remove", directory, &error)),
    }
}

/// [`RestorePart::Database`].
struct Database;

#[async_trait]
impl Body for Database {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        if reached(cx, Phase::Database).await? {
            return Ok(Finding::Satisfied("it is back already".into()));
        }
        let manifest = &restoration(cx)?.contents.manifest;
        Ok(Finding::Differs(format!(
            "the database goes to {:.0}, schema {}",
            manifest.taken_at, manifest.migrations.schema
        )))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let restoration = restoration(cx)?;
        dump::feed(cx, restoration.contents.dump.clone()).await.map_err(|failure| {
            stands(cx, failure.context("the database did not take the dump, and is as it was before"))
        })?;
        through(cx, Phase::Database).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let wanted = &restoration(cx)?.contents.manifest.migrations;
        let (schema, code) = database::migrations(cx).await?;
        if schema == wanted.schema && code == wanted.code_version.to_string() {
            return Ok(format!("schema {schema}, written by SPIRE {code}"));
        }
        Err(stands(
            cx,
            Failure::tool(format!("the database is at schema {schema}, SPIRE {code}, after it took the dump"))
                .fact(format!("the dump is of schema {}, SPIRE {}", wanted.schema, wanted.code_version)),
        ))
    }
}
