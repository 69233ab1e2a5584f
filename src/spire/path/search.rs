//! The shortest chain of legal moves, by breadth: every move is one hop.
//!
//! A chain moves away from its target only if there is no other, and stops only where stopping can matter: at the newest release of a minor
//! version or of a schema, at the newest chart of its kind ([`releases::waypoints`], [`charts::waypoints`]). Among chains of
//! the same length the one is taken that, in this order,
//!
//! 1. restores the database least often, since a restore loses what was written after the backup, and from the newest
//!    backups;
//! 2. closes the way back least often: an older patch with an older schema is preferred where it keeps versions within
//!    reach that the newest patch would put behind a backup;
//! 3. never has a chart ahead of the SPIRE that it was made for, and lets it follow closely: on the way up images go first
//!    and then the charts that were made for them, on the way down the charts go first;
//! 4. stops at the newest patches.

use std::collections::HashMap;
use std::slice;

use crate::spire::charts::{self, Chart};
use crate::spire::path::BackupFacts;
use crate::spire::policy::{Breach, Row, RuleId, State, Step, View, breaches, server_start, start};
use crate::spire::releases::{self, Release};

/// One hop as the search makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Servers and agents to the release, servers first or agents first; whichever is there already stays.
    Images { to: Release, servers_first: bool },
    /// Only the agents.
    Agents(Release),
    /// The chart.
    Chart(Chart),
    /// Agents to the release, then the servers on the backup of that number.
    Restore { to: Release, backup: usize },
}

/// What is looked for.
pub(super) struct Quest<'a> {
    pub(super) state: &'a State,
    pub(super) target: Release,
    /// The chart at the end; `None` if none is known, and then none moves.
    pub(super) chart: Option<Chart>,
    pub(super) backups: &'a [BackupFacts],
    pub(super) skip: &'a [RuleId],
}

/// Where a chain stands. `None`: where it began, with several versions at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    servers: Option<Release>,
    agents: Option<Release>,
    chart: Option<Chart>,
    /// 0: the database that is there; n: the backup n - 1.
    database: usize,
}

/// A place that was reached, and how.
struct Reached {
    place: Place,
    row: Row,
    by: Option<(usize, Move)>,
    cost: Cost,
    /// The oldest version of the chain that can still be gone back to.
    open: Release,
}

/// What makes a chain worse than another of the same length; the first counts most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    restores: u32,
    /// How many backups that would have done were newer.
    older: usize,
    closed: u32,
    untried: u32,
    stale: u32,
}

/// The moves of the best chain, or what stands in the way where the search came nearest to the target.
pub(super) fn search(quest: &Quest<'_>) -> Result<Vec<Move>, Vec<Breach>> {
    let obstacles = match Search::new(quest, false).run() {
        Ok(moves) => return Ok(moves),
        Err(obstacles) => obstacles,
    };
    Search::new(quest, true).run().map_err(|_| obstacles)
}

struct Search<'a> {
    quest: &'a Quest<'a>,
    /// Whether a chain may move away from its target.
    wide: bool,
    down: bool,
    versions: Vec<Release>,
    charts: Vec<Chart>,
    /// Number and row of the newest backup of each kind, newest first.
    backups: Vec<(usize, Row)>,
    reached: Vec<Reached>,
    /// By place: its number in `reached`, and its distance from the start.
    known: HashMap<Place, (usize, u32)>,
}

impl<'a> Search<'a> {
    fn new(quest: &'a Quest<'a>, wide: bool) -> Self {
        let state = quest.state;
        let (servers, target) = (state.servers(), quest.target);
        let (low, high) = match (servers.first(), servers.last()) {
            (Some(oldest), Some(newest)) => ((*oldest).min(target), (*newest).max(target)),
            _ => (target, target),
        };
        let around = u16::from(wide);
        let mut versions = releases::waypoints(low.line().saturating_sub(around), high.line() + around);
        // Where something runs already, nothing has to move there that the chart might not take.
        versions.extend(state.agents().iter().chain(servers));
        versions.retain(|release| (wide || (low..=high).contains(release)) && *release != target);
        versions.sort_unstable();
        versions.dedup();
        versions.push(target);
        let charts = match (state.chart(), quest.chart) {
            (Some(from), Some(to)) if wide => around_both(from, to),
            (Some(from), Some(to)) => charts::waypoints(from, to),
            (None, Some(to)) => vec![to],
            (_, None) => Vec::new(),
        };
        let place =
            Place { servers: single(servers), agents: single(state.agents()), chart: state.chart(), database: 0 };
        let start = Reached {
            place,
            row: state.row().clone(),
            by: None,
            cost: Cost::default(),
            open: servers.first().copied().unwrap_or(target),
        };
        Search {
            quest,
            wide,
            down: high > target,
            versions,
            charts,
            backups: backups(quest.backups),
            reached: vec![start],
            known: HashMap::from([(place, (0, 0))]),
        }
    }

    fn run(mut self) -> Result<Vec<Move>, Vec<Breach>> {
        let mut layer = vec![0];
        for distance in 1.. {
            if let Some(best) = layer.iter().filter(|at| self.is_goal(**at)).min_by_key(|at| self.reached[**at].cost) {
                return Ok(self.chain(*best));
            }
            let mut next = Vec::new();
            for at in layer {
                self.expand(at, distance, &mut next);
            }
            if next.is_empty() {
                break;
            }
            layer = next;
        }
        Err(self.obstacles())
    }

    fn is_goal(&self, at: usize) -> bool {
        let place = self.reached[at].place;
        let target = Some(self.quest.target);
        place.servers == target
            && (place.agents == target || self.quest.state.agents().is_empty())
            && (self.quest.chart.is_none() || place.chart == self.quest.chart)
    }

    fn chain(&self, mut at: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        while let Some((before, by)) = self.reached[at].by {
            moves.push(by);
            at = before;
        }
        moves.reverse();
        moves
    }

    fn expand(&mut self, at: usize, distance: u32, next: &mut Vec<usize>) {
        // Where all else is equal, what is found first is taken.
        if self.down {
            self.expand_charts(at, distance, next);
            self.expand_versions(at, distance, next);
        } else {
            self.expand_versions(at, distance, next);
            self.expand_charts(at, distance, next);
        }
    }

    fn expand_versions(&mut self, at: usize, distance: u32, next: &mut Vec<usize>) {
        let (place, row) = (self.reached[at].place, self.reached[at].row.clone());
        for to in self.destinations(place) {
            for (by, row) in self.images(self.view(&place, &row), to) {
                let database = if let Move::Restore { backup, .. } = by { backup + 1 } else { place.database };
                let agents = if self.quest.state.agents().is_empty() { None } else { Some(to) };
                self.reach(at, by, Place { servers: Some(to), agents, database, ..place }, row, distance, next);
            }
        }
        for to in self.agents_only(place) {
            if self.broken(self.view(&place, &row), &Step::Agents(to)).is_empty() {
                let by = Move::Agents(to);
                self.reach(at, by, Place { agents: Some(to), ..place }, row.clone(), distance, next);
            }
        }
    }

    fn expand_charts(&mut self, at: usize, distance: u32, next: &mut Vec<usize>) {
        let (place, row) = (self.reached[at].place, self.reached[at].row.clone());
        for to in self.next_charts(place) {
            if self.broken(self.view(&place, &row), &Step::Chart(to)).is_empty() {
                let by = Move::Chart(to);
                self.reach(at, by, Place { chart: Some(to), ..place }, row.clone(), distance, next);
            }
        }
    }

    fn reach(&mut self, from: usize, by: Move, place: Place, row: Row, distance: u32, next: &mut Vec<usize>) {
        let (cost, open) = self.cost(from, by, place, &row);
        let reached = Reached { place, row, by: Some((from, by)), cost, open };
        match self.known.get(&place) {
            None => {
                self.known.insert(place, (self.reached.len(), distance));
                next.push(self.reached.len());
                self.reached.push(reached);
            }
            Some((at, known)) if *known == distance && cost < self.reached[*at].cost => self.reached[*at] = reached,
            Some(_) => {}
        }
    }

    fn cost(&self, from: usize, by: Move, place: Place, row: &Row) -> (Cost, Release) {
        let Reached { place: before, mut cost, mut open, .. } = self.reached[from];
        match by {
            Move::Restore { to, backup } => {
                cost.restores += 1;
                cost.older += self.backups_for(to).take_while(|(n, _)| *n != backup).count();
            }
            Move::Images { to, .. } => {
                if !server_start(open.version(), Some((row.schema, &row.code_version))).is_started() {
                    cost.closed += 1;
                    open = self.oldest_open(from, row).unwrap_or(to);
                }
                if to != self.quest.target {
                    cost.stale += newer_patches(to);
                }
            }
            Move::Chart(to) if Some(to) != self.quest.chart => cost.stale += newer_charts(to),
            Move::Chart(_) | Move::Agents(_) => {}
        }
        cost.untried += self.untried(before, by, place);
        (cost, open)
    }

    /// How far a move takes chart and SPIRE from what was ever tried together.
    fn untried(&self, before: Place, by: Move, after: Place) -> u32 {
        let (Some(chart), Some(servers), Some(_)) = (after.chart, after.servers, self.quest.chart) else { return 0 };
        let (made_for, runs) = (chart.spire().line(), servers.line());
        // Ahead counts more than any distance behind that a chain can have.
        let ahead = 64 * u32::from(made_for.saturating_sub(runs));
        let first = before.servers == self.reached[0].place.servers;
        let left = match by {
            Move::Images { .. } if !self.down && !first => {
                // Charts that could have been brought in at the version that is left.
                let leaves = before.servers.map_or(0, Release::line);
                self.charts.iter().filter(|other| **other > chart && other.spire().line() <= leaves).map(|_| 1).sum()
            }
            Move::Chart(_) if self.down => u32::from(runs.saturating_sub(made_for).saturating_sub(1)),
            _ => 0,
        };
        ahead + left
    }

    /// The oldest version on the chain up to `at` that starts on `row`.
    fn oldest_open(&self, mut at: usize, row: &Row) -> Option<Release> {
        let mut open = None;
        loop {
            let reached = &self.reached[at];
            let here = reached.place.servers.or_else(|| self.quest.state.servers().first().copied());
            open = here
                .filter(|release| server_start(release.version(), Some((row.schema, &row.code_version))).is_started())
                .or(open);
            let Some((before, _)) = reached.by else { return open };
            at = before;
        }
    }

    fn view<'b>(&'b self, place: &'b Place, row: &'b Row) -> View<'b> {
        let state = self.quest.state;
        View {
            servers: place.servers.as_ref().map_or(state.servers(), slice::from_ref),
            agents: place.agents.as_ref().map_or(state.agents(), slice::from_ref),
            row,
            chart: place.chart,
        }
    }

    /// What `step` would break and nobody wanted to be skipped.
    fn broken(&self, view: View<'_>, step: &Step) -> Vec<Breach> {
        let mut broken = breaches(view, step);
        broken.retain(|breach| breach.rule().is_mandatory() || !self.quest.skip.contains(&breach.rule()));
        broken
    }

    /// Where servers and agents could go from here: one minor version towards the target.
    fn destinations(&self, place: Place) -> Vec<Release> {
        let target = self.quest.target;
        let Some(here) = place.servers else {
            return self.versions.clone();
        };
        let on_the_way = |release: &Release| {
            self.wide
                || *release == target
                || (here.min(target)..=here.max(target)).contains(release) && release.line() != here.line()
        };
        let near = |release: &Release| release.is_within_one_minor(here);
        self.versions.iter().copied().filter(|release| near(release) && on_the_way(release)).collect()
    }

    /// Where only the agents could go, as long as they are where they were found.
    fn agents_only(&self, place: Place) -> Vec<Release> {
        let state = self.quest.state;
        if state.agents().is_empty() || place.agents != single(state.agents()) {
            return Vec::new();
        }
        let view = self.view(&place, state.row());
        let (Some(oldest), Some(newest)) = (view.servers.first(), view.servers.last()) else { return Vec::new() };
        let older = releases::waypoints(newest.line().saturating_sub(1), oldest.line());
        // As near to the servers as may be; older ones only where a chart asks for them.
        let candidates = std::iter::once(*oldest).chain(older.into_iter().filter(|release| release < oldest));
        candidates.filter(|release| Some(*release) != place.agents).collect()
    }

    fn next_charts(&self, place: Place) -> Vec<Chart> {
        let (Some(here), Some(goal)) = (place.chart, self.quest.chart) else {
            return self.charts.clone();
        };
        let (low, high) = (here.min(goal), here.max(goal));
        let free = self.quest.skip.contains(&RuleId::ChartOneMinor);
        let further = |chart: &Chart| (self.wide || (low..=high).contains(chart)) && *chart != here;
        let near = |chart: &Chart| free || chart.is_within_one_minor(here);
        self.charts.iter().copied().filter(|chart| further(chart) && near(chart)).collect()
    }

    /// The legal ways to bring servers and agents to `to`, and the database's row after each: the plain one if there is
    /// one, else one for each backup that would do.
    fn images(&self, view: View<'_>, to: Release) -> Vec<(Move, Row)> {
        let servers_move = view.servers != [to];
        let agents_move = !view.agents.is_empty() && view.agents != [to];
        if !servers_move && !agents_move {
            return Vec::new();
        }
        for servers_first in orders(view, to) {
            let broken = self.both(view, to, servers_first, servers_move, agents_move);
            if broken.is_empty() {
                let row = if servers_move { start::after(to, view.row) } else { Some(view.row.clone()) };
                return row.map(|row| (Move::Images { to, servers_first }, row)).into_iter().collect();
            }
            let down = view.servers.iter().all(|server| *server >= to);
            if down && !servers_first && broken.iter().all(|breach| matches!(breach, Breach::SchemaAhead { .. })) {
                return self.backups_for(to).map(|(backup, row)| (Move::Restore { to, backup }, row)).collect();
            }
        }
        Vec::new()
    }

    /// What both halves of a hop break, in that order.
    fn both(
        &self,
        view: View<'_>,
        to: Release,
        servers_first: bool,
        servers_move: bool,
        agents_move: bool,
    ) -> Vec<Breach> {
        let target = [to];
        let mut broken = Vec::new();
        let (servers, agents) = (Step::Servers(to), Step::Agents(to));
        if servers_first {
            if servers_move {
                broken = self.broken(view, &servers);
            }
            if agents_move && broken.is_empty() {
                broken = self.broken(View { servers: &target, ..view }, &agents);
            }
        } else {
            if agents_move {
                broken = self.broken(view, &agents);
            }
            if servers_move {
                let agents = if agents_move { &target[..] } else { view.agents };
                broken.extend(self.broken(View { agents, ..view }, &servers));
            }
        }
        broken
    }

    /// The backups on which `to` starts, newest first, and the row after that.
    fn backups_for(&self, to: Release) -> impl Iterator<Item = (usize, Row)> {
        self.backups.iter().filter_map(move |(n, row)| Some((*n, start::after(to, row)?)))
    }

    /// What stands in the way at the place nearest to the target.
    fn obstacles(&self) -> Vec<Breach> {
        let target = self.quest.target;
        let far = |reached: &&Reached| {
            let servers = reached.place.servers.map_or(u16::MAX, |servers| servers.line().abs_diff(target.line()));
            let chart = match (reached.place.chart, self.quest.chart) {
                (Some(here), Some(goal)) => here.version().minor.abs_diff(goal.version().minor),
                _ => 0,
            };
            (servers, chart)
        };
        let Some(nearest) = self.reached.iter().min_by_key(far) else { return Vec::new() };
        let view = self.view(&nearest.place, &nearest.row);
        let mut found = Vec::new();
        if let Some(to) = self.next_version(nearest.place) {
            let agents_move = !view.agents.is_empty() && view.agents != [to];
            let servers_first = orders(view, to)[0];
            found.extend(self.both(view, to, servers_first, view.servers != [to], agents_move));
        }
        for to in self.next_charts(nearest.place) {
            found.extend(self.broken(view, &Step::Chart(to)));
        }
        // Beyond the charts that are near lies one that would do.
        if let Some(goal) = self.quest.chart.filter(|goal| !found.is_empty() && Some(*goal) != nearest.place.chart) {
            found.extend(self.broken(view, &Step::Chart(goal)));
        }
        found
    }

    /// The one version that the chain would go to next.
    fn next_version(&self, place: Place) -> Option<Release> {
        let destinations = self.destinations(place);
        let target = self.quest.target;
        destinations.iter().copied().find(|release| *release == target).or_else(|| destinations.last().copied())
    }
}

/// The orders of servers and agents that can be legal, the natural one first: servers lead on the way up (`true`), agents
/// on the way down.
fn orders(view: View<'_>, to: Release) -> [bool; 2] {
    let down = view.servers.first().is_some_and(|oldest| to <= *oldest) && view.servers != [to];
    [!down, down]
}

/// The charts between both, one minor version further on each side, and both.
fn around_both(from: Chart, to: Chart) -> Vec<Chart> {
    let (low, high) = (from.version().minor.min(to.version().minor), from.version().minor.max(to.version().minor));
    let near = |chart: &Chart| (low.saturating_sub(1)..=high + 1).contains(&chart.version().minor);
    let mut near = charts::all().filter(near);
    let (Some(first), Some(last)) = (near.next(), near.next_back()) else { return vec![to] };
    let mut found = vec![first];
    found.extend(charts::waypoints(first, last));
    for chart in [from, to] {
        if !found.contains(&chart) {
            found.push(chart);
        }
    }
    found
}

fn single(versions: &[Release]) -> Option<Release> {
    if let [one] = versions { Some(*one) } else { None }
}

/// Of backups with the same row only the newest counts.
fn backups(all: &[BackupFacts]) -> Vec<(usize, Row)> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse((all[*n].taken_at, *n)));
    let mut found: Vec<(usize, Row)> = Vec::new();
    for n in order {
        let row = all[n].row();
        if found.iter().all(|(_, other)| *other != row) {
            found.push((n, row));
        }
    }
    found
}

/// How many newer patches the minor version has.
fn newer_patches(release: Release) -> u32 {
    let newer = releases::all().rev().take_while(|other| *other > release);
    newer.filter(|other| other.line() == release.line()).map(|_| 1).sum()
}

/// How many newer charts of the same minor version there are.
fn newer_charts(chart: Chart) -> u32 {
    let newer = charts::all().rev().take_while(|other| *other > chart);
    newer.filter(|other| other.version().minor == chart.version().minor).map(|_| 1).sum()
}
