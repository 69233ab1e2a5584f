//! `coastal restore`: brings a backup back, or says why it must not.

use std::path::Path;

use clap::Args;
use semver::Version;
use sha2::{Digest as _, Sha256};

use crate::backup::contents::{self, Contents, Fit, Keep, fit, takers_in_words};
use crate::backup::{Protection, Seal};
use crate::cli::Global;
use crate::cli::backup::{OpenArgs, archive, broken};
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Restoration;
use crate::session::Session;
use crate::spire::hex;
use crate::steps::restore::look::Present;
use crate::ui::Ui;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Bring the servers up at this version, instead of the one that is installed, or lab.toml's
    #[arg(long, value_name = "VERSION")]
    at: Option<Version>,
}

/// Brings a backup back.
///
/// # Errors
/// It was not started: the archive is not good, a rule forbids it, or nobody says yes. What happens in the run itself is
/// shown by the run, and is in the exit code.
pub async fn run(
    args: &RestoreArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let lab = &outside.lab;
    let file = archive(&args.open.file, outside);
    let contents = contents::read(&file, &args.open.key.unseal()?, Keep::Dump)?;
    same_trust_domain(&file, &contents, &lab.spire.trust_domain)?;
    if !contents.problems.is_empty() {
        return Err(broken(&file, &contents));
    }
    let session = Session::new(lab.clone(), outside.world.clone(), outside.paths.clone());
    let present = Present::look(&observe::looking(&session, &outside.cancel)).await?;
    let seal = match contents.protection {
        // What is taken aside need not be better kept than what it makes room for.
        Protection::Recipients if !lab.backup.recipients.is_empty() => Seal::to(&lab.backup.recipients)?,
        _ => Seal::Plaintext,
    };
    let aside = outside.paths.aside().join(format!("before.{}", seal.protection().extension()));
    let id = id_of(&contents)?;
    let continues = goes_on(&present, &id, &file, &aside)?;
    let (version, install) = versions(args, &present, outside);
    legal(&file, &contents, &version)?;
    let now = outside.world.clock.now();
    let cover = contents.cover(now);
    if !cover.holds() {
        ui.warning(&format!("this backup {cover}; the servers will make new CAs, and agents and workloads begin anew"));
    }
    for remark in &contents.remarks {
        ui.warning(remark);
    }
    let lost = present.lost(&contents.manifest);
    let taken_at = contents.manifest.taken_at;
    let restoration = Restoration { file: file.clone(), id, contents, install, version, aside, seal };
    let plan = restoration.plan(lab);
    if global.dry_run {
        for lost in &lost {
            ui.note(&format!("would be lost  {lost}"));
        }
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    if continues {
        ui.note("a restore of this backup was interrupted: it is gone on with");
    } else if !present.is_empty() {
        for lost in &lost {
            ui.note(&format!("will be lost  {lost}"));
        }
        if restoration.seal.protection() == Protection::Plaintext {
            ui.note(&format!(
                "what is there now is kept in {} (mode 0600, not encrypted) until the gate is passed",
                restoration.aside.display()
            ));
        }
        let is = if present.answering > 0 {
            format!("{} servers of `{}` run and serve; ", present.answering, lab.cluster.context())
        } else {
            String::new()
        };
        let what = lost.first().map_or_else(String::new, |first| format!(" ({first})"));
        ui.confirm(&format!("{is}put them back to {taken_at:.0}?{what}"), global.yes || outside.is_harmless())?;
    }
    let held = lock(outside, line)?;
    let session = Session::with_restore(lab.clone(), outside.world.clone(), outside.paths.clone(), restoration);
    let next = vec!["coastal status".to_owned(), "coastal up".to_owned(), "coastal test".to_owned()];
    let code = carry_out(&session, &plan, next, ui, line, outside).await?;
    drop(held);
    Ok(code)
}

fn same_trust_domain(file: &Path, contents: &Contents, trust_domain: &str) -> Result<(), Failure> {
    if contents.manifest.trust_domain == trust_domain {
        return Ok(());
    }
    Err(Failure::refused(format!("`{}` is of another trust domain; nothing was touched", file.display()))
        .fact(format!("it is of {}, lab `{}`", contents.manifest.trust_domain, contents.manifest.lab))
        .fact(format!("this lab's is {trust_domain}"))
        .next("`--lab FILE` names the lab that it is of; the lab file is in the backup, too"))
}

/// Tells this backup from every other: two manifests with the same digest are of the same members.
fn id_of(contents: &Contents) -> Result<String, Failure> {
    let manifest = serde_json::to_vec(&contents.manifest).map_err(|error| Failure::unexpected(error.to_string()))?;
    Ok(hex(&Sha256::digest(manifest)).chars().take(16).collect())
}

/// Whether a restore of this very backup is under way. Amid another one only the way back is open.
fn goes_on(present: &Present, id: &str, file: &Path, aside: &Path) -> Result<bool, Failure> {
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let of_restore = present.marker.as_ref().is_some_and(|marker| marker.backup == id);
    if let Some(marker) = &present.rekey
        && !of_restore
        && !marker.aside.as_ref().is_some_and(|aside| same(file, Path::new(aside)))
    {
        return Err(marker.refusal());
    }
    let Some(marker) = &present.marker else { return Ok(false) };
    if marker.backup == id {
        return Ok(true);
    }
    if same(file, aside) {
        return Ok(false);
    }
    let mut failure =
        Failure::refused("a restore of another backup was interrupted here, and has to come to its end first")
            .fact(format!("since {:.0}, of `{}`", marker.since, marker.file))
            .next(format!("forward: `coastal restore {}` goes on", marker.file));
    if let Some(aside) = &marker.aside {
        failure = failure.next(format!("back: `coastal restore {aside}` brings back what was there before"));
    }
    Err(failure)
}

/// The version that the servers will run, and whether the release has to be installed for it.
fn versions(args: &RestoreArgs, present: &Present, outside: &Outside) -> (Version, Option<(Version, Version)>) {
    let spire = &outside.lab.spire;
    let current = if present.installed { present.template.as_ref() } else { None };
    let version = args.at.as_ref().or(current).unwrap_or(&spire.server_version).clone();
    let stays = current == Some(&version);
    // Agents are never newer than servers.
    let agent = spire.agent_version.clone().min(version.clone());
    let install = (!stays).then(|| (version.clone(), agent));
    (version, install)
}

fn legal(file: &Path, contents: &Contents, version: &Version) -> Result<(), Failure> {
    let row = &contents.manifest.migrations;
    let why = match fit(version, row) {
        Fit::AsItIs | Fit::Migrates => return Ok(()),
        Fit::Refuses(words) => format!("its server would refuse to start: {words}"),
        Fit::TooFar => "it is more than one minor version away from the last that wrote there".to_owned(),
    };
    Err(Failure::refused(format!(
        "`{}` must not be restored onto SPIRE {version}; nothing was touched",
        file.display()
    ))
    .fact(format!("its database is at schema {}, written by SPIRE {}", row.schema, row.code_version))
    .fact(why)
    .fact(format!("it fits SPIRE {}", takers_in_words(row)))
    .next(format!("`coastal restore {} --at VERSION` brings the servers up at one that fits", file.display())))
}
