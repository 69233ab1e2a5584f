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
