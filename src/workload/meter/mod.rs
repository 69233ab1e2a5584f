//! The continuity meter: how long pods of the workload were without a valid identity while something changed.
//!
//! Pure: it is given what the pods logged ([`Line`]) and when they lived, and judges every moment of a window.
//!
//! | file | purpose |
//! |---|---|
//! | `timeline` | what a pod held, and how it stood with its agent, from moment to moment |
//! | `judge` | whether what it held was valid at a moment |
//! | `tally` | the moments added up |
//! | [`report`] | the result |
//!
//! **When an SVID is valid**: it is of the expected identity, within its dates, and the authority that its chain leads
//! to is in the bundle of every pod that holds one at that moment, its own included. The log has key ids, not
//! certificates; signatures were checked by the workload itself when the SVID arrived ([`Update::verified`]). That an
//! authority in a bundle is past its own dates need not be looked for: SPIRE issues no SVID that outlives its authority.
//!
//! **Clocks**: dates are compared with the clock of the pod that holds the SVID, as any verifier does, without
//! tolerance. Bundles of different pods are compared across processes and nodes: there a pod counts as trusting what
//! it trusted at any moment within [`Observation::tolerance`] of the one in question. An agent does not give an update
//! to all its pods in the same instant, and the clocks of two nodes differ. So a lack of trust is reported if it
//! lasted longer than that, and up to twice the tolerance shorter than it was.
//!
//! **What is not known is not zero**: a span of time for which a pod's log is missing makes every figure that it could
//! change [`Figure::Unknown`], also those of other pods, since their SVIDs have to be trusted by that pod.
//! Holes are found by the numbers of the updates ([`Update::sequence`]).

mod judge;
pub mod report;
mod tally;
mod timeline;
mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use crate::workload::record::{Line, Update};
pub use report::{Cause, Figure, Gap, Issuers, NewPods, PodReport, Report, SCHEMA, Silence, Total, Unknown, Verdict};
pub use tally::measure;

/// What [`Observation::tolerance`] should be, where nothing better is known about the clocks of the nodes. Agents give
/// an update to their pods within milliseconds, and NTP keeps clocks within tens of them.
pub const TOLERANCE: SignedDuration = SignedDuration::from_millis(500);

/// A span of time; its end does not belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

/// Everything that is known about the workload's pods in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The window that is measured. What was logged before it says what the pods held when it began.
    pub window: Window,
    /// The identity that the pods should hold; if absent, whichever is their default.
    pub spiffe_id: Option<String>,
    /// The pods, in any order. One that ended before the window does no harm.
    pub pods: Vec<Pod>,
    /// What could not be observed and belongs to no pod of the list: pods that nobody remembers.
    pub lost: Vec<String>,
    /// How far the clocks of two pods may differ; see the module's text.
    pub tolerance: SignedDuration,
}

/// A pod of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The lives of the container that holds the SVID, oldest first: a restart begins a new one. Empty as long as the
    /// container has not started.
    pub lives: Vec<Life>,
}

/// From a container's start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// When it started. Kubernetes tells it to the second.
    pub started_at: Timestamp,
    /// When it ended, unless it lives on.
    pub ended_at: Option<Timestamp>,
    /// Whether the log was read from its beginning. If not, it was read from some moment on, which costs nothing if
    /// that shows what was held when the window began.
    pub whole: bool,
    /// Our lines in its log, oldest first.
    pub lines: Vec<Line>,
    /// What of its log is missing beside that, if anything.
    pub unread: Option<Unread>,
}

/// The rest of a log, which could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The last moment of which the log is known; absent: none of it is.
    pub since: Option<Timestamp>,
    /// Why, as a user reads it.
    pub why: String,
}
