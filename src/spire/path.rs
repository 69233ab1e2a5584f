//! A change of versions as a chain of hops.

use semver::Version;
use serde::{Deserialize, Serialize};

/// In which order the parts of a hop go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Servers, gate, agents: the way up.
    ServersFirst,
    /// Agents, gate, servers: the way down.
    AgentsFirst,
    /// Agents alone: they are behind.
    AgentsOnly,
    /// Servers alone.
    ServersOnly,
    /// The chart alone; the images stay.
    Chart,
    /// Servers stopped, database restored, servers started at the older version.
    Restore,
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The SPIRE version before.
    pub from: Version,
    /// And after.
    pub to: Version,
    /// The version of the chart `spire` before.
    pub chart_from: Option<Version>,
    /// And after.
    pub chart: Option<Version>,
    /// The version of the chart `spire-crds` that goes with it, from chart line 0.14 on.
    pub crds: Option<Version>,
    /// What goes first.
    pub order: Order,
    /// Whether it can be undone without a dump of the database.
    pub reversible: bool,
    /// How long it takes, in seconds, roughly.
    pub expected_s: u64,
}
