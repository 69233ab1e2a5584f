//! Changes of SPIRE's versions on the rehearsal world: walked, refused, stopped, gone on with.

use serde_json::Value;

use crate::support::{Ran, TestLab};

const RUN: &str = "--output json --yes rehearse --world world.json";

/// Ids of the steps that ended as `outcome` (`step-done`, `step-failed`, …), in that order.
fn ended(ran: &Ran, outcome: &str) -> Vec<String> {
    let of = |event: &Value| (event["type"] == outcome).then(|| event["step"].as_str().unwrap().to_owned());
    ran.lines().iter().filter_map(of).collect()
}

/// Its standard output, one document.
fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// The continuity meter's report of that run.
fn meter(ran: &Ran) -> Value {
    let report = ran.lines().into_iter().find(|event| event["type"] == "step-report").unwrap();
    assert_eq!(report["step"], "continuity");
    report["report"].clone()
}

fn spire(lab: &TestLab) -> Value {
    let ran = lab.coastal(&format!("{RUN} status"));
    document(&ran)["spire"].clone()
}

#[test]
fn up_and_down_again_servers_first_then_agents_first() {
    let lab = TestLab::new();
    let up = lab.coastal(&format!("{RUN} upgrade --to 1.8.0")).ends(0);
    assert_eq!(
        ended(&up, "step-done"),
        ["hop-1-servers", "hop-1-servers-gate", "hop-1-agents", "hop-1-agents-gate", "identity-test", "continuity"]
    );
    let report = meter(&up);
    assert_eq!(report["verdict"], "unbroken");
    assert_eq!(report["total"]["no_valid_svid_ms"], 0);
    assert_eq!(report["total"]["pods"], 5);
    // An agent that restarts is away for a while: a meter that saw nothing of it would see no gap either.
    assert!(report["total"]["api_silent_ms"].as_u64().unwrap() > 0, "{report}");
    let state = spire(&lab);
    assert_eq!((&state["servers"][0], &state["agents"][0]), (&"1.8.0".into(), &"1.8.0".into()));
    assert_eq!((&state["schema"], &state["code_version"]), (&23.into(), &"1.8.0".into()));

    let again = lab.coastal(&format!("{RUN} upgrade --to 1.8.0")).ends(0);
    assert_eq!(document(&again)["verdict"], "nothing-to-do");

    lab.coastal(&format!("{RUN} up")).ends(7).says("does not move a running version");

    let down = lab.coastal(&format!("{RUN} downgrade --to 1.7.2")).ends(0);
    assert_eq!(
        ended(&down, "step-done"),
        ["hop-1-agents", "hop-1-agents-gate", "hop-1-servers", "hop-1-servers-gate", "identity-test", "continuity"]
    );
    assert_eq!(meter(&down)["total"]["no_valid_svid_ms"], 0);
    let state = spire(&lab);
    assert_eq!((&state["servers"][0], &state["agents"][0]), (&"1.7.2".into(), &"1.7.2".into()));
    // No server takes a schema back (facts, section 1, rule 3).
    assert_eq!((&state["schema"], &state["code_version"]), (&23.into(), &"1.8.0".into()));
}

/// How each step ended, in that order.
fn outcomes(ran: &Ran) -> Value {
    let of = |event: &Value| match event["type"].as_str() {
        Some("step-done" | "step-skipped" | "step-failed") => Some(serde_json::json!([event["step"], event["type"]])),
        _ => None,
    };
    ran.lines().iter().filter_map(of).collect()
}

#[test]
fn the_steps_end_as_they_did_on_a_real_cluster() {
    let recorded: Value = serde_json::from_str(include_str!("../data/recordings/upgrade.json")).unwrap();
    let lab = TestLab::new();
    // The recording's database had been at schema 23 before.
    let up = lab.coastal(&format!("{RUN} upgrade --to 1.8.0")).ok();
    let down = lab.coastal(&format!("{RUN} upgrade --to 1.7.2")).ok();
    assert_eq!((outcomes(&up), outcomes(&down)), (recorded["up"].clone(), recorded["down"].clone()));
}

#[test]
fn the_whole_way_up_and_down_again_over_the_dumps() {
    let lab = TestLab::new();
    let up = lab.coastal(&format!("{RUN} upgrade --to 1.15.3")).ends(0);
    assert_eq!(meter(&up)["verdict"], "unbroken");
    let done = ended(&up, "step-done");
    assert_eq!(done.iter().filter(|step| step.ends_with("agents-gate")).count(), 8, "{done:?}");
    assert_eq!(
        done.iter().filter(|step| step.ends_with("backup")).collect::<Vec<_>>(),
        ["hop-2-backup", "hop-8-backup"]
    );
    assert_eq!((&spire(&lab)["schema"], &spire(&lab)["servers"][0]), (&25.into(), &"1.15.3".into()));

    let down = lab.coastal(&format!("{RUN} upgrade --to 1.7.2")).ends(0);
    let done = ended(&down, "step-done");
    let restores: Vec<&String> = done.iter().filter(|step| step.ends_with("restore")).collect();
    assert_eq!(restores, ["hop-2-restore", "hop-8-restore"]);
    assert_eq!(spire(&lab)["servers"][0], "1.7.2");
}

#[test]
fn without_its_dumps_there_is_no_way_back() {
    let lab = TestLab::new();
    let up = lab.coastal(&format!("{RUN} upgrade --to 1.9.6 --no-backup")).ends(0);
    assert!(!ended(&up, "step-done").iter().any(|step| step.ends_with("backup")));
    lab.coastal(&format!("{RUN} upgrade --to 1.7.2")).ends(7).says("SPIRE-SCHEMA-AHEAD");
    assert_eq!(spire(&lab)["servers"][0], "1.9.6", "nothing was changed");
}

#[test]
fn a_server_that_cannot_start_stops_the_hop_before_the_agents_and_the_way_back_is_open() {
    let lab = TestLab::new();
    let broken = lab.coastal(&format!("{RUN} --fault server-crash-loop=1.8.0 upgrade --to 1.8.0")).ends(5);
    assert_eq!(ended(&broken, "step-failed"), ["hop-1-servers"]);
    let failure = broken.result()["failure"].clone();
    assert!(failure["message"].as_str().unwrap().contains("spire-server-2"), "{failure}");
    let next = failure["next"].to_string();
    assert!(next.contains("coastal upgrade --to 1.8.0") && next.contains("coastal upgrade --to 1.7.2"), "{next}");
    assert_eq!(spire(&lab)["agents"], serde_json::json!(["1.7.2"]), "the agents were not touched");

    // The broken pod is of the newest template: going back makes it one of an older template, which the StatefulSet
    // would wait for in vain (facts, section 9).
    lab.coastal(&format!("{RUN} --fault server-crash-loop=1.8.0 upgrade --to 1.7.2")).ends(0);
    assert_eq!(spire(&lab)["servers"], serde_json::json!(["1.7.2"]));
}

#[test]
fn what_an_earlier_run_left_half_way_is_gone_on_with() {
    for fault in ["helm-dies-in=upgrade", "agent-never-ready=1.8.0"] {
        let lab = TestLab::new();
        lab.coastal(&format!("{RUN} --fault {fault} upgrade --to 1.8.0")).ends(5);
        lab.coastal(&format!("{RUN} upgrade --to 1.8.0")).ok();
        let state = spire(&lab);
        assert_eq!(
            (&state["servers"], &state["agents"]),
            (&serde_json::json!(["1.8.0"]), &serde_json::json!(["1.8.0"]))
        );
    }
}

#[test]
fn somebody_elses_upgrade_in_between_is_noticed() {
    let lab = TestLab::new();
    let ran = lab.coastal(&format!("{RUN} --fault foreign-upgrade=1.9.6 upgrade --to 1.8.0")).ends(7);
    assert!(ran.result()["failure"]["message"].as_str().unwrap().contains("somebody else"), "{ran:?}");
    assert_eq!(ended(&ran, "step-failed").len(), 1);
}

#[test]
fn refusals_touch_nothing() {
    let lab = TestLab::new();
    for (words, code, says) in [
        ("upgrade --to 1.15.4", 7, "SPIRE-UNPUBLISHED"),
        ("upgrade --to latest", 7, "SPIRE-UNKNOWN-VERSION"),
        ("upgrade --to 1.9.6 --step", 7, "SPIRE-ONE-MINOR"),
        ("--fault database-unreachable upgrade --to 1.8.0", 5, "data store must answer"),
        ("upgrade --to 1.8.0 --chart 0.99.0", 7, "CHART-UNPUBLISHED"),
    ] {
        let ran = lab.coastal(&format!("--yes rehearse {words}")).ends(code).says(says).says("next:");
        assert!(!ran.out.contains("hop-1-servers"), "{ran:?}");
    }
}

#[test]
fn a_dry_run_and_a_plan_show_and_touch_nothing() {
    let lab = TestLab::new();
    let plan = lab.coastal("--output json rehearse upgrade --plan --to 1.9.6").ends(0);
    let hops = document(&plan)["hops"].as_array().unwrap().len();
    assert_eq!((document(&plan)["verdict"].as_str(), hops), (Some("allowed"), 2));
    let dry = lab.coastal("--output json --dry-run rehearse upgrade --to 1.9.6");
    let steps: Vec<String> = document(&dry)["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(steps.contains(&"hop-2-agents-gate".to_owned()), "{steps:?}");
}

#[test]
fn a_last_gate_that_was_not_passed_is_not_forgotten() {
    let lab = TestLab::new();
    let change = format!("{RUN} --fault agent-never-ready=1.8.0 upgrade --to 1.8.0");
    assert_eq!(ended(&lab.coastal(&change).ends(5), "step-failed"), ["hop-1-agents-gate"]);
    // The versions are right by now, and yet there is something to do: new pods get no SVID.
    assert_eq!(ended(&lab.coastal(&change).ends(6), "step-failed"), ["hop-1-servers-gate"]);
}

#[test]
fn lab_toml_is_written_when_it_is_asked_for() {
    let lab = TestLab::new();
    let file = lab.write("lab.toml", "schema = 1\n[spire]\nserver-version = \"1.7.2\" # pinned\n");
    lab.coastal("--yes rehearse --world world.json upgrade --to 1.8.0 --write-lab").ok();
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text, "schema = 1\n[spire]\nserver-version = \"1.8.0\" # pinned\n");
    let up = lab.coastal(&format!("{RUN} up")).ends(0);
    assert_eq!(up.result()["changed"], serde_json::json!([]));
}

#[test]
fn the_users_values_are_checked_before_anything_is_changed() {
    let lab = TestLab::new();
    lab.write("values.yaml", "spire-server:\n  replicaCountt: 5\n");
    lab.write("lab.toml", "schema = 1\n[spire]\nvalues = \"values.yaml\"\n");
    let ran = lab.coastal(&format!("{RUN} upgrade --to 1.8.0"));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let failure = ran.result()["failure"].clone();
    assert!(failure.to_string().contains("replicaCountt"), "{failure}");
    assert_eq!(spire(&lab)["servers"], serde_json::json!(["1.7.2"]));
}
