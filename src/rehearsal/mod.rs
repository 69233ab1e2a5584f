//! The rehearsal world: everything outside `coastal`, in memory and in virtual time.

pub mod api;
pub mod changes;
pub mod clusters;
pub mod controllers;
mod events;
mod identity;
pub mod logs;
pub mod object;
pub mod store;

#[cfg(test)]
mod cluster_tests;
