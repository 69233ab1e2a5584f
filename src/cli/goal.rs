//! Commands that make something so: look, show or ask, lock, run.

use std::path::Path;
use std::sync::Arc;

use crate::cli::Global;
use crate::cli::outside::Outside;
use crate::cli::rehearsed::Rehearsed;
use crate::engine::{self, Emitter, Journal, Lock, RunInfo, Tee};
use crate::error::{ExitCode, Failure};
use crate::files;
use crate::observe;
use crate::plan::{self, Goal, Plan};
use crate::session::Session;
use crate::steps;
use crate::ui::Ui;

/// Makes `goal` so.
///
/// # Errors
/// It was not started; what happens in the run itself is shown by the run, and is in the exit code.
pub async fn run(goal: Goal, global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    run_in(session, goal, global, ui, line, outside).await
}

/// `build-load-image DIR`.
///
/// # Errors
/// As [`run`].
pub async fn build_from(
    directory: &Path,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let directory = std::path::absolute(directory).map_err(|error| Failure::usage(error.to_string()))?;
    let (lab, world, paths) = (outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let session = Session::with_dockerfile(lab, world, paths, directory);
    run_in(session, Goal::BuildLoadImage, global, ui, line, outside).await
}

/// `build-load-image --with-tools`.
///
/// # Errors
/// As [`run`]; or this machine's kubectl or helm could not run in the image.
pub async fn build_with_tools(global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    let tools = steps::tools_for_image(&*outside.world.runner)?;
    let (lab, world, paths) = (outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let session = Session::with_image_tools(lab, world, paths, tools);
    run_in(session, Goal::BuildLoadImage, global, ui, line, outside).await
}

/// `cluster-up --adopt`: shows whose cluster it is about to be, asks, marks it, and goes on as `cluster-up`.
///
/// # Errors
/// There is no such cluster, it is not kind's, or nobody says yes.
pub async fn adopt(global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let candidate = steps::adopt::look(&cx).await?;
    if !candidate.is_ours() {
        ui.note(&candidate.describe());
        ui.confirm(
            "make this cluster the lab's? `down` and `cluster-down` will then delete it",
            global.yes || outside.is_harmless(),
        )?;
        if !global.dry_run {
            let _lock = lock(outside, line)?;
            candidate.mark(&cx).await?;
        }
    }
    run_in(session, Goal::ClusterUp, global, ui, line, outside).await
}

async fn run_in(
    session: Arc<Session>,
    goal: Goal,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    if global.dry_run {
        let plan = observe::plan(&session, goal, &outside.cancel).await?;
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    if let Some(question) = goal.question(&session.lab) {
        ui.confirm(&question, global.yes || outside.is_harmless())?;
    }
    let _lock = lock(outside, line)?;
    let plan = plan::build(&session.lab, goal, None);
    let next = goal.next(&session.lab);
    carry_out(&session, &plan, next, ui, line, outside).await
}

/// Runs the plan, journaled and shown. The caller holds the lock.
///
/// # Errors
/// There can be no journal.
pub(super) async fn carry_out(
    session: &Arc<Session>,
    plan: &Plan,
    next: Vec<String>,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let (journal, run) = Journal::create(&session.paths.runs(), line, session.world.clock.now())?;
    let journal = Arc::new(journal);
    // A journal that goes with its world is nothing to point to.
    let lasts = outside.rehearsal.as_ref().is_none_or(Rehearsed::is_kept);
    let renderer = ui.renderer(lasts.then(|| journal.directory().to_owned()));
    let mut sinks = vec![Arc::clone(&journal) as Arc<dyn engine::Sink>, renderer];
    if ui.reports().is_wanted() {
        sinks.push(Arc::new(ui.reports().clone()));
    }
    let mut sink: Arc<dyn engine::Sink> = Arc::new(Tee(sinks));
    if let Some(rehearsal) = &outside.rehearsal {
        sink = rehearsal.sink(sink);
    }
    let code = execute(session, plan, next, run, line, sink, outside).await;
    if let Some(trouble) = journal.trouble() {
        ui.warning(&trouble);
    }
    match ui.reports().is_wanted().then(|| ui.reports().write()) {
        Some(Err(failure)) if code == ExitCode::Ok => Err(failure),
        // How the run ended matters more.
        Some(Err(failure)) => {
            ui.warning(&failure.message);
            Ok(code)
        }
        _ => Ok(code),
    }
}

/// Runs the plan and says how it ended.
pub async fn execute(
    session: &Arc<Session>,
    plan: &Plan,
    next: Vec<String>,
    run: String,
    line: &str,
    sink: Arc<dyn engine::Sink>,
    outside: &Outside,
) -> ExitCode {
    let info = RunInfo {
        run,
        command: line.to_owned(),
        coastal: env!("CARGO_PKG_VERSION").to_owned(),
        next_ok: next,
        resume: match &outside.rehearsal {
            None => Some(format!("coastal {line}")),
            Some(rehearsal) => rehearsal.again(line),
        },
    };
    let emitter = Emitter::new(Arc::clone(&session.world.clock), sink);
    let result = engine::execute(plan, &info, &steps::body, session, &emitter, &outside.cancel).await;
    result.code()
}

pub(super) fn lock(outside: &Outside, line: &str) -> Result<Lock, Failure> {
    files::private_dir(outside.paths.state())?;
    Lock::acquire(&outside.paths.lock(), line, outside.world.clock.now())
}
