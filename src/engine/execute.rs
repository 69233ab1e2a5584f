//! The executor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::context::{Emitter, StepContext, millis};
use crate::engine::event::{Outcome, RunResult, SCHEMA, What};
use crate::engine::turn::{Turns, Verdict};
use crate::engine::{needs, order};
use crate::error::{ExitCode, Failure, Kind};
use crate::plan::{Finding, Plan, Role, StepId};
use crate::session::Session;

/// What a step does. All three may be called at any point of any run, and again.
#[async_trait]
pub trait Body: Send + Sync {
    /// Looks; never writes.
    ///
    /// # Errors
    /// It cannot be told, or it is something that must not be touched (a foreign cluster).
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure>;

    /// Makes it so. Called only after [`Body::check`] found that it is not; must cope with a half-done earlier try.
    /// Of itself it does nothing: gates only look, and what others make is only waited for.
    ///
    /// # Errors
    /// It could not be made so; the failure says what is left behind.
    async fn run(&self, _cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        Ok(())
    }

    /// Proves that it is so, waiting until [`StepContext::deadline`] if need be, and says the proof in words.
    ///
    /// # Errors
    /// It did not become so: what was waited for, its last state, why.
    async fn verify(&self, cx: &StepContext) -> Result<String, Failure>;
}

/// What a run is called, and what may follow it.
#[derive(Debug, Clone, Default)]
pub struct RunInfo {
    /// The run's id, see [`crate::engine::Journal::create`].
    pub run: String,
    /// The command line after `coastal`.
    pub command: String,
    /// The version of `coastal`.
    pub coastal: String,
    /// The next useful commands when everything went well, most useful first.
    pub next_ok: Vec<String>,
    /// The command that goes on where a failed or interrupted run stopped, if there is one.
    pub resume: Option<String>,
}

/// Runs `plan` to its end, from its first event to its last. `body` gives the body of a step.
///
/// Needs (see [`Role`]) are all looked at before the first goal runs; if one is not so, no goal runs. Then each goal
/// starts as soon as what it needs has ended well. After a failure no further step starts, but those that run are let
/// finish. When `cancel` is cancelled they are asked to stop, and dropped if they do not. A run whose steps all ended
/// well by then is a good one; a failure that came before stays the run's failure.
///
/// A need that nothing had to ask about (what rests on it is already so) has no events and is in no list of the
/// result; every goal is in exactly one.
pub async fn execute(
    plan: &Plan,
    info: &RunInfo,
    body: &(dyn Fn(StepId) -> Box<dyn Body> + Send + Sync),
    session: &Arc<Session>,
    emitter: &Emitter,
    cancel: &CancellationToken,
) -> RunResult {
    let started = Instant::now();
    emitter.emit(What::RunStarted {
        schema: SCHEMA,
        run: info.run.clone(),
        command: info.command.clone(),
        coastal: info.coastal.clone(),
        plan: plan.clone(),
    });
    let mut record = Record::default();
    if let Err(failure) = order::check(plan) {
        record.failure = Some(failure);
    } else {
        let turns = Turns { body, session, emitter, cancel };
        record.look(plan, &turns).await;
        if record.failure.is_none() {
            record.make(plan, &turns).await;
        }
    }
    record.cancel_the_rest(plan, emitter);
    let result = record.result(info, cancel, millis(started.elapsed()));
    emitter.emit(What::RunEnded { result: result.clone() });
    result
}

/// What has become of the steps so far.
#[derive(Default)]
struct Record {
    changed: Vec<StepId>,
    unchanged: Vec<StepId>,
    passed: Vec<StepId>,
    failed: Vec<StepId>,
    cancelled: Vec<StepId>,
    failure: Option<Failure>,
    steps_ms: BTreeMap<StepId, u64>,
    /// The first failure came after the wish to stop, so it is a consequence of it.
    interrupted: bool,
}

impl Record {
    async fn look(&mut self, plan: &Plan, turns: &Turns<'_>) {
        let look = needs::look(plan, turns).await;
        self.unchanged = look.met;
        self.failed = look.unmet;
        self.steps_ms.extend(look.took_ms);
        if let Some(failure) = look.failure {
            self.fail(failure, turns.cancel);
        }
    }

    async fn make(&mut self, plan: &Plan, turns: &Turns<'_>) {
        // Needs count as ended: those that were looked at are so, and the others stand behind one that is.
        let mut ended: BTreeSet<StepId> =
            plan.steps.iter().filter(|step| step.role == Role::Need).map(|step| step.id).collect();
        let mut waiting: Vec<_> = plan.steps.iter().filter(|step| step.role == Role::Goal).collect();
        let mut running = FuturesUnordered::new();
        loop {
            if self.failure.is_none() && !turns.cancel.is_cancelled() {
                let (ready, later): (Vec<_>, Vec<_>) =
                    waiting.into_iter().partition(|step| step.needs.iter().all(|need| ended.contains(need)));
                waiting = later;
                running.extend(ready.into_iter().map(|step| turns.take(step)));
            }
            let Some((step, verdict, took_ms)) = running.next().await else { break };
            self.steps_ms.insert(step.id, took_ms);
            match verdict {
                Verdict::AlreadySo => self.unchanged.push(step.id),
                Verdict::Made if step.id.is_test() => self.passed.push(step.id),
                Verdict::Made => self.changed.push(step.id),
                Verdict::NotSo(finding) => {
                    self.failed.push(step.id);
                    self.fail(needs::unmet(&[(step, Ok(finding))]), turns.cancel);
                    continue;
                }
                Verdict::Failed(failure) => {
                    self.failed.push(step.id);
                    self.fail(failure, turns.cancel);
                    continue;
                }
            }
            ended.insert(step.id);
        }
    }

    fn fail(&mut self, failure: Failure, cancel: &CancellationToken) {
        if self.failure.is_none() {
            self.interrupted = cancel.is_cancelled() || failure.kind == Kind::Interrupted;
            self.failure = Some(failure);
        }
    }

    /// Says of every goal that had no turn why it had none: the failed step that it rests on, else the first one.
    fn cancel_the_rest(&mut self, plan: &Plan, emitter: &Emitter) {
        let failed: &[StepId] = if self.interrupted { &[] } else { &self.failed };
        let first = failed.first().copied();
        let mut reasons: BTreeMap<StepId, StepId> = failed.iter().map(|step| (*step, *step)).collect();
        for step in plan.steps.iter().filter(|step| step.role == Role::Goal) {
            if self.steps_ms.contains_key(&step.id) {
                continue;
            }
            let because_of = step.needs.iter().find_map(|need| reasons.get(need).copied());
            if let Some(reason) = because_of {
                reasons.insert(step.id, reason);
            }
            emitter.emit(What::StepCancelled { step: step.id, because_of: because_of.or(first) });
            self.cancelled.push(step.id);
        }
    }

    fn result(self, info: &RunInfo, cancel: &CancellationToken, took_ms: u64) -> RunResult {
        let stopped = cancel.is_cancelled() && !self.cancelled.is_empty();
        let (outcome, failure) = match self.failure {
            None if stopped => (Outcome::Interrupted, Some(Failure::interrupted())),
            None => (Outcome::Ok, None),
            Some(failure) if self.interrupted && failure.kind == Kind::Interrupted => {
                (Outcome::Interrupted, Some(failure))
            }
            // What breaks while everything is being stopped is a fact about the interruption, not the cause of the end.
            Some(failure) if self.interrupted => {
                (Outcome::Interrupted, Some(Failure::interrupted().fact(failure.message).facts(failure.facts)))
            }
            Some(failure) => (Outcome::Failed, Some(failure)),
        };
        let exit_code = failure.as_ref().map_or(ExitCode::Ok, |failure| failure.kind.exit_code()) as u8;
        let next = match &failure {
            None => info.next_ok.clone(),
            Some(failure) => match failure.kind {
                Kind::Prerequisite | Kind::Tool | Kind::Timeout | Kind::Interrupted => {
                    info.resume.iter().cloned().collect()
                }
                Kind::Unexpected | Kind::Usage | Kind::Config | Kind::Refused | Kind::CheckFailed => Vec::new(),
            },
        };
        RunResult {
            outcome,
            exit_code,
            changed: self.changed,
            unchanged: self.unchanged,
            passed: self.passed,
            failed: self.failed,
            cancelled: self.cancelled,
            failure,
            took_ms,
            steps_ms: self.steps_ms,
            next,
        }
    }
}
