//! Taking a backup: see [`crate::backup`] for what it is.

pub(in crate::steps) mod gather;
pub mod schedule;
pub(in crate::steps) mod vault;

use async_trait::async_trait;

use crate::backup::catalog;
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::plan::{Backing, Finding};

/// [`crate::plan::StepId::Backup`].
pub struct Take;

fn backing(cx: &StepContext) -> Result<&Backing, Failure> {
    let backing = cx.session.backup.as_ref();
    backing.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a backup", cx.step())))
}

#[async_trait]
impl Body for Take {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let to = &backing(cx)?.to;
        if to.exists() {
            return Err(Failure::refused(format!("`{}` is there already", to.display()))
                .next("choose another name, or remove it yourself: a backup is never written over"));
        }
        Ok(Finding::Missing("a backup is taken each time".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let backing = backing(cx)?;
        let described = gather::gather(cx, &backing.to, &backing.seal).await?;
        catalog::write(&backing.to, &described)?;
        for remark in described.manifest.incomplete.iter().chain(&described.manifest.changed) {
            cx.progress(remark.clone());
        }
        cx.report(&described.manifest)
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let backing = backing(cx)?;
        let described = catalog::describe(&backing.to).ok_or_else(|| {
            Failure::tool(format!("`{}` is not as it was written", backing.to.display()))
                .next("run the same command again")
        })?;
        let manifest = &described.manifest;
        let now = cx.session.world.clock.now();
        let mut words = format!(
            "{} ({} bytes, {}; schema {}, SPIRE {}, {} entries, keys of {} CAs); {}",
            backing.to.display(),
            described.bytes,
            described.protection.words(),
            manifest.migrations.schema,
            manifest.migrations.code_version,
            manifest.entries,
            manifest.authorities.iter().filter(|authority| authority.key).count(),
            crate::backup::cover::until(manifest, now),
        );
        if !manifest.one_moment {
            words.push_str("; not of one moment: take another");
        }
        if let Some(directory) = backing.to.parent().filter(|_| backing.is_ours) {
            let spec = &cx.session.lab.backup;
            let gone = catalog::prune(directory, &cx.session.lab.name, spec.keep, spec.max_age, now)?;
            if !gone.is_empty() {
                cx.progress(format!("{} older backups removed, as [backup] of lab.toml says", gone.len()));
            }
        }
        Ok(words)
    }
}
