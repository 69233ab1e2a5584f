//! `coastal bundle`: the trust bundle, and where it is held.

use clap::{Args, Subcommand};

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::spire::rotation::KeyType;
use crate::steps::planes;
use crate::ui::Ui;

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what database, servers, ConfigMap, agents and workloads each hold of it
    Planes {
        /// Exit with 8 if a plane is not as the servers are, or is unknown
        #[arg(long)]
        check: bool,
    },
}

/// Looks, and shows it.
///
/// # Errors
/// The cluster is not the lab's, or does not answer.
pub async fn run(args: &BundleArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let What::Planes { check } = args.what;
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let planes = Box::pin(planes::collect(&observe::looking(&session, &outside.cancel))).await?;
    let none = std::collections::BTreeSet::new();
    let mut lags = Vec::new();
    for key in KeyType::ALL {
        lags.extend(planes.findings(key).into_iter().map(|lag| format!("{key}: {lag}")));
    }
    lags.extend(planes.unknown(&none).map(|lag| lag.to_string()));
    if ui.is_json() {
        ui.document(&planes);
    } else {
        for key in KeyType::ALL {
            let (head, rows) = planes.table(key);
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            ui.table(&head, &rows);
            ui.text("\n");
        }
        lags.iter().for_each(|lag| ui.note(lag));
    }
    Ok(if check && !lags.is_empty() { ExitCode::CheckFailed } else { ExitCode::Ok })
}
