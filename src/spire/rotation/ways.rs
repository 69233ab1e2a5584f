//! Whether the versions that run can be rotated, and what there is instead.

use std::fmt;

use semver::Version;
use serde::{Deserialize, Serialize};

/// The first SPIRE whose servers taint and revoke, and whose agents heed it (facts, sections 3 and 4).
pub const FORCED_ROTATION: Version = Version::new(1, 11, 0);
/// The first whose servers have keys for WIT-SVIDs, for which there is no command.
const WIT: Version = Version::new(1, 14, 0);

/// A way to other keys without `localauthority` (facts, section 4). It works with every SPIRE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rekey {
    /// Each server's keys are taken away; it makes new ones. The old authorities stay trusted until they expire.
    #[serde(rename = "new")]
    NewKeys,
    /// As well, the trust domain's bundle is taken out of the database: nothing old is trusted any more.
    #[serde(rename = "revoke")]
    NewBundle,
}

/// As `rotate --rekey` takes it.
impl fmt::Display for Rekey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Rekey::NewKeys => "new",
            Rekey::NewBundle => "revoke",
        })
    }
}

impl Rekey {
    /// For whom it is an outage, as far as it is known beforehand.
    #[must_use]
    pub fn outage(self) -> &'static str {
        match self {
            Rekey::NewKeys => {
                "no new SVIDs while the servers are down; then, until its agent has restarted, each node rejects what was given out since on others. SVIDs that are held stay valid"
            }
            Rekey::NewBundle => {
                "no new SVIDs while the servers are down; then, from the first workload with a new SVID to the last, those that have one and those that have not reject each other"
            }
        }
    }

    /// What it means, in a sentence.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Rekey::NewKeys => {
                "new keys, old trust: stop all servers, remove each one's keys.json (and journal.pem up to 1.9), start them, restart agents and workloads. While the servers are down nobody gets a new SVID; until each agent has restarted, what others were given since is not accepted on its node. What the stolen key signs is TRUSTED until the old authority expires: this is no revocation"
            }
            Rekey::NewBundle => {
                "new keys, new trust: stop all servers, remove their keys, delete the trust domain's row of table `bundles`, start them, restart all agents and all workloads. An OUTAGE: from the first new server until each workload has restarted, old and new SVIDs do not accept each other"
            }
        }
    }
}

/// What the versions allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// All of it.
    Rotate {
        /// Whether there are keys that cannot be rotated: those of WIT-SVIDs.
        wit: bool,
    },
    /// Servers of that version have no command for it.
    ServersTooOld(Version),
    /// The servers would, but agents of that version do not heed a taint: they keep what it signed.
    AgentsTooOld(Version),
    /// A version is not known.
    Unknown(String),
}

/// What the versions of servers and agents allow; by their pods, none where a process does not tell.
#[must_use]
pub fn way(servers: &[(String, Option<Version>)], agents: &[(String, Option<Version>)]) -> Way {
    let silent = servers.iter().chain(agents).find(|(_, version)| version.is_none());
    if let Some(oldest) = oldest(servers)
        && *oldest < FORCED_ROTATION
    {
        return Way::ServersTooOld(oldest.clone());
    }
    if let Some((pod, _)) = silent {
        return Way::Unknown(pod.clone());
    }
    match oldest(agents) {
        Some(oldest) if *oldest < FORCED_ROTATION => Way::AgentsTooOld(oldest.clone()),
        _ => Way::Rotate { wit: servers.iter().flat_map(|(_, version)| version).any(|version| *version >= WIT) },
    }
}

fn oldest(pods: &[(String, Option<Version>)]) -> Option<&Version> {
    pods.iter().filter_map(|(_, version)| version.as_ref()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_servers_and_agents_must_know_of_it() {
        let pods = |versions: &[&str]| {
            versions.iter().map(|text| ((*text).to_owned(), Version::parse(text).ok())).collect::<Vec<_>>()
        };
        for (servers, agents, expected) in [
            (vec!["1.11.3", "1.11.0"], vec!["1.11.3"], Way::Rotate { wit: false }),
            (vec!["1.14.0", "1.13.6"], vec!["1.13.6"], Way::Rotate { wit: true }),
            (vec!["1.11.3", "1.10.4"], vec!["1.10.4"], Way::ServersTooOld(Version::new(1, 10, 4))),
            (vec!["1.7.2", "?"], vec!["1.7.2"], Way::ServersTooOld(Version::new(1, 7, 2))),
            (vec!["1.11.3"], vec!["1.11.3", "1.10.4"], Way::AgentsTooOld(Version::new(1, 10, 4))),
            (vec!["1.11.3", "?"], vec!["1.11.3"], Way::Unknown("?".into())),
        ] {
            assert_eq!(way(&pods(&servers), &pods(&agents)), expected, "{servers:?} {agents:?}");
        }
    }
}
