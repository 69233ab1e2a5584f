//! `coastal debug`: past runs, and what somebody who helps needs to see.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use crate::cli::candidates;
use crate::cli::outside::Outside;
use crate::engine::journal::{self, KEPT};
use crate::engine::{Sink, What};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::steps::bundle;
use crate::ui::Ui;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// List the runs whose journals are kept
    Runs,
    /// Show a run again, as it was
    Replay(ReplayArgs),
    /// Collect logs, events, objects and journals into one archive, without secrets
    Bundle(BundleArgs),
}

/// Arguments of `debug replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coastal debug replay                                the last run
  coastal debug replay last --report run.html         as a page
  coastal debug replay 20260821T143000.000Z-up -vv    with every command and what it printed")]
pub struct ReplayArgs {
    /// Its id, a part of its id that no other has, or a journal's path
    #[arg(value_name = "RUN", default_value = "last", add = candidates::runs())]
    run: String,
}

/// Arguments of `debug bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The archive (.tar.gz) [default: coastal-LAB-TIME.tar.gz here]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Whether the command looks at a lab that is up.
pub fn needs_lab(what: &DebugCommand) -> bool {
    matches!(what, DebugCommand::Bundle(_))
}

/// Does it.
///
/// # Errors
/// There is no such run, or the archive cannot be written.
pub async fn run(what: &DebugCommand, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    match what {
        DebugCommand::Runs => runs(ui, outside),
        DebugCommand::Replay(args) => replay(&args.run, ui, outside),
        DebugCommand::Bundle(args) => collect(args, ui, outside).await,
    }
}

fn runs(ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let directory = outside.paths.runs();
    let mut rows = Vec::new();
    for id in journal::runs(&directory)? {
        let (mut command, mut outcome, mut took) = (String::new(), "unfinished".to_owned(), None);
        match journal::read_through(&directory.join(&id)) {
            Ok(reading) => {
                for event in &reading.events {
                    match &event.what {
                        What::RunStarted { command: line, .. } => command.clone_from(line),
                        What::RunEnded { result } => {
                            outcome = serde_json::to_value(result.outcome)
                                .ok()
                                .and_then(|value| value.as_str().map(str::to_owned))
                                .unwrap_or_default();
                            took = Some(result.took_ms);
                        }
                        _ => {}
                    }
                }
                if !reading.damage.is_empty() {
                    outcome.push_str(" (damaged)");
                }
            }
            Err(failure) => {
                ui.warning(&failure.message);
                "unreadable".clone_into(&mut outcome);
            }
        }
        rows.push((id, command, outcome, took));
    }
    if ui.is_json() {
        let runs: Vec<_> = rows
            .iter()
            .map(|(id, command, outcome, took)| json!({"run": id, "command": command, "outcome": outcome, "took_ms": took}))
            .collect();
        ui.document(&json!({"schema": 1, "kept": KEPT, "runs": runs}));
    } else {
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(id, command, outcome, took)| {
                vec![id, command, outcome, took.map(|ms| format!("{} s", ms / 1000)).unwrap_or_default()]
            })
            .collect();
        ui.table(&["run", "command", "outcome", "took"], &rows);
        ui.note(&format!("the last {KEPT} are kept, in {}", directory.display()));
    }
    Ok(ExitCode::Ok)
}

fn replay(run: &str, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let path = find(run, &outside.paths.runs())?;
    let reading = journal::read_through(&path)?;
    if reading.events.is_empty() {
        return Err(Failure::prerequisite(format!("there is no event in {}", path.display())).facts(reading.damage));
    }
    ui.replay(&reading.events);
    // Only the first few say something; a file of another kind has nothing but.
    for damage in reading.damage.iter().take(3) {
        ui.warning(damage);
    }
    if let Some(more) = reading.damage.len().checked_sub(3).filter(|more| *more > 0) {
        ui.warning(&format!("{more} more lines are no events"));
    }
    if !reading.events.iter().any(|event| matches!(event.what, What::RunEnded { .. })) {
        ui.warning("the journal has no end: the run was killed, or goes on still");
    }
    if ui.reports().is_wanted() {
        for event in &reading.events {
            ui.reports().take(event);
        }
        ui.reports().write()?;
    }
    Ok(ExitCode::Ok)
}

/// The run's directory, or the journal that was named.
fn find(run: &str, directory: &Path) -> Result<PathBuf, Failure> {
    if run.contains('/') || Path::new(run).is_file() {
        return Ok(PathBuf::from(run));
    }
    let ids = journal::runs(directory)?;
    let Some(last) = ids.last() else {
        return Err(Failure::prerequisite(format!("no run has been journaled in {}", directory.display()))
            .next("`coastal up` makes one; `coastal rehearse --world FILE up` makes one without Docker"));
    };
    if run == "last" {
        return Ok(directory.join(last));
    }
    let found: Vec<&String> = match ids.iter().find(|id| *id == run) {
        Some(exact) => vec![exact],
        None => ids.iter().filter(|id| id.contains(run)).collect(),
    };
    match found.as_slice() {
        [one] => Ok(directory.join(one)),
        [] => Err(Failure::usage(format!("there is no run `{run}`"))
            .facts(ids.iter().rev().take(5).map(|id| format!("there is {id}")))
            .next("`coastal debug runs` lists them")),
        many => Err(Failure::usage(format!("`{run}` is part of {} runs", many.len()))
            .facts(many.iter().rev().take(5).map(|id| (*id).clone()))
            .next("name one of them in full")),
    }
}

async fn collect(args: &BundleArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let bundle = bundle::collect(&cx).await?;
    let time = session.world.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let file =
        args.file.clone().unwrap_or_else(|| PathBuf::from(format!("coastal-{}-{time}.tar.gz", outside.lab.name)));
    bundle.write(&file)?;
    if ui.is_json() {
        ui.document(&json!({"schema": 1, "file": file, "files": bundle.names(), "missing": bundle.missing}));
    } else {
        ui.text(&file.display().to_string());
        ui.note(&format!(
            "{} files, secrets taken out; look into it before you send it to anybody",
            bundle.names().len()
        ));
        for missing in &bundle.missing {
            ui.warning(missing);
        }
    }
    Ok(ExitCode::Ok)
}
