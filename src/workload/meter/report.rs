//! What the meter found, as data: for the terminal, for JSON, for the gates.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Window;
use crate::workload::record::State;

/// The version of the report's form.
pub const SCHEMA: u32 = 1;

/// A number of milliseconds or of things, or that it is not known.
///
/// In JSON a number, or `{"unknown": "why", "at_least": 0}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// That many. Milliseconds are rounded up, so that nothing that was seen becomes zero.
    Known(u64),
    /// Data was lost.
    Unknown {
        /// Why, as a user reads it.
        unknown: String,
        /// What was seen in the data that is there.
        at_least: u64,
    },
}

impl Figure {
    /// `seen`, unless there is a reason why that need not be all.
    #[must_use]
    pub fn new(seen: u64, unknown: Option<String>) -> Self {
        match unknown {
            None => Figure::Known(seen),
            Some(unknown) => Figure::Unknown { unknown, at_least: seen },
        }
    }

    /// The number, if it is known.
    #[must_use]
    pub fn known(&self) -> Option<u64> {
        match self {
            Figure::Known(number) => Some(*number),
            Figure::Unknown { .. } => None,
        }
    }

    /// What was seen, be it all or not.
    #[must_use]
    pub fn at_least(&self) -> u64 {
        match self {
            Figure::Known(number) | Figure::Unknown { at_least: number, .. } => *number,
        }
    }

    /// Why it is not known.
    #[must_use]
    pub fn why_unknown(&self) -> Option<&str> {
        match self {
            Figure::Known(_) => None,
            Figure::Unknown { unknown, .. } => Some(unknown),
        }
    }
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The window that was measured.
    pub window: Window,
    /// The identity that was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// A lack of trust between pods that lasted no longer is not seen; see [`super::Observation::tolerance`].
    pub tolerance_ms: u64,
    /// In one word.
    pub verdict: Verdict,
    /// All pods together.
    pub total: Total,
    /// Pod by pod, by name.
    pub pods: Vec<PodReport>,
}

/// Whether a pod that had an identity was ever without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Never, and all data is there.
    Unbroken,
    /// At some time, whatever else is not known.
    Broken,
    /// Not that anybody could know.
    Unknown,
}

/// All pods together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// How many pods lived in the window.
    pub pods: usize,
    /// Pod time that was judged: the sum over all pods. The evidence that the figures rest on.
    pub judged_ms: u64,
    /// Pod time of which nothing is known.
    pub unknown_ms: u64,
    /// Pod time without a valid SVID, in pods that had had one or were there before the window.
    pub no_valid_svid_ms: Figure,
    /// The longest such time of one pod on end.
    pub longest_no_valid_svid_ms: Figure,
    /// Pod time in which no stream of updates came from the Workload API, whatever the reason: nothing could have been
    /// renewed. Workloads go on with the SVID that they have.
    pub api_silent_ms: Figure,
    /// The longest such time of one pod on end.
    pub longest_api_silent_ms: Figure,
    /// What started within the window.
    pub new_pods: NewPods,
    /// SVIDs that replaced an earlier one. An agent that restarts gives the same one again; that does not count.
    pub renewals: Figure,
    /// Key ids of the authorities that had issued what was held when the window began.
    pub issuers_before: Issuers,
    /// And when it ended.
    pub issuers_after: Issuers,
}

/// Pods that started within the window, and how long they waited for their first SVID. A container that was started
/// again counts as well: it begins with nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPods {
    /// How many starts.
    pub started: u64,
    /// From start to first SVID, the sum of all. An end of the pod or of the window ends the wait.
    pub without_identity_ms: Figure,
    /// The longest wait.
    pub longest_without_identity_ms: Figure,
    /// How many were still waiting when they or the window ended.
    pub still_without_identity: u64,
    /// How many pods were there whose container had not started when the window ended.
    pub not_started: u64,
}

/// Key ids of authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuers {
    /// Each once, sorted.
    pub key_ids: Vec<String>,
    /// Why these may not be all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When its container started for the first time, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended, if it did so before the window did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// See [`Total::judged_ms`].
    pub judged_ms: u64,
    /// See [`Total::unknown_ms`].
    pub unknown_ms: u64,
    /// See [`Total::no_valid_svid_ms`].
    pub no_valid_svid_ms: Figure,
    /// See [`Total::api_silent_ms`].
    pub api_silent_ms: Figure,
    /// How often its container started within the window.
    pub starts: u64,
    /// See [`NewPods::without_identity_ms`].
    pub without_identity_ms: Figure,
    /// See [`Total::renewals`].
    pub renewals: Figure,
    /// See [`Total::issuers_before`].
    pub issuers_before: Issuers,
    /// See [`Total::issuers_after`].
    pub issuers_after: Issuers,
    /// When it had no valid SVID, and why.
    pub gaps: Vec<Gap>,
    /// When no updates could come, and why.
    pub silences: Vec<Silence>,
    /// When it had started and waited for its first SVID.
    pub waits: Vec<Window>,
    /// Of which times nothing is known, and why.
    pub unknowns: Vec<Unknown>,
}

/// A time without a valid SVID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its first moment.
    pub begin: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
}

/// Why there was no valid SVID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// No SVID was ever received.
    NeverReceived,
    /// SVIDs were received, none of them of the expected identity.
    OtherIdentity {
        /// Of this one instead.
        spiffe_id: String,
    },
    /// Its dates are over.
    Expired,
    /// Its dates begin later, by the pod's clock.
    NotYetValid,
    /// The signatures of its chain do not hold.
    BadSignature,
    /// That pod's bundle did not have the authority that the chain leads to. If there are several such pods, the
    /// first by name.
    NotTrustedBy {
        /// The pod's name.
        pod: String,
    },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::NeverReceived => f.write_str("never received"),
            Cause::OtherIdentity { spiffe_id } => write!(f, "other identity {spiffe_id}"),
            Cause::Expired => f.write_str("expired"),
            Cause::NotYetValid => f.write_str("not yet valid"),
            Cause::BadSignature => f.write_str("bad signature"),
            Cause::NotTrustedBy { pod } => write!(f, "not trusted by {pod}"),
        }
    }
}

/// A time without a stream of updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its first moment.
    pub begin: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
    /// What the pod last said about the connection; absent if it had said nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// A time of which nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// Its first moment.
    pub begin: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
    /// What was lost: the SVID (`svid`), the connection (`connection`).
    pub of: Lost,
    /// Why, as a user reads it.
    pub why: String,
}

/// What is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// Whether it held a valid SVID.
    Svid,
    /// Whether updates could come.
    Connection,
}
