//! Which versions SPIRE is at, when little or nothing of it runs.
//!
//! What runs counts first. With no server that answers it is the newest revision that helm once deployed and whose
//! images the row `migrations` of the data store permits: a revision is only a memory, the row is the fact.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::spire::policy::server_start;

/// A revision of the release, as helm remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub number: u32,
    /// Whether it was deployed once: `deployed`, or `superseded` by a later one.
    pub deployed: bool,
    /// The chart's version.
    pub chart: Option<Version>,
    /// The servers' image.
    pub server: Option<Version>,
    /// The agents' image.
    pub agent: Option<Version>,
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Versions of the servers that answer.
    pub servers: Vec<Version>,
    /// Versions of the agents that answer.
    pub agents: Vec<Version>,
    /// What the servers' template asks for.
    pub server_template: Option<Version>,
    /// What the agents' template asks for.
    pub agent_template: Option<Version>,
    /// The row of `migrations`: schema and the newest version that wrote there. Absent if the data store is empty, or
    /// not known.
    pub row: Option<(u32, Version)>,
    /// Oldest first.
    pub revisions: Vec<Revision>,
    /// What lab.toml says: server, agent, chart.
    pub lab: (Option<Version>, Option<Version>, Option<Version>),
}

/// Where a version comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Servers that run.
    Running,
    /// A revision that helm deployed.
    Revision(u32),
    /// The servers' template.
    Template,
    /// lab.toml.
    LabFile,
}

/// The current versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Of the servers.
    pub server: Version,
    /// Of the agents.
    pub agent: Version,
    /// Of the chart; absent if nobody knows it.
    pub chart: Option<Version>,
    /// Where the servers' comes from.
    pub source: Source,
}

impl Current {
    /// Where it comes from, in words.
    #[must_use]
    pub fn because(&self) -> String {
        match self.source {
            Source::Running => "it runs".to_owned(),
            Source::Revision(number) => {
                format!("no server answers; revision {number} is the newest deployed one that the database permits")
            }
            Source::Template => "no server answers; the servers' template asks for it".to_owned(),
            Source::LabFile => "no server answers, and helm remembers nothing; lab.toml says so".to_owned(),
        }
    }
}

/// The current versions; none if nothing that is known may start on the data store.
#[must_use]
pub fn current(known: &Known) -> Option<Current> {
    let permits = |version: &Version| permits(version, known.row.as_ref());
    let deployed = || known.revisions.iter().rev().filter(|revision| revision.deployed);
    let of_revision = || {
        let revision = deployed().find(|revision| revision.server.as_ref().is_some_and(permits))?;
        Some((revision.server.clone()?, Source::Revision(revision.number)))
    };
    let running = || {
        let template = known.server_template.as_ref().filter(|version| known.servers.contains(version));
        let highest = known.servers.iter().filter(|version| permits(version)).max();
        template.filter(|version| permits(version)).or(highest).map(|version| (version.clone(), Source::Running))
    };
    let template = || known.server_template.clone().filter(permits).map(|version| (version, Source::Template));
    let lab = || known.lab.0.clone().filter(permits).map(|version| (version, Source::LabFile));
    let (server, source) = running().or_else(of_revision).or_else(template).or_else(lab)?;
    let same = || deployed().filter(|revision| revision.server.as_ref() == Some(&server));
    let agents = known.agents.iter().max().into_iter().chain(&known.agent_template).cloned();
    let remembered = same().chain(deployed()).filter_map(|revision| revision.agent.clone());
    let mut candidates = agents.chain(remembered).chain(known.lab.1.clone());
    let agent = candidates.find(|agent| serves(agent, &server)).unwrap_or_else(|| server.clone());
    let newest = known.revisions.last().and_then(|revision| revision.chart.clone());
    let chart = same().find_map(|revision| revision.chart.clone()).or(newest).or_else(|| known.lab.2.clone());
    Some(Current { server, agent, chart, source })
}

/// Whether a server of that version starts on the data store, and is at most one minor version ahead of what wrote
/// there: servers do not mind a longer jump, SPIRE's rules do.
fn permits(version: &Version, row: Option<&(u32, Version)>) -> bool {
    let row = row.map(|(schema, stored)| (*schema, stored));
    let jumps = row.is_some_and(|(_, stored)| version.major == stored.major && version.minor > stored.minor + 1);
    server_start(version, row).is_started() && !jumps
}

/// Whether an agent of that version may stand before such servers: not newer, and one minor version older at most.
fn serves(agent: &Version, server: &Version) -> bool {
    agent <= server && agent.major == server.major && server.minor - agent.minor <= 1
}
