//! `coastal rotate --rekey`: new keys without `localauthority`, for every SPIRE.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use semver::Version;

use crate::backup::Seal;
use crate::cli::goal::{carry_out, lock};
use crate::cli::rotate::{RotateArgs, close, holder};
use crate::cli::{Global, outside::Outside};
use crate::config::Lab;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::{PRUNED_AFTER, Rekeying, Rotation, rekey_command};
use crate::session::Session;
use crate::spire::planes::{Authorities, Planes};
use crate::spire::rotation::{FORCED_ROTATION, KeyType, Rekey};
use crate::spire::{names, releases};
use crate::steps::rekey::marker::{self, Marker};
use crate::steps::rekey::possible;
use crate::steps::rotate::record;
use crate::steps::{planes, reach, restore};
use crate::ui::Ui;

/// What follows `--rekey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wish {
    /// Tell of the ways
    #[value(hide = true)]
    Ways,
    /// New keys; what the old ones signed stays trusted until the old authorities expire
    New,
    /// New keys and a new bundle: nothing old is trusted any more
    Revoke,
}

/// The newest published patch of the first line whose servers taint and revoke.
pub fn first_line() -> Version {
    releases::nearest(&FORCED_ROTATION).map_or(FORCED_ROTATION, |release| release.version().clone())
}

/// Tells of the ways, or shows what one of them would do; with `--yes` it does it.
///
/// # Errors
/// It is not possible here, or it was not started; what happens in the run itself is in the exit code.
pub async fn run(
    wish: Wish,
    args: &RotateArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    let lab = &outside.lab;
    let method = match wish {
        Wish::Ways => {
            ui.text(&ways(lab));
            return Ok(ExitCode::Ok);
        }
        Wish::New => Rekey::NewKeys,
        Wish::Revoke => Rekey::NewBundle,
    };
    let session = Session::new(lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    let cluster = reach::cluster(&cx).await?;
    restore::marker::none_is_open(&cx).await?;
    let incidents = outside.paths.incidents();
    let begun = marker::read(&cx, &cluster).await?;
    let stands = if let Some(marker) = &begun {
        goes_on(marker, method)?
    } else {
        if let Some(open) = record::open(&incidents)?.filter(|_| !args.anew) {
            return Err(Failure::refused(format!("rotation {} is open", open.id))
                .next("`coastal rotate --yes` goes on with it")
                .next(format!("`coastal rotate --rekey {method} --anew --yes` leaves it, and begins this")));
        }
        possible(&cx, &cluster).await?
    };
    let bundle = Planes::new(outside.world.clock.now(), planes::keepers(&cx, &cluster).await?);
    let goes = |key: KeyType| {
        let all = bundle.bundle(key);
        // What is out of the bundle already, or of servers that are down, is known by the mark only.
        let of = |id: String| (id.clone(), all.get(&id).cloned().unwrap_or_default());
        let outgoing = begun.as_ref().map(|marker| marker.outgoing(key).into_iter().map(of).collect());
        (key, outgoing.unwrap_or(all))
    };
    let goes: BTreeMap<KeyType, Authorities> = KeyType::ALL.map(goes).into();
    // As the lab's backups are closed, if whoever is to open them is known.
    let seal = if lab.backup.recipients.is_empty() { Seal::Plaintext } else { Seal::to(&lab.backup.recipients)? };
    let rekeying = Rekeying {
        method,
        aside: outside.paths.rekey().join(format!("before.{}", seal.protection().extension())),
        seal,
        until: goes.values().flat_map(Authorities::values).filter_map(|held| held.expires_at).max(),
        workloads: cluster.get::<Deployment>(&lab.workload.namespace, &lab.workload.name).await?.is_some(),
    };
    let plan = rekeying.plan(lab);
    for note in &stands {
        ui.note(note);
    }
    if global.dry_run || !(global.yes || outside.is_harmless()) {
        ui.plan(&plan);
        if !ui.is_json() {
            let (head, rows) = outgoing_table(&goes);
            ui.table(&head, &rows);
        }
        for note in notes(method, rekeying.until, &rekeying) {
            ui.note(&note);
        }
        ui.note("nothing was done");
        ui.next(&[rekey_command(method)]);
        return Ok(ExitCode::Ok);
    }
    let held = lock(outside, line)?;
    let incident = begun.map(|marker| marker.incident(&incidents)).transpose()?;
    let since = incident.as_ref().map_or_else(|| outside.world.clock.now(), |incident| incident.opened_at);
    let rotation = Rotation::new((KeyType::ALL.into(), None), BTreeSet::new(), since, holder(outside), incident);
    let (world, paths) = (outside.world.clone(), outside.paths.clone());
    let session = Session::with_rekey(lab.clone(), world, paths, rotation, rekeying);
    let next = ["coastal bundle planes", "coastal test", "coastal backup"].map(str::to_owned).to_vec();
    let ended = carry_out(&session, &plan, next, ui, line, outside).await;
    let closed = close(&session, ui, outside).await;
    drop(held);
    let code = ended?;
    closed.map(|()| code)
}

/// That what is under way is what is asked for; and what to say of it.
fn goes_on(marker: &Marker, method: Rekey) -> Result<Vec<String>, Failure> {
    if marker.method == method {
        return Ok(vec![format!(
            "`rotate --rekey {method}` of {:.0} was not ended: this goes on with it",
            marker.since
        )]);
    }
    Err(Failure::refused(format!(
        "`rotate --rekey {}` was cut off here, and has to come to its end first",
        marker.method
    ))
    .fact(format!("begun {:.0}", marker.since))
    .next(format!("`{}` goes on with it; then `{}`", rekey_command(marker.method), rekey_command(method))))
}

fn outgoing_table(goes: &BTreeMap<KeyType, Authorities>) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "unknown".to_owned(), |time| format!("{time:.0}"));
    let rows = goes.iter().flat_map(|(key, all)| all.iter().map(move |(id, held)| (key, id, held)));
    let rows = rows.map(|(key, id, held)| vec![key.to_string(), id.clone(), time(held.expires_at)]);
    (vec!["type", "authority that goes", "expires"], rows.collect())
}

/// What a way means, before anybody says yes to it.
fn notes(method: Rekey, until: Option<Timestamp>, rekeying: &Rekeying) -> Vec<String> {
    let trust = match (method, until) {
        (Rekey::NewBundle, _) => "nothing of them is trusted any more once it is through: a revocation".to_owned(),
        (Rekey::NewKeys, None) => "they stay trusted until they expire, and in the bundle for a day longer".to_owned(),
        (Rekey::NewKeys, Some(until)) => format!(
            "what they sign stays TRUSTED until {until:.0}, and they leave the bundle after {:.0}: this is no revocation",
            until.checked_add(PRUNED_AFTER).unwrap_or(until)
        ),
    };
    vec![
        trust,
        format!("outage: {}; measured by the meter at the end", method.outage()),
        format!("what is there now is kept in {} (private keys) until the end", rekeying.aside.display()),
        "backups of before hold the old keys: one that is restored later brings back their trust".to_owned(),
    ]
}

/// The ways without `localauthority`, as a person would walk them.
fn ways(lab: &Lab) -> String {
    let spire = &lab.spire;
    let (ns, server, agent) = (&spire.server_namespace, names::server(spire), names::agent(spire));
    let restart = format!(
        "kubectl -n {} rollout restart daemonset/{agent}; kubectl -n {} rollout restart deployment/{}",
        spire.system_namespace, lab.workload.namespace, lab.workload.name
    );
    let down = format!(
        "kubectl -n {ns} scale statefulset/{server} --replicas 0; for each N mount claim spire-data-{server}-N in a pod, and remove keys.json and journal.pem"
    );
    let up = format!("kubectl -n {ns} scale statefulset/{server} --replicas {}", spire.servers);
    let drop = format!(
        "kubectl -n {ns} exec spire-db-0 -- psql -U {} -d {} -c \"delete from bundles where trust_domain = 'spiffe://{}'\"",
        lab.database.username, lab.database.database, spire.trust_domain
    );
    let to = first_line();
    [
        "New keys without `localauthority` (SPIRE below 1.11, or authorities that are in no slot any more):".to_owned(),
        format!("\n(a) First, if it can be: `coastal upgrade --to {to}`, then `coastal rotate`. No outage, and a real revocation."),
        format!("\n(b) `coastal rotate --rekey new`: {}.", Rekey::NewKeys.words()),
        format!("    by hand: {down}"),
        format!("    {up}\n    {restart}"),
        format!("\n(c) `coastal rotate --rekey revoke`: {}.", Rekey::NewBundle.words()),
        format!("    by hand: as (b), and before the servers start:\n    {drop}"),
        "\nEach shows its plan and does nothing until `--yes`. What was there is kept aside until the end, and a run that was cut off is gone on with by the same command.".to_owned(),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;
    use crate::steps::rekey::marker::Phase;

    #[test]
    fn the_ways_are_told_with_what_each_means() {
        let told = ways(&embedded().unwrap());
        for words in ["coastal upgrade --to 1.11.3", "no revocation", "OUTAGE", "delete from bundles", "--rekey revoke"]
        {
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn another_way_waits_for_the_one_that_was_begun() {
        let marker = Marker {
            method: Rekey::NewKeys,
            incident: "i".into(),
            since: Timestamp::UNIX_EPOCH,
            aside: None,
            phase: Phase::Keys,
            outgoing: BTreeMap::from([(KeyType::X509, ["a".to_owned()].into())]),
            served_at: None,
        };
        assert!(goes_on(&marker, Rekey::NewKeys).unwrap()[0].contains("goes on with it"));
        let refused = goes_on(&marker, Rekey::NewBundle).unwrap_err();
        assert!(refused.next[0].contains("--rekey new --yes` goes on with it; then"), "{refused:?}");
    }
}
