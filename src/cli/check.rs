//! `coastal check`: the doctor.

use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::checks::{self, Check, Evidence, Mend, Report};
use crate::cli::candidates;
use crate::cli::goal::lock;
use crate::cli::outside::Outside;
use crate::cli::{Global, OutputFormat};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::ui::{ChecksFormat, Ui};

/// Arguments of `check`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of a command line")]
pub struct CheckArgs {
    /// Ids of checks, or categories (host, cluster, lab, spire); all if none is named
    #[arg(value_name = "CHECK", add = candidates::checks())]
    names: Vec<String>,
    /// Only what must be so before `coastal up`
    #[arg(long)]
    pre: bool,
    /// Mend what can be mended safely, after showing it
    #[arg(long)]
    fix: bool,
    /// Show all checks, and look at nothing
    #[arg(long)]
    list: bool,
    /// Show those that passed, too
    #[arg(long)]
    all: bool,
    /// Warnings, and what could not be seen, fail the check, too
    #[arg(long)]
    strict: bool,
    /// Another form than text or `--output json`
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

/// Forms for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For code scanning: SARIF 2.1.0
    Sarif,
    /// For CI: each check is a test
    Junit,
    /// With `--list`: docs/checks.md
    Markdown,
}

impl CheckArgs {
    /// Whether it is asked before there is a lab.
    #[must_use]
    pub fn is_before_up(&self) -> bool {
        self.pre
    }

    /// Whether no world is needed.
    #[must_use]
    pub fn only_lists(&self) -> bool {
        self.list
    }
}

/// The list of checks.
///
/// # Errors
/// There is no such check, or no such form of the list.
pub fn list(args: &CheckArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let checks = chosen(args)?;
    match args.format {
        None => ui.list_of_checks(&checks),
        Some(Format::Markdown) => ui.text(&checks::markdown()),
        Some(Format::Sarif | Format::Junit) => {
            return Err(
                Failure::usage("a list of checks has no such form").next("`coastal check --list --output json`")
            );
        }
    }
    Ok(ExitCode::Ok)
}

fn chosen(args: &CheckArgs) -> Result<Vec<&'static Check>, Failure> {
    let mut checks = checks::select(&args.names)?;
    checks.retain(|check| !args.pre || check.before_up);
    if checks.is_empty() {
        return Err(Failure::usage("none of these checks makes sense before `coastal up`").next("leave out `--pre`"));
    }
    Ok(checks)
}

/// Looks at everything, mends what may be mended, and shows what was found.
///
/// # Errors
/// There is no such check, or what was to be mended could not be.
pub async fn run(
    args: &CheckArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let checks = chosen(args)?;
    let format = match args.format {
        None => ChecksFormat::Text { all: args.all },
        Some(Format::Sarif) => ChecksFormat::Sarif,
        Some(Format::Junit) => ChecksFormat::Junit,
        Some(Format::Markdown) => {
            return Err(Failure::usage("only the list of checks has that form").next("add `--list`"));
        }
    };
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let host_only = checks.iter().all(|check| check.before_up);
    let look = async || Box::pin(checks::gather(&session, host_only, &outside.cancel)).await;
    let mut evidence = look().await;
    if args.fix && mend(&checks, &evidence, &session, global, ui, line, outside).await? {
        evidence = look().await;
    }
    if outside.cancel.is_cancelled() {
        return Err(Failure::interrupted());
    }
    let report = Report::of(&checks, &evidence);
    let file = session.lab.file.as_ref().map_or_else(|| "lab.toml".to_owned(), |file| file.display().to_string());
    let failed = report.is_failed(args.strict);
    ui.checks(report, &checks, format, args.strict, &file);
    Ok(if failed { ExitCode::CheckFailed } else { ExitCode::Ok })
}

/// Shows what would be mended, asks, and does it. Whether anything was done.
async fn mend(
    checks: &[&Check],
    evidence: &Evidence,
    session: &Arc<Session>,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<bool, Failure> {
    let mut mends: Vec<Mend> = Vec::new();
    for check in checks {
        for mend in check.mend.iter().flat_map(|mend| mend(evidence)) {
            if !mends.contains(&mend) {
                ui.note(&format!("{}: {mend}", check.id));
                mends.push(mend);
            }
        }
    }
    if mends.is_empty() {
        ui.note("nothing is wrong that `--fix` could mend");
        return Ok(false);
    }
    if global.dry_run {
        return Ok(false);
    }
    ui.confirm("do this?", global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let cx = observe::looking(session, &outside.cancel);
    for mend in &mends {
        mend.carry_out(&cx).await?;
        if global.output == OutputFormat::Text {
            ui.note(&format!("done: {mend}"));
        }
    }
    Ok(true)
}
