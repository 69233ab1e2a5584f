//! Broken rules as data, and in words: what breaks them, and what can be done instead.

use crate::spire::charts::{self, Accepts, Chart};
use crate::spire::policy::{Row, RuleId, View, Violation};
use crate::spire::releases::{self, Release};

/// A rule that a step would break, with what breaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Breach {
    SkewServer {
        oldest: Release,
        newest: Release,
    },
    OneMinor {
        from: Release,
        to: Release,
    },
    /// The servers cannot go to `servers` before the agents are at `agents`.
    AgentsFirst {
        agents: Release,
        servers: Release,
    },
    /// The agents cannot go there before the servers.
    ServersFirst {
        agents: Release,
    },
    AgentNewer {
        agent: Release,
        server: Release,
    },
    AgentTooOld {
        agent: Release,
        server: Release,
    },
    SchemaAhead {
        release: Release,
        row: Row,
    },
    SchemaTooOld {
        release: Release,
        schema: u32,
    },
    ChartValues {
        chart: Chart,
    },
    ChartOneMinor {
        from: Chart,
        to: Chart,
    },
    ChartBound {
        chart: Chart,
        release: Release,
        accepts: &'static Accepts,
    },
}

impl Breach {
    /// The rule.
    pub(crate) fn rule(&self) -> RuleId {
        match self {
            Breach::SkewServer { .. } => RuleId::SkewServer,
            Breach::OneMinor { .. } => RuleId::OneMinor,
            Breach::AgentsFirst { .. } | Breach::ServersFirst { .. } => RuleId::Order,
            Breach::AgentNewer { .. } => RuleId::AgentNewer,
            Breach::AgentTooOld { .. } => RuleId::AgentTooOld,
            Breach::SchemaAhead { .. } => RuleId::SchemaAhead,
            Breach::SchemaTooOld { .. } => RuleId::SchemaTooOld,
            Breach::ChartValues { .. } => RuleId::ChartValues,
            Breach::ChartOneMinor { .. } => RuleId::ChartOneMinor,
            Breach::ChartBound { release, accepts, .. } => match accepts.ceiling {
                Some(ceiling) if *release > ceiling => RuleId::ChartCeiling,
                _ => RuleId::ChartFloor,
            },
        }
    }

    /// How it is now, for what is broken already: a clause.
    pub(crate) fn now(&self) -> String {
        match self {
            Breach::AgentNewer { agent, server } => format!("agents of {agent} are newer than servers of {server}"),
            Breach::AgentTooOld { agent, server } => {
                format!("agents of {agent} are more than one minor version older than servers of {server}")
            }
            other => other.facts().join(", "),
        }
    }

    fn facts(&self) -> Vec<String> {
        match self {
            Breach::SkewServer { oldest, newest } => vec![format!(
                "servers run {oldest} and {newest}, {} minor versions apart",
                newest.line() - oldest.line()
            )],
            Breach::OneMinor { from, to } => vec![format!(
                "servers from {from} to {to} are {} minor versions in one step",
                from.line().abs_diff(to.line())
            )],
            Breach::AgentsFirst { agents, servers } => {
                vec![format!("before the servers go to {servers}, the agents have to be at {agents}")]
            }
            Breach::ServersFirst { agents } => vec![format!("before the agents go to {agents}, the servers have to")],
            Breach::AgentNewer { agent, server } => {
                vec![format!("agents of {agent} would be newer than the oldest server, {server}")]
            }
            Breach::AgentTooOld { agent, server } => vec![format!(
                "agents of {agent} would be {} minor versions older than the newest server, {server}",
                server.line() - agent.line()
            )],
            Breach::SchemaAhead { release, row } => vec![
                format!("the database is at schema {}, written by SPIRE {}", row.schema, row.code_version),
                format!(
                    "SPIRE {release} knows schemas up to {}, and opens a newer one only from a neighbouring minor version",
                    release.schema().latest
                ),
            ],
            Breach::SchemaTooOld { release, schema } => vec![
                format!("the database is at schema {schema}"),
                format!("SPIRE {release} migrates from schema {} on", release.schema().oldest_migratable),
            ],
            Breach::ChartValues { chart } => vec![format!("there are no values for chart {chart}")],
            Breach::ChartOneMinor { from, to } => vec![format!(
                "chart from {from} to {to} are {} minor versions in one step",
                from.version().minor.abs_diff(to.version().minor)
            )],
            Breach::ChartBound { chart, release, accepts } => {
                vec![format!("chart {chart} and {}s of {release}: {}", accepts.component, accepts.because)]
            }
        }
    }

    fn way_out(&self, view: View<'_>) -> String {
        match self {
            Breach::SkewServer { oldest, newest } => {
                let between = neighbour(*oldest, *newest);
                format!("bring the servers of {oldest} to {between} by hand, one at a time, then look again")
            }
            Breach::OneMinor { from, to } => {
                let between = neighbour(*from, *to);
                format!("go by way of {between}: `coastal upgrade --to {to}` goes hop by hop")
            }
            Breach::AgentsFirst { agents, servers } => {
                format!("take the agents to {agents} first: `coastal upgrade --to {servers}` does so by itself")
            }
            Breach::ServersFirst { agents } => {
                format!("take the servers to {agents} first: `coastal upgrade --to {agents}` does so by itself")
            }
            Breach::AgentNewer { server, .. } => format!("take the agents to {server} or older first"),
            Breach::AgentTooOld { .. } => match view.servers.first() {
                Some(oldest) if view.agents.iter().all(|agent| agent >= oldest) => {
                    "take the servers one minor version at a time, and the agents along after each".to_owned()
                }
                Some(oldest) => {
                    format!("take the agents to {oldest} first, and the servers one minor version at a time")
                }
                None => "take the agents along, one minor version at a time".to_owned(),
            },
            Breach::SchemaAhead { release, .. } => format!(
                "restore a backup of the database that SPIRE {release} opens: at schema {} or older, or written last by a \
                 neighbouring minor version; `coastal backup list` shows what there is",
                release.schema().latest
            ),
            Breach::SchemaTooOld { release, schema } => {
                let opens =
                    |candidate: &Release| *candidate < *release && candidate.schema().oldest_migratable <= *schema;
                match releases::all().rev().find(opens) {
                    Some(between) => format!("start SPIRE {between} on it first, with migrations enabled"),
                    None => "restore a newer backup of the database".to_owned(),
                }
            }
            Breach::ChartValues { .. } => format!("choose a chart from {} on", charts::OLDEST_WITH_VALUES),
            Breach::ChartOneMinor { from, to } => {
                match charts::waypoints(*from, *to).into_iter().rev().find(|chart| from.is_within_one_minor(*chart)) {
                    Some(next) => format!("go by way of chart {next}, or have the rule skipped"),
                    None => "go one minor version of the chart at a time, or have the rule skipped".to_owned(),
                }
            }
            Breach::ChartBound { chart, release, accepts } => bound_way_out(*chart, *release, accepts),
        }
    }
}

fn bound_way_out(chart: Chart, release: Release, accepts: &Accepts) -> String {
    let component = accepts.component;
    let chart_moves = match charts::all().rev().find(|other| *other < chart && other.refuses_any(release).is_none()) {
        _ if accepts.ceiling.is_some_and(|ceiling| release > ceiling) => {
            charts::all().find(|other| *other > chart && other.refuses_any(release).is_none())
        }
        older => older,
    };
    let images_move = match (accepts.floor, accepts.ceiling) {
        (_, Some(ceiling)) if release > ceiling => format!("keep the {component}s at {ceiling} or older"),
        (Some(floor), _) => format!("take the {component}s to {floor} or newer first"),
        (None, _) => format!("keep the {component}s where they are"),
    };
    match chart_moves {
        Some(other) => format!("{images_move}, or the chart to {other} before: `--chart {other}`"),
        None => images_move,
    }
}

/// The newest release of the minor version next to `from`'s on the way to `to`.
fn neighbour(from: Release, to: Release) -> Release {
    let line = if from < to { from.line() + 1 } else { from.line().saturating_sub(1) };
    releases::all().rev().find(|release| release.line() == line).unwrap_or(to)
}

/// One violation for each rule, in the order of the rules; the facts of breaches of the same rule together.
pub(crate) fn violations(view: View<'_>, broken: &[Breach]) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for breach in broken {
        let rule = breach.rule();
        match found.iter_mut().find(|violation| violation.rule == rule) {
            Some(violation) => {
                for fact in breach.facts() {
                    if !violation.facts.contains(&fact) {
                        violation.facts.push(fact);
                    }
                }
            }
            None => found.push(Violation::new(rule, breach.facts(), breach.way_out(view))),
        }
    }
    found.sort_by_key(|violation| violation.rule);
    found
}
