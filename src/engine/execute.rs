//! The executor.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::engine::context::{Emitter, StepContext};
use crate::engine::event::RunResult;
use crate::error::Failure;
use crate::plan::{Finding, Plan, StepId};
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
    ///
    /// # Errors
    /// It could not be made so; the failure says what is left behind.
    async fn run(&self, cx: &StepContext, found: &Finding) -> Result<(), Failure>;

    /// Proves that it is so, waiting until [`StepContext::deadline`] if need be, and says the proof in words.
    ///
    /// # Errors
    /// It did not become so: what was waited for, its last state, why.
    async fn verify(&self, cx: &StepContext) -> Result<String, Failure>;
}

/// Runs `plan` to its end.
///
/// Needs (see [`crate::plan::Role`]) are all checked before the first goal runs. After a failure no further
/// step starts, but those that run are let finish. `body` gives the body of a step.
pub async fn execute(
    _plan: &Plan,
    _body: &(dyn Fn(StepId) -> Box<dyn Body> + Send + Sync),
    _session: &Arc<Session>,
    _emitter: &Emitter,
    _cancel: &CancellationToken,
) -> RunResult {
    todo!("engine helper")
}
