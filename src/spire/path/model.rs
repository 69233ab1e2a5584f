//! A second opinion for the tests: the rules written down once more from the reference, in the plainest way, and a
//! search that tries every version and every chart that it is given, in every direction.

use std::collections::{HashSet, VecDeque};

/// A version.
pub(super) type V = (u64, u64, u64);

pub(super) fn version(version: &semver::Version) -> V {
    (version.major, version.minor, version.patch)
}

/// 0.12 and 1.0 are neighbours.
fn line(v: V) -> u64 {
    if v.0 == 0 { v.1 } else { 13 + v.1 }
}

fn near(a: V, b: V) -> bool {
    line(a).abs_diff(line(b)) <= 1
}

fn latest(v: V) -> u32 {
    let first: &[(V, u32)] = &[
        ((1, 15, 0), 25),
        ((1, 14, 3), 24),
        ((1, 8, 0), 23),
        ((1, 7, 2), 22),
        ((1, 6, 0), 21),
        ((1, 3, 2), 19),
        ((1, 2, 0), 18),
        ((1, 0, 0), 17),
        ((0, 12, 0), 15),
        ((0, 10, 0), 14),
    ];
    first.iter().find(|(from, _)| v >= *from).map_or(13, |row| row.1)
}

fn oldest(v: V) -> u32 {
    let first: &[(V, u32)] = &[((1, 11, 0), 23), ((1, 7, 1), 21), ((1, 6, 0), 19), ((1, 3, 2), 18), ((1, 2, 0), 17)];
    first.iter().find(|(from, _)| v >= *from).map_or(0, |row| row.1)
}

/// The row after `v` started on it.
pub(super) fn start(v: V, row: (u32, V)) -> Option<(u32, V)> {
    let (schema, code) = row;
    if schema == latest(v) {
        return Some((schema, v.max(code)));
    }
    if schema < latest(v) {
        return (schema >= oldest(v)).then_some((latest(v), v));
    }
    let same = v.0 == code.0 && v.1.abs_diff(code.1) <= 1;
    let exception = [(v.0, v.1), (code.0, code.1)];
    (same || exception == [(0, 12), (1, 0)] || exception == [(1, 0), (0, 12)]).then_some(row)
}

/// Whether servers or agents of `v` may run on `chart`, given that `now` do.
fn chart_takes(chart: V, is_agent: bool, v: V, now: &[V]) -> bool {
    let mut bounds: Vec<(V, V)> = Vec::new();
    if is_agent {
        if ((0, 19, 1)..=(0, 26, 1)).contains(&chart) {
            bounds.push(((1, 9, 2), (1, 13, 6)));
        }
        if chart >= (0, 27, 0) {
            bounds.push(((1, 13, 0), (9, 9, 9)));
        }
    } else {
        bounds.push(((1, 5, 0), (9, 9, 9)));
        if chart >= (0, 26, 0) {
            bounds.push(((1, 12, 4), (9, 9, 9)));
        }
        if chart >= (0, 30, 0) {
            bounds.push(((1, 14, 0), (9, 9, 9)));
        }
    }
    let within = |v: &V, bound: &(V, V)| *v >= bound.0 && *v <= bound.1;
    bounds.iter().all(|bound| within(&v, bound) || now.iter().any(|other| !within(other, bound)))
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) servers: Vec<V>,
    pub(super) agents: Vec<V>,
    pub(super) row: (u32, V),
    pub(super) chart: Option<V>,
}

impl World {
    fn skewed(&self) -> bool {
        self.servers.iter().any(|a| self.servers.iter().any(|b| !near(*a, *b)))
    }

    fn fits(&self) -> bool {
        self.agents
            .iter()
            .all(|agent| self.servers.iter().all(|server| agent <= server && line(*agent) + 1 >= line(*server)))
    }

    pub(super) fn servers_to(&self, v: V) -> Option<World> {
        let row = start(v, self.row)?;
        let after = World { servers: vec![v], row, ..self.clone() };
        let legal = !self.skewed()
            && self.servers.iter().all(|server| near(*server, v))
            && after.fits()
            && self.chart.is_none_or(|chart| chart_takes(chart, false, v, &self.servers));
        legal.then_some(after)
    }

    pub(super) fn agents_to(&self, v: V) -> Option<World> {
        let after = World { agents: vec![v], ..self.clone() };
        let legal =
            !self.skewed() && after.fits() && self.chart.is_none_or(|chart| chart_takes(chart, true, v, &self.agents));
        legal.then_some(after)
    }

    pub(super) fn chart_to(&self, chart: V) -> Option<World> {
        let legal = !self.skewed()
            && self.fits()
            && self.chart.is_none_or(|now| now.1.abs_diff(chart.1) <= 1)
            && chart >= (0, 13, 0)
            && self.servers.iter().all(|v| chart_takes(chart, false, *v, &[]))
            && self.agents.iter().all(|v| chart_takes(chart, true, *v, &[]));
        legal.then(|| World { chart: Some(chart), ..self.clone() })
    }

    /// Everything that one hop can lead to.
    fn next(&self, versions: &[V], charts: &[V]) -> Vec<World> {
        let mut found = Vec::new();
        for v in versions {
            // What is there already does not move.
            if self.agents.iter().all(|agent| agent == v) {
                found.extend(self.servers_to(*v));
            }
            found.extend(self.servers_to(*v).and_then(|between| between.agents_to(*v)));
            found.extend(self.agents_to(*v).and_then(|between| between.servers_to(*v)));
            found.extend(self.agents_to(*v));
        }
        found.extend(charts.iter().filter_map(|chart| self.chart_to(*chart)));
        found
    }
}

/// The length of the shortest chain to `target`, and to `chart` if there is one to go to.
pub(super) fn distance(start: &World, target: V, chart: Option<V>, versions: &[V], charts: &[V]) -> Option<usize> {
    let there = |world: &World| {
        world.servers == [target]
            && (world.agents.is_empty() || world.agents == [target])
            && (chart.is_none() || world.chart == chart)
    };
    let charts = if chart.is_some() { charts } else { &[] };
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([(start.clone(), 0)]);
    while let Some((world, hops)) = queue.pop_front() {
        if there(&world) {
            return Some(hops);
        }
        for next in world.next(versions, charts) {
            if seen.insert(next.clone()) {
                queue.push_back((next, hops + 1));
            }
        }
    }
    None
}
