//! Carries out a change of SPIRE's versions that was judged and agreed to.

use std::path::PathBuf;

use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::config::{ChartRef, SpireVersions, write_versions};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Change;
use crate::session::Session;
use crate::spire::path::Hop;
use crate::steps::live::Live;
use crate::ui::Ui;

/// How it is to be carried out.
pub(super) struct Manner {
    /// Go on without a dump where one would be taken.
    pub(super) no_backup: bool,
    /// Where chart archives lie.
    pub(super) charts: Option<PathBuf>,
    /// Write the new versions into lab.toml; otherwise it is asked, where somebody can be.
    pub(super) write_lab: bool,
    /// Only show the steps.
    pub(super) dry_run: bool,
}

/// Runs the hops. The caller has shown them, and somebody has agreed.
///
/// # Errors
/// It was not started; what happens in the run itself is shown by the run, and is in the exit code.
pub(super) async fn run(
    hops: Vec<Hop>,
    manner: Manner,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let change = Change {
        hops,
        backup: !manner.no_backup,
        since: outside.world.clock.now(),
        charts: manner.charts.map(|path| std::path::absolute(&path).unwrap_or(path)),
    };
    let plan = change.plan(&outside.lab);
    if manner.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    let held = lock(outside, line)?;
    let session = Session::with_change(outside.lab.clone(), outside.world.clone(), outside.paths.clone(), change);
    let next = vec!["coastal status".to_owned(), "coastal test".to_owned()];
    let code = carry_out(&session, &plan, next, ui, line, outside).await?;
    drop(held);
    if code == ExitCode::Ok {
        remember(&session, manner.write_lab, ui, outside).await?;
    }
    Ok(code)
}

/// lab.toml still says the old versions, and `up` would refuse: offers to write down what runs now.
async fn remember(session: &std::sync::Arc<Session>, write: bool, ui: &Ui, outside: &Outside) -> Result<(), Failure> {
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
            "the lab is the built-in one, which says {}; `coastal init` writes a lab.toml to change: {says}",
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
