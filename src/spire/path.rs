//! A change of versions of any distance as the shortest chain of legal hops. Pure.
//!
//! A hop moves the images of servers and agents by at most one minor version, or the chart, and never both: a chart
//! writes configuration that not every SPIRE accepts, so on the way up images go first, and on the way down the chart.
//! Every hop is a sequence of [`Step`]s ([`Hop::steps`]), each legal by [`crate::spire::policy`] from the state that the
//! steps before it lead to. Which of the shortest chains is taken is said in `search`.

#[cfg(test)]
mod model;
mod plan;
mod search;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::spire::charts::{self, Trap};
use crate::spire::policy::{Row, Step};
use crate::spire::releases;

pub use plan::{Answer, Goal, Options, Outcome, TrapNote, plan, what_if};

/// In which order the parts of a hop go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Servers, gate, agents: the way up.
    ServersFirst,
    /// Agents, gate, servers: the way down.
    AgentsFirst,
    /// Agents alone: they are not where they should be.
    AgentsOnly,
    /// Servers alone: the agents are there already, or there are none.
    ServersOnly,
    /// The chart alone; the images stay.
    Chart,
    /// Agents, gate, then: servers stopped, database restored, servers started at the older version.
    Restore,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::ServersFirst => "servers, then agents",
            Order::AgentsFirst => "agents, then servers",
            Order::AgentsOnly => "agents only",
            Order::ServersOnly => "servers only",
            Order::Chart => "chart",
            Order::Restore => "agents, then database and servers",
        })
    }
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The SPIRE version before; of several, the one farthest from `to`.
    pub from: Version,
    /// And after.
    pub to: Version,
    /// The version of the chart `spire` before, if it is known.
    pub chart_from: Option<Version>,
    /// And after.
    pub chart: Option<Version>,
    /// The version of the chart `spire-crds` to bring in before, if it moves. It never moves back: the newer
    /// definitions serve older charts too.
    pub crds: Option<Version>,
    /// What goes first.
    pub order: Order,
    /// Whether it can be undone without a dump of the database: whether every version that the chain came by, its
    /// beginning included, can be gone back to after it if it could before it.
    pub reversible: bool,
    /// The versions of the chain that cannot be gone back to any more without a dump taken before this hop.
    #[serde(default)]
    pub closes: Vec<Version>,
    /// What a chart hop has to be prepared for.
    #[serde(default)]
    pub traps: Vec<Trap>,
    /// The backup of a restore hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// How long it takes, in seconds, roughly.
    pub expected_s: u64,
    /// What is worth knowing about it.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Hop {
    /// A hop without a chart, that can be undone.
    #[must_use]
    pub fn new(from: Version, to: Version, order: Order) -> Self {
        Hop {
            from,
            to,
            chart_from: None,
            chart: None,
            crds: None,
            order,
            reversible: true,
            closes: Vec::new(),
            traps: Vec::new(),
            restore: None,
            expected_s: 0,
            notes: Vec::new(),
        }
    }

    /// Its steps in order, as the policy judges them. Empty if it names a version that was never published.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let Some(to) = releases::find(&self.to) else { return Vec::new() };
        let chart = || self.chart.as_ref().and_then(charts::find).map(Step::Chart);
        match self.order {
            Order::ServersFirst => vec![Step::Servers(to), Step::Agents(to)],
            Order::AgentsFirst => vec![Step::Agents(to), Step::Servers(to)],
            Order::AgentsOnly => vec![Step::Agents(to)],
            Order::ServersOnly => vec![Step::Servers(to)],
            Order::Chart => chart().into_iter().collect(),
            Order::Restore => {
                let row = self.restore.as_ref().map(|restore| restore.backup.row());
                row.map(|row| vec![Step::Agents(to), Step::Restore { release: to, row }]).unwrap_or_default()
            }
        }
    }
}

/// What a restore hop works from, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The backup.
    pub backup: BackupFacts,
    /// What is gone afterwards, one sentence each.
    pub lost: Vec<String>,
}

/// What is known of a backup of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// By which its owner finds it.
    #[serde(default)]
    pub name: String,
    /// The schema in it.
    pub schema: u32,
    /// The code version in it.
    pub code_version: Version,
    /// The versions of the servers that ran when it was taken.
    #[serde(default)]
    pub servers: Vec<Version>,
    /// When it was taken.
    pub taken_at: Timestamp,
}

impl BackupFacts {
    /// Its row `migrations`.
    #[must_use]
    pub fn row(&self) -> Row {
        Row { schema: self.schema, code_version: self.code_version.clone() }
    }
}

/// What becomes of the chart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ChartChoice {
    /// It stays; only images move.
    #[default]
    Keep,
    /// It moves along, to the newest chart that was made for the target or an older SPIRE.
    Follow,
    /// It moves to this version.
    Version(Version),
}

impl FromStr for ChartChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "keep" => Ok(ChartChoice::Keep),
            "follow" => Ok(ChartChoice::Follow),
            version => match version.strip_prefix("spire-").unwrap_or(version).parse() {
                Ok(version) => Ok(ChartChoice::Version(version)),
                Err(_) => Err("expected `keep`, `follow` or a version of the chart like `0.30.0`".to_owned()),
            },
        }
    }
}

impl fmt::Display for ChartChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChartChoice::Keep => f.write_str("keep"),
            ChartChoice::Follow => f.write_str("follow"),
            ChartChoice::Version(version) => version.fmt(f),
        }
    }
}

impl Serialize for ChartChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How large the installation is, for the expected times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Server pods.
    pub servers: u64,
    /// Nodes with an agent.
    pub nodes: u64,
}

impl Default for Size {
    fn default() -> Self {
        Size { servers: 3, nodes: 1 }
    }
}

// As measured with three servers on one node: a server of a StatefulSet is replaced in 12 to 14 s, a new SVID comes
// 7 s later. An agent serves at once and is Ready after a minute, which the DaemonSet waits for from node to node.
impl Size {
    pub(super) fn expected_s(self, order: Order) -> u64 {
        let servers = 14 * self.servers + 7;
        let agents = 62 * self.nodes.saturating_sub(1) + 10;
        match order {
            Order::ServersFirst | Order::AgentsFirst => servers + agents,
            Order::AgentsOnly => agents,
            Order::ServersOnly => servers,
            Order::Chart => servers + agents + 5,
            Order::Restore => servers + agents + 30,
        }
    }
}
