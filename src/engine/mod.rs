//! Executes a plan: ready steps run concurrently, each check -> run -> verify; every turn of it is an event.
//!
//! The engine knows plans and events. It does not know what a step does (that is a [`Body`]), which world it
//! runs in, or how anything is shown.

pub mod context;
pub mod event;
pub mod execute;
pub mod journal;
pub mod lock;

pub use context::{Emitter, StepContext};
pub use execute::{Body, execute};
