//! The truth table: every row by its number in the reference, the servers' own column included.

use super::*;
use crate::spire::{charts, releases};

fn release(text: &str) -> Release {
    releases::find(&text.parse().unwrap()).unwrap()
}

fn releases_of(text: &str) -> Vec<Release> {
    text.split_whitespace().map(release).collect()
}

/// Servers and agents, on the database that the newest of the servers left.
fn state(servers: &str, agents: &str) -> State {
    State::new(releases_of(servers), releases_of(agents), None, None, None).unwrap()
}

/// As [`state`], on a database that was written by `code` before.
fn state_on(servers: &str, agents: &str, code: &str) -> State {
    let schema = release(code).schema().latest;
    State::new(releases_of(servers), releases_of(agents), Some(schema), Some(code.parse().unwrap()), None).unwrap()
}

fn rules(verdict: &Verdict) -> String {
    verdict.violations.iter().map(|violation| violation.rule.as_str()).collect::<Vec<_>>().join(" ")
}

/// The rules that the servers' step to `to` breaks.
fn servers_to(state: &State, to: &str) -> String {
    rules(&judge(state, &Step::Servers(release(to))))
}

fn agents_to(state: &State, to: &str) -> String {
    rules(&judge(state, &Step::Agents(release(to))))
}

/// `SCHEMA CODE` after the server's start, with `ahead`; or `refuses`.
fn srv(state: &State, to: &str) -> String {
    let row = state.row();
    match server_start(&to.parse().unwrap(), Some((row.schema, &row.code_version))) {
        StartOutcome::Starts { schema, code_version, warning, .. } => {
            let warning = warning.map(|text| if text == start::AHEAD { " ahead" } else { text }).unwrap_or_default();
            format!("{schema} {code_version}{warning}")
        }
        StartOutcome::Refuses { .. } => "refuses".to_owned(),
    }
}

#[test]
fn row_1() {
    let from = state("1.14.7", "1.14.5");
    assert_eq!(servers_to(&from, "1.15.3"), "");
    assert_eq!((from.row().schema, srv(&from, "1.15.3").as_str()), (24, "25 1.15.3"));
    assert_eq!(agents_to(&from.after(&Step::Servers(release("1.15.3"))), "1.15.3"), "");
}

#[test]
fn row_2() {
    let from = state("1.14.2", "1.14.2");
    assert_eq!(servers_to(&from, "1.14.7"), "");
    assert_eq!((from.row().schema, srv(&from, "1.14.7").as_str()), (23, "24 1.14.7"));
}

#[test]
fn row_3() {
    let from = state("1.14.2", "1.14.5");
    assert_eq!(rules(&judge_state(&from)), "SPIRE-AGENT-NEWER");
    let verdict = judge(&from, &Step::Servers(release("1.14.7")));
    assert_eq!(rules(&verdict), "");
    assert_eq!(verdict.warnings, ["now agents of 1.14.5 are newer than servers of 1.14.2; this step mends it"]);
}

#[test]
fn row_4() {
    let from = state("1.13.6", "1.12.6");
    assert_eq!(servers_to(&from, "1.14.0"), "SPIRE-ORDER SPIRE-AGENT-TOO-OLD");
    assert_eq!(agents_to(&from, "1.13.6"), "");
    assert_eq!(servers_to(&from.after(&Step::Agents(release("1.13.6"))), "1.14.0"), "");
}

#[test]
fn row_5() {
    let from = state("1.13.6", "1.13.6");
    assert_eq!(servers_to(&from, "1.15.0"), "SPIRE-ONE-MINOR SPIRE-AGENT-TOO-OLD");
    assert_eq!(srv(&from, "1.15.0"), "25 1.15.0");
}

/// Whatever the agents are, the step is a skip.
fn skips(servers: &str, to: &str) -> State {
    let from = state(servers, "");
    for agents in [servers, to, ""] {
        let verdict = servers_to(&state(servers, agents), to);
        assert!(verdict.starts_with("SPIRE-ONE-MINOR"), "{servers} -> {to}, agents {agents}: {verdict}");
    }
    from
}

#[test]
fn row_6() {
    assert_eq!(srv(&skips("1.12.6", "1.14.3"), "1.14.3"), "24 1.14.3");
}

#[test]
fn row_7() {
    assert_eq!(srv(&skips("1.8.11", "1.13.0"), "1.13.0"), "23 1.13.0");
}

#[test]
fn row_8() {
    let from = skips("1.7.2", "1.11.0");
    assert_eq!(servers_to(&from, "1.11.0"), "SPIRE-ONE-MINOR SPIRE-SCHEMA-TOO-OLD");
    assert_eq!(srv(&from, "1.11.0"), "refuses");
}

#[test]
fn row_9() {
    assert_eq!(srv(&skips("1.7.2", "1.9.6"), "1.9.6"), "23 1.9.6");
}

#[test]
fn row_10() {
    assert_eq!(srv(&skips("1.6.5", "1.8.0"), "1.8.0"), "23 1.8.0");
}

#[test]
fn row_11() {
    let from = skips("1.5.6", "1.7.1");
    assert_eq!(srv(&from, "1.7.1"), "refuses");
    assert_eq!(srv(&from, "1.7.0"), "21 1.7.0");
}

#[test]
fn row_12() {
    let from = state("1.7.1", "1.7.0");
    assert_eq!(servers_to(&from, "1.7.2"), "");
    assert_eq!((from.row().schema, srv(&from, "1.7.2").as_str()), (21, "22 1.7.2"));
}

#[test]
fn row_13() {
    let from = state("1.7.2", "1.7.0");
    assert_eq!(servers_to(&from, "1.7.1"), "");
    assert_eq!(srv(&from, "1.7.1"), "22 1.7.2 ahead");
    let warnings = judge(&from, &Step::Servers(release("1.7.1"))).warnings;
    assert!(warnings[0].starts_with("SPIRE 1.7.1 will log `DB schema is ahead of code version"), "{warnings:?}");
}

#[test]
fn row_14() {
    let from = state("1.7.2", "1.7.2");
    assert_eq!(servers_to(&from, "1.7.1"), "SPIRE-ORDER SPIRE-AGENT-NEWER");
    for agents in ["1.7.1", "1.7.0"] {
        assert_eq!(agents_to(&from, agents), "");
        assert_eq!(servers_to(&from.after(&Step::Agents(release(agents))), "1.7.1"), "");
    }
}

#[test]
fn row_15() {
    assert_eq!(servers_to(&state("1.7.6", "1.7.6"), "1.8.0"), "");
}

#[test]
fn row_16() {
    assert_eq!(servers_to(&state("1.8.0", "1.8.0"), "1.9.0"), "");
}

#[test]
fn row_17() {
    assert_eq!(servers_to(&state("1.9.6", "1.9.6"), "1.10.0"), "");
}

#[test]
fn row_18() {
    assert_eq!(servers_to(&state("1.9.6", "1.8.11"), "1.10.0"), "SPIRE-ORDER SPIRE-AGENT-TOO-OLD");
}

#[test]
fn row_19() {
    assert_eq!(servers_to(&state("1.10.4", "1.10.4"), "1.11.0"), "");
    let notes: Vec<&str> = release("1.10.4").crossings(release("1.11.0")).collect();
    assert!(notes[0].contains("forced rotation works fully once the agents are at 1.11"), "{notes:?}");
}

#[test]
fn row_20() {
    assert_eq!(servers_to(&state("1.11.3", "1.11.2"), "1.12.0"), "");
}

#[test]
fn row_21() {
    let from = state("1.15.3", "1.14.7");
    assert_eq!(servers_to(&from, "1.14.7"), "");
    assert_eq!(srv(&from, "1.14.7"), "25 1.15.3 ahead");
}

#[test]
fn row_22() {
    let from = state("1.15.3", "1.15.1");
    assert_eq!(servers_to(&from, "1.14.7"), "SPIRE-ORDER SPIRE-AGENT-NEWER");
    assert_eq!(servers_to(&from.after(&Step::Agents(release("1.14.7"))), "1.14.7"), "");
}

#[test]
fn row_23() {
    let from = state("1.15.3", "1.14.2");
    assert_eq!(servers_to(&from, "1.14.2"), "");
    assert_eq!(srv(&from, "1.14.2"), "25 1.15.3 ahead");
}

#[test]
fn row_24() {
    let from = skips("1.15.3", "1.13.6");
    assert_eq!(srv(&from, "1.13.6"), "refuses");
    assert_eq!(servers_to(&from, "1.13.6"), "SPIRE-ONE-MINOR SPIRE-SCHEMA-AHEAD");
}

#[test]
fn row_25() {
    let from = state_on("1.14.7", "1.13.6", "1.15.3");
    assert_eq!(servers_to(&from, "1.13.6"), "SPIRE-SCHEMA-AHEAD", "only the server refuses");
    assert_eq!(srv(&from, "1.13.6"), "refuses");
}

#[test]
fn row_26() {
    let from = state("1.14.7", "1.13.6");
    assert_eq!(servers_to(&from, "1.13.6"), "");
    assert_eq!(srv(&from, "1.13.6"), "24 1.14.7 ahead");
}

#[test]
fn row_27() {
    let from = state_on("1.13.6", "1.12.6", "1.14.7");
    assert_eq!(servers_to(&from, "1.12.6"), "SPIRE-SCHEMA-AHEAD", "only the server refuses");
    assert_eq!(srv(&from, "1.12.6"), "refuses");
}

#[test]
fn row_28() {
    let from = state("1.14.2", "1.12.6");
    assert_eq!(servers_to(&state("1.14.2", "1.13.6"), "1.13.6"), "");
    assert_eq!(srv(&from, "1.13.6"), "23 1.14.2");
    let between = from.after(&Step::Servers(release("1.13.6")));
    assert_eq!(servers_to(&between, "1.12.6"), "");
    assert_eq!(srv(&between, "1.12.6"), "23 1.14.2");
}

#[test]
fn row_29() {
    assert_eq!(servers_to(&state("1.11.0", "1.10.4"), "1.10.4"), "");
    let notes: Vec<&str> = release("1.11.0").crossings(release("1.10.4")).collect();
    assert!(notes[0].contains("`spire-server localauthority` disappears"), "{notes:?}");
}

#[test]
fn row_30() {
    assert_eq!(servers_to(&state("1.10.4", "1.9.6"), "1.9.6"), "");
}

#[test]
fn row_31() {
    assert_eq!(servers_to(&state("1.9.6", "1.8.11"), "1.8.11"), "");
}

#[test]
fn row_32() {
    let from = state_on("1.7.6", "1.6.5", "1.8.0");
    assert_eq!(servers_to(&from, "1.6.5"), "SPIRE-SCHEMA-AHEAD", "only the server refuses");
    assert_eq!(srv(&from, "1.6.5"), "refuses");
}

#[test]
fn row_33() {
    let from = state("0.12.3", "0.12.3");
    assert_eq!(servers_to(&from, "1.0.0"), "");
    assert_eq!(srv(&from, "1.0.0"), "17 1.0.0");
}

#[test]
fn row_34() {
    for agents in ["0.12.0", "0.12.3"] {
        assert_eq!(servers_to(&state("1.0.4", agents), "0.12.3"), "");
    }
    assert_eq!(srv(&state("1.0.4", ""), "0.12.3"), "17 1.0.4 ahead");
}

#[test]
fn row_35() {
    skips("0.12.3", "1.1.0");
}

#[test]
fn row_36() {
    skips("0.11.3", "1.0.0");
}

#[test]
fn row_37() {
    let from = state("1.0.4", "0.12.3");
    assert_eq!(servers_to(&from, "1.1.0"), "SPIRE-ORDER SPIRE-AGENT-TOO-OLD");
    assert_eq!(servers_to(&from.after(&Step::Agents(release("1.0.4"))), "1.1.0"), "");
}

#[test]
fn row_38() {
    let judged = |agents| rules(&judge_state(&state("1.2.3 1.1.1", agents)));
    for agents in ["1.1.1", "1.1.0"] {
        assert_eq!(judged(agents), "");
    }
    for agents in ["1.1.2", "1.2.0", "1.2.3"] {
        assert_eq!(judged(agents), "SPIRE-AGENT-NEWER", "{agents}");
    }
    for agents in ["1.0.0", "1.0.4"] {
        assert_eq!(judged(agents), "SPIRE-AGENT-TOO-OLD", "{agents}");
    }
}

#[test]
fn row_39() {
    for agents in ["", "1.0.4", "1.1.5", "1.2.3"] {
        let from = state("1.2.3 1.0.4", agents);
        assert!(rules(&judge_state(&from)).starts_with("SPIRE-SKEW-SERVER"), "{agents}");
        for to in ["1.0.4", "1.1.5", "1.2.3"] {
            assert!(servers_to(&from, to).starts_with("SPIRE-SKEW-SERVER"), "{agents} {to}");
        }
    }
}

#[test]
fn row_40() {
    assert_eq!(rules(&judge_state(&state("1.15.0", "1.15.1"))), "SPIRE-AGENT-NEWER");
}

#[test]
fn row_41() {
    let from = state("1.15.0", "1.13.6");
    let verdict = judge(&from, &Step::Agents(release("1.15.0")));
    assert_eq!(rules(&verdict), "");
    assert_eq!(verdict.warnings.len(), 2);
    assert!(verdict.warnings[0].starts_with("now agents of 1.13.6 are more than one minor version older"));
    assert!(verdict.warnings[1].starts_with("agents go from 1.13.6 to 1.15.0 in one step"));
}

#[test]
fn row_42() {
    let from = state("1.14.7", "1.14.7");
    assert_eq!(agents_to(&from, "1.15.0"), "SPIRE-ORDER SPIRE-AGENT-NEWER");
    let way_out = &judge(&from, &Step::Agents(release("1.15.0"))).violations[0].way_out;
    assert!(way_out.starts_with("take the servers to 1.15.0 first"), "{way_out}");
}

#[test]
fn row_43() {
    let from = state("1.15.3", "1.15.3");
    for step in [Step::Servers(release("1.15.3")), Step::Agents(release("1.15.3"))] {
        assert_eq!(judge(&from, &step), Verdict::default());
        assert_eq!(from.after(&step), from, "a no-op");
    }
}

#[test]
fn row_44() {
    for text in ["1.15.4", "1.16.0", "1.5.7", "2.0.0"] {
        let Ok(Target::Refused(violation)) = Target::parse(text) else { panic!("{text} is taken for a version") };
        assert_eq!(violation.rule, RuleId::Unpublished, "{text}");
    }
}

#[test]
fn row_45() {
    for text in ["latest", "nightly", "sha256:0123abcd", "1.15.2-dev-abc1234"] {
        let Ok(Target::Refused(violation)) = Target::parse(text) else { panic!("{text} is taken for a version") };
        assert_eq!(violation.rule, RuleId::UnknownVersion, "{text}");
        assert!(violation.way_out.contains("spire-server --version 2>&1"));
        let seen = Seen { servers: vec![text.into()], ..Seen::default() };
        assert_eq!(seen.known(false).unwrap_err()[0].rule, RuleId::UnknownVersion, "{text}");
    }
}

fn on_chart(servers: &str, agents: &str, chart: &str) -> State {
    let chart = charts::find(&chart.parse().unwrap());
    State::new(releases_of(servers), releases_of(agents), None, None, chart).unwrap()
}

fn chart_to(state: &State, chart: &str) -> String {
    rules(&judge(state, &Step::Chart(charts::find(&chart.parse().unwrap()).unwrap())))
}

#[test]
fn a_chart_asks_for_the_spire_that_understands_it() {
    let rows = [
        ("1.13.0", "1.13.0", "0.26.1", "0.27.0", ""),
        ("1.13.0", "1.12.6", "0.26.1", "0.27.0", "CHART-FLOOR"),
        ("1.12.4", "1.12.4", "0.25.0", "0.26.0", ""),
        ("1.12.2", "1.12.2", "0.25.0", "0.26.0", "CHART-FLOOR"),
        ("1.14.0", "1.14.0", "0.18.2", "0.19.0", ""),
        ("1.14.0", "1.14.0", "0.18.2", "0.19.2", "CHART-CEILING"),
        ("1.13.6", "1.13.6", "0.27.0", "0.25.0", "CHART-ONE-MINOR"),
        ("1.9.6", "1.9.6", "0.13.0", "0.20.0", "CHART-ONE-MINOR"),
        ("1.7.2", "1.7.2", "0.13.0", "0.12.0", "CHART-VALUES"),
        ("1.15.0", "1.15.1", "0.29.0", "0.30.0", "SPIRE-AGENT-NEWER"),
    ];
    for (servers, agents, from, to, expected) in rows {
        assert_eq!(chart_to(&on_chart(servers, agents, from), to), expected, "{servers} {agents} {from} -> {to}");
    }
}

#[test]
fn spire_moves_only_where_its_chart_is_understood() {
    let from = on_chart("1.13.6", "1.13.6", "0.27.1");
    assert_eq!(agents_to(&from, "1.12.6"), "CHART-FLOOR");
    assert_eq!(servers_to(&on_chart("1.13.6", "1.13.6", "0.26.1"), "1.14.0"), "", "only its agents do not");
    let up = on_chart("1.13.6", "1.13.6", "0.26.1").after(&Step::Servers(release("1.14.0")));
    assert_eq!(agents_to(&up, "1.14.0"), "CHART-CEILING");
    let verdict = judge(&up, &Step::Agents(release("1.14.0")));
    assert!(verdict.violations[0].facts[0].contains("retry_bootstrap"), "{verdict:?}");
}

#[test]
fn what_runs_on_a_chart_refutes_what_the_table_says_of_it() {
    let from = on_chart("1.13.6", "1.12.6", "0.27.1");
    assert_eq!(agents_to(&from, "1.12.5"), "", "agents of 1.12 do run on it");
    assert_eq!(agents_to(&from.after(&Step::Agents(release("1.13.6"))), "1.12.6"), "CHART-FLOOR");
    assert_eq!(servers_to(&on_chart("0.12.3", "0.12.3", "0.13.0"), "1.0.0"), "");
}

#[test]
fn a_restored_database_is_judged_instead_of_the_one_that_is_there() {
    let from = state_on("1.14.7", "1.13.6", "1.15.3");
    let step = |schema, code: &str| Step::Restore {
        release: release("1.13.6"),
        row: Row { schema, code_version: code.parse().unwrap() },
    };
    assert_eq!(rules(&judge(&from, &step(24, "1.14.7"))), "");
    assert_eq!(rules(&judge(&from, &step(25, "1.15.0"))), "SPIRE-SCHEMA-AHEAD");
    assert_eq!(rules(&judge(&from, &step(22, "1.7.2"))), "SPIRE-SCHEMA-TOO-OLD");
    let after = from.after(&step(23, "1.12.6"));
    assert_eq!((after.row().schema, after.row().code_version.to_string()), (23, "1.13.6".to_owned()));
}

#[test]
fn an_unknown_row_is_said_on_the_way_down() {
    let from = state("1.14.7", "1.13.6");
    let warnings = judge(&from, &Step::Servers(release("1.13.6"))).warnings;
    assert!(warnings.iter().any(|text| text.contains("row is not given")), "{warnings:?}");
    let given = state_on("1.14.7", "1.13.6", "1.14.7");
    let warnings = judge(&given, &Step::Servers(release("1.13.6"))).warnings;
    assert!(!warnings.iter().any(|text| text.contains("row is not given")), "{warnings:?}");
}
