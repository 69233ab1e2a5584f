//! Executes a plan: ready steps run concurrently, each check -> run -> verify; every turn of it is an event.
//!
//! The engine knows plans and events. It does not know what a step does (that is a [`Body`]), which world it
//! runs in, or how anything is shown.

pub mod context;
pub mod event;
pub mod execute;
pub mod journal;
pub mod lock;
mod needs;
mod order;
mod panics;
mod turn;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use context::{Emitter, StepContext};
pub use event::{Event, Outcome, RunResult, Sink, What};
pub use execute::{Body, RunInfo, execute};
pub use journal::{Journal, Tee};
pub use lock::Lock;
