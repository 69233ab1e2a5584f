//! `coastal drill`: a disaster on purpose.

use clap::{Args, ValueEnum};

use crate::cli::Global;
use crate::cli::goal::{carry_out, lock};
use crate::cli::outside::Outside;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::{Notes, Recovery};
use crate::session::Session;
use crate::spire::recovery::{Drill, Facts};
use crate::steps::drill::{self, Stake};
use crate::steps::{recover, unfinished};
use crate::ui::Ui;

/// Arguments of `drill`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// What is broken
    #[arg(value_enum, value_name = "pod|servers|agents|database|keys|node")]
    what: What,
    /// Recover from it as well, and print how long that took and what it cost
    #[arg(long)]
    score: bool,
}

/// Spelt out for clap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Delete the pod of one SPIRE server
    Pod,
    /// Delete the StatefulSet of the servers
    Servers,
    /// Delete the agents
    Agents,
    /// Lose the volume of the database
    Database,
    /// Lose the keys of every server
    Keys,
    /// Stop the worker node
    Node,
}

impl What {
    fn drill(self) -> Drill {
        match self {
            What::Pod => Drill::Pod,
            What::Servers => Drill::Servers,
            What::Agents => Drill::Agents,
            What::Database => Drill::Database,
            What::Keys => Drill::Keys,
            What::Node => Drill::Node,
        }
    }
}

/// Shows what would be lost, asks, and breaks it.
///
/// # Errors
/// It is no lab's own cluster, it is broken already, or nobody says yes.
pub async fn run(
    args: &DrillArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let (lab, what) = (&outside.lab, args.what.drill());
    drill::allowed(lab)?;
    let session = Session::new(lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let (facts, diagnosis) = recover::examine(&cx).await?;
    drill::whole(&diagnosis)?;
    unfinished::refuse(&cx).await?;
    let stake = drill::stake(&cx, what).await?;
    show(ui, what, &stake, &facts);
    let notes = Notes { cover: Some(stake.cover), workloads: facts.workloads_wanted > 0, ..Notes::new(facts.at) };
    let recovery = Recovery::drilling(what, args.score, notes);
    let plan = recovery.plan(lab);
    if global.dry_run {
        ui.plan(&plan);
        return Ok(ExitCode::Ok);
    }
    ui.confirm(&format!("{} on `{}`?", what.does(), lab.cluster.context()), global.yes || outside.is_harmless())?;
    let _lock = lock(outside, line)?;
    let session = Session::with_recovery(lab.clone(), outside.world.clone(), outside.paths.clone(), recovery);
    let next = if args.score { "coastal status" } else { "coastal recover" };
    carry_out(&session, &plan, vec![next.to_owned()], ui, line, outside).await
}

/// What would be lost, before anybody is asked.
fn show(ui: &Ui, what: Drill, stake: &Stake, facts: &Facts) {
    ui.note(&format!("drill     {}", what.does()));
    for line in what.stakes() {
        ui.note(&format!("at stake  {line}"));
    }
    if what.loss().database != crate::spire::recovery::Database::Kept {
        for id in &stake.by_hand {
            ui.note(&format!("lost      {id}: made by hand, nobody makes it again"));
        }
    }
    if let Some(current) = &facts.current
        && !what.loss().is_none()
    {
        for line in crate::spire::recovery::outlook(what.loss(), &current.server).words() {
            ui.note(&format!("then      {line}"));
        }
    }
    ui.note(&format!("backup    {}", stake.cover));
    if let Some(first) = facts.first_expiry() {
        let left = first.duration_since(facts.at).as_mins();
        ui.note(&format!("budget    the first SVID that a workload holds expires at {first:.0}, in {left} min"));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::cli::Cli;

    #[test]
    fn what_can_be_chosen_is_named_where_nothing_was() {
        for command in ["drill", "open"] {
            let cli = Cli::command();
            let choice = cli.find_subcommand(command).and_then(|found| found.get_positionals().next()).unwrap();
            let all: Vec<String> =
                choice.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let named = choice.get_value_names().unwrap()[0].to_string();
            assert_eq!(named, all.join("|"), "{command}");
        }
    }
}
