//! `coastal upgrade` on a cluster: look, judge, show, ask, carry out, remember.

use std::sync::Arc;

use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::cli::upgrade::UpgradeArgs;
use crate::config::{ChartRef, SpireVersions, write_versions};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Change;
use crate::session::Session;
use crate::spire::path::{Answer, BackupFacts, Hop, Order, Outcome, Size, what_if};
use crate::spire::policy::Target;
use crate::steps::dump::{self, Dump};
use crate::steps::live::{self, Live};
use crate::steps::{reach, spire, unfinished};
use crate::ui::Ui;

/// Changes the versions that run.
///
/// # Errors
/// It was not started: what runs cannot be told, a rule refuses it, or nobody says yes. What happens in the run itself
/// is shown by the run, and is in the exit code.
pub(super) async fn run(
    args: &UpgradeArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let target = Target::parse(&args.to)?;
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    reach::cluster(&cx).await?;
    unfinished::refuse(&cx).await?;
    let running = Live::look(&cx).await?;
    let seen = live::seen(&cx, &running).await?;
    let dumps = dump::list(&session.paths.dumps())?;
    let mut options = args.options(dumps.into_iter().map(facts).collect())?;
    options.size = Size { servers: u64::from(outside.lab.spire.servers), nodes: running.agents.len() as u64 };
    let mut outcome = what_if(&seen, &target, &args.to, &args.chart, &options);
    if let (Answer::NothingToDo, Target::Known(release)) = (outcome.verdict, &target)
        && !(running.is_settled() && spire::agents_serve(&cx).await?)
    {
        // The versions are right, but what should run is not what runs, or does not serve: an earlier change stopped
        // half-way, or at its last gate.
        outcome.verdict = Answer::Allowed;
        outcome.hops = vec![settling(&running, release.version().clone())];
    }
    let hops = match outcome.verdict {
        Answer::Refused if args.plan => {
            ui.upgrade(&outcome);
            return Ok(ExitCode::Refused);
        }
        Answer::Refused => return Err(refusal(&outcome)),
        Answer::NothingToDo => Vec::new(),
        Answer::Allowed => outcome.hops.clone(),
    };
    if args.plan || hops.is_empty() {
        ui.upgrade(&outcome);
        return Ok(ExitCode::Ok);
    }
    if !global.dry_run {
        ui.announce(&outcome);
        if args.manner.no_backup {
            for hop in hops.iter().filter(|hop| !hop.reversible) {
                ui.warning(&format!("no dump is taken: after {} -> {} there is no way back", hop.from, hop.to));
            }
        }
        let question = format!("move SPIRE on `{}` to {}?", outside.lab.cluster.context(), outcome.to.spire);
        ui.confirm(&question, global.yes || outside.is_harmless())?;
    }
    let change = Change {
        hops,
        backup: !args.manner.no_backup,
        since: outside.world.clock.now(),
        charts: args.manner.charts.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
    };
    let plan = change.plan(&outside.lab);
    if global.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    let held = lock(outside, line)?;
    let session = Session::with_change(outside.lab.clone(), outside.world.clone(), outside.paths.clone(), change);
    let next = vec!["coastal status".to_owned(), "coastal test".to_owned()];
    let code = carry_out(&session, &plan, next, ui, line, outside).await?;
    drop(held);
    if code == ExitCode::Ok {
        remember(&session, args.manner.write_lab, ui, outside).await?;
    }
    Ok(code)
}

fn facts(dump: Dump) -> BackupFacts {
    BackupFacts {
        name: dump.file,
        schema: dump.migrations,
        code_version: dump.code_version,
        servers: dump.servers,
        taken_at: dump.taken_at,
    }
}

/// A refusal as a failure: it is what a run would have ended with.
fn refusal(outcome: &Outcome) -> Failure {
    let mut failure = Failure::refused(format!("SPIRE cannot go to {} from here", outcome.to.spire));
    for violation in &outcome.violations {
        failure = failure.facts(violation.facts.iter().map(|fact| format!("{}: {fact}", violation.rule)));
        if !failure.next.contains(&violation.way_out) {
            failure = failure.next(violation.way_out.clone());
        }
    }
    failure.next(format!("`coastal upgrade --plan --to {}` shows it as data and as a table", outcome.to.spire))
}

/// A hop to where the versions are already: servers and agents are brought to what the templates should say.
fn settling(live: &Live, version: semver::Version) -> Hop {
    Hop {
        chart_from: live.chart.clone(),
        chart: live.chart.clone(),
        notes: vec!["an earlier change stopped half-way; it is brought to its end".to_owned()],
        ..Hop::new(version.clone(), version, Order::ServersFirst)
    }
}

/// lab.toml still says the old versions, and `up` would refuse: offers to write down what runs now.
async fn remember(session: &Arc<Session>, write: bool, ui: &Ui, outside: &Outside) -> Result<(), Failure> {
    let spire = &outside.lab.spire;
    let live = Live::look(&observe::looking(session, &outside.cancel)).await?;
    let (Some(server), Some(agent)) = (live.server_template, live.agent_template) else { return Ok(()) };
    let chart = match &spire.chart {
        ChartRef::Repo { version, .. } => live.chart.filter(|chart| chart != version),
        ChartRef::Path(_) => None,
    };
    if server == spire.server_version && agent == spire.agent_version && chart.is_none() {
        return Ok(());
    }
    let says = format!("[spire] server-version = \"{server}\", agent-version = \"{agent}\"");
    let Some(file) = &outside.lab.file else {
        ui.note(&format!(
            "the built-in lab says SPIRE {}: `coastal init` writes a lab.toml; {says}",
            spire.server_version
        ));
        return Ok(());
    };
    let question = format!("write the new versions into {}?", file.display());
    if write || (ui.can_ask() && ui.confirm(&question, false).is_ok()) {
        write_versions(file, &SpireVersions { server, agent, chart })?;
        ui.note(&format!("{} says so now: {says}", file.display()));
    } else {
        ui.note(&format!(
            "{} still says {}; `up` refuses until it says {says} (`--write-lab` writes it)",
            file.display(),
            spire.server_version
        ));
    }
    Ok(())
}
