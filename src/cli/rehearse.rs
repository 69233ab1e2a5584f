//! `coastal rehearse`: any command, or the whole story, on the embedded world.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser};

use crate::cli::outside::{self, Outside};
use crate::cli::rehearsed::Rehearsed;
use crate::cli::{Cli, Command, Global, OutputFormat, debug, goal, goal_of, on};
use crate::config::ChartRef;
use crate::engine::{Event, Sink};
use crate::error::{ExitCode, Failure, io_failure};
use crate::plan::{self, Goal, Role};
use crate::rehearsal::{Begin, Fault, Options, Rehearsal};
use crate::session::{Paths, Session};
use crate::spire::values::{Images, Phase};
use crate::steps::values;
use crate::ui::Ui;

/// Said at the start of every rehearsal.
const BANNER: &str = "rehearsal: nothing outside this process is touched (its files lie in a directory of its own)";

/// Arguments of `rehearse`.
#[derive(Debug, Default, Args)]
pub struct RehearseArgs {
    /// Keep the world in this file between calls
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// Let something go wrong, like `tool-missing=helm`; several times for several things
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
    /// Begin where a real SPIRE stands: what `coastal status --output json` printed there
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The command to rehearse; with none: up, status, down
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs what is to be rehearsed.
///
/// # Errors
/// As the command's own.
pub async fn run(args: &RehearseArgs, global: &Global, ui: &Ui, line: &str) -> Result<ExitCode, Failure> {
    if args.command.is_empty() {
        return story(args, global, ui, line).await;
    }
    let (words, from) = without_from(&args.command)?;
    let words = std::iter::once("coastal".to_owned()).chain(words);
    let inner = match Cli::try_parse_from(words) {
        Ok(inner) => inner,
        Err(error) => return Ok(super::usage(&error)),
    };
    if matches!(inner.command, Command::Rehearse(_)) {
        return Err(Failure::usage("a rehearsal cannot be rehearsed"));
    }
    let global = joined(global, &inner.global);
    let args = &RehearseArgs {
        world: args.world.clone(),
        faults: args.faults.clone(),
        from: from.or_else(|| args.from.clone()),
        command: Vec::new(),
    };
    let inner_reports = inner.global.report.is_some() || inner.global.junit.is_some();
    if inner.global.output == OutputFormat::Text && inner.global.verbose == 0 && !inner.global.explain && !inner_reports
    {
        return command(&inner.command, &global, ui, line, args).await;
    }
    let ui = super::ui(&global);
    ui.reports().prove()?;
    let code = command(&inner.command, &global, &ui, line, args).await;
    // The caller finishes its own only; what could not be written here would count as shown.
    ui.finish().and(code)
}

/// The words of a command, and the `--from FILE` that stood among them: it counts wherever it stands.
fn without_from(words: &[String]) -> Result<(Vec<String>, Option<PathBuf>), Failure> {
    let mut kept = Vec::new();
    let mut from = None;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.strip_prefix("--from") {
            Some("") => {
                let file = rest.next().ok_or_else(|| Failure::usage("`--from` takes a file"))?;
                from = Some(PathBuf::from(file));
            }
            Some(joined) if joined.starts_with('=') => from = Some(PathBuf::from(&joined[1..])),
            _ => kept.push(word.clone()),
        }
    }
    Ok((kept, from))
}

/// A flag counts wherever it stands.
fn joined(outer: &Global, inner: &Global) -> Global {
    Global {
        lab: inner.lab.clone().or_else(|| outer.lab.clone()),
        output: if inner.output == OutputFormat::Text { outer.output } else { inner.output },
        yes: true,
        dry_run: outer.dry_run || inner.dry_run,
        explain: outer.explain || inner.explain,
        timeout: inner.timeout.or(outer.timeout),
        rehearse: true,
        verbose: outer.verbose.max(inner.verbose),
        report: inner.report.clone().or_else(|| outer.report.clone()),
        junit: inner.junit.clone().or_else(|| outer.junit.clone()),
    }
}

/// Runs one command on a world that has what the command rests on.
///
/// # Errors
/// As the command's own.
pub async fn command(
    command: &Command,
    global: &Global,
    ui: &Ui,
    line: &str,
    args: &RehearseArgs,
) -> Result<ExitCode, Failure> {
    ui.note(BANNER);
    let mut stage = Stage::set(args, global)?;
    match (&args.from, precondition(command)) {
        (Some(file), _) => stage.begin(file, ui).await?,
        (None, Some(before)) if stage.is_new => stage.prepare(before, ui).await?,
        _ => {}
    }
    stage.inject(&args.faults).await?;
    if matches!(command, Command::Open(_)) {
        ui.note("rehearsal: the ports are this machine's own; behind them answers a small page inside this process");
        // Whoever looks at a page is no part of the world, and lives in real time.
        tokio::time::resume();
    }
    let code = stage.perform(command, global, ui, line).await;
    stage.keep()?;
    code
}

/// up, status, down.
async fn story(args: &RehearseArgs, global: &Global, ui: &Ui, line: &str) -> Result<ExitCode, Failure> {
    ui.note(BANNER);
    let mut stage = Stage::set(args, global)?;
    if let Some(file) = &args.from {
        stage.begin(file, ui).await?;
    }
    stage.inject(&args.faults).await?;
    for (command, word) in [
        (Command::Up, "up"),
        (Command::Status(super::status::StatusArgs::default()), "status"),
        (Command::Down { keep_cluster: false }, "down"),
    ] {
        ui.note(&format!("\n$ coastal {word}"));
        let code = stage.perform(&command, global, ui, &format!("{line} {word}")).await;
        if !matches!(code, Ok(ExitCode::Ok)) {
            stage.keep()?;
            return code;
        }
    }
    stage.keep()?;
    Ok(ExitCode::Ok)
}

/// What must be so before the command makes sense.
fn precondition(command: &Command) -> Option<Before> {
    match command {
        Command::Debug { what } => debug::needs_lab(what).then_some(Before::Up),
        Command::Check(args) if args.is_before_up() => None,
        Command::Learn(args) if !args.needs_a_lab() => None,
        Command::Status(_)
        | Command::Check(_)
        | Command::Learn(_)
        | Command::Logs(_)
        | Command::Open(_)
        | Command::Access
        | Command::Metrics(_)
        | Command::Env
        | Command::Upgrade(_)
        | Command::Drill(_)
        | Command::Recover
        | Command::Rotate(_)
        | Command::Audit(_)
        | Command::Backup(_)
        | Command::Entries(_)
        | Command::Bundle(_)
        | Command::Agents(_) => Some(Before::Up),
        Command::Contain(_) => Some(Before::Pirates),
        // A world begins with a restore as a cluster does.
        Command::Restore(_) => Some(Before::NeedsOf(Goal::Namespaces)),
        Command::Plan(_) => None,
        other => goal_of(other).map(|goal| match goal {
            Goal::Up | Goal::ClusterUp | Goal::AddRepos => Before::Nothing,
            Goal::Down
            | Goal::DownKeepCluster
            | Goal::ClusterDown
            | Goal::PrometheusUninstall
            | Goal::SpireUninstall
            | Goal::DeleteWorkload
            | Goal::Test => Before::Up,
            // SPIRE goes before its database.
            Goal::TearDown => Before::NeedsOf(Goal::SpireInstall),
            Goal::DeleteMalicious => Before::Pirates,
            goal => Before::NeedsOf(goal),
        }),
    }
}

enum Before {
    Nothing,
    Up,
    /// Up, and the pirate ship in the bay.
    Pirates,
    NeedsOf(Goal),
}

/// A rehearsal with the lab in it.
struct Stage {
    rehearsal: Rehearsal,
    outside: Outside,
    is_new: bool,
    // Removed with everything in it when the rehearsal is over.
    _directory: Option<tempfile::TempDir>,
}

impl Stage {
    fn set(args: &RehearseArgs, global: &Global) -> Result<Self, Failure> {
        let lab = outside::lab(global)?;
        let is_new = args.world.as_ref().is_none_or(|file| !file.exists());
        let rehearsal =
            Rehearsal::new(Options { faults: Vec::new(), world_file: args.world.clone(), ..Options::default() })?;
        let (directory, state) = if let Some(file) = &args.world {
            (None, beside(file)?)
        } else {
            let directory = tempfile::Builder::new()
                .prefix("coastal-rehearsal-")
                .permissions(std::fs::Permissions::from_mode(0o700))
                .tempdir()
                .map_err(|error| io_failure("make a directory in", &std::env::temp_dir(), &error))?;
            let state = directory.path().to_owned();
            (Some(directory), state)
        };
        let outside = Outside {
            lab,
            world: rehearsal.world(),
            paths: Paths::new(state),
            cancel: outside::stop_on_signals(),
            rehearsal: Some(Rehearsed::in_world(args.world.as_deref())),
        };
        Ok(Stage { rehearsal, outside, is_new, _directory: directory })
    }

    async fn prepare(&self, before: Before, ui: &Ui) -> Result<(), Failure> {
        let lab = &self.outside.lab;
        let plan = match before {
            Before::Nothing => return Ok(()),
            Before::Up => plan::build(lab, Goal::Up, None),
            Before::Pirates => {
                Box::pin(self.prepare(Before::Up, ui)).await?;
                plan::build(lab, Goal::DeployMalicious, None)
            }
            Before::NeedsOf(goal) => plan::needs_of(lab, goal),
        };
        if plan.steps.is_empty() {
            return Ok(());
        }
        let made = plan.steps.iter().filter(|step| step.role == Role::Goal);
        let steps: Vec<String> = made.map(|step| step.id.to_string()).collect();
        ui.note(&format!("rehearsal: first brought to where this command begins ({})", steps.join(", ")));
        let session = Session::new(lab.clone(), self.outside.world.clone(), self.outside.paths.clone());
        crate::files::private_dir(self.outside.paths.state())?;
        let silence: Arc<dyn Sink> = Arc::new(Silence);
        let code = goal::execute(&session, &plan, Vec::new(), "preparation".into(), "up", silence, &self.outside).await;
        if code == ExitCode::Ok {
            Ok(())
        } else {
            Err(Failure::unexpected("the rehearsal could not be brought to where this command begins")
                .next("`coastal rehearse up` shows why"))
        }
    }

    /// Brings the world to where a real SPIRE stands, and the lab with it.
    async fn begin(&mut self, file: &Path, ui: &Ui) -> Result<(), Failure> {
        if !self.is_new {
            return Err(Failure::usage("`--from` begins a new world, and the one of `--world` is there already")
                .next("name another file with `--world`, or leave out one of the two"));
        }
        let text = std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?;
        let begin = Begin::read(&text).map_err(|failure| failure.fact(format!("in {}", file.display())))?;
        self.prepare(Before::Up, ui).await?;
        let spire = &mut self.outside.lab.spire;
        spire.server_version = begin.server().clone();
        spire.agent_version = begin.agent().clone();
        if let Some(version) = &begin.chart {
            spire.chart = ChartRef::Repo {
                repo_name: "spiffe-hardened".to_owned(),
                url: "https://spiffe.github.io/helm-charts-hardened/".to_owned(),
                chart: "spire".to_owned(),
                version: version.clone(),
            };
        }
        let chart = values::spire_chart_version(&self.outside.lab)?;
        let images = Images::of(&self.outside.lab);
        let values = values::spire_values(&self.outside.lab, &chart, &images, Phase::Settled)?;
        ui.note(&format!(
            "rehearsal: then to SPIRE {} (agent {}) on chart {chart}, as {} says",
            begin.server(),
            begin.agent(),
            file.display()
        ));
        self.rehearsal.bring_to(&begin, values).await
    }

    async fn inject(&self, faults: &[String]) -> Result<(), Failure> {
        for text in faults {
            let fault = Fault::parse(text)?;
            self.rehearsal.inject(fault.clone());
            self.rehearsal.suffer(&fault).await;
        }
        Ok(())
    }

    /// Runs the command; whatever it advises leads back to this world.
    async fn perform(&self, command: &Command, global: &Global, ui: &Ui, line: &str) -> Result<ExitCode, Failure> {
        let code = on(command, global, ui, line, &self.outside);
        let Some(rehearsed) = self.outside.rehearsal.clone() else { return code.await };
        let advice = rehearsed.clone();
        ui.advise_as(move |text| advice.text(text));
        code.await.map_err(|failure| rehearsed.failure(failure))
    }

    fn keep(&self) -> Result<(), Failure> {
        self.rehearsal.save()
    }
}

struct Silence;

impl Sink for Silence {
    fn take(&self, _event: &Event) {}
}

/// The lab's files of a world that is kept: beside its file. Absolute, because `env` prints it for any directory.
fn beside(file: &Path) -> Result<PathBuf, Failure> {
    let file = std::path::absolute(file).map_err(|error| Failure::usage(format!("--world is not a path: {error}")))?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".state");
    Ok(file.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_may_be_named_anywhere() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in
            ["upgrade --from x.json --to 1.8.0", "--from=x.json upgrade --to 1.8.0", "upgrade --to 1.8.0 --from x.json"]
        {
            let (kept, from) = without_from(&words(line)).unwrap();
            assert_eq!((kept, from), (words("upgrade --to 1.8.0"), Some(PathBuf::from("x.json"))), "{line}");
        }
        assert!(without_from(&words("upgrade --from")).is_err());
        assert_eq!(without_from(&words("up --fromage")).unwrap(), (words("up --fromage"), None));
    }
}
