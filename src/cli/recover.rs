//! `coastal recover`: what is broken, and the way back.

use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::{Notes, Recovery};
use crate::session::Session;
use crate::steps::{drill, recover, unfinished};
use crate::ui::Ui;

/// Looks what is broken, says so, and mends it.
///
/// # Errors
/// It was not started: there is nothing to go back to, or nobody says yes. What happens in the run itself is in the
/// exit code.
pub async fn run(global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    let lab = &outside.lab;
    let session = Session::new(lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let (facts, diagnosis) = recover::examine(&cx).await?;
    if facts.reached && facts.release.is_none() && facts.servers.pods.is_empty() && facts.database.row.is_none() {
        return Err(Failure::prerequisite("there is no SPIRE here that could be recovered")
            .next("`coastal up` makes the whole lab, `coastal spire-install` SPIRE alone"));
    }
    if facts.reached {
        unfinished::refuse(&cx).await?;
    }
    if diagnosis.is_healthy() {
        ui.diagnosis(&diagnosis);
        ui.note("nothing is broken, and nothing was changed");
        return Ok(ExitCode::Ok);
    }
    let now = outside.world.clock.now();
    let mut notes = recover::remembered(&outside.paths.drill())?.unwrap_or_else(|| Notes::new(now));
    if notes.drill.is_some() {
        notes.detected_at.get_or_insert(diagnosis.at);
    }
    notes.workloads = !facts.reached || facts.workloads_wanted > 0;
    notes.first_expiry = notes.first_expiry.or(facts.first_expiry());
    notes.broken = diagnosis.broken();
    notes.diagnosis = Some(diagnosis.clone());
    let recovery = Recovery::new(notes);
    let plan = recovery.plan(lab);
    if global.dry_run {
        ui.announce_diagnosis(&diagnosis);
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    ui.announce_diagnosis(&diagnosis);
    if !diagnosis.loss.is_none() {
        ui.note(&format!("backup: {}", drill::cover(&cx, diagnosis.loss).await?));
        ui.note("`coastal restore FILE` brings back what a backup has; `recover` goes on without what is lost");
    }
    ui.confirm(&format!("recover SPIRE on `{}`?", lab.cluster.context()), global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let session = Session::with_recovery(lab.clone(), outside.world.clone(), outside.paths.clone(), recovery);
    let next = vec!["coastal status".to_owned(), "coastal test".to_owned()];
    carry_out(&session, &plan, next, ui, line, outside).await
}
