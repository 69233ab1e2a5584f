//! `coastal status`: one screen.

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::ui::Ui;

/// Looks, and shows what runs.
///
/// # Errors
/// The cluster is not the lab's, or does not answer.
pub async fn run(ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let status = Box::pin(observe::status(&session, &outside.cancel)).await?;
    ui.status(&status);
    Ok(ExitCode::Ok)
}
