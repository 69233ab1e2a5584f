//! `coastal workload`: what runs inside the workload's pods.

use clap::Args;

use crate::error::{ExitCode, Failure};
use crate::{tools, workload};

/// Arguments of `workload`.
#[derive(Debug, Args)]
pub struct WorkloadArgs {
    /// The Workload API [default: `SPIFFE_ENDPOINT_SOCKET`]
    #[arg(long, value_name = "URI")]
    endpoint: Option<String>,
}

/// Follows the Workload API until it is told to stop.
///
/// # Errors
/// No endpoint is named, or standard output cannot be written.
pub async fn run(args: &WorkloadArgs) -> Result<ExitCode, Failure> {
    let clock = tools::real_world().clock;
    workload::follow(args.endpoint.clone(), &*clock, &mut std::io::stdout().lock()).await?;
    Ok(ExitCode::Ok)
}
