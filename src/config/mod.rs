//! `lab.toml`: as written ([`file`]), validated ([`lab`]), and every problem found on the way at once
//! ([`problems`]).

pub mod lab;

pub use lab::{
    CaSubject, ChartRef, ClusterSpec, DatabaseSpec, Identities, ImageSpec, Lab, ManifestRef, MonitoringSpec, Provider,
    PullPolicy, SpireSpec, Timeouts, ToolRequirements, WorkloadSpec,
};
