//! Ctrl-C in every kind of step: a tool at work, a wait, a download. The run ends as interrupted, its journal is true,
//! nothing that it started lives on, and the same command goes on from there.
//!
//! The world is the rehearsal's, but one command goes to a real process, a fake tool that never ends by itself. The
//! wish to stop comes when a chosen event does, so nothing here depends on how quick the machine is. (That Ctrl-C is
//! that wish is shown with the whole program, see `real_world`.)

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coastal::config::{self, Lab};
use coastal::engine::{self, Emitter, Event, Journal, Outcome, RunInfo, RunResult, Sink, Tee, What, journal};
use coastal::error::{ExitCode, Kind};
use coastal::plan::{self, Goal, Plan, StepId};
use coastal::rehearsal::{Fault, Options, Rehearsal};
use coastal::session::{Paths, Session};
use coastal::tools::process::{Manners, ProcessRunner};
use coastal::tools::{Command, CommandError, CommandIo, Output, Runner, Tool};
use coastal::world::World;
use coastal::{files, steps};
use tokio_util::sync::CancellationToken;

/// Holds the FIFO beside it open as long as it lives, and says that it is up. Builtins only: a shell that is about to
/// start another program may miss a SIGINT.
const NEVER_ENDS: &str = "trap 'exit 130' INT; exec 9>\"$0.life\"; echo 'the fake is up'; while :; do :; done";

/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);

/// The rehearsal's programs, but for one command.
struct OneIsReal {
    others: Arc<dyn Runner>,
    real: ProcessRunner,
    /// How the command begins.
    line: &'static str,
}

#[async_trait]
impl Runner for OneIsReal {
    async fn run(&self, command: &Command, io: CommandIo<'_>) -> Result<Output, CommandError> {
        let is_it = command.line().starts_with(self.line);
        if is_it { self.real.run(command, io).await } else { self.others.run(command, io).await }
    }

    fn locate(&self, tool: Tool) -> Option<PathBuf> {
        self.others.locate(tool)
    }
}

/// Wishes to stop when an event comes.
struct Stopper {
    when: Box<dyn Fn(&What) -> bool + Send + Sync>,
    cancel: CancellationToken,
}

impl Sink for Stopper {
    fn take(&self, event: &Event) {
        if (self.when)(&event.what) {
            self.cancel.cancel();
        }
    }
}

struct Stage {
    lab: Lab,
    rehearsal: Rehearsal,
    paths: Paths,
    directory: tempfile::TempDir,
}

impl Stage {
    /// A lab in which all is so that `goal` rests on.
    async fn before(goal: Goal) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"));
        files::private_dir(paths.state()).unwrap();
        let lab = config::embedded().unwrap();
        let rehearsal = Rehearsal::new(Options::default()).unwrap();
        let stage = Stage { lab, rehearsal, paths, directory };
        let plan = match goal {
            // What is to be removed or tested must be there.
            Goal::Test | Goal::SpireUninstall | Goal::DownKeepCluster => plan::build(&stage.lab, Goal::Up, None),
            goal => plan::needs_of(&stage.lab, goal),
        };
        let (result, _) = stage.run(&plan, stage.rehearsal.world(), |_| false).await;
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.failure);
        stage
    }

    /// Runs `plan`; the result, and the events that the journal has.
    async fn run(
        &self,
        plan: &Plan,
        world: World,
        stop_when: impl Fn(&What) -> bool + Send + Sync + 'static,
    ) -> (RunResult, Vec<Event>) {
        let cancel = CancellationToken::new();
        let session = Session::new(self.lab.clone(), world, self.paths.clone());
        let (journal, run) = Journal::create(&self.paths.runs(), "it", session.world.clock.now()).unwrap();
        let journal = Arc::new(journal);
        let stopper = Arc::new(Stopper { when: Box::new(stop_when), cancel: cancel.clone() });
        let sink = Arc::new(Tee(vec![Arc::clone(&journal) as Arc<dyn Sink>, stopper]));
        let emitter = Emitter::new(Arc::clone(&session.world.clock), sink);
        let info = RunInfo { run, resume: Some("coastal it".into()), ..RunInfo::default() };
        let result = engine::execute(plan, &info, &steps::body, &session, &emitter, &cancel).await;
        assert_eq!(journal.trouble(), None);
        (result, journal::read(journal.directory()).unwrap())
    }

    /// `goal` is interrupted, and then done.
    async fn is_interrupted(
        &self,
        goal: Goal,
        world: World,
        stop_when: impl Fn(&What) -> bool + Send + Sync + 'static,
    ) {
        let plan = plan::build(&self.lab, goal, None);
        let (result, events) = self.run(&plan, world, stop_when).await;
        assert_eq!((result.outcome, result.code()), (Outcome::Interrupted, ExitCode::Interrupted), "{result:#?}");
        assert_eq!(result.exit_code, 130);
        assert_eq!(result.failure.as_ref().map(|failure| failure.kind), Some(Kind::Interrupted));
        assert_eq!(result.next, ["coastal it"], "it goes on where it stopped");
        assert_true(&events, &result);

        self.rehearsal.cure("server-crash-loop");
        let (again, _) = self.run(&plan, self.rehearsal.world(), |_| false).await;
        assert_eq!(again.outcome, Outcome::Ok, "{:?}", again.failure);
    }

    /// The same for a command that begins with `line` and is at work when the wish to stop comes.
    async fn is_interrupted_in(&self, goal: Goal, line: &'static str) {
        let tool = self.directory.path().join(line.split(' ').next().unwrap());
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fake/tool"), &tool).unwrap();
        let beside = |end: &str| PathBuf::from(format!("{}.{end}", tool.display()));
        std::fs::write(beside("script"), NEVER_ENDS).unwrap();
        nix::unistd::mkfifo(&beside("life"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = || {
            let flags = nix::libc::O_NONBLOCK;
            std::fs::OpenOptions::new().read(true).custom_flags(flags).open(beside("life")).unwrap()
        };
        // The fake can open its end only if somebody reads.
        let mut held = reader();

        let path = format!("{}:/usr/bin:/bin", self.directory.path().display());
        let real = ProcessRunner::with(Some(path.into()), Manners { grace: HOUR, linger: HOUR });
        let world = self.rehearsal.world();
        let world = World { runner: Arc::new(OneIsReal { others: world.runner, real, line }), ..world };
        let up = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&up);
        let stop_when = move |what: &What| {
            let is_up = matches!(what, What::CommandOutput { line, .. } if line == "the fake is up");
            *seen.lock().unwrap() |= is_up;
            is_up
        };
        self.is_interrupted(goal, world, stop_when).await;
        assert!(*up.lock().unwrap(), "`{line}` was run");
        // Ends at once, because nobody holds the other end any more; otherwise reading would block, which is an error.
        assert_eq!(held.read(&mut [0]).unwrap(), 0, "something of `{line}` lives on");
    }
}

/// The journal tells a whole run: all that began has ended, and the end is the result.
fn assert_true(events: &[Event], result: &RunResult) {
    let mut open: Vec<StepId> = Vec::new();
    let mut running: Vec<u64> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.seq, number as u64);
        match &event.what {
            What::StepStarted { step } => open.push(*step),
            What::StepSkipped { step, .. } | What::StepDone { step, .. } | What::StepFailed { step, .. } => {
                assert!(open.contains(step), "{step} ended and had not begun");
                open.retain(|other| other != step);
            }
            What::CommandStarted { command, .. } => running.push(*command),
            What::CommandEnded { command, .. } => running.retain(|other| other != command),
            _ => {}
        }
    }
    assert!(open.is_empty() && running.is_empty(), "left open: {open:?}, commands {running:?}");
    let last = events.last().map(|event| &event.what);
    assert!(matches!(last, Some(What::RunEnded { result: told }) if told == result), "{last:?}");
}

async fn are_interrupted(commands: &[(Goal, &'static str)]) {
    for (goal, line) in commands {
        Stage::before(*goal).await.is_interrupted_in(*goal, line).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_kind_or_docker_is_at_work() {
    are_interrupted(&[
        (Goal::ClusterUp, "kind create cluster"),
        (Goal::BuildLoadImage, "docker exec"),
        (Goal::BuildLoadImage, "kind load image-archive"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_helm_is_at_work() {
    are_interrupted(&[
        (Goal::AddRepos, "helm repo add"),
        (Goal::SpireInstall, "helm pull"),
        (Goal::SpireInstall, "helm upgrade"),
        (Goal::Test, "helm test"),
        (Goal::SpireUninstall, "helm uninstall"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_kubectl_is_at_work() {
    are_interrupted(&[(Goal::DeployDatabase, "kubectl exec"), (Goal::SpireInstall, "kubectl exec")]).await;
}

/// Stops when `step` says that it waits for something like that.
fn waits(step: StepId, words: &'static str) -> impl Fn(&What) -> bool + Send + Sync + 'static {
    move |what| matches!(what, What::StepProgress { step: of, message } if *of == step && message.contains(words))
}

#[tokio::test(start_paused = true)]
async fn while_something_is_waited_for() {
    for (goal, fault, stop_when) in [
        (Goal::SpireInstall, Some(Fault::ServerCrashLoop(None)), waits(StepId::SpireServers, "0 of 3 pods ready")),
        (Goal::SpireInstall, Some(Fault::ServerCrashLoop(None)), waits(StepId::SpireAgents, "Pending")),
        (Goal::DeployDatabase, None, waits(StepId::Database, "0 of 1 pods ready")),
        (Goal::ClusterUp, None, waits(StepId::CertManager, "waiting for the webhook to answer: ")),
        (Goal::DeployWorkload, None, waits(StepId::Workload, "no SVID yet")),
        (Goal::DownKeepCluster, None, waits(StepId::RemoveWorkload, "is being deleted")),
    ] {
        let stage = Stage::before(goal).await;
        if let Some(fault) = fault {
            stage.rehearsal.inject(fault);
        }
        stage.is_interrupted(goal, stage.rehearsal.world(), stop_when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_something_is_downloaded() {
    let stage = Stage::before(Goal::ClusterUp).await;
    let downloads = |what: &What| matches!(what, What::StepRunning { step: StepId::FetchContour, .. });
    stage.is_interrupted(Goal::ClusterUp, stage.rehearsal.world(), downloads).await;
}

/// Nothing is begun any more when the wish comes before the first step.
#[tokio::test(start_paused = true)]
async fn before_anything_was_begun() {
    let stage = Stage::before(Goal::ClusterUp).await;
    let at_once = |what: &What| matches!(what, What::RunStarted { .. });
    stage.is_interrupted(Goal::ClusterUp, stage.rehearsal.world(), at_once).await;
    assert!(stage.rehearsal.store("kind").is_some(), "the second run made it");
}
