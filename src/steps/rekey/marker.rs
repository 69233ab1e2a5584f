//! How far new keys have come: a mark on the servers' namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::plan::rekey_command;
use crate::spire::rotation::{Incident, KeyType, Record, Rekey};
use crate::steps::rotate::record;
use crate::steps::{mark, reach};

/// The annotation.
const KEY: &str = "coastal-containers.example/rekey";

/// New keys that are under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// By which way.
    pub method: Rekey,
    /// The id of the incident's record, on the machine where it was begun.
    pub incident: String,
    /// Since when.
    pub since: Timestamp,
    /// The archive with what was there before, once it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// What is done.
    pub phase: Phase,
    /// Ids of the authorities that are to go. Whatever is not among them is new.
    pub outgoing: BTreeMap<KeyType, BTreeSet<String>>,
    /// When the servers were seen to run with new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_at: Option<Timestamp>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What is to go is written down.
    Begun,
    /// What was there is kept.
    Aside,
    /// The keys are away.
    Keys,
    /// The bundle is, too.
    Bundle,
    /// The servers run with new keys.
    Served,
    /// The agents have begun anew.
    Agents,
}

impl Marker {
    /// The ids of a type that are to go.
    #[must_use]
    pub fn outgoing(&self, key: KeyType) -> BTreeSet<String> {
        self.outgoing.get(&key).cloned().unwrap_or_default()
    }

    /// Whether everything is done that the servers had to be down for.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        self.phase >= if self.method == Rekey::NewBundle { Phase::Bundle } else { Phase::Keys }
    }

    /// The record of it; on another machine than it was begun on, out of what is known here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn incident(self, incidents: &Path) -> Result<Incident, Failure> {
        if let Some(incident) = record::read(incidents, &self.incident)? {
            return Ok(incident);
        }
        let record = |compromised| Record { compromised, ..Record::default() };
        let keys = self.outgoing.into_iter().map(|(key, ids)| (key, record(ids))).collect();
        let mut incident = Incident::open(self.since, keys);
        (incident.id, incident.rekey) = (self.incident, Some(self.method));
        Ok(incident)
    }

    /// Why nothing else may be done now.
    #[must_use]
    pub fn refusal(&self) -> Failure {
        let Marker { method, since, aside, .. } = self;
        let failure = Failure::refused("`rotate --rekey` was cut off: keys may be away, and servers down for it")
            .fact(format!("begun {since:.0}, by way `{method}`"))
            .next(format!("forward: `{}` goes on with it", rekey_command(*method)));
        match aside {
            Some(aside) => failure.next(format!("back: `coastal restore {aside}` brings back what was there before")),
            None => failure,
        }
    }
}

/// The new keys that are under way, if there are any.
///
/// # Errors
/// The cluster does not answer, or somebody has changed the annotation.
pub async fn read(cx: &StepContext, cluster: &Cluster) -> Result<Option<Marker>, Failure> {
    mark::read(cx, cluster, KEY).await
}

/// Writes down how far they have come; with nothing, that none are under way.
///
/// # Errors
/// The cluster does not take it.
pub async fn write(cx: &StepContext, cluster: &Cluster, marker: Option<&Marker>) -> Result<(), Failure> {
    mark::write(cx, cluster, KEY, marker).await
}

/// Whether no making of new keys was cut off: meanwhile servers may be down for it, keys away and agents without trust.
///
/// # Errors
/// One was.
pub async fn none_is_open(cx: &StepContext) -> Result<(), Failure> {
    match read(cx, &reach::cluster(cx).await?).await? {
        None => Ok(()),
        Some(marker) => Err(marker.refusal()),
    }
}
