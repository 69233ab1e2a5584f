//! What a step does.

pub mod manifests;
pub mod values;
