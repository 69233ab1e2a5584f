//! Chains: examples, what holds for every pair, and a comparison with a second opinion.

use proptest::prelude::*;

use super::model::{self, V, World};
use super::*;
use crate::spire::charts::Chart;
use crate::spire::policy::{RuleId, Seen, State, Target, judge};
use crate::spire::releases::Release;

fn release(text: &str) -> Release {
    releases::find(&text.parse().unwrap()).unwrap()
}

fn chart(text: &str) -> Chart {
    charts::find(&text.parse().unwrap()).unwrap()
}

/// Servers, agents (each separated by blanks), the newest SPIRE that ever wrote to the database, the chart.
fn state(servers: &str, agents: &str, code: &str, on: &str) -> State {
    let list = |text: &str| text.split_whitespace().map(release).collect::<Vec<_>>();
    let code = if code.is_empty() { list(servers).into_iter().max().unwrap() } else { release(code) };
    let on = (!on.is_empty()).then(|| chart(on));
    let (schema, code) = (code.schema().latest, code.version().clone());
    State::new(list(servers), list(agents), Some(schema), Some(code), on).unwrap()
}

fn both(version: &str) -> State {
    state(version, version, "", "")
}

fn backup(code: &str, taken_at: &str) -> BackupFacts {
    BackupFacts {
        name: format!("spire-{code}.sql"),
        schema: release(code).schema().latest,
        code_version: code.parse().unwrap(),
        servers: vec![code.parse().unwrap()],
        taken_at: taken_at.parse().unwrap(),
    }
}

fn ask(state: &State, to: &str, choice: &str) -> Outcome {
    plan(state, release(to), &choice.parse().unwrap(), &Options::default())
}

/// `ORDER VERSION` for each hop, chart hops `chart VERSION`; `!` where it cannot be undone. Or the rules that refuse.
fn told(outcome: &Outcome) -> String {
    if outcome.verdict != Answer::Allowed {
        let rules: Vec<&str> = outcome.violations.iter().map(|violation| violation.rule.as_str()).collect();
        return format!("{}: {}", serde_json::to_value(outcome.verdict).unwrap().as_str().unwrap(), rules.join(" "));
    }
    let hops = outcome.hops.iter().map(|hop| {
        let undo = if hop.reversible { "" } else { "!" };
        match (hop.order, &hop.chart) {
            (Order::Chart, Some(chart)) => format!("chart {chart}{undo}"),
            (Order::ServersFirst, _) => format!("up {}{undo}", hop.to),
            (Order::AgentsFirst, _) => format!("down {}{undo}", hop.to),
            (Order::AgentsOnly, _) => format!("agents {}{undo}", hop.to),
            (Order::ServersOnly, _) => format!("servers {}{undo}", hop.to),
            (order, _) => format!("{} {}{undo}", serde_json::to_value(order).unwrap().as_str().unwrap(), hop.to),
        }
    });
    hops.collect::<Vec<_>>().join(", ")
}

/// Every step of every hop is legal from where the steps before it led to; the chain ends where it should.
fn holds(outcome: &Outcome, start: &State, target: Release, skip: &[RuleId]) {
    if outcome.verdict == Answer::Refused {
        assert!(!outcome.violations.is_empty() && outcome.hops.is_empty(), "a refusal names a rule: {outcome:?}");
        assert!(outcome.violations.iter().all(|v| !v.facts.is_empty() && !v.way_out.is_empty()));
        return;
    }
    let mut state = start.clone();
    for hop in &outcome.hops {
        let steps = hop.steps();
        assert!(!steps.is_empty(), "{hop:?}");
        for step in steps {
            let broken = judge(&state, &step).violations;
            let broken: Vec<_> = broken.iter().filter(|v| v.mandatory || !skip.contains(&v.rule)).collect();
            assert!(broken.is_empty(), "{step:?} of {hop:?}: {broken:?}");
            state = state.after(&step);
        }
        assert_eq!(hop.reversible, hop.closes.is_empty() && hop.order != Order::Restore);
        assert!(hop.chart_from == hop.chart || hop.from == hop.to, "images or chart, never both: {hop:?}");
    }
    assert_eq!(state.servers(), [target]);
    assert!(start.agents().is_empty() || state.agents() == [target]);
    assert_eq!(outcome.verdict == Answer::NothingToDo, outcome.hops.is_empty());
    assert!(outcome.to.chart.is_none() || state.chart() == outcome.to.chart);
}

#[test]
fn the_tickets_example_first_brings_the_agents_along() {
    let from = state("1.13.6", "1.12.6", "", "0.27.1");
    let outcome = ask(&from, "1.14.7", "keep");
    assert_eq!(told(&outcome), "agents 1.13.6, up 1.14.7");
    let rules: Vec<RuleId> = outcome.violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, [RuleId::Order, RuleId::AgentTooOld], "what a direct jump would break");
}

#[test]
fn one_minor_version_at_a_time() {
    let rows = [
        ("1.7.2", "1.8.0", "up 1.8.0"),
        ("1.8.0", "1.7.2", "down 1.7.2"),
        ("1.13.6", "1.15.3", "up 1.14.7, up 1.15.3!"),
        // 1.14.2 leaves the schema as it is, so that one hop more can be undone.
        ("1.12.6", "1.15.3", "up 1.13.6, up 1.14.2, up 1.15.3!"),
        ("1.12.6", "1.14.7", "up 1.13.6, up 1.14.7!"),
        ("1.12.6", "1.14.2", "up 1.13.6, up 1.14.2"),
        ("1.7.2", "1.15.3", "up 1.8.11, up 1.9.6!, up 1.10.4, up 1.11.3, up 1.12.6, up 1.13.6, up 1.14.2, up 1.15.3!"),
        ("1.13.6", "1.8.0", "down 1.12.6, down 1.11.3, down 1.10.4, down 1.9.6, down 1.8.0"),
        ("1.14.2", "1.12.6", "down 1.13.6, down 1.12.6"),
        ("0.12.3", "1.1.0", "up 1.0.4, up 1.1.0!"),
        ("1.0.4", "0.12.3", "down 0.12.3"),
        ("1.1.0", "0.12.3", "refused: SPIRE-ONE-MINOR SPIRE-AGENT-NEWER SPIRE-SCHEMA-AHEAD"),
        ("1.15.3", "1.14.7", "down 1.14.7"),
        ("1.15.3", "1.13.6", "refused: SPIRE-ONE-MINOR SPIRE-AGENT-NEWER SPIRE-SCHEMA-AHEAD"),
        ("1.15.3", "1.15.3", "nothing-to-do: "),
        ("1.15.3", "1.15.0", "down 1.15.0"),
    ];
    for (from, to, expected) in rows {
        assert_eq!(told(&ask(&both(from), to, "keep")), expected, "{from} -> {to}");
    }
}

#[test]
fn what_was_interrupted_is_gone_on_with_and_what_is_broken_is_mended() {
    let rows = [
        // Servers half way up.
        ("1.8.0 1.7.2", "1.7.2", "1.8.0", "up 1.8.0"),
        ("1.8.0 1.7.2", "1.7.2", "1.9.6", "up 1.8.11, up 1.9.6!"),
        ("1.8.0 1.7.2", "1.7.2", "1.7.2", "servers 1.7.2"),
        // Servers up, agents not yet.
        ("1.8.0", "1.7.2", "1.8.0", "agents 1.8.0"),
        ("1.8.0", "1.8.0 1.7.2", "1.8.0", "agents 1.8.0"),
        ("1.8.0", "1.7.2", "1.9.6", "agents 1.8.0, up 1.9.6"),
        // Agents down, servers not yet, or half way.
        ("1.8.0", "1.7.2", "1.7.2", "servers 1.7.2"),
        ("1.8.0", "1.8.0 1.7.2", "1.7.2", "down 1.7.2"),
        ("1.8.0 1.7.2", "1.7.2", "1.7.6", "up 1.7.6"),
        // Row 3: an agent that is newer by patch.
        ("1.14.2", "1.14.5", "1.14.7", "up 1.14.7"),
        ("1.14.2", "1.14.5", "1.14.4", "agents 1.14.2, up 1.14.4"),
        // Rows 40 and 41.
        ("1.15.0", "1.15.1", "1.15.0", "agents 1.15.0"),
        ("1.15.0", "1.15.1", "1.15.3", "up 1.15.3"),
        ("1.15.0", "1.13.6", "1.15.3", "agents 1.15.0, up 1.15.3"),
        // No agent at all.
        ("1.13.6", "", "1.14.7", "servers 1.14.7"),
        // Three servers at three versions.
        ("1.13.6 1.14.0 1.14.2", "1.13.6", "1.14.7", "up 1.14.7"),
        ("1.13.6 1.14.7 1.15.3", "1.13.6", "1.15.3", "refused: SPIRE-SKEW-SERVER SPIRE-ONE-MINOR SPIRE-AGENT-TOO-OLD"),
        ("1.2.3 1.0.4", "1.0.4", "1.1.5", "refused: SPIRE-SKEW-SERVER"),
    ];
    for (servers, agents, to, expected) in rows {
        let from = state(servers, agents, "", "");
        let outcome = ask(&from, to, "keep");
        assert_eq!(told(&outcome), expected, "{servers} / {agents} -> {to}");
        holds(&outcome, &from, release(to), &[]);
    }
}

#[test]
fn a_schema_that_is_ahead_takes_a_backup() {
    let from = both("1.15.3");
    let with = |backups: &[BackupFacts], to: &str| {
        let options = Options { backups: backups.to_vec(), ..Options::default() };
        let outcome = plan(&from, release(to), &ChartChoice::Keep, &options);
        holds(&outcome, &from, release(to), &[]);
        outcome
    };
    let old = backup("1.12.6", "2026-08-01T00:00:00Z");
    let new = backup("1.14.7", "2026-08-02T00:00:00Z");
    let useless = backup("1.15.0", "2026-08-03T00:00:00Z");
    assert_eq!(told(&with(&[], "1.14.0")), "down 1.14.0");
    let outcome = with(&[old.clone(), new.clone(), useless.clone()], "1.13.6");
    assert_eq!(told(&outcome), "down 1.14.7, restore 1.13.6!");
    let restore = outcome.hops[1].restore.as_ref().unwrap();
    assert_eq!(restore.backup, new, "the newest that will do loses least");
    assert!(restore.lost.iter().all(|text| text.contains("since 2026-08-02T00:00:00Z")), "{:?}", restore.lost);
    // The newest is at schema 24, which 1.12 bears no more than 25; the older one leads all the way.
    assert_eq!(
        told(&with(&[old, new.clone(), useless.clone()], "1.12.6")),
        "down 1.14.7, restore 1.13.6!, down 1.12.6"
    );
    let refused = with(&[useless], "1.13.6");
    assert_eq!(refused.violations[2].rule, RuleId::SchemaAhead);
    // What does not open in the end is not advised to be walked hop by hop.
    let ways: Vec<&str> = refused.violations.iter().map(|violation| violation.way_out.as_str()).collect();
    assert!(ways.iter().all(|way| *way == ways[2] && way.contains("coastal backup list")), "{ways:?}");
    assert!(refused.violations[2].way_out.contains("restore a backup of the database that SPIRE 1.13.6 opens"));
    // Below 1.13.6 not even that backup helps.
    let refused = with(&[new], "1.12.6");
    assert_eq!(refused.verdict, Answer::Refused);
}

#[test]
fn all_the_way_up_and_down_again_with_the_backups_that_were_taken() {
    let start = state("1.7.2", "1.7.2", "", "0.13.0");
    let up = ask(&start, "1.15.3", "follow");
    holds(&up, &start, release("1.15.3"), &[]);
    let mut backups = Vec::new();
    let mut state = start;
    for (n, hop) in up.hops.iter().enumerate() {
        if !hop.reversible {
            backups.push(BackupFacts {
                name: format!("before hop {}", n + 1),
                schema: state.row().schema,
                code_version: state.row().code_version.clone(),
                servers: vec![hop.from.clone()],
                taken_at: Timestamp::from_second(n.try_into().unwrap()).unwrap(),
            });
        }
        state = hop.steps().iter().fold(state, |state, step| state.after(step));
    }
    assert_eq!(backups.len(), 2);
    let options = Options { backups, ..Options::default() };
    for choice in [ChartChoice::Follow, ChartChoice::Version("0.13.0".parse().unwrap())] {
        let down = plan(&state, release("1.7.2"), &choice, &options);
        holds(&down, &state, release("1.7.2"), &[]);
        assert_eq!(down.hops.iter().filter(|hop| hop.order == Order::Restore).count(), 2, "{}", told(&down));
        assert_eq!(down.hops.len(), 25);
    }
}

#[test]
fn the_chart_follows_the_images_up_and_leads_them_down() {
    let up = ask(&state("1.7.2", "1.7.2", "", "0.13.0"), "1.15.3", "follow");
    assert_eq!(
        told(&up),
        "up 1.8.11, chart 0.14.0, chart 0.15.1, chart 0.16.0, chart 0.17.2, up 1.9.6!, chart 0.18.2, chart 0.19.2, \
         chart 0.20.0, chart 0.21.0, up 1.10.4, chart 0.22.0, chart 0.23.0, up 1.11.3, chart 0.24.2, up 1.12.6, \
         chart 0.25.0, chart 0.26.1, up 1.13.6, chart 0.27.1, up 1.14.2, chart 0.28.5, up 1.15.3!, chart 0.29.0, \
         chart 0.30.0"
    );
    let traps: Vec<Trap> = up.traps.iter().map(|note| note.id).collect();
    assert!(traps.contains(&Trap::CrdAdoption) && traps.contains(&Trap::Rebootstrap), "{traps:?}");
    assert!(!traps.contains(&Trap::StatefulSetSelector), "that lies before 0.13.0");
    let crds: Vec<String> = up.hops.iter().filter_map(|hop| Some(hop.crds.as_ref()?.to_string())).collect();
    assert_eq!(crds, ["0.0.1", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0"]);

    let down = ask(&state("1.13.6", "1.13.6", "", "0.27.1"), "1.11.3", "follow");
    assert_eq!(told(&down), "chart 0.26.1, chart 0.25.0, down 1.12.6, chart 0.24.2, down 1.11.3");
    assert!(down.hops.iter().all(|hop| hop.crds.is_none()), "the definitions never move back");
}

#[test]
fn a_chart_keeps_spire_within_what_it_accepts() {
    let rows = [
        // `rebootstrap_mode`.
        ("1.13.6", "0.27.1", "1.12.6", "keep", "refused: SPIRE-ORDER SPIRE-AGENT-NEWER CHART-FLOOR"),
        ("1.13.6", "0.27.1", "1.12.6", "0.26.1", "chart 0.26.1, down 1.12.6"),
        ("1.12.6", "0.26.1", "1.12.6", "0.27.1", "refused: CHART-FLOOR"),
        ("1.12.6", "0.26.1", "1.13.6", "0.27.1", "up 1.13.6, chart 0.27.1"),
        // `retry_bootstrap`.
        ("1.13.6", "0.25.0", "1.14.7", "keep", "refused: CHART-CEILING"),
        ("1.13.6", "0.25.0", "1.14.7", "follow", "chart 0.26.1, chart 0.27.1, up 1.14.7, chart 0.28.5"),
        // `k8s_configmap`.
        ("1.12.2", "0.25.0", "1.12.2", "0.26.1", "refused: CHART-FLOOR"),
        ("1.12.2", "0.25.0", "1.12.4", "0.26.1", "up 1.12.4, chart 0.26.1"),
        // Kept too long: no minor version of the chart leads over the gap any more.
        ("1.15.3", "0.18.2", "1.15.3", "follow", "refused: CHART-ONE-MINOR CHART-CEILING"),
        // The chart alone.
        ("1.15.3", "0.29.0", "1.15.3", "follow", "chart 0.30.0"),
        ("1.15.3", "0.30.0", "1.15.3", "follow", "nothing-to-do: "),
        ("1.15.1", "0.30.0", "1.15.2", "follow", "up 1.15.2"),
        ("1.7.2", "0.13.0", "1.7.2", "0.12.0", "refused: CHART-VALUES"),
        ("1.7.2", "0.13.0", "1.8.0", "0.13.9", "refused: CHART-UNPUBLISHED"),
        // The lab's own story.
        ("1.7.2", "0.13.0", "1.8.0", "follow", "up 1.8.0, chart 0.13.2"),
        ("1.8.0", "0.13.2", "1.7.2", "follow", "chart 0.13.0, down 1.7.2"),
    ];
    for (spire, on, to, choice, expected) in rows {
        let from = state(spire, spire, "", on);
        let outcome = ask(&from, to, choice);
        assert_eq!(told(&outcome), expected, "{spire} on {on} -> {to}, {choice}");
        holds(&outcome, &from, release(to), &[]);
    }
}

#[test]
fn a_rule_that_is_skipped_by_name_shortens_the_way() {
    let from = state("1.15.3", "1.15.3", "", "0.18.2");
    let skip = vec![RuleId::ChartOneMinor];
    let options = Options { skip: skip.clone(), ..Options::default() };
    let outcome = plan(&from, release("1.15.3"), &ChartChoice::Follow, &options);
    assert_eq!(told(&outcome), "chart 0.30.0");
    assert_eq!(
        outcome.warnings,
        ["CHART-ONE-MINOR is skipped: chart from 0.18.2 to 0.30.0 are 12 minor versions in one step"]
    );
    holds(&outcome, &from, release("1.15.3"), &skip);
    // What is mandatory stays, whatever is asked for.
    let options = Options { skip: vec![RuleId::OneMinor, RuleId::SchemaAhead], ..Options::default() };
    assert_eq!(plan(&both("1.15.3"), release("1.13.6"), &ChartChoice::Keep, &options).verdict, Answer::Refused);
}

#[test]
fn one_step_is_the_truth_table() {
    let step = |from: &State, to: &str| {
        let options = Options { step: true, ..Options::default() };
        plan(from, release(to), &ChartChoice::Keep, &options)
    };
    let rows = [
        (state("1.14.7", "1.14.5", "", ""), "1.15.3", "up 1.15.3"),
        (state("1.14.2", "1.14.5", "", ""), "1.14.7", "up 1.14.7"),
        (state("1.13.6", "1.12.6", "", ""), "1.14.0", "refused: SPIRE-ORDER SPIRE-AGENT-TOO-OLD"),
        (state("1.13.6", "1.13.6", "", ""), "1.15.0", "refused: SPIRE-ONE-MINOR SPIRE-AGENT-TOO-OLD"),
        (state("1.15.3", "1.15.1", "", ""), "1.14.7", "refused: SPIRE-ORDER SPIRE-AGENT-NEWER"),
        (state("1.15.3", "1.14.7", "", ""), "1.14.7", "servers 1.14.7"),
        (state("1.14.7", "1.13.6", "1.15.3", ""), "1.13.6", "refused: SPIRE-SCHEMA-AHEAD"),
        (state("1.14.7", "1.13.6", "", ""), "1.13.6", "servers 1.13.6"),
        (state("1.15.0", "1.13.6", "", ""), "1.15.0", "agents 1.15.0"),
        (both("1.15.3"), "1.15.3", "nothing-to-do: "),
    ];
    // Images or chart, never both.
    let options = Options { step: true, ..Options::default() };
    let from = state("1.7.2", "1.7.2", "", "0.13.0");
    assert_eq!(told(&plan(&from, release("1.8.0"), &ChartChoice::Follow, &options)), "up 1.8.0");
    let from = state("1.8.0", "1.8.0", "", "0.13.0");
    assert_eq!(told(&plan(&from, release("1.8.0"), &ChartChoice::Follow, &options)), "chart 0.13.2");
    for (from, to, expected) in rows {
        let outcome = step(&from, to);
        assert_eq!(told(&outcome), expected, "{from:?} -> {to}");
        holds(&outcome, &from, release(to), &[]);
    }
}

#[test]
fn what_cannot_be_so_is_said() {
    let warnings = |servers: &str, schema, code: &str| {
        let code = Some(code.parse().unwrap());
        let state = State::new(vec![release(servers)], vec![release(servers)], Some(schema), code, None).unwrap();
        ask(&state, servers, "keep").warnings.join("\n")
    };
    assert_eq!(warnings("1.8.0", 23, "1.8.0"), "");
    assert!(warnings("1.8.0", 22, "1.7.2").contains("is `disable_migration` set?"));
    assert!(warnings("1.13.6", 25, "1.15.3").contains("would not start again"));
    let unknown = State::new(vec![release("1.14.7")], vec![], None, None, None).unwrap();
    assert!(ask(&unknown, "1.13.6", "keep").warnings[0].contains("row is not given"));
    assert!(ask(&unknown, "1.14.7", "keep").warnings.is_empty());
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let seen = |server: &str, chart: Option<&str>| Seen {
        servers: vec![server.into()],
        chart: chart.map(str::to_owned),
        ..Seen::default()
    };
    let ask = |seen: &Seen, to: &str, choice: &str, skip: &[RuleId]| {
        let options = Options { skip: skip.to_vec(), ..Options::default() };
        told(&what_if(seen, &Target::parse(to).unwrap(), to, &choice.parse().unwrap(), &options))
    };
    let skip = [RuleId::ChartUnknown];
    assert_eq!(ask(&seen("1.15.3", None), "1.15.4", "keep", &[]), "refused: SPIRE-UNPUBLISHED");
    assert_eq!(ask(&seen("1.15.3", None), "latest", "keep", &[]), "refused: SPIRE-UNKNOWN-VERSION");
    assert_eq!(ask(&seen("latest", None), "1.16.0", "keep", &[]), "refused: SPIRE-UNKNOWN-VERSION SPIRE-UNPUBLISHED");
    assert_eq!(ask(&seen("1.7.2", Some("0.13.9")), "1.8.0", "keep", &[]), "refused: CHART-UNKNOWN");
    assert_eq!(ask(&seen("1.7.2", Some("0.13.9")), "1.8.0", "keep", &skip), "servers 1.8.0");
    assert_eq!(ask(&seen("1.7.2", None), "1.8.0", "follow", &[]), "refused: CHART-UNKNOWN");
    assert_eq!(ask(&seen("1.7.2", None), "1.8.0", "follow", &skip), "servers 1.8.0, chart 0.13.2");
}

#[test]
fn every_pair_is_as_short_as_its_minor_versions_allow() {
    // All first and last patches, and those around a schema that moves inside a minor version.
    let edge = |release: &Release| {
        let alike = |other: &Release| other.schema() == release.schema() && other.line() == release.line();
        let mut same = releases::all().filter(alike);
        same.next() == Some(*release) || same.next_back() == Some(*release)
    };
    let versions: Vec<Release> = releases::all().filter(edge).collect();
    assert!(versions.len() > 40);
    for from in &versions {
        let start =
            State::new(vec![*from], vec![*from], Some(from.schema().latest), Some(from.version().clone()), None);
        let start = start.unwrap();
        for to in &versions {
            let outcome = plan(&start, *to, &ChartChoice::Keep, &Options::default());
            holds(&outcome, &start, *to, &[]);
            let hops = usize::from(from.line().abs_diff(to.line())).max(usize::from(from != to));
            if outcome.verdict == Answer::Refused {
                assert!(to < from, "nothing forbids the way up: {from} -> {to}");
                assert!(outcome.violations.iter().any(|v| v.rule == RuleId::SchemaAhead), "{from} -> {to}");
                let row = (from.schema().latest, model::version(from.version()));
                let bears = |release: &Release| model::start(model::version(release.version()), row).is_some();
                let blocked = (to.line()..from.line()).any(|line| {
                    let mut on_line = releases::all().filter(|release| release.line() == line);
                    if line == to.line() { !bears(to) } else { !on_line.any(|release| bears(&release)) }
                });
                assert!(blocked, "{from} -> {to} is refused, and could be gone");
            } else {
                assert_eq!(outcome.hops.len(), hops, "{from} -> {to}: {}", told(&outcome));
            }
        }
    }
}

/// The versions of three neighbouring minor versions that can matter, and the charts made for them.
fn neighbourhood(line: u16) -> (Vec<Release>, Vec<Chart>) {
    let lines = line..=line + 2;
    let stops = releases::waypoints(line, line + 2);
    let versions = releases::all().filter(|release| lines.contains(&release.line()));
    let versions = versions.filter(|release| stops.contains(release) || release.version().patch == 0).collect();
    let fits = |chart: &Chart| chart.has_values() && lines.contains(&chart.spire().line());
    (versions, charts::all().filter(fits).collect())
}

fn world(state: &State) -> World {
    World {
        servers: state.servers().iter().map(|release| model::version(release.version())).collect(),
        agents: state.agents().iter().map(|release| model::version(release.version())).collect(),
        row: (state.row().schema, model::version(&state.row().code_version)),
        chart: state.chart().map(|chart| model::version(chart.version())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    /// From any state, however broken, to any version and chart: as short as the second opinion says, or refused where
    /// it finds no way either.
    #[test]
    fn no_shorter_chain_is_legal(
        line in 10_u16..17,
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 8),
        kind in 0_u8..4,
        charted in any::<bool>(),
    ) {
        let (versions, all_charts) = neighbourhood(line);
        let pick = |n: usize| versions[picks[n].index(versions.len())];
        let servers = if kind == 0 { vec![pick(0), pick(1)] } else { vec![pick(0)] };
        let agents = match kind {
            1 => vec![pick(2), pick(3)],
            2 => vec![servers[0]],
            _ => vec![pick(2)],
        };
        let code = pick(4).max(*servers.iter().max().unwrap());
        let chart_of = |n: usize| (!all_charts.is_empty()).then(|| all_charts[picks[n].index(all_charts.len())]);
        let (now, goal) = if charted { (chart_of(5), chart_of(6)) } else { (None, None) };
        let state = State::new(servers, agents, Some(code.schema().latest), Some(code.version().clone()), now).unwrap();
        let target = pick(7);
        let choice = goal.map_or(ChartChoice::Keep, |goal| ChartChoice::Version(goal.version().clone()));
        let outcome = plan(&state, target, &choice, &Options::default());
        holds(&outcome, &state, target, &[]);

        let tuples: Vec<V> = versions.iter().map(|release| model::version(release.version())).collect();
        let chart_tuples: Vec<V> = all_charts.iter().map(|chart| model::version(chart.version())).collect();
        let (target, goal) = (model::version(target.version()), goal.map(|goal| model::version(goal.version())));
        let second = model::distance(&world(&state), target, goal, &tuples, &chart_tuples);
        let first = (outcome.verdict != Answer::Refused).then_some(outcome.hops.len());
        prop_assert_eq!(first, second, "{:?} -> {:?} {:?}: {}", state, target, goal, told(&outcome));
    }

    /// With any backups: every step is legal, and every refusal names a rule.
    #[test]
    fn no_hop_is_illegal_and_no_refusal_nameless(
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 8),
        follow in any::<bool>(),
        skip in any::<bool>(),
        two in any::<bool>(),
    ) {
        let versions: Vec<Release> = releases::all().collect();
        let all_charts: Vec<Chart> = charts::all().collect();
        let pick = |n: usize| versions[picks[n].index(versions.len())];
        let servers = if two { vec![pick(0), pick(1)] } else { vec![pick(0)] };
        let code = pick(3).max(*servers.iter().max().unwrap());
        let state = State::new(
            servers, vec![pick(2)], Some(code.schema().latest), Some(code.version().clone()),
            Some(all_charts[picks[4].index(all_charts.len())]),
        ).unwrap();
        let skip = if skip { vec![RuleId::ChartOneMinor] } else { Vec::new() };
        let backups = [5, 6].map(|n| backup(&pick(n).to_string(), &format!("2026-08-0{n}T00:00:00Z"))).to_vec();
        let options = Options { skip: skip.clone(), backups, ..Options::default() };
        let choice = if follow { ChartChoice::Follow } else { ChartChoice::Keep };
        let target = pick(7);
        holds(&plan(&state, target, &choice, &options), &state, target, &skip);
    }
}
