//! Disasters and the way back: every drill with its recovery, the wreck of a rollback, and an outage that outlasts the
//! SVIDs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coastal::engine::{self, Emitter, Event, RunInfo, Sink, What};
use coastal::plan::{Goal, Notes, Recovery};
use coastal::rehearsal::Fault;
use coastal::session::Session;
use coastal::steps::recover;
use coastal::{observe, steps};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::rehearsed::Stage;
use crate::support::{Ran, TestLab};

fn lab() -> TestLab {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    lab
}

fn reports(ran: &Ran) -> Vec<Value> {
    ran.lines()
        .into_iter()
        .filter(|event| event["type"] == "step-report")
        .map(|event| event["report"].clone())
        .collect()
}

/// The scorecard of a run.
fn card(ran: &Ran) -> Value {
    let cards: Vec<Value> = reports(ran).into_iter().filter(|report| report["kind"] == "scorecard").collect();
    assert_eq!(cards.len(), 1, "{ran:?}");
    cards[0].clone()
}

fn changed(ran: &Ran) -> Vec<String> {
    let changed = ran.result()["changed"].clone();
    changed.as_array().unwrap().iter().map(|step| step.as_str().unwrap().to_owned()).collect()
}

/// All pods' milliseconds without a valid SVID.
fn without(card: &Value) -> u64 {
    card["workloads"].as_array().unwrap().iter().map(|pod| pod["no_valid_svid_ms"].as_u64().unwrap_or(u64::MAX)).sum()
}

fn whole(lab: &TestLab) {
    lab.rehearse("recover").ok().says("nothing is broken, and nothing was changed");
    lab.rehearse("test").ok();
}

#[test]
fn a_healthy_lab_is_left_alone() {
    let lab = lab();
    lab.rehearse("recover").ok().says("nothing is broken").says("CA keys").says("outage budget");
    let seen: Value = serde_json::from_str(&lab.rehearse("--output json recover").ok().out).unwrap();
    assert_eq!((&seen["way"], &seen["loss"]), (&json!([]), &json!({"database": "kept", "keys": "kept"})));
}

#[test]
fn every_drill_is_recovered_from() {
    for (drill, lossless) in [("pod", true), ("servers", true), ("agents", true), ("keys", true), ("node", false)] {
        let lab = lab();
        let ran = lab.rehearse(&format!("--output json drill {drill} --score")).ok();
        let card = card(&ran);
        assert_eq!((&card["schema"], &card["drill"]), (&json!(1), &json!(drill)), "{card:#}");
        assert!(card["detected_ms"].as_u64().unwrap() < 60_000, "{card:#}");
        assert!(card["recovered_ms"].as_u64().unwrap() < 200_000, "{card:#}");
        assert_eq!(card["identities_lost"], json!([]), "{card:#}");
        assert!(!card["broken"].as_array().unwrap().is_empty(), "{card:#}");
        if lossless {
            assert_eq!((without(&card), &card["verdict"]), (0, &json!("unbroken")), "{drill}: {card:#}");
        }
        whole(&lab);
    }
}

#[test]
fn a_database_that_is_lost_begins_anew_on_every_line() {
    for line in ["1.7.2", "1.9.6", "1.11.3"] {
        let lab = TestLab::new();
        lab.rehearse("up").ok();
        if line != "1.7.2" {
            lab.rehearse(&format!("upgrade --to {line}")).ok();
        }
        let shown = lab.rehearse("--dry-run drill database").ok();
        shown.says("lose the volume of the database").says("no backup known").says("then      the bundle begins anew");
        let ran = lab.rehearse("--output json drill database --score").ok();
        let changed = changed(&ran);
        // Up to 1.9 a journal on disk would keep the servers from starting.
        assert_eq!(changed.iter().any(|step| step == "recover-keys"), line != "1.11.3", "{line}: {changed:?}");
        for step in ["recover-servers", "recover-agents", "recover-gate", "recover-verdict"] {
            assert!(changed.iter().any(|changed| changed == step), "{line}: {step} in {changed:?}");
        }
        let card = card(&ran);
        assert_eq!(card["identities_lost"], json!([]), "{line}: the controller manager makes them again");
        assert!(card["broken"].to_string().contains("database: "), "{card:#}");
        whole(&lab);
    }
}

#[test]
fn a_drill_says_whether_a_backup_covers_it() {
    let lab = lab();
    lab.rehearse("--dry-run drill pod").ok().says("no data is lost, so none is needed");
    lab.rehearse("--dry-run drill keys").ok().says("no backup known");
    lab.rehearse("backup --plaintext").ok();
    lab.rehearse("--dry-run drill keys").ok().says(".tar of ").says("covers until");
}

#[test]
fn drill_and_recover_are_two_commands_too() {
    let lab = lab();
    let drill = lab.rehearse("drill servers").ok();
    drill.says("coastal recover").says("their StatefulSet is not there");
    // Another disaster on top of it is refused.
    lab.rehearse("drill agents").ends(7).says("the lab is not whole").says("`coastal recover` first");
    let shown = lab.rehearse("--dry-run recover").ok();
    shown.says("the way back").says("BROKEN").says("recover-release");
    let ran = lab.rehearse("--output json recover").ok();
    let card = card(&ran);
    // It is counted from the drill on.
    assert_eq!(card["drill"], "servers");
    assert!(card["detected_ms"].as_u64().unwrap() < card["recovered_ms"].as_u64().unwrap());
    assert_eq!(without(&card), 0, "{card:#}");
    whole(&lab);
    let text = lab.rehearse("drill pod --score").ok();
    text.says("time to detect").says("time to recover").says("0 ms without a valid SVID").says("outage budget");
}

#[test]
fn the_wreck_of_a_rollback_is_brought_back_by_recover_alone() {
    let lab = lab();
    lab.rehearse("upgrade --to 1.9.6").ok();
    // The lab's own cure for lost servers: an old revision, whose servers the database refuses.
    let ran = lab.rehearse("--fault rolled-back --output json recover").ok();
    let card = card(&ran);
    let broken = card["broken"].to_string();
    for words in ["release: ", "servers: 0 of 3 serve", "agents: "] {
        assert!(broken.contains(words), "{words} in {broken}");
    }
    assert_eq!((&card["current"]["server"], &card["current"]["agent"]), (&json!("1.9.6"), &json!("1.9.6")));
    // Less than a third of the four minutes and thirteen seconds that it took a person with the cure at hand.
    assert!(card["recovered_ms"].as_u64().unwrap() < 84_000, "{card:#}");
    assert_eq!(without(&card), 0, "{card:#}");
    let commands: Vec<String> = ran
        .lines()
        .into_iter()
        .filter(|event| event["type"] == "command-started")
        .map(|event| event["line"].as_str().unwrap().to_owned())
        .collect();
    assert!(commands.iter().any(|line| line.starts_with("helm upgrade --install spire ")), "{commands:#?}");
    assert!(commands.iter().all(|line| !line.contains("rollback")), "{commands:#?}");
    whole(&lab);
}

#[test]
fn other_wrecks_are_brought_back_too() {
    for (fault, says) in [("release-pending=3600", "is pending-upgrade"), ("rolled-back=1", "revision 2 is failed")] {
        let lab = lab();
        lab.rehearse(&format!("--fault {fault} recover")).ok().says(says);
        whole(&lab);
    }
}

/// The lab's databases and their clock are the world's: an outage of five hours takes no time.
#[tokio::test(start_paused = true)]
async fn an_outage_of_five_hours_outlasts_the_svids() {
    let stage = Stage::new().await;
    stage.make(Goal::Up).await;
    let session = || Session::new(stage.lab.clone(), stage.rehearsal.world(), stage.paths.clone());
    let cancel = CancellationToken::new();
    let held = async || Box::pin(observe::status(&session(), &cancel)).await.unwrap().workload.with_svid;
    let began = stage.rehearsal.world().clock.now();
    assert_eq!(held().await, 5);
    stage.rehearsal.inject(Fault::DatabaseUnreachable);
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(held().await, 5, "what was issued for four hours is good for three");
    let looking = session();
    let (_, diagnosis) = recover::examine(&observe::looking(&looking, &cancel)).await.unwrap();
    assert!(diagnosis.budget.unwrap().half_is_gone(), "{diagnosis:#?}");
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(held().await, 0, "and not for five");
    let looking = session();
    let (_, diagnosis) = recover::examine(&observe::looking(&looking, &cancel)).await.unwrap();
    assert!(diagnosis.budget.unwrap().is_spent());
    let broken = diagnosis.broken().join("\n");
    assert!(broken.contains("database: ") && broken.contains("expired at"), "{broken}");

    stage.rehearsal.cure("database-unreachable");
    let notes = Notes { diagnosis: Some(diagnosis), ..Notes::new(began) };
    let recovery = Recovery::new(notes);
    let plan = recovery.plan(&stage.lab);
    let session = Session::with_recovery(stage.lab.clone(), stage.rehearsal.world(), stage.paths.clone(), recovery);
    let cards = Arc::new(Cards::default());
    let emitter = Emitter::new(Arc::clone(&session.world.clock), Arc::clone(&cards) as Arc<dyn Sink>);
    let result = engine::execute(&plan, &RunInfo::default(), &steps::body, &session, &emitter, &cancel).await;
    assert_eq!(result.outcome, engine::Outcome::Ok, "{:?}", result.failure);
    let card = cards.0.lock().unwrap().pop().unwrap();
    assert_eq!(card["verdict"], "broken");
    let hour = 3_600_000;
    // Each pod was without from the fourth hour on, and a little longer than to the fifth.
    let range = 5 * (hour - 60_000)..5 * (hour + 300_000);
    assert!(range.contains(&without(&card)), "{card:#}");
    assert_eq!(card["workloads"].as_array().unwrap().len(), 5);
}

/// Keeps the scorecards of a run.
#[derive(Default)]
struct Cards(Mutex<Vec<Value>>);

impl Sink for Cards {
    fn take(&self, event: &Event) {
        if let What::StepReport { report, .. } = &event.what
            && report["kind"] == "scorecard"
        {
            self.0.lock().unwrap().push(report.clone());
        }
    }
}

/// As the README has it: two commands, the second of which finds a database that does not answer yet.
#[test]
fn a_lost_database_is_recovered_from_by_a_command_of_its_own() {
    let lab = TestLab::new();
    lab.rehearse("up").ok();
    lab.rehearse("drill database").ok();
    lab.rehearse("recover").ok();
    lab.rehearse("recover").ok().says("nothing is broken");
}

#[test]
fn what_cannot_be_drilled_or_recovered_says_why() {
    let lab = TestLab::new();
    lab.rehearse("cluster-up").ok();
    lab.rehearse("recover").ends(4).says("there is no SPIRE here");
    lab.rehearse("drill pod").ends(7).says("the lab is not whole");
    let file = lab.write(
        "lab.toml",
        "schema = 1\n[cluster]\nprovider = \"existing\"\nkubeconfig = \"kubeconfig\"\ncontext = \"staging\"\n",
    );
    lab.coastal(&format!("--lab {} drill database --yes", file.display()))
        .ends(7)
        .says("drills are for a lab's own cluster");
    lab.coastal("drill everything").ends(2);
}
