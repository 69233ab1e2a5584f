//! The answer to "how does this SPIRE get there": judged, searched, and told.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::spire::charts::{self, Chart, Component, Trap};
use crate::spire::path::search::{Move, Quest, search};
use crate::spire::path::{BackupFacts, ChartChoice, Hop, Order, Restore, Size};
use crate::spire::policy::{
    self, Row, RuleId, Seen, State, Step, Target, Verdict, Violation, chart_unpublished, judge, judge_state,
    server_start,
};
use crate::spire::releases::Release;

/// What a plan may count on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Judge the direct hop and nothing else: what the truth table says.
    pub step: bool,
    /// Rules that are lifted. Only what can be skipped is.
    pub skip: Vec<RuleId>,
    /// The backups of the database that exist.
    pub backups: Vec<BackupFacts>,
    /// How large the installation is.
    pub size: Size,
}

/// How it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A legal chain of hops exists.
    Allowed,
    /// None exists from here.
    Refused,
    /// All of it is so already.
    NothingToDo,
}

/// Where it shall lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Goal {
    /// The SPIRE version, or what was given as one.
    pub spire: String,
    /// The chart at the end, if it is known.
    pub chart: Option<Chart>,
}

/// What a trap is, and what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrapNote {
    /// Its id, as the hops name it.
    pub id: Trap,
    /// What happens there.
    pub what: &'static str,
    /// What coastal does about it.
    pub handling: &'static str,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The version of this format.
    pub schema: u32,
    /// How it was answered.
    pub verdict: Answer,
    /// What runs, if all of it is known.
    pub from: Option<State>,
    /// Where it shall lead.
    pub to: Goal,
    /// What was wished of the chart.
    pub chart_choice: ChartChoice,
    /// `allowed`: what a direct jump would break. `refused`: what stands in the way.
    pub violations: Vec<Violation>,
    /// The chain. Empty unless allowed.
    pub hops: Vec<Hop>,
    /// The traps on the way.
    pub traps: Vec<TrapNote>,
    /// What is worth knowing before it begins.
    pub warnings: Vec<String>,
    /// What this choice of the chart risks.
    pub risks: Vec<String>,
    /// How long all hops take, in seconds, roughly.
    pub expected_s: u64,
}

impl Outcome {
    fn new(from: Option<State>, spire: String, chart: Option<Chart>, choice: &ChartChoice) -> Self {
        Outcome {
            schema: 1,
            verdict: Answer::Refused,
            from,
            to: Goal { spire, chart },
            chart_choice: choice.clone(),
            violations: Vec::new(),
            hops: Vec::new(),
            traps: Vec::new(),
            warnings: Vec::new(),
            risks: Vec::new(),
            expected_s: 0,
        }
    }

    /// Refused by these rules.
    fn refused(mut self, mut violations: Vec<Violation>) -> Self {
        violations.sort_by_key(|violation| violation.rule);
        // A database that the version would not open opens in no other order of steps either.
        let ahead = violations.iter().find(|violation| violation.rule == RuleId::SchemaAhead);
        if let Some(way_out) = ahead.map(|violation| violation.way_out.clone()) {
            let of_order = [RuleId::OneMinor, RuleId::Order, RuleId::AgentTooOld, RuleId::AgentNewer];
            for violation in violations.iter_mut().filter(|violation| of_order.contains(&violation.rule)) {
                violation.way_out.clone_from(&way_out);
            }
        }
        self.violations = violations;
        self
    }
}

/// As [`plan`], from what was read, in whatever words: what is no published version is refused by name.
#[must_use]
pub fn what_if(seen: &Seen, target: &Target, text: &str, choice: &ChartChoice, options: &Options) -> Outcome {
    let known = seen.known(options.skip.contains(&RuleId::ChartUnknown));
    match (known, target) {
        (Ok(state), Target::Known(release)) => plan(&state, *release, choice, options),
        (known, target) => {
            let (state, mut violations) = match known {
                Ok(state) => (Some(state), Vec::new()),
                Err(violations) => (None, violations),
            };
            if let Target::Refused(violation) = target {
                violations.insert(0, violation.clone());
            }
            Outcome::new(state, text.trim().to_owned(), None, choice).refused(merged(violations))
        }
    }
}

/// The same rule is broken once, by all of the facts.
fn merged(violations: Vec<Violation>) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for violation in violations {
        match found.iter_mut().find(|other| other.rule == violation.rule) {
            Some(other) => other.facts.extend(violation.facts),
            None => found.push(violation),
        }
    }
    found
}

/// The shortest chain of legal hops from `state` to `target`, and the chart that is chosen.
#[must_use]
pub fn plan(state: &State, target: Release, choice: &ChartChoice, options: &Options) -> Outcome {
    let chart = match goal_chart(state, target, choice, options) {
        Ok(chart) => chart,
        Err(violation) => {
            return Outcome::new(Some(state.clone()), target.to_string(), None, choice).refused(vec![violation]);
        }
    };
    let skewed = judge_state(state).violations.into_iter().filter(|violation| violation.rule == RuleId::SkewServer);
    let skewed: Vec<Violation> = skewed.collect();
    let there = |versions: &[Release]| versions.iter().all(|version| *version == target);
    let images_there = there(state.servers()) && there(state.agents());
    // One step moves one thing: the images, as long as they have to move.
    let chart = chart.filter(|_| images_there || !options.step);
    let mut outcome = Outcome::new(Some(state.clone()), target.to_string(), chart.or(state.chart()), choice);
    outcome.warnings = oddities(state);
    if images_there && (chart.is_none() || chart == state.chart()) {
        outcome.verdict = Answer::NothingToDo;
        return outcome;
    }
    let direct = direct(state, target, chart);
    outcome.violations = lifted(direct.violations, &options.skip, &mut outcome.warnings);
    if !skewed.is_empty() {
        return outcome;
    }
    let moves = if options.step {
        one_move(state, target, chart, &outcome)
    } else {
        let quest = Quest { state, target, chart, backups: &options.backups, skip: &options.skip };
        search(&quest).map_err(|broken| policy::violations(state.view(), &broken))
    };
    match moves {
        Ok(moves) => {
            outcome.verdict = Answer::Allowed;
            tell(&mut outcome, state, &moves, options);
            risks(&mut outcome, state, target, chart);
        }
        Err(mut obstacles) => {
            let more = outcome.violations.into_iter();
            let more: Vec<_> = more.filter(|other| obstacles.iter().all(|v| v.rule != other.rule)).collect();
            obstacles.extend(more);
            outcome.violations = Vec::new();
            return outcome.refused(obstacles);
        }
    }
    outcome
}

/// What cannot be so, or not for long.
fn oddities(state: &State) -> Vec<String> {
    let Row { schema, code_version } = state.row();
    let mut found = Vec::new();
    for server in state.servers() {
        let start = server_start(server.version(), Some((*schema, code_version)));
        if !start.is_started() {
            found.push(format!(
                "a server runs SPIRE {server}, which would not start again on a database at schema {schema}, written by SPIRE {code_version}"
            ));
        } else if *schema < server.schema().latest {
            found.push(format!(
                "a server runs SPIRE {server}, which would have migrated the database to schema {}; it is at {schema}: is `disable_migration` set?",
                server.schema().latest
            ));
        }
    }
    let components = [(Component::Server, state.servers()), (Component::Agent, state.agents())];
    for (component, versions) in components {
        for version in versions {
            if let Some((chart, accepts)) =
                state.chart().and_then(|chart| Some((chart, chart.refuses(component, *version)?)))
            {
                let because = &accepts.because;
                found.push(format!(
                    "{component}s of {version} run on chart {chart}, which by rights they refuse: {because}"
                ));
            }
        }
    }
    found
}

/// The chart at the end; `None` if it stays or none is known.
fn goal_chart(
    state: &State,
    target: Release,
    choice: &ChartChoice,
    options: &Options,
) -> Result<Option<Chart>, Violation> {
    let wanted = match choice {
        ChartChoice::Keep => return Ok(None),
        ChartChoice::Version(version) => charts::find(version).ok_or_else(|| chart_unpublished(version))?,
        ChartChoice::Follow => match followed(state, target) {
            Some(chart) => chart,
            None => return Ok(None),
        },
    };
    if state.chart().is_none() && !options.skip.contains(&RuleId::ChartUnknown) {
        let fact = format!("the state does not say which chart runs, so the step to {wanted} cannot be judged");
        return Err(Violation::new(
            RuleId::ChartUnknown,
            vec![fact],
            "say which chart runs, or keep it: `--chart keep`",
        ));
    }
    Ok(Some(wanted))
}

/// The chart that goes with the target: never back while SPIRE goes up, never on while it goes down, as long as the
/// running one will do.
fn followed(state: &State, target: Release) -> Option<Chart> {
    let fit = charts::made_for(target).filter(|chart| chart.has_values());
    let (Some(fit), Some(now)) = (fit, state.chart()) else { return fit };
    let down = state.servers().first().is_some_and(|oldest| target < *oldest);
    let stays = if down { now <= fit } else { now >= fit };
    Some(if stays && now.refuses_any(target).is_none() { now } else { fit })
}

/// What going there at once would break.
fn direct(state: &State, target: Release, chart: Option<Chart>) -> Verdict {
    let mut found = Verdict::default();
    let mut now = state.clone();
    let mut go = |step: Step| {
        let verdict = judge(&now, &step);
        let new = verdict.violations.into_iter();
        let new: Vec<_> = new.filter(|v| found.violations.iter().all(|other| other.rule != v.rule)).collect();
        found.violations.extend(new);
        now = now.after(&step);
    };
    if state.servers() != [target] {
        go(Step::Servers(target));
    }
    if !state.agents().is_empty() && state.agents() != [target] {
        go(Step::Agents(target));
    }
    if let Some(chart) = chart.filter(|chart| Some(*chart) != state.chart()) {
        go(Step::Chart(chart));
    }
    found.violations.sort_by_key(|violation| violation.rule);
    found
}

/// Without what is skipped; a warning says so.
fn lifted(violations: Vec<Violation>, skip: &[RuleId], warnings: &mut Vec<String>) -> Vec<Violation> {
    let is_skipped = |violation: &Violation| !violation.mandatory && skip.contains(&violation.rule);
    let (skipped, left): (Vec<_>, Vec<_>) = violations.into_iter().partition(is_skipped);
    warnings.extend(skipped.iter().map(|v| format!("{} is skipped: {}", v.rule, v.facts.join(", "))));
    left
}

/// The direct hop as the only one; what it breaks was judged already.
fn one_move(
    state: &State,
    target: Release,
    chart: Option<Chart>,
    outcome: &Outcome,
) -> Result<Vec<Move>, Vec<Violation>> {
    if !outcome.violations.is_empty() {
        return Err(Vec::new());
    }
    let images = state.servers() != [target] || (!state.agents().is_empty() && state.agents() != [target]);
    Ok(match chart {
        Some(chart) if !images => vec![Move::Chart(chart)],
        _ => vec![Move::Images { to: target, servers_first: true }],
    })
}

/// The hops of `moves`, with what happens to the state on the way.
fn tell(outcome: &mut Outcome, start: &State, moves: &[Move], options: &Options) {
    let mut state = start.clone();
    let mut visited: BTreeSet<Release> = start.servers().iter().copied().collect();
    let mut traps = BTreeSet::new();
    for by in moves {
        let mut hop = hop(&state, *by, options);
        let before = open(&visited, state.row());
        for step in hop.steps() {
            for warning in judge(&state, &step).warnings {
                if !hop.notes.contains(&warning) {
                    hop.notes.push(warning);
                }
            }
            state = state.after(&step);
        }
        let after = open(&visited, state.row());
        hop.closes = before.difference(&after).map(|release| release.version().clone()).collect();
        hop.reversible = hop.closes.is_empty() && hop.order != Order::Restore;
        visited.extend(state.servers());
        traps.extend(hop.traps.iter().copied());
        outcome.expected_s += hop.expected_s;
        outcome.hops.push(hop);
    }
    let note = |id: Trap| TrapNote { id, what: id.what(), handling: id.handling() };
    outcome.traps = traps.into_iter().map(note).collect();
    if !start.row_is_given() && outcome.hops.iter().any(|hop| !hop.reversible || hop.to < hop.from) {
        let Row { schema, code_version } = start.row();
        outcome.warnings.push(format!(
            "the database's `migrations` row is not given; it is taken to be `{schema} | {code_version}`"
        ));
    }
}

/// Those of `visited` that start on that database.
fn open(visited: &BTreeSet<Release>, row: &Row) -> BTreeSet<Release> {
    let starts =
        |release: &&Release| server_start(release.version(), Some((row.schema, &row.code_version))).is_started();
    visited.iter().filter(starts).copied().collect()
}

fn hop(state: &State, by: Move, options: &Options) -> Hop {
    let servers = (state.servers().first().copied(), state.servers().last().copied());
    let agents = (state.agents().first().copied(), state.agents().last().copied());
    let chart_from = state.chart();
    let farthest = |to: Release, (oldest, newest): (Option<Release>, Option<Release>)| {
        let (oldest, newest) = (oldest.unwrap_or(to), newest.unwrap_or(to));
        if oldest < to { oldest } else { newest }
    };
    let (from, to, chart) = match by {
        Move::Images { to, .. } if state.servers() == [to] => (farthest(to, agents), to, chart_from),
        Move::Images { to, .. } | Move::Restore { to, .. } => (farthest(to, servers), to, chart_from),
        Move::Agents(to) => (farthest(to, agents), to, chart_from),
        Move::Chart(chart) => {
            let runs = servers.1.unwrap_or_else(|| chart.spire());
            (runs, runs, Some(chart))
        }
    };
    let order = order(state, by);
    let mut hop = Hop::new(from.version().clone(), to.version().clone(), order);
    hop.chart_from = chart_from.map(|chart| chart.version().clone());
    hop.chart = chart.map(|chart| chart.version().clone());
    if let (Move::Chart(chart), before) = (by, chart_from) {
        hop.traps = before.map(|before| before.traps(chart)).unwrap_or_default();
        let crds_before = before.and_then(Chart::crds);
        hop.crds = chart.crds().filter(|crds| crds_before.is_none_or(|before| before < *crds)).cloned();
    }
    if let Move::Restore { backup, .. } = by {
        hop.restore = options.backups.get(backup).cloned().map(|backup| Restore { lost: lost(&backup), backup });
    }
    if order != Order::AgentsOnly {
        hop.notes.extend(from.crossings(to).map(str::to_owned));
    }
    hop.expected_s = options.size.expected_s(order);
    hop
}

fn order(state: &State, by: Move) -> Order {
    match by {
        Move::Agents(_) => Order::AgentsOnly,
        Move::Chart(_) => Order::Chart,
        Move::Restore { .. } => Order::Restore,
        Move::Images { to, .. } if state.servers() == [to] => Order::AgentsOnly,
        Move::Images { to, .. } if state.agents().is_empty() || state.agents() == [to] => Order::ServersOnly,
        Move::Images { servers_first: true, .. } => Order::ServersFirst,
        Move::Images { servers_first: false, .. } => Order::AgentsFirst,
    }
}

/// What a restore takes away.
fn lost(backup: &BackupFacts) -> Vec<String> {
    let since = format!("since {:.0}", backup.taken_at);
    vec![
        format!("registration entries made by hand {since}; the controller manager makes the pods' entries again"),
        format!("agents attested {since}, which attest again when they notice"),
        format!("CAs that the servers made {since}: what they signed is no longer trusted, and is renewed"),
        format!(
            "agents banned and authorities tainted or revoked {since} are trusted again, and have to be dealt with anew"
        ),
    ]
}

fn risks(outcome: &mut Outcome, state: &State, target: Release, chart: Option<Chart>) {
    let end = chart.or(state.chart());
    match (&outcome.chart_choice, end) {
        (ChartChoice::Keep, Some(kept)) if !kept.has_values() => outcome.risks.push(format!(
            "there are no values for chart {kept}, so these hops can be planned and not carried out: go to chart {} first",
            charts::OLDEST_WITH_VALUES
        )),
        (ChartChoice::Keep, Some(kept)) if kept.spire().line() != target.line() => outcome.risks.push(format!(
            "chart {kept} was made for SPIRE {} and is kept: its authors never tried it with {target}, and what newer charts configure stays as it is",
            kept.spire()
        )),
        (ChartChoice::Keep, None) => {
            outcome.risks.push("the chart is not known, so what it writes cannot be checked against the target".to_owned());
        }
        (ChartChoice::Follow | ChartChoice::Version(_), Some(end)) => {
            let hops = outcome.hops.iter().filter(|hop| hop.order == Order::Chart).count();
            if hops > 0 {
                outcome.risks.push(format!(
                    "every chart hop restarts servers and agents and changes what is rendered: {hops} of them, {} traps on the way",
                    outcome.traps.len()
                ));
            }
            if end.spire().line() != target.line() {
                outcome.risks.push(format!("chart {end} was made for SPIRE {}, not for {target}", end.spire()));
            }
        }
        (ChartChoice::Keep | ChartChoice::Follow | ChartChoice::Version(_), _) => {}
    }
}
