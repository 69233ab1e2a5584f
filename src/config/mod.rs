//! `lab.toml`: as written ([`mod@file`]), validated ([`lab`]), and every problem found on the way at once
//! ([`problems`]).

pub mod file;
mod inside;
pub mod lab;
pub mod load;
pub mod problems;
pub mod quantity;
mod reader;
mod resolve;
mod syntax;
mod write;

pub use inside::{Inside, lab_inside};
pub use lab::{
    BackupSpec, CaSubject, ChartRef, ClusterSpec, DatabaseSpec, Identities, ImageSpec, Lab, MaliciousSpec, ManifestRef,
    MonitoringSpec, Provider, PullPolicy, SpireSpec, Timeouts, ToolRequirements, WorkloadSpec,
};
pub use load::{DEFAULT, embedded, load};
pub use reader::At;
pub use resolve::WITHOUT_IDENTITIES;
pub use syntax::duration;
pub use write::{SpireVersions, write_versions};

#[cfg(test)]
mod tests;
