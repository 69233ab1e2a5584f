//! `coastal backup`: takes one, and tells what the others are worth.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::backup::contents::{self, Contents, Keep, takers_in_words};
use crate::backup::{Protection, Seal, Unseal, catalog, cover};
use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::cli::schedule::{self, ScheduleArgs};
use crate::error::{ExitCode, Failure};
use crate::plan::Backing;
use crate::session::Session;
use crate::ui::Ui;

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BackupArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    create: CreateArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take one; the same as `backup` alone
    Create(CreateArgs),
    /// Show the backups of this lab, and until when each covers
    List,
    /// Read one from its beginning to its end: digests, dump, keys, and which SPIRE could take it
    Verify(OpenArgs),
    /// Show what is in one
    Show(OpenArgs),
}

/// Where a backup goes, and who can open it.
#[derive(Debug, Clone, Default, Args)]
pub struct CreateArgs {
    /// The archive; without it the lab's own directory of backups, where old ones are removed
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Who can open what is written.
#[derive(Debug, Clone, Default, Args)]
pub struct SealArgs {
    /// A recipient of age's who can open it, instead of lab.toml's; may be given several times
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    recipients: Vec<String>,
    /// Encrypt with the passphrase in the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "recipients")]
    passphrase_file: Option<PathBuf>,
    /// Do not encrypt: whoever reads the file has the CA keys
    #[arg(long, conflicts_with_all = ["recipients", "passphrase_file"])]
    plaintext: bool,
}

/// Which archive, and what opens it.
#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// The archive; a name alone is looked for in the lab's directory of backups, too
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) key: KeyArgs,
}

/// What opens an archive.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// A file of age identities, as `age-keygen` writes it; may be given several times
    #[arg(long = "identity", value_name = "FILE")]
    identities: Vec<PathBuf>,
    /// The file whose first line is the passphrase
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    pub(super) fn unseal(&self) -> Result<Unseal, Failure> {
        Unseal::with(&self.identities, self.passphrase_file.as_deref())
    }
}

impl SealArgs {
    /// As asked for, else as lab.toml says; `None` if neither says anything.
    fn seal(&self, outside: &Outside) -> Result<Option<Seal>, Failure> {
        Ok(Some(match (&self.passphrase_file, self.plaintext, self.recipients.as_slice()) {
            (Some(file), ..) => Seal::with_passphrase(file)?,
            (None, true, _) => Seal::Plaintext,
            (None, false, []) if outside.lab.backup.recipients.is_empty() => return Ok(None),
            (None, false, []) => Seal::to(&outside.lab.backup.recipients)?,
            (None, false, recipients) => Seal::to(recipients)?,
        }))
    }
}

/// Where this lab's backups lie.
pub(super) fn directory(outside: &Outside) -> PathBuf {
    outside.lab.backup.dir.clone().unwrap_or_else(|| outside.paths.backups())
}

/// The archive that is meant.
pub(super) fn archive(file: &Path, outside: &Outside) -> PathBuf {
    let own = directory(outside).join(file);
    if !file.exists() && file.components().count() == 1 && own.exists() { own } else { file.to_owned() }
}

/// Takes a backup, or shows some.
///
/// # Errors
/// It was not started, an archive cannot be read, or one is not as it should be.
pub async fn run(
    args: &BackupArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    match &args.action {
        None => create(&args.create, global, ui, line, outside).await,
        Some(Action::Create(args)) => create(args, global, ui, line, outside).await,
        Some(Action::List) => list(ui, outside),
        Some(Action::Verify(args)) => verify(args, ui, outside),
        Some(Action::Show(args)) => show(args, ui, outside),
    }
}

async fn create(
    args: &CreateArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    if args.schedule.is_wanted() {
        let seal = (args.seal.recipients.as_slice(), args.seal.plaintext);
        return schedule::run(&args.schedule, seal, global, ui, line, outside).await;
    }
    let seal = args.seal.seal(outside)?.ok_or_else(|| {
        Failure::usage("a backup holds the private keys of the CAs, and nothing says who may open it")
            .next("name recipients once and for all in lab.toml: `[backup] recipients = [\"age1…\"]` (`age-keygen` makes one)")
            .next("or `--recipient age1…`, or `--passphrase-file FILE`")
            .next("or, if the file is safe where it lies, `--plaintext`")
    })?;
    let name = catalog::file_name(&outside.lab.name, outside.world.clock.now(), seal.protection());
    let to = match &args.to {
        Some(to) => std::path::absolute(to).map_err(|error| Failure::usage(format!("--to is not a path: {error}")))?,
        None => directory(outside).join(name),
    };
    if seal.protection() == Protection::Plaintext {
        ui.warning(
            "the backup is not encrypted: whoever reads the file can sign as this trust domain until its CAs expire",
        );
    }
    let backing = Backing { is_ours: args.to.is_none(), to: to.clone(), seal };
    let plan = backing.plan(&outside.lab);
    if global.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    let _lock = lock(outside, line)?;
    let session = Session::with_backup(outside.lab.clone(), outside.world.clone(), outside.paths.clone(), backing);
    let next = vec![format!("coastal backup verify {}", to.display()), "coastal backup list".to_owned()];
    carry_out(&session, &plan, next, ui, line, outside).await
}

fn list(ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let directory = directory(outside);
    let catalog = catalog::read(&directory)?;
    let now = outside.world.clock.now();
    if ui.is_json() {
        let backups: Vec<_> = catalog
            .described
            .iter()
            .map(|one| json!({"backup": one, "cover": cover::until(&one.manifest, now)}))
            .collect();
        ui.document(
            &json!({"schema": 1, "directory": directory, "backups": backups, "without_description": catalog.others}),
        );
        return Ok(ExitCode::Ok);
    }
    let rows: Vec<Vec<String>> = catalog
        .described
        .iter()
        .rev()
        .map(|one| {
            let manifest = &one.manifest;
            vec![
                format!("{:.0}", manifest.taken_at),
                manifest.servers.first().unwrap_or(&manifest.migrations.code_version).to_string(),
                manifest.migrations.schema.to_string(),
                manifest.entries.to_string(),
                one.protection.words().to_owned(),
                if manifest.one_moment {
                    cover::until(manifest, now).to_string()
                } else {
                    "not of one moment".to_owned()
                },
                one.file.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        ui.text(&format!("no backup in {}", directory.display()));
        ui.next(&["coastal backup".to_owned()]);
    } else {
        ui.table(&["taken", "SPIRE", "schema", "entries", "protection", "CAs", "file"], &rows);
    }
    for other in &catalog.others {
        ui.warning(&format!(
            "{} has no description beside it, or is not as long as it says: `coastal backup verify` tells",
            other.display()
        ));
    }
    Ok(ExitCode::Ok)
}

fn verify(args: &OpenArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let path = archive(&args.file, outside);
    let contents = contents::read(&path, &args.key.unseal()?, Keep::Nothing)?;
    report(&path, &contents, ui, outside);
    if contents.problems.is_empty() { Ok(ExitCode::Ok) } else { Err(broken(&path, &contents)) }
}

/// What is wrong with an archive, as a failure.
pub(super) fn broken(path: &Path, contents: &Contents) -> Failure {
    let count = contents.problems.len();
    let things = if count == 1 { "1 thing is".to_owned() } else { format!("{count} things are") };
    Failure::check_failed(format!("`{}` cannot be restored: {things} wrong with it", path.display()))
        .facts(contents.problems.iter().take(20).cloned())
        .next("take another copy of it, or another backup: `coastal backup list`")
}

fn report(path: &Path, contents: &Contents, ui: &Ui, outside: &Outside) {
    let (manifest, now) = (&contents.manifest, outside.world.clock.now());
    let cover = contents.cover(now);
    if ui.is_json() {
        ui.document(&json!({
            "schema": 1, "file": path, "protection": contents.protection, "manifest": manifest, "authorities": contents.authorities,
            "cover": cover, "fits": contents::takers(&manifest.migrations), "problems": contents.problems, "remarks": contents.remarks,
        }));
        return;
    }
    let keys = contents.authorities.iter().filter(|one| one.key && one.trusted).count();
    let lines = [
        format!("file         {} ({})", path.display(), contents.protection.words()),
        format!(
            "taken        {:.0} of trust domain {}, lab {}",
            manifest.taken_at, manifest.trust_domain, manifest.lab
        ),
        format!("members      {}, every digest read again", manifest.members.len()),
        format!(
            "database     schema {}, written by SPIRE {}; {} entries, {} agents",
            manifest.migrations.schema, manifest.migrations.code_version, contents.seen.entries, contents.seen.agents
        ),
        format!(
            "keys         of {} servers; {keys} of {} CAs have their key here",
            contents.servers.len(),
            contents.authorities.len()
        ),
        format!("CAs          {cover}"),
        format!("fits SPIRE   {}", takers_in_words(&manifest.migrations)),
    ];
    ui.text(&lines.join("\n"));
    for remark in &contents.remarks {
        ui.warning(remark);
    }
}

fn show(args: &OpenArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let path = archive(&args.file, outside);
    let contents = contents::read(&path, &args.key.unseal()?, Keep::Nothing)?;
    report(&path, &contents, ui, outside);
    if !ui.is_json() {
        let authorities = contents.authorities.iter().map(|one| {
            let slot = json!(one.slot).as_str().unwrap_or_default().to_owned();
            let held = |held: bool| if held { "yes" } else { "no" }.to_owned();
            vec![
                one.id.clone(),
                one.server.clone().unwrap_or_else(|| "-".to_owned()),
                slot,
                format!("{:.0}", one.not_after),
                held(one.key),
                held(one.trusted),
            ]
        });
        ui.table(&["CA", "server", "slot", "expires", "key", "in bundle"], &authorities.collect::<Vec<_>>());
        let members: Vec<Vec<String>> = contents
            .manifest
            .members
            .iter()
            .map(|member| {
                vec![
                    member.path.clone(),
                    member.bytes.to_string(),
                    member.sha256.get(..16).unwrap_or_default().to_owned(),
                ]
            })
            .collect();
        ui.table(&["member", "bytes", "sha256"], &members);
    }
    if contents.problems.is_empty() { Ok(ExitCode::Ok) } else { Err(broken(&path, &contents)) }
}
