//! `coastal logs`: what a component says.

use clap::{Args, ValueEnum};

use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::session::Session;
use crate::steps::{components, reach};
use crate::ui::Ui;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Whose log
    #[arg(value_enum)]
    component: components::Component,
    /// How many lines of each pod
    #[arg(long, value_name = "N", default_value_t = 50)]
    tail: u32,
    /// Go on as lines come
    #[arg(long, short)]
    follow: bool,
}

/// Prints the log lines, each with its pod.
///
/// # Errors
/// The cluster does not answer, or there is no such pod.
pub async fn run(args: &LogsArgs, ui: &Ui, outside: &Outside) -> Result<ExitCode, Failure> {
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let cluster = reach::cluster(&cx).await?;
    let place = args.component.place(&session.lab);
    let print = |pod: &str, line: &str| ui.text(&format!("{pod}  {line}"));
    cluster
        .logs(&place.namespace, &place.selector, place.container, args.tail, args.follow, &cx.patience(), &print)
        .await
        .map_err(|failure| {
            let name = args.component.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            failure.context(format!("no log of {name}"))
        })?;
    Ok(ExitCode::Ok)
}
