//! `coastal plan`: what a command would change.

use clap::Args;

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Goal;
use crate::session::Session;
use crate::ui::Ui;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Exit with 9 if there is something to change
    #[arg(long)]
    detailed_exitcode: bool,
}

/// Looks, and shows what `up` would do. Writes nothing.
///
/// # Errors
/// Something cannot be looked at.
pub async fn run(args: &PlanArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let plan = observe::plan(&session, Goal::Up, &outside.cancel).await?;
    ui.plan(&plan);
    let pending = plan.pending().next().is_some();
    Ok(if pending && args.detailed_exitcode { ExitCode::ChangesPending } else { ExitCode::Ok })
}
