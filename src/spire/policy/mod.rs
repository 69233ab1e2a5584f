//! The version rules of SPIRE and its chart: may this step happen, from this state? Pure.
//!
//! Source: doc/upgrading.md of SPIRE, the migration code of its server ([`start`]), and what each chart writes
//! ([`crate::spire::charts`]). A [`Step`] moves one thing; what moves two things in order is a chain of steps
//! ([`crate::spire::path`]). A step is judged by the state that it leads to and by the way there. What is broken already
//! and mended by the step is a warning.

mod breach;
mod rules;
mod seen;
pub mod start;
#[cfg(test)]
mod tests;

use semver::Version;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::spire::charts::{Accepts, Chart, Component};
use crate::spire::releases::Release;

pub(crate) use breach::{Breach, violations};
pub use rules::{RuleId, Violation};
pub(crate) use seen::chart_unpublished;
pub use seen::{Seen, Target};
pub use start::{Row, StartOutcome, server_start, server_start_unmigrated};

/// What runs, every version known and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    servers: Vec<Release>,
    agents: Vec<Release>,
    row: Row,
    row_is_given: bool,
    chart: Option<Chart>,
}

impl State {
    /// Servers and agents in any order and number, what is known of the `migrations` row, and the chart. `None` without
    /// servers.
    ///
    /// What is not known of the row is taken to be what the newest of the servers wrote.
    #[must_use]
    pub fn new(
        mut servers: Vec<Release>,
        mut agents: Vec<Release>,
        schema: Option<u32>,
        code_version: Option<Version>,
        chart: Option<Chart>,
    ) -> Option<Self> {
        for list in [&mut servers, &mut agents] {
            list.sort_unstable();
            list.dedup();
        }
        let newest = *servers.last()?;
        let row_is_given = schema.is_some() && code_version.is_some();
        let schema = schema.unwrap_or(newest.schema().latest);
        let mut code_version = code_version.unwrap_or_else(|| newest.version().clone());
        // It has started on that schema, so it has stored its own version if that was newer.
        if schema == newest.schema().latest && newest.version().cmp_precedence(&code_version).is_gt() {
            code_version = newest.version().clone();
        }
        Some(State { servers, agents, row: Row { schema, code_version }, row_is_given, chart })
    }

    /// The servers' versions, oldest first, each once; at least one.
    #[must_use]
    pub fn servers(&self) -> &[Release] {
        &self.servers
    }

    /// The agents' versions, oldest first, each once.
    #[must_use]
    pub fn agents(&self) -> &[Release] {
        &self.agents
    }

    /// The row `migrations` of the database.
    #[must_use]
    pub fn row(&self) -> &Row {
        &self.row
    }

    /// Whether the row was given, and not taken from the servers' versions.
    #[must_use]
    pub fn row_is_given(&self) -> bool {
        self.row_is_given
    }

    /// The chart, if it is known.
    #[must_use]
    pub fn chart(&self) -> Option<Chart> {
        self.chart
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { servers: &self.servers, agents: &self.agents, row: &self.row, chart: self.chart }
    }

    /// The state after `step`, as SPIRE makes it: a server that refuses the database leaves the row as it was.
    #[must_use]
    pub fn after(&self, step: &Step) -> State {
        let mut state = self.clone();
        match step {
            Step::Servers(release) => {
                state.row = start::after(*release, &self.row).unwrap_or(state.row);
                state.servers = vec![*release];
            }
            // Where there are no agents, none appear.
            Step::Agents(release) => state.agents.iter_mut().for_each(|agent| *agent = *release),
            Step::Chart(chart) => state.chart = Some(*chart),
            Step::Restore { release, row } => {
                state.row = start::after(*release, row).unwrap_or_else(|| row.clone());
                state.row_is_given = true;
                state.servers = vec![*release];
            }
        }
        state.agents.dedup();
        state
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("State", 5)?;
        out.serialize_field("servers", &self.servers)?;
        out.serialize_field("agents", &self.agents)?;
        out.serialize_field("schema", &self.row.schema)?;
        out.serialize_field("code_version", &self.row.code_version)?;
        out.serialize_field("chart", &self.chart)?;
        out.end()
    }
}

/// One thing that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// All servers to this release, one at a time.
    Servers(Release),
    /// All agents to this release.
    Agents(Release),
    /// The chart, with the images as they are; servers and agents restart.
    Chart(Chart),
    /// All servers stopped, the database replaced by a backup with that row, all servers started at this release.
    Restore {
        /// The release.
        release: Release,
        /// The backup's `migrations` row.
        row: Row,
    },
}

/// What the rules say about a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What it would break, in the order of [`RuleId::TABLE`].
    pub violations: Vec<Violation>,
    /// What is worth knowing of a step that may happen.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Whether it may happen.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Judges one step from `state`: the truth table.
#[must_use]
pub fn judge(state: &State, step: &Step) -> Verdict {
    let view = state.view();
    let broken = breaches(view, step);
    let violations = breach::violations(view, &broken);
    let warnings = if broken.is_empty() { warnings(state, step) } else { Vec::new() };
    Verdict { violations, warnings }
}

/// Judges what runs now, no matter what shall happen.
#[must_use]
pub fn judge_state(state: &State) -> Verdict {
    let view = state.view();
    let mut broken = Vec::new();
    skew(&mut broken, view.servers);
    relation(&mut broken, view.servers, view.agents);
    Verdict { violations: breach::violations(view, &broken), warnings: Vec::new() }
}

/// A state, borrowed: what the search makes by the thousand. Lists are sorted, servers not empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) servers: &'a [Release],
    pub(crate) agents: &'a [Release],
    pub(crate) row: &'a Row,
    pub(crate) chart: Option<Chart>,
}

impl View<'_> {
    /// The oldest and the newest server.
    fn span(&self) -> Option<(Release, Release)> {
        Some((*self.servers.first()?, *self.servers.last()?))
    }
}

/// The rules that `step` would break. Allocates nothing if there are none.
pub(crate) fn breaches(view: View<'_>, step: &Step) -> Vec<Breach> {
    let mut broken = Vec::new();
    skew(&mut broken, view.servers);
    match step {
        Step::Servers(release) => servers(&mut broken, view, *release, view.row),
        Step::Restore { release, row } => servers(&mut broken, view, *release, row),
        Step::Agents(release) => agents(&mut broken, view, *release),
        Step::Chart(chart) => to_chart(&mut broken, view, *chart),
    }
    broken
}

fn servers(broken: &mut Vec<Breach>, view: View<'_>, to: Release, row: &Row) {
    let Some((oldest, newest)) = view.span() else { return };
    let far = if oldest.line().abs_diff(to.line()) < newest.line().abs_diff(to.line()) { newest } else { oldest };
    if !far.is_within_one_minor(to) {
        broken.push(Breach::OneMinor { from: far, to });
    }
    let before = broken.len();
    relation(broken, &[to], view.agents);
    if broken.len() > before {
        // Where the agents would have to be so that they fit the servers before and after.
        let between = oldest.min(to);
        if between.line() + 1 >= newest.max(to).line() {
            broken.push(Breach::AgentsFirst { agents: between, servers: to });
        }
    }
    match server_start(to.version(), Some((row.schema, &row.code_version))) {
        StartOutcome::Starts { .. } => {}
        StartOutcome::Refuses { .. } if row.schema > to.schema().latest => {
            broken.push(Breach::SchemaAhead { release: to, row: row.clone() });
        }
        StartOutcome::Refuses { .. } => broken.push(Breach::SchemaTooOld { release: to, schema: row.schema }),
    }
    if let Some(chart) = view.chart {
        bounds(broken, chart, Component::Server, &[to], view.servers);
    }
}

fn agents(broken: &mut Vec<Breach>, view: View<'_>, to: Release) {
    let before = broken.len();
    relation(broken, view.servers, &[to]);
    let newer = broken[before..].iter().any(|breach| matches!(breach, Breach::AgentNewer { .. }));
    if newer && view.servers.iter().all(|server| server.is_within_one_minor(to)) {
        broken.push(Breach::ServersFirst { agents: to });
    }
    if let Some(chart) = view.chart {
        bounds(broken, chart, Component::Agent, &[to], view.agents);
    }
}

fn to_chart(broken: &mut Vec<Breach>, view: View<'_>, to: Chart) {
    relation(broken, view.servers, view.agents);
    if !to.has_values() {
        broken.push(Breach::ChartValues { chart: to });
    }
    if let Some(from) = view.chart
        && !from.is_within_one_minor(to)
    {
        broken.push(Breach::ChartOneMinor { from, to });
    }
    bounds(broken, to, Component::Server, view.servers, &[]);
    bounds(broken, to, Component::Agent, view.agents, &[]);
}

fn skew(broken: &mut Vec<Breach>, servers: &[Release]) {
    if let (Some(oldest), Some(newest)) = (servers.first(), servers.last())
        && !oldest.is_within_one_minor(*newest)
    {
        broken.push(Breach::SkewServer { oldest: *oldest, newest: *newest });
    }
}

/// Agents against servers; both sorted.
fn relation(broken: &mut Vec<Breach>, servers: &[Release], agents: &[Release]) {
    let (Some(oldest), Some(newest)) = (servers.first(), servers.last()) else { return };
    if let Some(agent) = agents.last().filter(|agent| *agent > oldest) {
        broken.push(Breach::AgentNewer { agent: *agent, server: *oldest });
    }
    if let Some(agent) = agents.first().filter(|agent| agent.line() + 1 < newest.line()) {
        broken.push(Breach::AgentTooOld { agent: *agent, server: *newest });
    }
}

/// What `releases` cannot read of what the chart writes. A bound that is broken by what `runs` on the chart is no bound:
/// the values are not those of which the table tells.
fn bounds(broken: &mut Vec<Breach>, chart: Chart, component: Component, releases: &[Release], runs: &[Release]) {
    for release in releases {
        let mut bounds = chart.accepts().filter(|accepts| accepts.component == component);
        let holds = |accepts: &&Accepts| accepts.refuses(*release) && !runs.iter().any(|other| accepts.refuses(*other));
        if let Some(accepts) = bounds.find(holds) {
            broken.push(Breach::ChartBound { chart, release: *release, accepts });
        }
    }
}

/// What is worth knowing of a legal step.
fn warnings(state: &State, step: &Step) -> Vec<String> {
    let mut found = Vec::new();
    let mut broken = Vec::new();
    relation(&mut broken, &state.servers, &state.agents);
    for breach in broken {
        found.push(format!("now {}; this step mends it", breach.now()));
    }
    match step {
        Step::Servers(release) => {
            let start = server_start(release.version(), Some((state.row.schema, &state.row.code_version)));
            if let StartOutcome::Starts { warning: Some(warning), .. } = start {
                found.push(format!("SPIRE {release} will log `{warning}`"));
            }
            if !state.row_is_given && state.servers.last() > Some(release) {
                let Row { schema, code_version } = &state.row;
                found.push(format!(
                    "the database's `migrations` row is not given; if it is not `{schema} | {code_version}`, SPIRE {release} may refuse to start"
                ));
            }
        }
        Step::Agents(release) => {
            if let Some(agent) = state.agents.iter().find(|agent| !agent.is_within_one_minor(*release)) {
                found.push(format!(
                    "agents go from {agent} to {release} in one step, which SPIRE's documentation does not cover; on Kubernetes an agent keeps nothing, and attests anew"
                ));
            }
        }
        Step::Chart(_) | Step::Restore { .. } => {}
    }
    found
}
