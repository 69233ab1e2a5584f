//! The rehearsal world: everything outside `coastal`, in memory and in virtual time.

pub mod api;
pub mod controllers;
pub mod object;
pub mod store;

#[cfg(test)]
mod tests;
