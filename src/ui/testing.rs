//! Recorded runs, written down by hand: what the renderers' snapshots are made from.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use crate::engine::event::SCHEMA;
use crate::engine::{Event, Outcome, RunResult, What};
use crate::error::Failure;
use crate::plan::{Explanation, Finding, Plan, Role, Step, StepId};
use crate::tools::Stream;
use crate::ui::{Surroundings, Terminal, Ui, Wishes};

use StepId as S;

/// A run as it is being recorded.
pub(super) struct Recording {
    events: Vec<Event>,
    now_ms: i64,
    result: RunResult,
    started: BTreeMap<StepId, i64>,
}

impl Recording {
    pub(super) fn of(plan: Plan) -> Self {
        let result = RunResult {
            outcome: Outcome::Ok,
            exit_code: 0,
            changed: Vec::new(),
            unchanged: Vec::new(),
            passed: Vec::new(),
            failed: Vec::new(),
            cancelled: Vec::new(),
            failure: None,
            took_ms: 0,
            steps_ms: BTreeMap::new(),
            next: Vec::new(),
        };
        let recording = Recording { events: Vec::new(), now_ms: 0, result, started: BTreeMap::new() };
        recording.emit(What::RunStarted {
            schema: SCHEMA,
            run: "20260821T143000.000Z-up".into(),
            command: "up".into(),
            coastal: "0.1.0".into(),
            plan,
        })
    }

    fn emit(mut self, what: What) -> Self {
        let begin: Timestamp = "2026-08-21T14:30:00Z".parse().expect("a time");
        let at = begin + SignedDuration::from_millis(self.now_ms);
        self.events.push(Event { seq: self.events.len() as u64, at, what });
        self
    }

    /// The clock stands at `ms` from now on.
    pub(super) fn at(mut self, ms: i64) -> Self {
        self.now_ms = ms;
        self
    }

    pub(super) fn start(mut self, step: StepId) -> Self {
        self.started.insert(step, self.now_ms);
        self.emit(What::StepStarted { step })
    }

    pub(super) fn running(self, step: StepId, because: &str) -> Self {
        self.emit(What::StepRunning { step, because: because.into() })
    }

    pub(super) fn says(self, step: StepId, message: &str) -> Self {
        self.emit(What::StepProgress { step, message: message.into() })
    }

    pub(super) fn retries(self, step: StepId, attempt: u32, because: &str) -> Self {
        self.emit(What::StepRetry { step, attempt, because: because.into() })
    }

    pub(super) fn command(self, step: StepId, command: u64, line: &str, output: &[&str]) -> Self {
        let mut recording = self.emit(What::CommandStarted { step, command, line: line.into() });
        for line in output {
            let line = (*line).to_owned();
            recording = recording.emit(What::CommandOutput { command, stream: Stream::Stderr, line });
        }
        recording.emit(What::CommandEnded { command, exit: Some(0), took_ms: 1 })
    }

    fn took(&mut self, step: StepId) -> u64 {
        let took_ms = u64::try_from(self.now_ms - self.started[&step]).expect("after its start");
        self.result.steps_ms.insert(step, took_ms);
        took_ms
    }

    pub(super) fn same(mut self, step: StepId, because: &str) -> Self {
        let took_ms = self.took(step);
        self.result.unchanged.push(step);
        self.emit(What::StepSkipped { step, because: because.into(), took_ms })
    }

    pub(super) fn done(mut self, step: StepId, proof: &str) -> Self {
        let took_ms = self.took(step);
        let list = if step.is_test() { &mut self.result.passed } else { &mut self.result.changed };
        list.push(step);
        self.emit(What::StepVerifying { step }).emit(What::StepDone { step, proof: proof.into(), took_ms })
    }

    pub(super) fn fails(mut self, step: StepId, failure: Failure) -> Self {
        let took_ms = self.took(step);
        self.result.failed.push(step);
        self.result.outcome = Outcome::Failed;
        self.result.failure.get_or_insert_with(|| failure.clone());
        self.emit(What::StepFailed { step, failure, took_ms })
    }

    pub(super) fn cancelled(mut self, step: StepId, because_of: Option<StepId>) -> Self {
        self.result.cancelled.push(step);
        self.emit(What::StepCancelled { step, because_of })
    }

    pub(super) fn ended(mut self, outcome: Outcome, next: &[&str]) -> Vec<Event> {
        self.result.took_ms = u64::try_from(self.now_ms).expect("forward");
        self.result.outcome = outcome;
        self.result.exit_code = self.result.failure.as_ref().map_or(0, |failure| failure.kind.exit_code() as u8);
        self.result.next = next.iter().map(|command| (*command).to_owned()).collect();
        let result = self.result.clone();
        self.emit(What::RunEnded { result }).events
    }
}

fn step(id: StepId, role: Role, title: &str, needs: &[StepId], finding: Option<Finding>) -> Step {
    let explanation = Explanation {
        why: format!("Because of {id}."),
        by_hand: vec![format!("kubectl get {id}"), format!("kubectl describe {id}")],
    };
    Step { id, title: title.into(), role, needs: needs.to_vec(), timeout_s: 60, finding, explanation }
}

/// A small lab: the cluster, two things side by side, and SPIRE on top of one of them.
pub(super) fn plan() -> Plan {
    let missing = |what: &str| Some(Finding::Missing(what.into()));
    Plan {
        schema: Plan::SCHEMA,
        lab: "seed".into(),
        steps: vec![
            step(S::Tools, Role::Need, "check the tools", &[], Some(Finding::Satisfied("4 tools".into()))),
            step(S::Cluster, Role::Goal, "create cluster kind-kind", &[S::Tools], missing("no cluster `kind`")),
            step(S::Contour, Role::Goal, "install contour", &[S::Cluster], None),
            step(
                S::Database,
                Role::Goal,
                "deploy the data store (postgres:16)",
                &[S::Cluster],
                Some(Finding::Differs("image is postgres:15".into())),
            ),
            step(
                S::Spire,
                Role::Goal,
                "install SPIRE 1.7.2 (chart spire 0.13.0)",
                &[S::Database],
                missing("no release"),
            ),
            step(S::Repos, Role::Goal, "add the helm repositories", &[], Some(Finding::Satisfied("2 known".into()))),
        ],
    }
}

pub(super) fn success() -> Vec<Event> {
    up_to_database()
        .at(61_400)
        .done(S::Contour, "2 of 2 deployments available")
        .at(63_000)
        .done(S::Database, "accepted a login")
        .start(S::Spire)
        .running(S::Spire, "no release `spire`")
        .at(64_000)
        .retries(S::Spire, 2, "release `spire` was left pending-install")
        .command(
            S::Spire,
            0,
            "helm upgrade --install spire spire/spire",
            &["NAME: spire", "\u{1b}[32mSTATUS: deployed"],
        )
        .at(123_000)
        .done(S::Spire, "revision 1 deployed")
        .ended(Outcome::Ok, &["coastal status", "coastal test"])
}

fn up_to_database() -> Recording {
    Recording::of(plan())
        .start(S::Tools)
        .at(180)
        .same(S::Tools, "docker 27.3.1, kind 0.25.0, helm 3.16.2, kubectl 1.31.1")
        .start(S::Cluster)
        .start(S::Repos)
        .at(200)
        .same(S::Repos, "spire, prometheus-community")
        .running(S::Cluster, "no cluster `kind`")
        .at(20_000)
        .says(S::Cluster, "waiting for node kind-worker: NotReady")
        .at(45_200)
        .done(S::Cluster, "2 of 2 nodes ready")
        .start(S::Contour)
        .start(S::Database)
        .running(S::Contour, "no namespace `projectcontour`")
        .running(S::Database, "image is postgres:15")
        .says(S::Database, "waiting for spire-db-0: ContainerCreating (1 s)")
        .at(46_200)
        .says(S::Database, "waiting for spire-db-0: ContainerCreating (2 s)")
        .at(57_000)
        .says(S::Database, "waiting for spire-db-0: ContainerCreating (12 s)")
        .says(S::Database, "waiting for spire-db-0: ContainerCreating (12 s)")
}

/// `test`: one passes, and with `well` the other as well.
pub(super) fn tests(well: bool) -> Vec<Event> {
    let plan = Plan {
        steps: vec![
            step(S::ChartTests, Role::Goal, "run the chart's tests", &[], None),
            step(S::IdentityTest, Role::Goal, "test the workload's identity", &[], None),
        ],
        ..plan()
    };
    let under_way = Recording::of(plan)
        .start(S::ChartTests)
        .running(S::ChartTests, "tests run each time")
        .start(S::IdentityTest)
        .running(S::IdentityTest, "tests run each time")
        .at(400)
        .done(S::IdentityTest, "5 pods hold SVIDs")
        .at(11_000);
    if well {
        under_way.done(S::ChartTests, "all passed").ended(Outcome::Ok, &["coastal status"])
    } else {
        under_way.fails(S::ChartTests, Failure::check_failed("one did not end well")).ended(Outcome::Failed, &[])
    }
}

pub(super) fn nothing_to_change() -> Vec<Event> {
    let mut recording = Recording::of(plan());
    for step in plan().steps {
        recording = recording.start(step.id);
    }
    recording = recording.at(1_230);
    for step in plan().steps {
        recording = recording.same(step.id, "seen");
    }
    recording.ended(Outcome::Ok, &["coastal status"])
}

pub(super) fn failure() -> Vec<Event> {
    up_to_database()
        .at(61_000)
        .fails(
            S::Database,
            Failure::tool("the image of pod `spire-db-0` can never be pulled")
                .fact("spire-server/spire-db-0: Pending, ImagePullBackOff: postgres:16: not found")
                .next("correct `database.image` in lab.toml"),
        )
        .at(61_500)
        .fails(S::Contour, Failure::timeout("2 of 3 envoy pods are ready"))
        .cancelled(S::Spire, Some(S::Database))
        .ended(Outcome::Failed, &["coastal up"])
}

pub(super) fn unmet_need() -> Vec<Event> {
    let failure =
        Failure::prerequisite("`kind` is not installed: no program of that name on the path").next("install it");
    Recording::of(plan())
        .start(S::Tools)
        .at(90)
        .fails(S::Tools, failure)
        .cancelled(S::Cluster, Some(S::Tools))
        .cancelled(S::Spire, Some(S::Tools))
        .ended(Outcome::Failed, &["coastal up"])
}

pub(super) fn interrupted() -> Vec<Event> {
    up_to_database()
        .at(58_000)
        .fails(S::Contour, Failure::interrupted())
        .at(58_400)
        .fails(S::Database, Failure::interrupted())
        .cancelled(S::Spire, None)
        .ended(Outcome::Interrupted, &["coastal up"])
}

/// A stream that a test can read.
#[derive(Clone, Default)]
pub(super) struct Pad(Arc<Mutex<Vec<u8>>>);

impl Pad {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8")
    }
}

impl Write for Pad {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// No terminal, but a locale that has the marks.
pub(super) fn piped(wishes: Wishes) -> Terminal {
    Terminal::decide(Surroundings { utf8: true, columns: Some(100), ..Surroundings::default() }, wishes)
}

/// A [`Ui`] whose streams can be read, in that order.
pub(super) fn ui(terminal: Terminal, input: &str) -> (Ui, Pad, Pad) {
    let (out, err) = (Pad::default(), Pad::default());
    let input = Cursor::new(input.to_owned().into_bytes());
    (Ui::new(terminal, Box::new(out.clone()), Box::new(err.clone()), Box::new(input)), out, err)
}

/// What a run looks like on standard output and standard error.
pub(super) fn shown(terminal: Terminal, events: &[Event]) -> (String, String) {
    let (ui, out, err) = ui(terminal, "");
    let renderer = ui.renderer(Some("/state/runs/1/events.jsonl".into()));
    for event in events {
        renderer.take(event);
    }
    (out.text(), err.text())
}
