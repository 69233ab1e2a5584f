//! Disasters: what of SPIRE's state is lost, what that means, and the way back.
//!
//! | file | says |
//! |---|---|
//! | [`loss`] | the table: database kept, older or lost; keys kept or lost; by version: what signs afterwards, who trusts it |
//! | [`version`] | which versions are the current ones when little or nothing runs |
//! | [`facts`] | what was seen |
//! | [`rows`] | what each plane is seen to be |
//! | [`diagnosis`] | what of it is broken, and which parts the way back has |
//! | [`score`] | how a drill went |
//!
//! Everything here is pure. Source of the rules: the facts, sections 1, 5 and 9.

pub mod diagnosis;
pub mod facts;
pub mod loss;
pub mod rows;
pub mod score;
#[cfg(test)]
mod tests;
pub mod version;

pub use diagnosis::{Condition, Diagnosis, Part, Plane, diagnose};
pub use facts::Facts;
pub use loss::{Database, Keys, Loss, Outlook, Reaction, outlook, reaction};
pub use score::{Budget, Scorecard};
pub use version::{Current, Known, Revision, current};

use serde::{Deserialize, Serialize};

/// A disaster on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Drill {
    /// One server pod is deleted.
    #[serde(rename = "drill-pod")]
    Pod,
    /// The servers' StatefulSet is deleted.
    #[serde(rename = "drill-servers")]
    Servers,
    /// The agents' DaemonSet is deleted.
    #[serde(rename = "drill-agents")]
    Agents,
    /// The volume of the database is lost.
    #[serde(rename = "drill-database")]
    Database,
    /// The volumes with every server's keys are lost.
    #[serde(rename = "drill-keys")]
    Keys,
    /// The worker node stops.
    #[serde(rename = "drill-node")]
    Node,
}

impl Drill {
    /// All of them, mildest first.
    pub const ALL: [Drill; 6] = [Drill::Pod, Drill::Servers, Drill::Agents, Drill::Node, Drill::Keys, Drill::Database];

    /// As it is typed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Drill::Pod => "pod",
            Drill::Servers => "servers",
            Drill::Agents => "agents",
            Drill::Database => "database",
            Drill::Keys => "keys",
            Drill::Node => "node",
        }
    }

    /// What is done, in a few words.
    #[must_use]
    pub fn does(self) -> &'static str {
        match self {
            Drill::Pod => "delete the pod of one SPIRE server",
            Drill::Servers => "delete the StatefulSet of the SPIRE servers",
            Drill::Agents => "delete the DaemonSet of the SPIRE agents",
            Drill::Database => "lose the volume of the database",
            Drill::Keys => "lose the keys of every SPIRE server",
            Drill::Node => "stop the worker node",
        }
    }

    /// What it takes away of SPIRE's state.
    #[must_use]
    pub fn loss(self) -> Loss {
        match self {
            Drill::Pod | Drill::Servers | Drill::Agents | Drill::Node => Loss::NONE,
            Drill::Database => Loss { database: Database::Lost, keys: Keys::Kept },
            Drill::Keys => Loss { database: Database::Kept, keys: Keys::Lost },
        }
    }

    /// What an operator loses or misses until it is recovered, one line each.
    #[must_use]
    pub fn stakes(self) -> Vec<&'static str> {
        let renewals = "until it is recovered nothing is renewed, and new pods get no identity";
        match self {
            Drill::Pod => vec!["one server of several: the others serve on, and the StatefulSet makes it again"],
            Drill::Servers => vec!["no data: claims and database stay", renewals],
            Drill::Agents => vec!["no data", "the Workload API is gone from every node", renewals],
            Drill::Node => vec!["no data: the node's disks stay", "everything that runs on the node stops"],
            Drill::Keys => vec![
                "the private keys of every authority: each server makes a new authority",
                "the old authorities stay trusted until they expire, and nothing can revoke them before",
                "agents that do not know the new authorities have to be restarted",
            ],
            Drill::Database => vec![
                "registration entries that were made by hand, federation, join tokens",
                "the bundle: a new root of trust; agents and workloads have to trust it anew",
                "the servers' own record of their authorities",
            ],
        }
    }
}

impl std::fmt::Display for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
