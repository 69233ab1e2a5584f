//! `coastal backup --schedule`: prints the objects with which the cluster takes backups by itself, or applies them.

use clap::Args;
use serde_json::json;

use crate::backup::{Seal, cron};
use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::plan::Schedule;
use crate::session::Session;
use crate::steps::backup::schedule;
use crate::ui::Ui;

/// When the cluster is to take backups, and what with.
#[derive(Debug, Clone, Default, Args)]
pub struct ScheduleArgs {
    /// Take none now: print a CronJob that takes them in the cluster, at these times (in UTC), like "0 */6 * * *"
    #[arg(long, value_name = "CRON", conflicts_with_all = ["to", "passphrase_file"])]
    schedule: Option<String>,
    /// Apply what --schedule would print
    #[arg(long, requires = "schedule")]
    apply: bool,
    /// The job's image, with coastal, kubectl and helm in it [default: the workload's]
    #[arg(long, requires = "schedule")]
    image: Option<String>,
    /// How many archives the job keeps [default: lab.toml's]
    #[arg(long, value_name = "COUNT", requires = "schedule", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

impl ScheduleArgs {
    /// Whether a schedule is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.schedule.is_some()
    }

    fn read(&self, recipients: &[String], plaintext: bool, outside: &Outside) -> Result<Schedule, Failure> {
        let lab = &outside.lab;
        let cron = cron::parse(self.schedule.as_deref().unwrap_or_default())?;
        let recipients = match (plaintext, recipients) {
            (true, _) => Vec::new(),
            (false, []) => lab.backup.recipients.clone(),
            (false, recipients) => recipients.to_vec(),
        };
        if recipients.is_empty() && !plaintext {
            return Err(Failure::usage("a backup holds the private keys of the CAs, and nothing says who may open it")
                .fact("a job of the cluster is told recipients only: a passphrase would have to be kept there")
                .next("`--recipient age1…` (`age-keygen` makes one), or `[backup] recipients` in lab.toml")
                .next("or, if whoever reads the claim may have the keys, `--plaintext`"));
        }
        Seal::to(&recipients)?;
        let image = match &self.image {
            Some(image) if !image.trim().is_empty() && !image.contains(char::is_whitespace) => image.clone(),
            Some(image) => {
                return Err(
                    Failure::usage(format!("`{image}` is no image")).next("like `--image registry.example/coastal:1`")
                );
            }
            None if lab.is_kind() => lab.workload.image.clone(),
            None => {
                return Err(Failure::usage("nothing says which image the job runs on a cluster that is not kind's")
                    .next("`--image IMAGE`, one that the cluster can pull, with coastal, kubectl and helm in it"));
            }
        };
        let keep = self.keep.map_or(lab.backup.keep, usize::from);
        Ok(Schedule { cron, image, recipients, keep })
    }
}

/// Prints the objects, or applies them.
///
/// # Errors
/// What was asked for is not right, or nobody says yes.
pub(super) async fn run(
    args: &ScheduleArgs,
    (recipients, plaintext): (&[String], bool),
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let lab = &outside.lab;
    let wanted = args.read(recipients, plaintext, outside)?;
    if plaintext {
        ui.warning("the archives are not encrypted: whoever reads the claim can sign as this trust domain until its CAs expire");
    }
    if !args.apply {
        let objects = schedule::objects(lab, &wanted)?;
        if ui.is_json() {
            ui.document(&json!({"schema": 1, "objects": objects}));
            return Ok(ExitCode::Ok);
        }
        ui.text(&schedule::yaml(&objects)?);
        if args.image.is_none() {
            ui.note(&format!(
                "the job runs {}, with kubectl and helm in it: `coastal build-load-image --with-tools`",
                wanted.image
            ));
        }
        ui.next(&[format!("coastal {line} --apply")]);
        return Ok(ExitCode::Ok);
    }
    let plan = wanted.plan(lab);
    if global.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    let question = format!(
        "let the cluster take backups at `{}`, as an account that may enter the pods of {} and read the secrets of {}?",
        wanted.cron,
        lab.spire.server_namespace,
        Schedule::namespace(lab)
    );
    ui.confirm(&question, global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let session = Session::with_schedule(lab.clone(), outside.world.clone(), outside.paths.clone(), wanted);
    carry_out(&session, &plan, Schedule::next(lab), ui, line, outside).await
}
