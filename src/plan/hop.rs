//! The steps of a change of versions. A change of any distance is a chain of hops, and each hop has the same parts; a
//! step is named by both: `hop-2-servers`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A part of a hop. The order is that of the way up; on the way down agents go before servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HopPart {
    /// The hop's chart is in the lab's cache.
    Fetch,
    /// The database was dumped, because the hop cannot be undone without it.
    Backup,
    /// The database holds what a dump held.
    Restore,
    /// The custom resource definitions are those of the hop's chart.
    Crds,
    /// The release is of the hop's chart, at the images that ran before.
    Chart,
    /// Every server runs the hop's version.
    Servers,
    /// The servers are healthy at that version, and an SVID was issued by them.
    ServersGate,
    /// Every agent runs the hop's version.
    Agents,
    /// The agents serve at that version, and an SVID was issued through each.
    AgentsGate,
}

impl HopPart {
    const NAMES: [(HopPart, &'static str); 9] = [
        (HopPart::Fetch, "fetch"),
        (HopPart::Backup, "backup"),
        (HopPart::Restore, "restore"),
        (HopPart::Crds, "crds"),
        (HopPart::Chart, "chart"),
        (HopPart::Servers, "servers"),
        (HopPart::ServersGate, "servers-gate"),
        (HopPart::Agents, "agents"),
        (HopPart::AgentsGate, "agents-gate"),
    ];
}

/// A part of a hop, as the identity of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopStep {
    /// Counts the hops of the change from 1.
    pub hop: u16,
    /// Which part.
    pub part: HopPart,
}

impl fmt::Display for HopStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = HopPart::NAMES.iter().find(|(part, _)| *part == self.part).map_or("", |(_, name)| name);
        write!(f, "hop-{}-{name}", self.hop)
    }
}

impl FromStr for HopStep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.strip_prefix("hop-").and_then(|rest| rest.split_once('-'));
        let found = parts.and_then(|(hop, name)| {
            let (part, _) = HopPart::NAMES.into_iter().find(|(_, known)| *known == name)?;
            Some(HopStep { hop: hop.parse().ok()?, part })
        });
        found.ok_or_else(|| format!("`{text}` is no step"))
    }
}

impl Serialize for HopStep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HopStep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::StepId;

    #[test]
    fn every_part_of_a_hop_is_a_step_by_name() {
        for (part, name) in HopPart::NAMES {
            let step = StepId::Hop(HopStep { hop: 12, part });
            assert_eq!(step.as_str(), format!("hop-12-{name}"));
            // As a value and as a key, beside the steps that are not of a hop.
            let text = serde_json::to_string(&BTreeMap::from([(step, vec![step, StepId::SpireServers])])).unwrap();
            assert_eq!(text, format!("{{\"hop-12-{name}\":[\"hop-12-{name}\",\"spire-servers\"]}}"));
            let read: BTreeMap<StepId, Vec<StepId>> = serde_json::from_str(&text).unwrap();
            assert_eq!(read[&step], [step, StepId::SpireServers]);
        }
    }

    #[test]
    fn what_is_no_step_is_refused() {
        for text in ["hop-servers", "hop-0x1-servers", "hop-1-", "hop-1-elephants", "hop-70000-agents", "servers"] {
            assert!(serde_json::from_value::<StepId>(text.into()).is_err(), "{text}");
        }
    }
}
