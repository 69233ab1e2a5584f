//! The compromise of key material, on the rehearsal: rotate, and everything that can come between.

use serde_json::Value;

use crate::support::{Ran, TestLab};

const LAB: &str = "schema = 1\n[spire]\nserver-version = \"1.11.3\"\nagent-version = \"1.11.3\"\n";

fn lab() -> TestLab {
    let lab = TestLab::new();
    lab.write("lab.toml", LAB);
    lab.rehearse("up").ok();
    lab
}

/// The ids of a type in the plane of that name.
fn held(planes: &Value, layer: &str, key: &str) -> Vec<String> {
    let plane = planes["planes"].as_array().unwrap().iter().find(|plane| plane["layer"] == layer).unwrap();
    let held = plane["content"]["read"][key].as_object();
    held.unwrap_or_else(|| panic!("{plane}")).keys().cloned().collect()
}

fn planes(lab: &TestLab) -> Value {
    serde_json::from_str(&lab.rehearse("--output json bundle planes").ok().out).unwrap()
}

/// The newest incident's file of that name.
fn incident(lab: &TestLab, file: &str) -> String {
    let directory = lab.at("world.json.state/incidents");
    let mut all: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    std::fs::read_to_string(all.last().unwrap().join(file)).unwrap()
}

fn commands(ran: &Ran, word: &str) -> usize {
    let is = |line: &Value| {
        let command = line["what"]["line"].as_str().or_else(|| line["line"].as_str()).unwrap_or_default();
        command.contains("localauthority") && command.contains(word)
    };
    ran.lines().iter().filter(|line| is(line)).count()
}

#[test]
fn every_key_is_replaced_and_nobody_is_without_an_svid() {
    let lab = lab();
    let before = planes(&lab);
    // What is asked for without a yes is shown, and nothing more.
    lab.rehearse("--dry-run rotate").ok().says("rotate-x509-taint").says("nothing was done");
    assert_eq!(held(&planes(&lab), "database", "x509"), held(&before, "database", "x509"));

    let ran = lab.rehearse("--output json rotate").ok();
    for (word, times) in [("prepare", 6), ("activate", 6), ("taint", 6), ("revoke", 6)] {
        assert_eq!(commands(&ran, word), times, "{word}");
    }
    let after = planes(&lab);
    for layer in ["database", "server", "config-map", "agent", "workload"] {
        let (old, new) = (held(&before, layer, "x509"), held(&after, layer, "x509"));
        assert_eq!((old.len(), new.len()), (3, 3), "{layer}");
        assert!(new.iter().all(|id| !old.contains(id)), "{layer}: {old:?} {new:?}");
    }
    assert!(held(&after, "database", "jwt").iter().all(|id| !held(&before, "database", "jwt").contains(id)));
    lab.rehearse("bundle planes --check").ok();

    let report: Value = serde_json::from_str(&incident(&lab, "incident.json")).unwrap();
    assert_eq!((&report["outcome"], &report["downtime_ms"]), (&"complete".into(), &0.into()));
    assert!(report["workloads"].as_array().unwrap().iter().all(|pod| pod["renewals"].as_u64() > Some(0)), "{report}");
    let text = incident(&lab, "report.md");
    assert!(text.contains("spire-bundle: written") && text.contains("## Planes after"), "{text}");

    // The slots hold what was revoked: that is no hindrance to the next one.
    lab.rehearse("rotate --x509").ok().says("a ClusterSPIFFEID can be written").says("the rotation is complete");
}

#[test]
fn a_server_that_restarts_after_the_prepare_has_kept_its_slots() {
    let lab = lab();
    lab.rehearse("--fault server-restarts=spire-server-1 rotate").ok().says("the rotation is complete");
}

#[test]
fn what_a_server_loses_is_named_for_nothing_can_revoke_it() {
    let lab = lab();
    let before = held(&planes(&lab), "database", "x509");
    let ran = lab.rehearse("--fault server-loses-keys=spire-server-1 rotate").ends(8);
    ran.says("not every old authority can be revoked").says("stays trusted until").says("--rekey");
    let text = incident(&lab, "report.md");
    assert!(text.contains("PARTIAL") && text.contains("## Still trusted"), "{text}");
    // All others are gone.
    let after = held(&planes(&lab), "database", "x509");
    assert_eq!(after.iter().filter(|id| before.contains(id)).count(), 1, "{before:?} {after:?}");
}

#[test]
fn a_server_that_does_not_answer_is_not_left_out() {
    let lab = lab();
    let before = planes(&lab);
    lab.rehearse("--fault server-unreachable=spire-server-1 rotate")
        .ends(7)
        .says("not every server shows what it signs with")
        .says("connection refused");
    // Of one that answers, the others' plane is unknown all the same.
    lab.rehearse("--fault server-unreachable=spire-server-1 rotate --server spire-server-2")
        .ends(7)
        .says("--accept-unknown server/spire-server-1");
    assert_eq!(held(&planes(&lab), "database", "x509"), held(&before, "database", "x509"));
    // Of one server alone.
    lab.rehearse("rotate --x509 --server spire-server-2").ok();
    let after = held(&planes(&lab), "database", "x509");
    assert_eq!(after.iter().filter(|id| held(&before, "database", "x509").contains(id)).count(), 2);
    lab.rehearse("rotate --server spire-server-9").ends(2).says("there is no server pod `spire-server-9`");
}

#[test]
fn an_agent_that_hears_nothing_keeps_the_old_keys_alive_and_the_next_run_goes_on() {
    let lab = lab();
    let ran = lab.rehearse("--fault agent-never-syncs --timeout 30s rotate --x509").ends(6);
    ran.says("agent/kind-worker lacks");
    assert_eq!(held(&planes(&lab), "database", "x509").len(), 6, "prepared, and no further");
    lab.rehearse("rotate --jwt").ends(7).says("is open, of the X.509 keys").says("--anew");
    let ran = lab.rehearse("--output json rotate").ok();
    assert_eq!((commands(&ran, "prepare"), commands(&ran, "revoke")), (0, 3), "it goes on, and does nothing twice");
}

#[test]
fn below_1_11_there_are_ways_and_no_pretence() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    lab.rehearse("rotate")
        .ends(7)
        .says("SPIRE 1.7.2 cannot taint or revoke an authority")
        .says("coastal upgrade --to 1.11.3")
        .says("coastal rotate --rekey");
    lab.rehearse("rotate --rekey").ok().says("this is no revocation").says("OUTAGE").says("delete from bundles");
    lab.rehearse("bundle planes").ok().says("5 WORKLOADS");
}

/// What a way leaves of the authorities of before, in each plane.
fn rekeyed(lab: &TestLab, method: &str, old: usize) {
    let before = planes(lab);
    let shown = lab.rehearse(&format!("--dry-run rotate --rekey {method}")).ok();
    shown.says("measured by the meter at the end").says("rekey-keys").says("nothing was done").says("EXPIRES");
    assert_eq!(planes(lab)["planes"], before["planes"], "a dry run changes nothing");

    lab.rehearse(&format!("rotate --rekey {method}")).ok().says("a ClusterSPIFFEID can be written").says("new trust");
    let after = planes(lab);
    for (layer, key) in [
        ("database", "x509"),
        ("server", "x509"),
        ("config-map", "x509"),
        ("agent", "x509"),
        ("workload", "x509"),
        ("database", "jwt"),
    ] {
        let (was, is) = (held(&before, layer, key), held(&after, layer, key));
        let kept = is.iter().filter(|id| was.contains(id)).count();
        assert_eq!((kept, is.len() - kept), (old, 3), "{layer} {key}: {was:?} {is:?}");
    }
    lab.rehearse("bundle planes --check").ok();
    lab.rehearse("status").ok();
    let report: Value = serde_json::from_str(&incident(lab, "incident.json")).unwrap();
    assert_eq!((&report["rekey"], &report["downtime_ms"]), (&method.into(), &0.into()), "{report}");
    let signs = report["planes_after"]["planes"].as_array().unwrap().iter().find(|plane| plane["layer"] == "workload");
    let signs = &signs.unwrap()["content"]["read"]["svids_of"][0];
    assert!(!held(&before, "database", "x509").contains(&signs.as_str().unwrap().to_owned()), "{signs}");
    assert!(!lab.at("world.json.state/rekey").exists(), "what was kept aside is given up");
}

#[test]
fn new_keys_for_every_spire_keep_the_old_trust_or_end_it() {
    for lab in [TestLab::new(), lab()] {
        lab.rehearse("up").ok();
        rekeyed(&lab, "new", 3);
        let report = incident(&lab, "report.md");
        assert!(report.contains("STAY TRUSTED") && report.contains("Everybody accepts them"), "{report}");
        rekeyed(&lab, "revoke", 0);
        assert!(incident(&lab, "report.md").contains("the old ones are gone from every plane"));
    }
    let lighter = lab().rehearse("--dry-run rotate --rekey revoke").ok();
    lighter.says("`coastal rotate` revokes the old keys without an outage");
}

#[test]
fn new_keys_that_fail_half_way_are_gone_on_with_or_taken_back() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    let before = held(&planes(&lab), "database", "x509");
    lab.rehearse("backup --plaintext").ok();
    let fails = |words: &str| {
        let ran = lab.rehearse(&format!("--fault server-crash-loop {words}"));
        assert_ne!(ran.code, Some(0), "{ran:?}");
        ran.says("forward: `coastal rotate --rekey")
            .says("back: `coastal restore")
            .says("what was there before is kept")
    };
    fails("rotate --rekey revoke");
    // Whoever comes now is told, and touches nothing.
    for words in ["up", "upgrade --to 1.8.0", "recover", "rotate", "rotate --rekey new"] {
        lab.rehearse(words).ends(7).says("`coastal rotate --rekey revoke --yes` goes on with it");
    }
    let backups = lab.at("world.json.state/backups");
    let mut files = std::fs::read_dir(backups).unwrap().map(|entry| entry.unwrap().path());
    let backup = files.find(|file| file.extension().is_some_and(|it| it == "tar")).unwrap();
    lab.rehearse(&format!("restore {}", backup.display())).ends(7).says("back: `coastal restore");
    lab.rehearse("rotate --rekey revoke").ok().says("this goes on with it");
    let revoked = held(&planes(&lab), "database", "x509");
    assert!(revoked.iter().all(|id| !before.contains(id)), "{before:?} {revoked:?}");

    fails("rotate --rekey revoke");
    let aside = lab.at("world.json.state/rekey/before.tar");
    lab.rehearse(&format!("restore {}", aside.display())).ok();
    assert_eq!(held(&planes(&lab), "database", "x509"), revoked, "the way back is the whole way");
    assert!(!aside.exists());
    lab.rehearse("up").ok();
    lab.rehearse("rotate --rekey new").ok();
}

#[test]
fn new_keys_are_not_begun_where_they_could_not_be_ended() {
    let lab = lab();
    lab.rehearse("--fault database-unreachable rotate --rekey revoke").ends(5).says("cannot be kept aside");
    lab.rehearse("--fault agent-never-syncs --timeout 30s rotate --x509").ends(6);
    lab.rehearse("rotate --rekey revoke").ends(7).says("is open").says("--anew --yes` leaves it");
    lab.rehearse("rotate --rekey revoke --anew").ok();
    lab.rehearse("rotate --rekey never").ends(2);
    lab.rehearse("rotate --rekey new --x509").ends(2);
    let none = TestLab::new();
    none.rehearse("cluster-up").ok();
    none.rehearse("rotate --rekey new").ends(7).says("configuration cannot be read");
}
