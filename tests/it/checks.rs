//! The doctor, end to end: a lab as it ships is healthy, each fault is found by the check that is for it, and what is
//! mended is.

use serde_json::{Value, json};

use crate::support::{Ran, TestLab};

fn lab() -> TestLab {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    lab
}

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error} in {ran:?}"))
}

/// Ids of the checks that ended so.
fn ids(report: &Value, outcome: &str) -> Vec<String> {
    assert_eq!(report["schema"], 1);
    let answers = report["answers"].as_array().unwrap().iter();
    let ended = answers.filter(|answer| answer["outcome"] == outcome);
    ended.map(|answer| answer["id"].as_str().unwrap().to_owned()).collect()
}

fn failed(lab: &TestLab, words: &str, code: i32) -> Vec<String> {
    ids(&document(&lab.rehearse(&format!("--output json check {words}")).ends(code)), "failed")
}

#[test]
fn a_lab_as_it_ships_is_healthy_and_what_cannot_be_seen_is_said() {
    let lab = lab();
    let report = document(&lab.rehearse("--output json check").ok());
    assert_eq!(ids(&report, "failed"), Vec::<String>::new(), "{report:#}");
    // SPIRE 1.7.2 cannot tell.
    assert_eq!(ids(&report, "unknown"), ["spire-authorities-orphaned"]);
    assert!(report["answers"].as_array().unwrap().len() >= 40);
    lab.rehearse("check --strict").ends(8).says("1 could not be seen");
    lab.rehearse("check spire-skew cluster --all").ok().says("servers 1.7.2, agents 1.7.2").says("kind-kind answers");
    lab.rehearse("check spire-skiw").ends(2).says("`spire-skew` comes nearest");
}

#[test]
fn the_list_is_the_page() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md")).unwrap();
    let lab = TestLab::new();
    assert_eq!(lab.coastal("check --list --format markdown").ok().out, page);
    let list = document(&lab.coastal("--output json check --list").ok());
    for check in list["checks"].as_array().unwrap() {
        let anchor = check["doc"].as_str().unwrap().split_once('#').unwrap().1;
        assert!(page.contains(&format!("\n### {anchor}\n")), "{check}");
    }
    lab.coastal("check --list host").ok().says("host-kind");
    lab.coastal("check --format markdown").ends(2).says("only the list of checks has that form");
}

#[test]
fn before_up_only_the_machine_is_looked_at() {
    let lab = TestLab::new();
    assert_eq!(failed(&lab, "--pre", 0), Vec::<String>::new());
    for (fault, check) in
        [("port-taken=8443", "host-ports"), ("tool-old=helm", "host-helm"), ("tool-missing=kubectl", "host-kubectl")]
    {
        let ran = lab.coastal(&format!("rehearse --fault {fault} --output json check --pre")).ends(8);
        assert_eq!(ids(&document(&ran), "failed"), [check], "{fault}");
    }
    let down = document(&lab.coastal("rehearse --fault docker-down --output json check --pre").ends(8));
    assert_eq!(ids(&down, "failed"), ["host-docker"]);
    assert_eq!(ids(&down, "unknown"), ["host-docker-memory", "host-docker-cpus", "host-cgroups", "host-ports"]);
    lab.coastal("rehearse check --pre spire").ends(2).says("none of these checks makes sense before");
}

#[test]
fn without_a_cluster_nothing_inside_it_passes() {
    let lab = lab();
    lab.rehearse("down").ok();
    let report = document(&lab.rehearse("--output json check").ends(8));
    assert_eq!(ids(&report, "failed"), ["cluster-there"]);
    for id in ids(&report, "passed") {
        assert!(id.starts_with("host-"), "{id}");
    }
}

#[test]
fn each_fault_is_found_by_the_check_that_is_for_it() {
    let lab = lab();
    for (fault, check) in [
        ("login-refused", "lab-database"),
        ("tool-old=kubectl", "host-kubectl-skew"),
        ("tool-missing=helm", "host-helm"),
        ("release-pending", "lab-pending-release"),
    ] {
        let words = format!("rehearse --world {} --fault {fault} --output json check", lab.world().display());
        let report = document(&lab.coastal(&words).ends(8));
        let found = ids(&report, "failed");
        assert!(found.iter().any(|id| id == check), "{fault}: {found:?}");
        if fault == "tool-missing=helm" {
            assert!(ids(&report, "unknown").contains(&"lab-releases".to_owned()), "{report:#}");
        }
    }
}

#[test]
fn the_pirate_ship_fails_the_check_in_every_form() {
    let lab = lab();
    lab.rehearse("deploy-malicious").ok();
    assert_eq!(failed(&lab, "lab", 8), ["lab-allow-list"]);
    lab.rehearse("check lab").ends(8).says("sa/pirate-ship").says("coastal contain");
    let sarif = document(&lab.rehearse("check lab --format sarif").ends(8));
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "lab-allow-list");
    let junit = lab.rehearse("check lab --format junit").ends(8);
    assert!(junit.out.contains("<testcase classname=\"lab-allow-list\"") && junit.out.contains("failures=\"1\""));
}

#[test]
fn what_is_safe_is_mended_once_it_was_shown() {
    let lab = lab();
    let with_fault = format!("rehearse --world {} --fault release-pending", lab.world().display());
    let shown = lab.coastal(&format!("{with_fault} --dry-run check --fix")).ends(8);
    shown.says("lab-pending-release: kubectl -n default delete secret sh.helm.release.v1.spire.v");
    let state = lab.at("world.json.state");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let found = failed(&lab, "", 8);
    assert!(found.contains(&"host-files".to_owned()) && found.contains(&"lab-pending-release".to_owned()), "{found:?}");
    lab.rehearse("check --fix").ok().says("done: chmod 700").says("done: kubectl -n default delete secret");
    assert_eq!(failed(&lab, "", 0), Vec::<String>::new());
    lab.rehearse("check --fix").ok().says("nothing is wrong that `--fix` could mend");
}

#[test]
fn on_the_real_machine_without_tools_it_says_so() {
    let lab = TestLab::new();
    let report = document(&lab.coastal("--output json check").ends(8));
    let found = ids(&report, "failed");
    for id in ["host-docker", "host-kind", "host-helm", "host-kubectl"] {
        assert!(found.contains(&id.to_owned()), "{found:?}");
    }
    assert_eq!(report["counts"]["passed"].as_u64().map(|passed| passed < 8), Some(true), "{:#}", report["counts"]);
    assert_ne!(report["counts"]["unknown"], json!(0));
}

/// The state of each step of the lab.
fn steps(ran: &Ran) -> Vec<(String, String)> {
    let document = document(ran);
    assert_eq!(document["schema"], 1);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    document["steps"].as_array().unwrap().iter().map(|step| (text(&step["id"]), text(&step["state"]))).collect()
}

fn next(lab: &TestLab) -> String {
    let steps = steps(&lab.rehearse("--output json learn").ok());
    steps.into_iter().find(|(_, state)| state == "next").map(|(id, _)| id).unwrap_or_default()
}

#[test]
fn a_student_is_led_from_step_to_step() {
    let lab = TestLab::new();
    assert_eq!(next(&lab), "cluster");
    for (commands, then) in [
        (&["cluster-up"][..], "repos"),
        (&["add-repos"], "prometheus"),
        (&["prometheus-install"], "namespaces"),
        (&["namespaces"], "database"),
        (&["deploy-database"], "spire"),
        (&["spire-install"], "monitors"),
        (&["patch-monitors"], "workload"),
        (&["build-load-image", "deploy-workload"], "upgrade"),
    ] {
        let step = next(&lab);
        lab.rehearse(&format!("learn check {step}")).ends(8).says("next");
        for command in commands {
            lab.rehearse(command).ok();
        }
        lab.rehearse(&format!("learn check {step}")).ok().says("done");
        assert_eq!(next(&lab), then);
    }
    lab.rehearse("learn").ok().says("$ coastal upgrade --to 1.8.0").says("look at: the meter");
    lab.rehearse("learn show 5").ok().says("kubectl apply --server-side -f database.yaml");
    lab.rehearse("learn show databose").ends(2).says("there is no step `databose`");
    lab.rehearse("deploy-malicious").ok();
    lab.rehearse("learn check compromise").ends(8).says("in the bay");
}

#[test]
fn a_step_can_be_begun_anew() {
    let lab = lab();
    let shown = lab.rehearse("--dry-run learn reset spire").ok();
    shown.says("coastal spire-uninstall").says("coastal deploy-database");
    assert_eq!(next(&lab), "upgrade", "a dry run changes nothing");
    lab.rehearse("learn reset workload").ok();
    assert_eq!(next(&lab), "workload");
    lab.rehearse("learn reset spire").ok();
    assert_eq!(next(&lab), "spire");
    lab.rehearse("learn reset cluster").ok();
    assert_eq!(next(&lab), "cluster");
}

#[test]
fn the_charts_tests_run_before_there_is_a_workload() {
    let lab = lab();
    lab.rehearse("delete-workload").ok();
    // Not everything that was asked for could be done, and so it does not end with 0.
    let ran = lab.rehearse("test").ends(4);
    ran.says("chart-tests").says("it is not deployed").says("coastal deploy-workload");
    let result = lab.rehearse("--output json test").ends(4).result();
    assert_eq!(
        (&result["passed"], &result["failed"]),
        (&json!(["chart-tests"]), &json!(["identity-test"])),
        "{result:#}"
    );
}

#[test]
fn status_is_one_screen_and_redrawn_when_it_changes() {
    let lab = lab();
    let shown = lab.rehearse("status").ok();
    for row in
        ["servers   1.7.2", "3 X.509 authorities: 3 with", "SVIDs     the oldest issued", "servers and agents are seen"]
    {
        assert!(shown.out.contains(row), "{row}: {}", shown.out);
    }
    assert!(shown.out.lines().count() <= 24, "{}", shown.out);
    let status = document(&lab.rehearse("--output json status").ok());
    assert_eq!((&status["schema"], &status["workload"]["not_renewed"]), (&json!(1), &json!(0)));
    assert_eq!(status["spire"]["bundle"].as_array().map(Vec::len), Some(6), "{status:#}");
    // The rehearsal looks three times; nothing changes in four seconds.
    assert_eq!(lab.rehearse("status --watch").ok().out.matches("\nservers ").count(), 1);
}

#[test]
fn every_command_explains_itself() {
    let lab = lab();
    for command in [
        "status",
        "check",
        "learn",
        "audit",
        "entries",
        "bundle",
        "agents",
        "logs server",
        "env",
        "plan",
        "patch-monitors",
        "deploy-database",
        "test",
        "deploy-malicious",
        "contain pirate-coast",
        "delete-malicious",
        "rotate",
        "upgrade --to 1.8.0",
    ] {
        let ran = lab.rehearse(&format!("--explain {command}"));
        let lines = ran.err.lines().chain(ran.out.lines());
        let typed = lines.filter(|line| line.trim_start().starts_with("$ ")).count();
        assert!(typed > 0, "{ran:?}");
    }
}
