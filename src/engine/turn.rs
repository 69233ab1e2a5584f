//! One step's turn: check -> run -> verify, inside its time, whatever the body does.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::context::{Emitter, StepContext, millis};
use crate::engine::event::What;
use crate::engine::execute::Body;
use crate::engine::needs;
use crate::engine::panics::caught;
use crate::error::{Failure, Kind};
use crate::plan::{Finding, Role, Step, StepId};
use crate::session::Session;
use crate::tools::advice::look;

/// How long after its deadline a body may take to say by itself what it waited for.
pub(super) const SLACK: Duration = Duration::from_secs(5);

/// How long a body that was asked to stop may take to end its children (which get 15 s) before it is dropped.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// How a turn ended.
pub(super) enum Verdict {
    /// The check found it so.
    AlreadySo,
    /// It was made so and proven.
    Made,
    /// A need that is not so.
    NotSo(Finding),
    /// It could not be told, made or proven.
    Failed(Failure),
}

/// What every turn of a run has in common.
pub(super) struct Turns<'a> {
    pub(super) body: &'a (dyn Fn(StepId) -> Box<dyn Body> + Send + Sync),
    pub(super) session: &'a Arc<Session>,
    pub(super) emitter: &'a Emitter,
    pub(super) cancel: &'a CancellationToken,
}

impl Turns<'_> {
    /// Takes `step` through its turn, with its first and its last event. Also says how many milliseconds it took.
    pub(super) fn take<'s>(&self, step: &'s Step) -> impl Future<Output = (&'s Step, Verdict, u64)> + use<'_, 's> {
        // At once and not at the first poll: what starts together has started before any of it can fail.
        self.emitter.emit(What::StepStarted { step: step.id });
        self.take_started(step, Instant::now())
    }

    async fn take_started<'s>(&self, step: &'s Step, started: Instant) -> (&'s Step, Verdict, u64) {
        let outcome = self.bounded(step, started + Duration::from_secs(step.timeout_s)).await;
        let took_ms = millis(started.elapsed());
        let id = step.id;
        let (event, verdict) = match outcome {
            Ok(Seen::AlreadySo(because)) => (What::StepSkipped { step: id, because, took_ms }, Verdict::AlreadySo),
            Ok(Seen::Made(proof)) => (What::StepDone { step: id, proof, took_ms }, Verdict::Made),
            Ok(Seen::NotSo(finding)) => {
                let failure = needs::unmet(&[(step, Ok(finding.clone()))]);
                (What::StepFailed { step: id, failure, took_ms }, Verdict::NotSo(finding))
            }
            Err(failure) => {
                (What::StepFailed { step: id, failure: failure.clone(), took_ms }, Verdict::Failed(failure))
            }
        };
        self.emitter.emit(event);
        (step, verdict, took_ms)
    }

    /// Runs the body. It is asked to stop when the run is, or when it overstays its deadline; if it does not listen it
    /// is dropped.
    async fn bounded(&self, step: &Step, deadline: Instant) -> Result<Seen, Failure> {
        // Its own token, so that a step which overstays can be stopped alone.
        let cancel = self.cancel.child_token();
        let cx =
            StepContext::new(Arc::clone(self.session), step.id, deadline, cancel.clone(), Some(self.emitter.clone()));
        let work = caught(self.perform(step, &cx)).map(|outcome| {
            outcome.unwrap_or_else(|panic| Err(panic.failure(format!("`{}` broke off: {}", step.id, panic.words))))
        });
        tokio::pin!(work);
        let overdue = tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            () = self.cancel.cancelled() => false,
            () = tokio::time::sleep_until(deadline + SLACK) => true,
        };
        let doing = cx.doing();
        cancel.cancel();
        let outcome = tokio::time::timeout(GRACE, &mut work).await;
        match (overdue, outcome) {
            (true, Ok(Err(failure))) if failure.kind == Kind::Interrupted => Err(timed_out(step, &cx, &doing)),
            (_, Ok(outcome)) => outcome,
            (true, Err(_)) => Err(timed_out(step, &cx, &doing).fact(dropped())),
            (false, Err(_)) => Err(Failure::interrupted().fact(dropped())),
        }
    }

    async fn perform(&self, step: &Step, cx: &StepContext) -> Result<Seen, Failure> {
        let body = (self.body)(step.id);
        let found = body.check(cx).await?;
        if let Finding::Satisfied(because) = found {
            return Ok(Seen::AlreadySo(because));
        }
        if step.role == Role::Need {
            return Ok(Seen::NotSo(found));
        }
        if cx.cancel.is_cancelled() {
            return Err(Failure::interrupted());
        }
        self.emitter.emit(What::StepRunning { step: step.id, because: found.detail().to_owned() });
        body.run(cx, &found).await?;
        self.emitter.emit(What::StepVerifying { step: step.id });
        body.verify(cx).await.map(Seen::Made)
    }
}

enum Seen {
    AlreadySo(String),
    Made(String),
    NotSo(Finding),
}

/// `doing` are the commands that ran when the time was up.
fn timed_out(step: &Step, cx: &StepContext, doing: &[String]) -> Failure {
    let mut failure = Failure::timeout(format!("`{}` did not end within {} s", step.id, step.timeout_s));
    if let Some(words) = cx.last_words() {
        failure = failure.fact(format!("it was last seen: {words}"));
    }
    for line in doing {
        failure = failure.fact(format!("it was waiting for `{line}`"));
    }
    if let Some(line) = doing.first() {
        failure = failure.next(look(line));
    }
    failure.next("`--timeout TIME` gives every step more time, `[timeouts]` in lab.toml each its own")
}

fn dropped() -> String {
    format!("it did not stop within {} s of being asked to; what it had started may still be running", GRACE.as_secs())
}
