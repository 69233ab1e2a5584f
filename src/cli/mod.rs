//! The command line: what can be asked for, and the one call that each command leads to.

mod access;
mod agents;
mod audit;
mod backup;
mod bundle;
mod candidates;
mod change;
mod check;
mod completions;
mod contain;
mod debug;
mod drill;
mod entries;
mod env;
mod explain;
mod goal;
mod init;
mod learn;
mod logs;
mod metrics;
mod open;
mod outside;
mod plan;
mod recover;
mod rehearse;
mod rehearsed;
mod rekey;
mod restore;
mod rotate;
mod schedule;
mod status;
mod upgrade;
mod watch;
mod workload;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::error::{ExitCode, Failure};
use crate::plan::Goal;
use crate::tools::command::shell_word;
use crate::ui::report::Reports;
use crate::ui::{Format, Ui, Wishes};
use outside::Outside;

/// The exit codes, for `--help`; the README's table is compared with the same list.
fn exit_codes() -> String {
    let rows = ExitCode::TABLE.iter().map(|(code, words)| format!("  {:>3}  {words}", *code as u8));
    std::iter::once("Exit codes:".to_owned()).chain(rows).collect::<Vec<_>>().join("\n")
}

/// Day two operations for SPIRE: the whole lab from one lab.toml, up and down.
///
/// `coastal rehearse` runs everything on an embedded world: no Docker, no network, seconds.
#[derive(Debug, Parser)]
#[command(name = "coastal", version, max_term_width = 100, after_help = exit_codes())]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of a command line")]
struct Global {
    /// The lab file [default: lab.toml here, else the lab that is built in]
    #[arg(long, value_name = "FILE", global = true)]
    lab: Option<PathBuf>,
    /// For whom the output is
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text, global = true)]
    output: OutputFormat,
    /// Answer yes to what would be asked
    #[arg(long, short = 'y', global = true)]
    yes: bool,
    /// Print the plan and touch nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Before each step, say why, and what a person would type
    #[arg(long, global = true)]
    explain: bool,
    /// Time limit of each step, like `90s` or `10m`, instead of lab.toml's
    #[arg(long, value_name = "TIME", value_parser = time_limit, global = true)]
    timeout: Option<Duration>,
    /// Run on the rehearsal world instead of the real one
    #[arg(long, global = true)]
    rehearse: bool,
    /// Write a page about the run to this file: timeline, steps, commands, logs of failures
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    report: Option<PathBuf>,
    /// Write the run to this file as JUnit's XML, a test per step
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    junit: Option<PathBuf>,
    /// Show the commands that are run; twice: also what they print
    #[arg(long, short, action = ArgAction::Count, global = true)]
    verbose: u8,
}

/// Spelt out for clap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For a person
    Text,
    /// For a program: JSON lines for commands that change things, one document for commands that read
    Json,
}

fn time_limit(text: &str) -> Result<Duration, String> {
    crate::config::duration(text).ok_or_else(|| "expected a time like `90s`, `10m` or `1h`".to_owned())
}

/// The commands, in the order of the lab.
#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the whole lab up; what is so already is left alone
    Up,
    /// Take the whole lab down
    Down {
        /// Remove what is in the cluster, in an order that leaves nothing Terminating, and keep the cluster
        #[arg(long)]
        keep_cluster: bool,
    },
    /// Show what `up` would change
    Plan(plan::PlanArgs),
    /// Show on one screen what runs, and who holds SVIDs
    Status(status::StatusArgs),
    /// Look for what is wrong: the machine, the cluster, the lab, SPIRE
    Check(check::CheckArgs),
    /// Show the lab's steps and where you stand; check a step made by hand; begin one anew
    Learn(learn::LearnArgs),
    /// Write the lab.toml that is built in, to be changed
    Init(init::InitArgs),
    /// Run a command, or with none the whole story, on the rehearsal world
    Rehearse(rehearse::RehearseArgs),
    /// Create the kind cluster with cert-manager, contour and a self-signed issuer
    ClusterUp {
        /// Make an existing kind cluster of that name the lab's, after showing it
        #[arg(long)]
        adopt: bool,
    },
    /// Delete the kind cluster
    ClusterDown,
    /// Add the helm repositories to the lab's own helm home
    #[command(visible_alias = "add-helm-repos")]
    AddRepos,
    /// Install kube-prometheus-stack
    #[command(visible_alias = "prometheus-helm-install")]
    PrometheusInstall,
    /// Uninstall kube-prometheus-stack
    #[command(visible_alias = "prometheus-helm-uninstall")]
    PrometheusUninstall,
    /// Create SPIRE's namespaces with their Pod Security labels
    Namespaces,
    /// Deploy PostgreSQL, SPIRE's data store
    DeployDatabase,
    /// Install SPIRE
    #[command(visible_alias = "spire-helm-install")]
    SpireInstall,
    /// Uninstall SPIRE, the lab's workload first
    #[command(visible_alias = "spire-helm-uninstall")]
    SpireUninstall,
    /// Run the chart's tests, then test the workload's identity
    Test,
    /// Put the workload's image onto the nodes
    #[command(visible_alias = "cluster-build-load-image")]
    BuildLoadImage {
        /// Build the Dockerfile of this directory; without it the workload is coastal itself
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Put this machine's kubectl and helm into it, too: so it can take backups in the cluster
        #[arg(long, conflicts_with = "dir")]
        with_tools: bool,
    },
    /// Deploy the workload: pods that show the SVIDs they receive
    DeployWorkload,
    /// Remove the workload
    DeleteWorkload,
    /// Deploy the pirate ship: a workload that nobody expects, and that gets an identity all the same
    DeployMalicious,
    /// Remove the pirate ship
    DeleteMalicious,
    /// Hold every entry, pod, agent and authority against the allow-list of lab.toml
    Audit(audit::AuditArgs),
    /// Show who is registered for which identity
    Entries(entries::EntriesArgs),
    /// Show which authorities the servers trust, and which are whose
    Bundle(bundle::BundleArgs),
    /// Show the agents, or ban or evict one
    Agents(agents::AgentsArgs),
    /// Cut off an identity, or everything of a namespace, so that it stays cut off
    Contain(contain::ContainArgs),
    /// Back up the database, the CA keys and what is around them, or tell what backups are worth
    Backup(backup::BackupArgs),
    /// Bring a backup back, CA and all
    Restore(restore::RestoreArgs),
    /// Let Prometheus see the SPIRE servers and agents
    PatchMonitors,
    /// Remove the workload, the pirate ship and the database
    TearDown,
    /// Take SPIRE up or down to another version, by legal hops
    #[command(visible_alias = "downgrade")]
    Upgrade(upgrade::UpgradeArgs),
    /// Break something on purpose, on a lab's own cluster
    Drill(drill::DrillArgs),
    /// Say what is broken, and bring it back as lab.toml wants it, at the versions that are current
    Recover,
    /// Replace the keys that SPIRE signs with, and revoke the old ones; shows the plan until `--yes`
    Rotate(rotate::RotateArgs),
    /// Print the exports that point kubectl and helm at the lab: `eval "$(coastal env)"`
    Env,
    /// Show the log of a component
    Logs(logs::LogsArgs),
    /// Forward a page of the lab to this machine, until Ctrl-C
    Open(open::OpenArgs),
    /// Show whether Prometheus sees SPIRE, and the numbers that matter
    Metrics(metrics::MetricsArgs),
    /// Show where each page of the lab is, and how one logs in
    Access,
    /// Look into past runs, or collect what somebody who helps needs to see
    Debug {
        #[command(subcommand)]
        what: debug::DebugCommand,
    },
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one per command into a directory
    Man(completions::ManArgs),
    /// Follow the Workload API and show each SVID: what runs inside the workload's pods
    #[command(hide = true)]
    Workload(workload::WorkloadArgs),
}

/// Parses `args`, runs the command, and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = completions::answer(&args) {
        return code;
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = ui(&cli.global);
    if let Err(failure) = ui.reports().prove() {
        ui.failure(&failure);
        return failure.kind.exit_code();
    }
    let line = args.iter().skip(1).map(|arg| shell_word(&arg.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let code = match outside::block_on(&cli, dispatch(&cli, &ui, &line)) {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) | Err(failure) => {
            ui.failure(&failure);
            failure.kind.exit_code()
        }
    };
    if ui.reports().is_wanted() && !ui.reports().is_written() && code == ExitCode::Ok {
        ui.warning("nothing is reported: this command carried out no plan");
    }
    match ui.finish() {
        Ok(()) => code,
        Err(failure) => {
            ui.failure(&failure);
            failure.kind.exit_code()
        }
    }
}

fn ui(global: &Global) -> Ui {
    Ui::standard(wishes(global)).with_reports(Reports::to(global.report.clone(), global.junit.clone()))
}

fn wishes(global: &Global) -> Wishes {
    Wishes {
        format: match global.output {
            OutputFormat::Text => Format::Text,
            OutputFormat::Json => Format::Json,
        },
        verbosity: global.verbose,
        explain: global.explain,
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // A reader that has gone away is no reason to say more.
    let _ = error.print();
    if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok }
}

async fn dispatch(cli: &Cli, ui: &Ui, line: &str) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Rehearse(args) => rehearse::run(args, &cli.global, ui, line).await,
        Command::Init(args) => init::run(args, ui),
        Command::Workload(args) => workload::run(args).await,
        Command::Completions(args) => completions::run(args, ui),
        Command::Man(args) => completions::man(args, ui),
        Command::Upgrade(args) if args.state.is_some() => upgrade::judge_file(args, ui),
        Command::Check(args) if args.only_lists() => check::list(args, ui),
        command if cli.global.rehearse => {
            rehearse::command(command, &cli.global, ui, line, &rehearse::RehearseArgs::default()).await
        }
        command => {
            let outside = Outside::real(&cli.global)?;
            on(command, &cli.global, ui, line, &outside).await
        }
    }
}

/// Runs a command that is about a lab, on whichever world.
async fn on(command: &Command, global: &Global, ui: &Ui, line: &str, outside: &Outside) -> Result<ExitCode, Failure> {
    if global.explain
        && let Some(explanation) = explain::of(command, &outside.lab)
    {
        ui.explain(&explanation);
    }
    match command {
        Command::Plan(args) => Box::pin(plan::run(args, ui, outside)).await,
        Command::Status(args) => Box::pin(status::run(args, ui, outside)).await,
        Command::Check(args) if args.only_lists() => check::list(args, ui),
        Command::Check(args) => Box::pin(check::run(args, global, ui, line, outside)).await,
        Command::Learn(args) => Box::pin(learn::run(args, global, ui, line, outside)).await,
        Command::Env => Ok(env::run(ui, outside)),
        Command::Logs(args) => Box::pin(logs::run(args, ui, outside)).await,
        Command::Open(args) => Box::pin(open::run(args, ui, outside)).await,
        Command::Metrics(args) => Box::pin(metrics::run(args, ui, outside)).await,
        Command::Access => Box::pin(access::run(ui, outside)).await,
        Command::Audit(args) => Box::pin(audit::run(args, ui, outside)).await,
        Command::Entries(args) => Box::pin(entries::run(args, global, ui, line, outside)).await,
        Command::Bundle(args) => Box::pin(bundle::run(args, ui, outside)).await,
        Command::Agents(args) => Box::pin(agents::run(args, global, ui, line, outside)).await,
        Command::Contain(args) => Box::pin(contain::run(args, global, ui, line, outside)).await,
        Command::Backup(args) => Box::pin(backup::run(args, global, ui, line, outside)).await,
        Command::Restore(args) => Box::pin(restore::run(args, global, ui, line, outside)).await,
        Command::Drill(args) => Box::pin(drill::run(args, global, ui, line, outside)).await,
        Command::Recover => Box::pin(recover::run(global, ui, line, outside)).await,
        Command::Rotate(args) => Box::pin(rotate::run(args, global, ui, line, outside)).await,
        Command::Debug { what } => Box::pin(debug::run(what, ui, outside)).await,
        Command::ClusterUp { adopt: true } => Box::pin(goal::adopt(global, ui, line, outside)).await,
        Command::BuildLoadImage { dir: Some(dir), .. } => {
            Box::pin(goal::build_from(dir, global, ui, line, outside)).await
        }
        Command::BuildLoadImage { with_tools: true, .. } => {
            Box::pin(goal::build_with_tools(global, ui, line, outside)).await
        }
        Command::Upgrade(args) if args.state.is_some() => upgrade::judge_file(args, ui),
        Command::Upgrade(args) => Box::pin(change::run(args, global, ui, line, outside)).await,
        Command::Init(_) | Command::Rehearse(_) | Command::Workload(_) | Command::Completions(_) | Command::Man(_) => {
            Err(Failure::usage("this command is not about a lab, and cannot be rehearsed"))
        }
        other => match goal_of(other) {
            Some(goal) => Box::pin(goal::run(goal, global, ui, line, outside)).await,
            None => Err(Failure::unexpected(format!("no goal for {other:?}"))),
        },
    }
}

/// The goal of a command that has one.
fn goal_of(command: &Command) -> Option<Goal> {
    Some(match command {
        Command::Up => Goal::Up,
        Command::Down { keep_cluster: false } => Goal::Down,
        Command::Down { keep_cluster: true } => Goal::DownKeepCluster,
        Command::ClusterUp { .. } => Goal::ClusterUp,
        Command::ClusterDown => Goal::ClusterDown,
        Command::AddRepos => Goal::AddRepos,
        Command::PrometheusInstall => Goal::PrometheusInstall,
        Command::PrometheusUninstall => Goal::PrometheusUninstall,
        Command::Namespaces => Goal::Namespaces,
        Command::DeployDatabase => Goal::DeployDatabase,
        Command::SpireInstall => Goal::SpireInstall,
        Command::SpireUninstall => Goal::SpireUninstall,
        Command::Test => Goal::Test,
        Command::BuildLoadImage { .. } => Goal::BuildLoadImage,
        Command::DeployWorkload => Goal::DeployWorkload,
        Command::DeleteWorkload => Goal::DeleteWorkload,
        Command::DeployMalicious => Goal::DeployMalicious,
        Command::DeleteMalicious => Goal::DeleteMalicious,
        Command::PatchMonitors => Goal::PatchMonitors,
        Command::TearDown => Goal::TearDown,
        Command::Plan(_)
        | Command::Status(_)
        | Command::Check(_)
        | Command::Learn(_)
        | Command::Init(_)
        | Command::Rehearse(_)
        | Command::Env
        | Command::Logs(_)
        | Command::Open(_)
        | Command::Access
        | Command::Metrics(_)
        | Command::Audit(_)
        | Command::Entries(_)
        | Command::Bundle(_)
        | Command::Agents(_)
        | Command::Contain(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Drill(_)
        | Command::Recover
        | Command::Upgrade(_)
        | Command::Rotate(_)
        | Command::Debug { .. }
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Workload(_) => return None,
    })
}
