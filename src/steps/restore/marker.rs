//! How far a restore has come: a mark on the servers' namespace.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::Cluster;
use crate::steps::{mark, reach};

/// The annotation.
const KEY: &str = "coastal-containers.example/restore";

/// A restore that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which backup: see [`crate::plan::Restoration::id`].
    pub backup: String,
    /// The archive, as it was named.
    pub file: String,
    /// The archive with what was there before, if anything was.
    pub aside: Option<String>,
    /// What is done.
    pub phase: Phase,
    /// Agents that hold another bundle have not been restarted yet.
    pub agents_begin_anew: bool,
    /// Since when.
    pub since: Timestamp,
}

/// What is done of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What was there is kept.
    Aside,
    /// The database is back.
    Database,
    /// The keys are back, too.
    Keys,
}

/// The restore that is under way, if one is.
///
/// # Errors
/// The cluster does not answer, or somebody has changed the annotation.
pub async fn read(cx: &StepContext, cluster: &Cluster) -> Result<Option<Marker>, Failure> {
    mark::read(cx, cluster, KEY).await
}

/// Whether no restore was cut off: while one was, database and keys need not belong together, and servers that are
/// started on them would make new authorities.
///
/// # Errors
/// One was.
pub async fn none_is_open(cx: &StepContext) -> Result<(), Failure> {
    let Some(marker) = read(cx, &reach::cluster(cx).await?).await? else { return Ok(()) };
    Err(Failure::refused("a restore was cut off: what is there now is part old, part new")
        .fact(format!("begun {:.0}, from {}", marker.since, marker.file))
        .next(format!("`coastal restore {}` goes on with it", marker.file)))
}

/// Writes down how far it has come; with nothing, that none is under way.
///
/// # Errors
/// The cluster does not take it.
pub async fn write(cx: &StepContext, cluster: &Cluster, marker: Option<&Marker>) -> Result<(), Failure> {
    mark::write(cx, cluster, KEY, marker).await
}
