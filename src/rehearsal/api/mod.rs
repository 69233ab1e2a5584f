//! The API server in front of a [`crate::rehearsal::store::Store`].

pub mod defaults;
pub mod kinds;
