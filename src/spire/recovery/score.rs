//! How a drill went: how long until it was seen, until it was mended, and what it cost.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::version::Current;
use crate::workload::meter::{Figure, NewPods, Report, Verdict};

/// The version of the scorecard's format.
pub const SCHEMA: u32 = 1;

/// How long an outage could last before the first workload is without: what its lifetimes allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// When the first SVID that is held now expires.
    pub first_expiry: Timestamp,
    /// Milliseconds that there were: from the outage's beginning, or from the SVID's issue if that is not known.
    pub whole_ms: u64,
    /// Milliseconds of them that are gone.
    pub used_ms: u64,
}

impl Budget {
    /// Of an outage from `begin` to `now`, when the first SVID expires at `first_expiry`.
    #[must_use]
    pub fn new(begin: Timestamp, now: Timestamp, first_expiry: Timestamp) -> Self {
        let whole_ms = ms(first_expiry.duration_since(begin));
        Budget { first_expiry, whole_ms, used_ms: ms(now.duration_since(begin)).min(whole_ms) }
    }

    /// Of the SVID that expires first: its life, and how much of it is over.
    #[must_use]
    pub fn left(facts: &Facts) -> Option<Self> {
        let held = facts.workloads.iter().filter_map(|workload| workload.held.as_ref());
        let first = held.min_by_key(|held| held.not_after)?;
        Some(Budget::new(first.not_before, facts.at, first.not_after))
    }

    /// Whether half of it is gone, or more. SVIDs are renewed at half of their life, so a healthy one never gets there.
    #[must_use]
    pub fn half_is_gone(&self) -> bool {
        self.used_ms.saturating_mul(2) >= self.whole_ms
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.used_ms >= self.whole_ms
    }
}

fn ms(duration: SignedDuration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or_default()
}

/// What a workload pod went without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downtime {
    /// Its pod.
    pub pod: String,
    /// Milliseconds without a valid SVID.
    pub no_valid_svid_ms: Figure,
    /// Milliseconds without a stream from the Workload API: nothing could have been renewed.
    pub api_silent_ms: Figure,
}

/// How a drill, or an outage, went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scorecard {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Always `scorecard`.
    pub kind: String,
    /// The drill; absent if the disaster was nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<String>,
    /// When it began, as far as that is known.
    pub began_at: Timestamp,
    /// Milliseconds from there until it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_ms: Option<u64>,
    /// Milliseconds from there until everything was proven to be back (RTO).
    pub recovered_ms: u64,
    /// What was seen to be broken.
    pub broken: Vec<String>,
    /// The versions that it was brought back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
    /// The continuity meter's verdict.
    pub verdict: Verdict,
    /// Pod by pod.
    pub workloads: Vec<Downtime>,
    /// What new pods waited for.
    pub new_pods: NewPods,
    /// SPIFFE ids that had an entry before and have none now.
    pub identities_lost: Vec<String>,
    /// What the lifetimes of SVIDs allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Whether a backup covers what was lost, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover: Option<String>,
}

impl Scorecard {
    /// The pods' part of it, from the meter's report.
    #[must_use]
    pub fn downtimes(report: &Report) -> Vec<Downtime> {
        let of = |pod: &crate::workload::meter::PodReport| Downtime {
            pod: pod.name.clone(),
            no_valid_svid_ms: pod.no_valid_svid_ms.clone(),
            api_silent_ms: pod.api_silent_ms.clone(),
        };
        report.pods.iter().map(of).collect()
    }
}
