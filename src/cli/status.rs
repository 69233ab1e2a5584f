//! `coastal status`: one screen.

use clap::Args;

use crate::cli::outside::Outside;
use crate::cli::watch::{Shown, Watch};
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::ui::Ui;

/// Arguments of `status`.
#[derive(Debug, Default, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    watch: Watch,
}

/// Looks, and shows what runs.
///
/// # Errors
/// The cluster is not the lab's, or does not answer.
pub async fn run(args: &StatusArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let mut next = "coastal up";
    let look = async || {
        // Each look finds the cluster anew: it may come and go while one watches.
        let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
        let status = Box::pin(observe::status(&session, &outside.cancel)).await?;
        if status.cluster.state == "running" && status.workload.with_svid > 0 {
            next = "coastal test";
        }
        if ui.is_json() {
            Shown::document(&status)
        } else {
            Ok(Shown::text(ui.status(&status, session.world.clock.now())))
        }
    };
    let code = args.watch.show(outside, ui, look).await?;
    ui.next(&[next.to_owned()]);
    Ok(code)
}
