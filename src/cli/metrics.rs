//! `coastal metrics`: whether Prometheus sees SPIRE, and the numbers that matter.

use std::time::Duration;

use clap::Args;

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::steps::metrics;
use crate::ui::Ui;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coastal metrics                  the last hour
  coastal metrics --last 6h        the last six
  coastal metrics --output json    as data, with every value

Exit code 8 says that Prometheus does not see every SPIRE server and agent.")]
pub struct MetricsArgs {
    /// How far to look back
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = super::time_limit)]
    last: Duration,
}

/// Asks Prometheus.
///
/// # Errors
/// It is not there, or does not answer.
pub async fn run(args: &MetricsArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let metrics = Box::pin(metrics::look(&cx, args.last)).await?;
    ui.metrics(&metrics);
    for remark in &metrics.remarks {
        ui.note(remark);
    }
    if metrics.sees_all() {
        Ok(ExitCode::Ok)
    } else {
        ui.next(&["coastal patch-monitors".to_owned(), "coastal open prometheus".to_owned()]);
        Ok(ExitCode::CheckFailed)
    }
}
