//! The lab's compromise: a workload that nobody expects gets an identity, is found, cut off and removed.

use serde_json::{Value, json};

use crate::support::{Ran, TestLab};

const PIRATE: &str = "spiffe://coastal-containers.example/ns/pirate-coast/sa/pirate-ship";

fn lab() -> TestLab {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    lab
}

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error} in {ran:?}"))
}

/// Rule and subject of everything that an audit found.
fn found(lab: &TestLab, code: i32) -> Vec<(String, String)> {
    let audit = document(&lab.rehearse("--output json audit").ends(code));
    assert_eq!(audit["schema"], 1);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = audit["findings"].as_array().unwrap();
    findings.iter().map(|finding| (text(&finding["rule"]), text(&finding["subject"]))).collect()
}

#[test]
fn the_pirate_ship_comes_with_an_identity_and_goes_without_a_trace() {
    let lab = lab();
    let explained = lab.rehearse("deploy-malicious --explain").ok();
    explained.says("ClusterSPIFFEID gives every pod an identity").says(&format!("SPIRE gives it {PIRATE}"));
    let again = lab.rehearse("--output json deploy-malicious").ok().result();
    assert_eq!(again["changed"], json!([]), "{again:#}");
    lab.rehearse("delete-malicious").ok();
    let again = lab.rehearse("--output json delete-malicious").ok().result();
    assert_eq!(again["changed"], json!([]), "{again:#}");
}

#[test]
fn whoever_takes_spire_away_takes_the_pirate_ship_first() {
    for (command, removes) in [("spire-uninstall", "remove-spire"), ("down --keep-cluster", "remove-namespaces")] {
        let lab = lab();
        lab.rehearse("deploy-malicious").ok();
        let changed = lab.rehearse(&format!("--output json {command}")).ok().result()["changed"].clone();
        let place = |step: &str| changed.as_array().unwrap().iter().position(|changed| changed == step);
        assert!(place("remove-malicious").unwrap() < place(removes).unwrap(), "{changed}");
    }
}

#[test]
fn the_whole_story_found_cut_off_clean_removed() {
    let lab = lab();
    assert_eq!(found(&lab, 0), [], "a lab as it ships is clean");
    lab.rehearse("audit").ok().says("everything is recognised");

    lab.rehearse("deploy-malicious").ok();
    let unrecognised = [
        ("AUDIT-UNRECOGNISED-ID".to_owned(), PIRATE.to_owned()),
        ("AUDIT-UNRECOGNISED-POD".to_owned(), "pirate-coast/pirate-ship".to_owned()),
    ];
    assert_eq!(found(&lab, 8), unrecognised);
    lab.rehearse("audit").ends(8).says("who can present it: pirate-coast/pirate-ship-").says("SPIRE revokes no SVID");

    let shown = lab.rehearse("--dry-run contain pirate-coast").ok();
    shown.says("scale Deployment pirate-coast/pirate-ship from 1 to 0");
    assert_eq!(found(&lab, 8), unrecognised, "a dry run changes nothing");

    let run = lab.rehearse(&format!("--output json contain {PIRATE}")).ok();
    assert_eq!(run.result()["changed"], json!(["cut-off", "entries-gone", "agents-synced", "incident-report"]));
    let reports: Vec<Value> = run.lines().into_iter().filter(|event| event["type"] == "step-report").collect();
    let incident = &reports[0]["report"];
    assert_eq!(incident["target"], PIRATE);
    assert_eq!(incident["actions"][0]["how"], json!({"type": "scale", "replicas": 1}));
    assert!(incident["entries_gone_at"].is_string() && incident["valid_until"].is_string(), "{incident:#}");
    assert_eq!(found(&lab, 0), []);

    let id = incident["id"].as_str().unwrap();
    let report = lab.at(&format!("world.json.state/incidents/{id}.md"));
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.contains(PIRATE) && report.contains("no entry came back in 20 s"), "{report}");

    lab.rehearse("contain --undo").ok().says("scaled Deployment pirate-coast/pirate-ship from 0 to 1");
    lab.rehearse("deploy-malicious").ok();
    assert_eq!(found(&lab, 8), unrecognised, "what was undone is found again");
    lab.rehearse("contain --undo").ends(4).says("nothing is contained that could be undone");
    lab.rehearse(&format!("contain --undo {id}")).ok().says("it was undone at");

    lab.rehearse("contain pirate-coast --delete").ok();
    assert_eq!(found(&lab, 0), []);
    lab.rehearse("contain --undo").ends(7).says("something was deleted for good");
    lab.rehearse("delete-malicious").ok();
    assert_eq!(found(&lab, 0), []);

    // Whoever had the keys of a server as well: below 1.11 nothing can be revoked but by new keys and a new bundle.
    lab.rehearse("rotate").ends(7).says("coastal rotate --rekey");
    lab.rehearse("rotate --rekey revoke").ok().says("nothing old is trusted");
    assert_eq!(found(&lab, 0), []);
}

#[test]
fn what_cannot_be_contained_says_why() {
    let lab = lab();
    for (target, code, says) in [
        ("spiffe://coastal-containers.example/ns/default/sa/workload/", 2, "does not end with a slash"),
        ("spiffe://other.example/ns/default/sa/workload", 2, "it is of trust domain `other.example`"),
        ("/ns/pirat\u{e4}/sa/x", 2, "is not allowed in a SPIFFE id"),
        ("Pirate-Coast", 2, "neither a SPIFFE id nor the name of a namespace"),
        ("spiffe://coastal-containers.example/ns/default/sa/worklode", 4, "sa/workload comes nearest"),
        ("pirate-coast", 4, "has neither pods nor registration entries"),
        ("spire-server", 7, "that would stop SPIRE or Kubernetes itself"),
        ("/ns/spire-system/sa/spire-agent", 7, "that would stop SPIRE or Kubernetes itself"),
        ("kube-system", 7, "that would stop SPIRE or Kubernetes itself"),
    ] {
        lab.rehearse(&format!("contain {target}")).ends(code).says(says);
    }
    assert_eq!(found(&lab, 0), [], "nothing was touched");
    lab.rehearse("--dry-run contain /ns/default/sa/workload").ok().says("is on the allow-list of lab.toml");
}

#[test]
fn entries_are_shown_counted_and_come_back() {
    let lab = lab();
    let all = document(&lab.rehearse("--output json entries").ok());
    let total = all["total"].as_u64().unwrap();
    assert_eq!(all["entries"].as_array().unwrap().len() as u64, total);
    let count = |words: &str| lab.rehearse(&format!("entries count {words}")).ok().out.trim().parse::<u64>().unwrap();
    assert_eq!(count(""), total);
    assert_eq!(count("--id /ns/default/sa/workload"), 5);
    assert_eq!(count("--id spiffe://*/ns/*/sa/workload --namespace default"), 5);
    assert_eq!(count("--namespace nowhere"), 0);
    let selector = all["entries"][0]["selectors"][0].as_str().unwrap();
    assert_eq!(count(&format!("--selector {selector}")), 1);
    lab.rehearse("entries --selector nonsense").ends(2);

    let entry = all["entries"][0]["id"].as_str().unwrap();
    lab.rehearse(&format!("entries delete {entry}")).ok().says("is back within some ten seconds");
    assert_eq!(count(""), total - 1);
    lab.rehearse(&format!("entries delete {entry}")).ends(4).says("there is no registration entry");
}

#[test]
fn the_bundle_is_that_of_every_server() {
    let lab = lab();
    let bundle = document(&lab.rehearse("--output json bundle").ok());
    assert_eq!((&bundle["x509"], &bundle["jwt"], &bundle["agree"]), (&json!(3), &json!(3), &json!(true)));
    assert_eq!(bundle["servers"].as_array().unwrap().len(), 3);
    assert_eq!(bundle["authorities"][0]["seen_by"].as_array().unwrap().len(), 3);
    lab.rehearse("bundle count").ok().says("3 X.509 authorities, 3 JWT authorities");
    lab.rehearse("bundle --watch").ok().says("servers tell from SPIRE 1.11 on");
}

#[test]
fn an_agent_is_banned_and_let_in_again() {
    let lab = lab();
    let agents = document(&lab.rehearse("--output json agents").ok());
    let id = agents["agents"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(agents["agents"][0]["node"], "kind-worker");
    let path = id.strip_prefix("spiffe://coastal-containers.example").unwrap();
    lab.rehearse(&format!("agents ban {path}")).ok().says(&format!("undo: `coastal agents evict {id}`"));
    lab.rehearse("agents").ok().says("banned");
    assert_eq!(found(&lab, 0), [("AUDIT-BANNED-AGENT".to_owned(), id.clone())]);
    lab.rehearse(&format!("agents ban {id}")).ok().says("is banned already");
    lab.rehearse(&format!("agents evict {id}")).ok();
    lab.rehearse("spire-install").ok();
    assert_eq!(found(&lab, 0), []);
    lab.rehearse("agents ban /spire/agent/k8s_psat/kind-kind/nobody").ends(4).says("has attested");
    lab.rehearse("agents ban spiffe://other.example/x").ends(2).says("it is of trust domain");
}

#[test]
fn an_answer_that_is_cut_off_is_none() {
    let lab = lab();
    for command in ["audit", "entries", "agents"] {
        lab.rehearse(&format!("--fault tool-cut=kubectl:exec {command}")).ends(5).says("was cut off");
        lab.rehearse(&format!("--fault tool-garbage=kubectl:exec {command}")).ends(5);
    }
    lab.rehearse("--fault tool-cut=kubectl:exec entries delete x").ends(5).says("was cut off");
    lab.rehearse("--fault tool-cut=kubectl:exec bundle").ends(5).says("was cut off");
}

#[test]
fn other_programs_read_the_audit() {
    let lab = lab();
    lab.rehearse("deploy-malicious").ok();
    let sarif = document(&lab.rehearse("audit --format sarif").ends(8));
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "AUDIT-UNRECOGNISED-ID");
    lab.rehearse("audit --format junit").ends(8).says("failures=\"2\"");
}
