//! What is remembered of a compromise: which authorities were there when it was noticed, and what was done since.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Authority, KeyType, Orphan, Rekey, Slots, Verb, View};
use crate::spire::planes::Planes;

/// For one type of key: what is to go. Of all that is remembered, only this decides anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The authorities that were there at the start. Whatever is in none of these came later, and is good: made by the
    /// rotation, or by the servers' own rotator since.
    pub compromised: BTreeSet<String>,
    /// Those that this rotation prepared, and the pods that did it.
    #[serde(default)]
    pub prepared: BTreeMap<String, String>,
    /// When each kind of thing was done last, on whichever server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub done_at: BTreeMap<Verb, Timestamp>,
    /// If only one server's keys are to go: its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

impl Record {
    /// From what is there now. Of one server: what is in its slots; of all: what is in any slot, or in the bundle.
    #[must_use]
    pub fn open(view: &View, server: Option<String>) -> Self {
        let compromised = match &server {
            None => view.ids(),
            Some(pod) => {
                let slots = view.servers.get(pod).and_then(|seen| seen.as_ref().ok());
                let ids = slots.into_iter().flat_map(Slots::authorities).map(|authority| authority.id.clone());
                ids.collect()
            }
        };
        Record { compromised, server, ..Record::default() }
    }

    /// Whether the server in that pod takes part.
    #[must_use]
    pub fn covers(&self, pod: &str) -> bool {
        self.server.as_ref().is_none_or(|server| server == pod)
    }

    /// Whether an authority is to go: it was there at the start, or one that was signed it.
    #[must_use]
    pub fn is_compromised(&self, authority: &Authority) -> bool {
        self.compromised.contains(&authority.id) || self.compromised.contains(authority.root())
    }
}

/// Something that was done, with what the server answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// In words.
    pub what: String,
}

/// The authorities of one server, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The server's pod.
    pub pod: String,
    /// Of which type.
    pub key: KeyType,
    /// What it signed with when the compromise was noticed.
    pub before: Option<Authority>,
    /// What it signs with now.
    pub after: Option<Authority>,
}

/// A workload's SVIDs during the rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reissued {
    /// The pod.
    pub pod: String,
    /// How many SVIDs it received since the start.
    pub renewals: u64,
    /// The authority that its SVID chains to now, if it is known.
    pub authority: Option<String>,
    /// Milliseconds without a valid SVID, if they are known.
    pub no_valid_svid_ms: Option<u64>,
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was not ended: the next `rotate` goes on with it.
    Open,
    /// New keys sign, the old ones are gone from every plane.
    Complete,
    /// New keys sign, but not all of the old ones can be revoked.
    Partial,
}

/// A rotation, from the moment at which the compromise was noticed. Written down before the first change, and after
/// each one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// [`Incident::SCHEMA`].
    pub schema: u32,
    /// Its name, and that of its directory: the time at which it was opened.
    pub id: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// How it stands.
    pub outcome: Outcome,
    /// The way, if the servers were not asked to rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey: Option<Rekey>,
    /// What is to go, for each type of key that is rotated.
    pub keys: BTreeMap<KeyType, Record>,
    /// What was done.
    #[serde(default)]
    pub timeline: Vec<Note>,
    /// What each server signed with, and signs with.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Suspect authorities that can no longer be revoked.
    #[serde(default)]
    pub orphans: BTreeMap<KeyType, Vec<Orphan>>,
    /// SVIDs of the workload's pods.
    #[serde(default)]
    pub workloads: Vec<Reissued>,
    /// Milliseconds that pods were without a valid SVID, all together, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Milliseconds from the first workload pod that held an SVID of a new authority to the last. Meanwhile one that had
    /// it and one that had not did not accept each other. Only known, and only there, without a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_ms: Option<u64>,
    /// When the last SVID that a suspect X.509 authority signed runs out, at the latest: there is no list of those that
    /// were issued, and no revocation list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_svid_until: Option<Timestamp>,
    /// Every plane when it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planes_before: Option<Planes>,
    /// Every plane when it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planes_after: Option<Planes>,
}

impl Incident {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;

    /// Opens one.
    #[must_use]
    pub fn open(now: Timestamp, keys: BTreeMap<KeyType, Record>) -> Self {
        Incident {
            schema: Self::SCHEMA,
            id: now.strftime("%Y%m%dT%H%M%SZ").to_string(),
            opened_at: now,
            closed_at: None,
            outcome: Outcome::Open,
            rekey: None,
            keys,
            timeline: Vec::new(),
            changes: Vec::new(),
            orphans: BTreeMap::new(),
            workloads: Vec::new(),
            downtime_ms: None,
            split_ms: None,
            last_svid_until: None,
            planes_before: None,
            planes_after: None,
        }
    }

    /// Remembers what each server signs with: the first time as what was before, later as what is now.
    pub fn saw(&mut self, key: KeyType, view: &View) {
        for (pod, seen) in &view.servers {
            let Ok(slots) = seen else { continue };
            match self.changes.iter_mut().find(|change| change.pod == *pod && change.key == key) {
                Some(change) => change.after = Some(slots.active.clone()),
                None => {
                    self.changes.push(Change {
                        pod: pod.clone(),
                        key,
                        before: Some(slots.active.clone()),
                        after: None,
                    });
                }
            }
        }
    }

    /// Adds to the timeline.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        self.timeline.push(Note { at, what: what.into() });
    }
}
