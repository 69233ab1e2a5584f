//! `coastal upgrade`: SPIRE to another version, up or down, along legal hops.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::cli::candidates;
use crate::error::{ExitCode, Failure};
use crate::spire::path::{Answer, BackupFacts, ChartChoice, Options, what_if};
use crate::spire::policy::{RuleId, Seen, Target};
use crate::ui::Ui;

/// A status document has some kilobytes.
const LARGEST_STATE: u64 = 4 << 20;

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The SPIRE version to go to, up or down, any distance
    #[arg(long, value_name = "VERSION", add = candidates::versions())]
    pub to: String,
    /// Only show the hops, or why there are none; exits with 7 if it is refused
    #[arg(long)]
    pub plan: bool,
    /// What runs, instead of looking: the output of `status --output json`, or `-` to read it from standard input. No
    /// cluster is needed
    #[arg(long, value_name = "FILE", requires = "plan")]
    pub state: Option<PathBuf>,
    /// What becomes of the chart: `keep`, `follow` (the newest made for the target), or a version
    #[arg(long, value_name = "CHOICE", default_value_t = ChartChoice::Keep)]
    pub chart: ChartChoice,
    /// Only the direct hop, judged as it stands
    #[arg(long)]
    pub step: bool,
    /// Lift a rule that can be lifted; can be repeated
    #[arg(long, value_name = "RULE")]
    pub skip_rule: Vec<RuleId>,
    /// How it is carried out
    #[command(flatten)]
    pub manner: Manner,
}

/// How a change is carried out.
#[derive(Debug, Args)]
pub struct Manner {
    /// Take no dump of the database before a hop that cannot be undone without one
    #[arg(long, conflicts_with = "plan")]
    pub no_backup: bool,
    /// Where `spire-VERSION.tgz` and `spire-crds-VERSION.tgz` lie, for a lab whose charts come from no repository
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "state")]
    pub charts: Option<PathBuf>,
    /// Write the new versions into lab.toml when it is done, without asking
    #[arg(long, conflicts_with = "plan")]
    pub write_lab: bool,
}

impl UpgradeArgs {
    /// What the plan may count on.
    ///
    /// # Errors
    /// A rule that cannot be lifted shall be.
    pub fn options(&self, backups: Vec<BackupFacts>) -> Result<Options, Failure> {
        if let Some(rule) = self.skip_rule.iter().find(|rule| rule.is_mandatory()) {
            let failure = Failure::usage(format!("rule {rule} cannot be skipped: {}", rule.says()));
            return Err(failure.next("leave out the flag: a refusal names the legal way"));
        }
        Ok(Options { step: self.step, skip: self.skip_rule.clone(), backups, ..Options::default() })
    }
}

/// Judges the state that a file tells of, and shows the hops. Touches nothing else.
///
/// # Errors
/// The file cannot be read or does not say what runs, or the target is not a version.
pub fn judge_file(args: &UpgradeArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let file = args.state.as_deref().unwrap_or(Path::new("-"));
    let target = Target::parse(&args.to)?;
    let document = read(file)?;
    let seen = Seen::from_json(&document).map_err(|failure| failure.context(file.display()))?;
    let options = args.options(backups(&document).map_err(|failure| failure.context(file.display()))?)?;
    let outcome = what_if(&seen, &target, &args.to, &args.chart, &options);
    ui.upgrade(&outcome);
    Ok(match outcome.verdict {
        Answer::Allowed | Answer::NothingToDo => ExitCode::Ok,
        Answer::Refused => ExitCode::Refused,
    })
}

fn read(file: &Path) -> Result<Value, Failure> {
    let unreadable = |error: &std::io::Error| {
        Failure::usage(format!("the state `{}` cannot be read: {error}", file.display()))
            .next("`coastal status --output json > FILE` writes one")
    };
    let mut text = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LARGEST_STATE + 1).read_to_end(&mut text)
    } else {
        let file = File::open(file).map_err(|error| unreadable(&error))?;
        file.take(LARGEST_STATE + 1).read_to_end(&mut text)
    };
    read.map_err(|error| unreadable(&error))?;
    if text.len() as u64 > LARGEST_STATE {
        let limit = LARGEST_STATE >> 20;
        return Err(Failure::usage(format!("the state `{}` is larger than {limit} MiB", file.display()))
            .next("give it the output of `coastal status --output json`"));
    }
    serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!("the state `{}` is not JSON: {error}", file.display()))
            .next("give it the output of `coastal status --output json`")
    })
}

/// The backups that the document tells of, if it does.
fn backups(document: &Value) -> Result<Vec<BackupFacts>, Failure> {
    match document.get("backups") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(list) => serde_json::from_value(list.clone()).map_err(|error| {
            Failure::usage(format!("`backups` is not a list of backups: {error}")).next(
                r#"each is like `{"name":"spire-db.sql","schema":24,"code_version":"1.14.7","taken_at":"2026-08-20T10:00:00Z"}`"#,
            )
        }),
    }
}
