//! `coastal learn`: the lab's steps, and where the student stands.

use std::sync::Arc;

use clap::{Args, Subcommand};

use crate::checks::{self, Evidence};
use crate::cli::Global;
use crate::cli::candidates;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::learn::{self, Lesson, Move, State};
use crate::plan::{self, Role};
use crate::session::Session;
use crate::ui::Ui;

/// Arguments of `learn`.
#[derive(Debug, Args)]
pub struct LearnArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a step: why it is there, how it is done, what to look at
    Show {
        /// Its name or number, like `database` or `5`
        #[arg(value_name = "STEP", add = candidates::lessons())]
        step: String,
    },
    /// Check a step that was made by hand: does what it is for work?
    Check {
        /// Its name or number
        #[arg(value_name = "STEP", add = candidates::lessons())]
        step: String,
    },
    /// Bring the lab to where a step begins
    Reset {
        /// Its name or number
        #[arg(value_name = "STEP", add = candidates::lessons())]
        step: String,
    },
}

impl LearnArgs {
    /// Whether it is about a lab that is up.
    #[must_use]
    pub fn needs_a_lab(&self) -> bool {
        matches!(self.action, Some(Action::Check { .. } | Action::Reset { .. }))
    }
}

/// Shows, checks or resets.
///
/// # Errors
/// There is no such step; a reset is not confirmed, or could not be begun.
pub async fn run(
    args: &LearnArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    match &args.action {
        None => list(ui, outside).await,
        Some(Action::Show { step }) => {
            let lesson = learn::find(step)?;
            ui.lesson(lesson, &by_hand(lesson, outside));
            Ok(ExitCode::Ok)
        }
        Some(Action::Check { step }) => check(learn::find(step)?, ui, outside).await,
        Some(Action::Reset { step }) => reset(learn::find(step)?, global, ui, line, outside).await,
    }
}

fn session(outside: &Outside) -> Arc<Session> {
    Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone())
}

async fn look(outside: &Outside) -> Result<Evidence, Failure> {
    let evidence = Box::pin(checks::gather(&session(outside), false, &outside.cancel)).await;
    if outside.cancel.is_cancelled() { Err(Failure::interrupted()) } else { Ok(evidence) }
}

async fn list(ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let progress = learn::progress(&look(outside).await?);
    ui.progress(&progress, &outside.lab.name);
    let open = progress.iter().find(|step| step.state == State::Broken);
    if let Some(step) = open.or_else(|| progress.iter().find(|step| step.state == State::Next)) {
        let lesson = learn::find(step.id)?;
        if !ui.is_json() {
            ui.text("");
            ui.lesson(lesson, &by_hand(lesson, outside));
        }
        ui.next(&[format!("coastal learn check {}", step.id)]);
    }
    Ok(ExitCode::Ok)
}

async fn check(lesson: &Lesson, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let progress = learn::progress(&look(outside).await?);
    let step = progress.into_iter().find(|step| step.id == lesson.id);
    let step = step.ok_or_else(|| Failure::unexpected(format!("step {} is in no list", lesson.id)))?;
    let code = match step.state {
        State::Done | State::Open => ExitCode::Ok,
        State::Next | State::Later | State::Broken | State::Unknown => ExitCode::CheckFailed,
    };
    ui.progress(&[step], &outside.lab.name);
    if code == ExitCode::Ok {
        ui.next(&["coastal learn".to_owned()]);
    } else {
        ui.next(&[format!("coastal learn show {}", lesson.id), "coastal check".to_owned()]);
    }
    Ok(code)
}

async fn reset(lesson: &Lesson, global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    let moves = learn::reset(lesson, outside.lab.monitoring.is_some());
    for step in &moves {
        ui.note(&format!("  {}", step.words()));
    }
    if global.dry_run {
        return Ok(ExitCode::Ok);
    }
    let question = format!("bring the lab to where step {} begins, by these in turn?", lesson.id);
    ui.confirm(&question, global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    for (at, step) in moves.iter().enumerate() {
        // Each run looks at the cluster anew: the one before may have removed it.
        let session = session(outside);
        let plan = match step {
            Move::To(goal) => plan::build(&session.lab, *goal, None),
            Move::Only(goal, only) => {
                let mut plan = plan::build(&session.lab, *goal, None);
                plan.steps.retain(|step| step.id == *only || step.role == Role::Need);
                plan
            }
        };
        let last = at + 1 == moves.len();
        let next = if last { vec![format!("coastal learn show {}", lesson.id)] } else { Vec::new() };
        let code = carry_out(&session, &plan, next, ui, line, outside).await?;
        if code != ExitCode::Ok {
            return Ok(code);
        }
    }
    Ok(ExitCode::Ok)
}

/// What a person would type for it, as `--explain` says it.
fn by_hand(lesson: &Lesson, outside: &Outside) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for goal in learn::made_by(lesson) {
        let steps = plan::build(&outside.lab, goal, None).steps.into_iter().filter(|step| step.role == Role::Goal);
        for command in steps.flat_map(|step| step.explanation.by_hand) {
            if !lines.contains(&command) {
                lines.push(command);
            }
        }
    }
    lines
}
