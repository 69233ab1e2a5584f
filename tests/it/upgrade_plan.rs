//! `upgrade --plan --state`: a change of versions judged without a cluster, for CI and tickets.

use serde_json::{Value, json};

use crate::support::{Ran, TestLab};

/// The state of the ticket: agents that are a minor version behind.
const TICKET: &str =
    r#"{"spire":{"servers":["1.13.6"],"agents":["1.12.6"],"schema":23,"code_version":"1.13.6","chart":"0.27.1"}}"#;

fn state(servers: &str, agents: &str, schema: u32, code_version: &str, chart: &str) -> String {
    json!({"spire": {
        "servers": servers.split(' ').collect::<Vec<_>>(),
        "agents": agents.split(' ').collect::<Vec<_>>(),
        "schema": schema,
        "code_version": code_version,
        "chart": chart,
    }})
    .to_string()
}

/// Judges `state` in a directory of its own, and sees that nothing else was touched.
fn judge(state: &str, words: &str) -> Ran {
    let lab = TestLab::new();
    lab.write("state.json", state);
    let ran = lab.coastal(&format!("upgrade --plan --state state.json {words}"));
    assert!(!lab.at("state").exists() && !lab.at("home/state").exists(), "nothing is written: {ran:?}");
    ran
}

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn rules(document: &Value) -> Vec<&str> {
    document["violations"].as_array().unwrap().iter().map(|violation| violation["rule"].as_str().unwrap()).collect()
}

#[test]
fn the_tickets_example_to_the_last_field() {
    let ran = judge(TICKET, "--to 1.14.7 --output json").ok();
    assert_eq!(
        document(&ran),
        json!({
            "schema": 1,
            "verdict": "allowed",
            "from": {
                "servers": ["1.13.6"], "agents": ["1.12.6"], "schema": 23, "code_version": "1.13.6", "chart": "0.27.1",
            },
            "to": {"spire": "1.14.7", "chart": "0.27.1"},
            "chart_choice": "keep",
            "violations": [
                {
                    "rule": "SPIRE-ORDER",
                    "mandatory": true,
                    "facts": ["before the servers go to 1.14.7, the agents have to be at 1.13.6"],
                    "way_out": "take the agents to 1.13.6 first: `coastal upgrade --to 1.14.7` does so by itself",
                },
                {
                    "rule": "SPIRE-AGENT-TOO-OLD",
                    "mandatory": true,
                    "facts": ["agents of 1.12.6 would be 2 minor versions older than the newest server, 1.14.7"],
                    "way_out": "take the agents to 1.13.6 first, and the servers one minor version at a time",
                },
            ],
            "hops": [
                {
                    "from": "1.12.6", "to": "1.13.6", "chart_from": "0.27.1", "chart": "0.27.1", "crds": null,
                    "order": "agents-only", "reversible": true, "closes": [], "traps": [], "expected_s": 10, "notes": [],
                },
                {
                    "from": "1.13.6", "to": "1.14.7", "chart_from": "0.27.1", "chart": "0.27.1", "crds": null,
                    "order": "servers-first", "reversible": true, "closes": [], "traps": [], "expected_s": 59, "notes": [],
                },
            ],
            "traps": [],
            "warnings": [
                "agents of 1.12.6 run on chart 0.27.1, which by rights they refuse: it writes `rebootstrap_mode`, which older agents refuse with `unknown configuration detected`",
            ],
            "risks": [
                "chart 0.27.1 was made for SPIRE 1.13.2 and is kept: its authors never tried it with 1.14.7, and what newer charts configure stays as it is",
            ],
            "expected_s": 69,
        })
    );
    assert_eq!(ran.err, "");
}

/// State, words, exit code, verdict, rules, number of hops.
type Row<'a> = (String, &'a str, i32, &'a str, &'a [&'a str], usize);

#[test]
fn verdicts_and_exit_codes() {
    let lab = || state("1.7.2", "1.7.2", 22, "1.7.2", "0.13.0");
    let ahead = || state("1.14.7", "1.13.6", 25, "1.15.3", "0.28.5");
    let rows: Vec<Row<'_>> = vec![
        (lab(), "--to 1.8.0", 0, "allowed", &[], 1),
        (lab(), "--to 1.8.0 --step", 0, "allowed", &[], 1),
        (lab(), "--to 1.15.3", 0, "allowed", &["SPIRE-ONE-MINOR", "SPIRE-AGENT-TOO-OLD", "SPIRE-SCHEMA-TOO-OLD"], 8),
        (lab(), "--to 1.9.6 --step", 7, "refused", &["SPIRE-ONE-MINOR", "SPIRE-AGENT-TOO-OLD"], 0),
        (lab(), "--to 1.7.2", 0, "nothing-to-do", &[], 0),
        (lab(), "--to v1.7.2", 0, "nothing-to-do", &[], 0),
        (lab(), "--to 1.15.4", 7, "refused", &["SPIRE-UNPUBLISHED"], 0),
        (lab(), "--to latest", 7, "refused", &["SPIRE-UNKNOWN-VERSION"], 0),
        (lab(), "--to 1.8.0 --chart 0.13.7", 7, "refused", &["CHART-UNPUBLISHED"], 0),
        (lab(), "--to 1.7.2 --chart 0.17.0", 0, "allowed", &["CHART-ONE-MINOR"], 4),
        (lab(), "--to 1.7.2 --chart 0.17.0 --skip-rule CHART-ONE-MINOR", 0, "allowed", &[], 1),
        (ahead(), "--to 1.13.6", 7, "refused", &["SPIRE-SCHEMA-AHEAD"], 0),
        (state("1.2.3 1.0.4", "1.0.4", 18, "1.2.3", "0.13.0"), "--to 1.1.5", 7, "refused", &["SPIRE-SKEW-SERVER"], 0),
        (state("nightly", "1.7.2", 22, "1.7.2", "0.13.0"), "--to 1.8.0", 7, "refused", &["SPIRE-UNKNOWN-VERSION"], 0),
    ];
    for (state, words, code, verdict, broken, hops) in rows {
        let ran = judge(&state, &format!("{words} --output json")).ends(code);
        let document = document(&ran);
        assert_eq!(document["verdict"], verdict, "{words}");
        assert_eq!(rules(&document), broken, "{words}");
        assert_eq!(document["hops"].as_array().unwrap().len(), hops, "{words}");
        for violation in document["violations"].as_array().unwrap() {
            assert!(!violation["facts"].as_array().unwrap().is_empty() && violation["way_out"].is_string());
        }
    }
}

#[test]
fn a_backup_that_the_file_tells_of_opens_the_way_down() {
    let mut state: Value = serde_json::from_str(&state("1.14.7", "1.13.6", 25, "1.15.3", "0.28.5")).unwrap();
    state["backups"] = json!([
        {"name": "spire-db.sql", "schema": 24, "code_version": "1.14.7", "taken_at": "2026-08-20T10:00:00Z"},
    ]);
    let ran = judge(&state.to_string(), "--to 1.13.6 --output json").ok();
    let hop = &document(&ran)["hops"][0];
    assert_eq!((&hop["order"], &hop["reversible"]), (&json!("restore"), &json!(false)));
    assert_eq!(hop["restore"]["backup"]["name"], "spire-db.sql");
    assert!(!hop["restore"]["lost"].as_array().unwrap().is_empty());
    judge(&state.to_string(), "--to 1.13.6").ok().says("hop 1: restores spire-db.sql of 2026-08-20T10:00:00Z");
}

#[test]
fn as_a_person_reads_it() {
    judge(TICKET, "--to 1.14.7")
        .ok()
        .says("SPIRE 1.13.6 to 1.14.7: 2 hops, about 1m 09s")
        .says("1    1.12.6  1.13.6  0.27.1  agents only")
        .says("at once it would break:\n  SPIRE-ORDER")
        .says("next: `coastal upgrade --to 1.14.7`");
    judge(TICKET, "--to 1.16.0")
        .ends(7)
        .says("refused: SPIRE 1.13.6 to 1.16.0\n  SPIRE-UNPUBLISHED")
        .says("way out: name a published one: 1.15.3");
}

#[test]
fn down_is_the_same_command_and_a_status_is_a_state() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let status = lab.rehearse("status --output json").ok().out;
    lab.write("status.json", &status);
    let words = "downgrade --plan --state status.json --to 1.6.5 --output json";
    let document = document(&lab.coastal(words).ok());
    assert_eq!(document["from"]["servers"], json!(["1.7.2"]));
    assert_eq!(document["from"]["chart"], "0.13.0");
    assert_eq!((&document["hops"][0]["order"], &document["hops"][0]["to"]), (&json!("agents-first"), &json!("1.6.5")));
}

#[test]
fn what_is_no_state_is_said_in_a_sentence() {
    let large = format!("{{\"spire\": \"{}\"}}", "x".repeat(5 << 20));
    let deep = "[".repeat(100_000);
    let rows: &[(&str, &str)] = &[
        ("", "is not JSON"),
        ("servers: 1.7.2", "is not JSON"),
        ("{\"spire\":", "is not JSON"),
        (&deep, "is not JSON"),
        (&large, "is larger than 4 MiB"),
        ("[]", "there is no object `spire`"),
        (r#"{"lab":"day-two"}"#, "there is no object `spire`"),
        (r#"{"spire":{"agents":["1.7.2"]}}"#, "there is no list `spire.servers`"),
        (r#"{"spire":{"servers":[]}}"#, "`spire.servers` is empty"),
        (r#"{"spire":{"servers":[1.7]}}"#, "`spire.servers[0]` is not a text"),
        (r#"{"spire":{"servers":["1.7.2"],"schema":"22"}}"#, "`spire.schema` is not a number"),
        (r#"{"spire":{"servers":["1.7.2"]},"backups":[{"schema":22}]}"#, "`backups` is not a list of backups"),
    ];
    for (text, says) in rows {
        let ran = judge(text, "--to 1.8.0").ends(2).says(says).says("next: ");
        assert_eq!(ran.out, "");
        assert!(ran.err.starts_with("error: "), "{ran:?}");
    }
    let lab = TestLab::new();
    lab.coastal("upgrade --plan --state nowhere.json --to 1.8.0").ends(2).says("`nowhere.json` cannot be read");
    lab.coastal("upgrade --plan --state . --to 1.8.0").ends(2).says("cannot be read");
}

#[test]
fn what_cannot_be_asked_for_is_a_wrong_usage() {
    let rows = [
        ("--to banana", "`banana` is not a version of SPIRE"),
        ("--to 1.15", "the newest SPIRE 1.15 is 1.15.3"),
        ("--to 1.8.0 --chart newest", "expected `keep`, `follow` or a version of the chart"),
        ("--to 1.8.0 --skip-rule SPIRE-ONE-MINOR", "rule SPIRE-ONE-MINOR cannot be skipped"),
        ("--to 1.8.0 --skip-rule NONE", "rules that can be skipped: CHART-UNKNOWN, CHART-ONE-MINOR"),
        ("", "--to <VERSION>"),
    ];
    for (words, says) in rows {
        judge(TICKET, words).ends(2).says(says);
    }
    TestLab::new().coastal("upgrade --to 1.8.0 --state state.json").ends(2).says("--plan");
}
