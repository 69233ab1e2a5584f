//! `coastal rotate`: new keys for every server, the old ones tainted and revoked, and a report of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;

use crate::cli::candidates;
use crate::cli::goal::{carry_out, lock};
use crate::cli::rekey::{self, Wish, first_line};
use crate::cli::{Global, outside::Outside};
use crate::config::Lab;
use crate::error::{ExitCode, Failure};
use crate::observe;
use crate::plan::Rotation;
use crate::session::Session;
use crate::spire::names;
use crate::spire::planes::brief;
use crate::spire::rotation::{FORCED_ROTATION, Incident, KeyType, Next, Outcome, Reissued, Slots, Way, way};
use crate::steps::continuity::Meter;
use crate::steps::live::Live;
use crate::steps::rotate::{self, Survey, record};
use crate::steps::{reach, unfinished};
use crate::ui::Ui;

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Only the keys of X.509-SVIDs
    #[arg(long)]
    x509: bool,
    /// Only the keys of JWT-SVIDs
    #[arg(long)]
    jwt: bool,
    /// Only the keys of the server in this pod: when one server's disk is compromised, and no other
    #[arg(long, value_name = "POD", add = candidates::servers())]
    server: Option<String>,
    /// Go on although this plane (as `bundle planes` names it) cannot be read; may be repeated
    #[arg(long, value_name = "PLANE")]
    accept_unknown: Vec<String>,
    /// Leave a rotation that was begun, and begin another one of everything that is there now
    #[arg(long)]
    pub(super) anew: bool,
    /// New keys without `localauthority`, for every SPIRE: servers down, their keys away, servers up. With no METHOD: tell
    /// of the ways and of their outages
    #[arg(long, value_name = "METHOD", value_enum, num_args = 0..=1, default_missing_value = "ways",
        conflicts_with_all = ["x509", "jwt", "server", "accept_unknown"])]
    rekey: Option<Wish>,
}

/// Shows what a rotation would do; with `--yes` it does it.
///
/// # Errors
/// The versions cannot rotate, or it was not started; what happens in the run itself is in the exit code.
pub async fn run(
    args: &RotateArgs,
    global: &Global,
    ui: &Ui,
    line: &str,
    outside: &Outside,
) -> Result<ExitCode, Failure> {
    if let Some(wish) = args.rekey {
        return Box::pin(rekey::run(wish, args, global, ui, line, outside)).await;
    }
    let session = Session::new(outside.lab.clone(), outside.world.clone(), outside.paths.clone());
    let cx = observe::looking(&session, &outside.cancel);
    reach::cluster(&cx).await?;
    unfinished::refuse(&cx).await?;
    let running = Live::look(&cx).await?;
    let wit = permitted(way(&running.servers, &running.agents), &outside.lab)?;
    let incidents = outside.paths.incidents();
    let open = if args.anew { None } else { record::open(&incidents)? };
    let (keys, server) = scope(args, open.as_ref())?;
    let accepted: BTreeSet<String> = args.accept_unknown.iter().cloned().collect();
    let since = open.as_ref().map_or_else(|| outside.world.clock.now(), |incident| incident.opened_at);
    if let Some(incident) = &open {
        ui.note(&format!("rotation {} was not ended: this goes on with it", incident.id));
    }
    if wit {
        ui.note("keys of WIT-SVIDs (SPIRE 1.14 and later) have no command: they are not rotated");
    }
    let rotation = Rotation::new((keys.clone(), server), accepted, since, holder(outside), open);
    let plan = rotation.plan(&outside.lab);
    if global.dry_run || !(global.yes || outside.is_harmless()) {
        let survey = Box::pin(rotate::survey(&cx, &keys)).await?;
        ui.plan(&plan);
        if !ui.is_json() {
            let (head, rows) = slots_table(&survey);
            ui.table(&head, &rows);
        }
        ui.note("nothing was done");
        ui.next(&["coastal rotate --yes".to_owned()]);
        return Ok(ExitCode::Ok);
    }
    let held = lock(outside, line)?;
    let session = Session::with_rotation(outside.lab.clone(), outside.world.clone(), outside.paths.clone(), rotation);
    let next = vec!["coastal bundle planes".to_owned(), "coastal test".to_owned()];
    let ended = carry_out(&session, &plan, next, ui, line, outside).await;
    let closed = close(&session, ui, outside).await;
    drop(held);
    let code = ended?;
    closed.map(|()| code)
}

/// The end of a run, however it ended: others may rotate, and the report is written.
pub(super) async fn close(session: &Arc<Session>, ui: &Ui, outside: &Outside) -> Result<(), Failure> {
    // A run that was stopped still has to say what it did.
    let cx = observe::looking(session, &tokio_util::sync::CancellationToken::new());
    if let Err(failure) = rotate::let_go(&cx).await {
        ui.warning(&format!("{}; it ends by itself within a minute", failure.message));
    }
    let incident = session.rotation.as_ref().and_then(|rotation| rotation.incident().clone());
    let Some(mut incident) = incident else { return Ok(()) };
    if let Ok(report) = Meter::since(incident.opened_at).finish(&cx).await {
        incident.downtime_ms = report.total.no_valid_svid_ms.known();
        incident.workloads = report
            .pods
            .iter()
            .map(|pod| Reissued {
                pod: pod.name.clone(),
                renewals: pod.renewals.at_least(),
                authority: pod.issuers_after.key_ids.last().cloned(),
                no_valid_svid_ms: pod.no_valid_svid_ms.known(),
            })
            .collect();
    }
    let incidents = outside.paths.incidents();
    record::save(&incidents, &incident)?;
    let path = record::report(&incidents, &incident);
    let outcome = match (incident.outcome, incident.rekey.is_some()) {
        (Outcome::Open, false) => "the rotation is not ended",
        (Outcome::Complete, false) => "the rotation is complete",
        (Outcome::Partial, false) => "the rotation is as complete as it can be",
        (Outcome::Open, true) => "the new keys are not there yet",
        (Outcome::Complete, true) => "new keys sign, and nothing old is trusted",
        (Outcome::Partial, true) => "new keys sign, and the old ones stay trusted until they expire",
    };
    ui.note(&format!("{outcome}; report: {}", path.display()));
    Ok(())
}

/// What is rotated: what the flags say, or what an open rotation is about.
fn scope(args: &RotateArgs, open: Option<&Incident>) -> Result<(BTreeSet<KeyType>, Option<String>), Failure> {
    let asked: BTreeSet<KeyType> = match (args.x509, args.jwt) {
        (true, false) => [KeyType::X509].into(),
        (false, true) => [KeyType::Jwt].into(),
        _ => KeyType::ALL.into(),
    };
    let Some(incident) = open else { return Ok((asked, args.server.clone())) };
    let keys: BTreeSet<KeyType> = incident.keys.keys().copied().collect();
    let server = incident.keys.values().find_map(|record| record.server.clone());
    let named = args.x509 || args.jwt;
    if (named && asked != keys) || (args.server.is_some() && args.server != server) {
        let of: Vec<String> = keys.iter().map(ToString::to_string).collect();
        return Err(Failure::refused(format!(
            "rotation {} is open, of the {} keys of {}: a second one would overwrite its authorities",
            incident.id,
            of.join(" and "),
            server.as_deref().unwrap_or("every server")
        ))
        .next("`coastal rotate --yes` goes on with it")
        .next("`coastal rotate --anew --yes` leaves it, and rotates everything that is there now"));
    }
    Ok((keys, server))
}

/// Whether there are keys that cannot be rotated.
fn permitted(way: Way, lab: &Lab) -> Result<bool, Failure> {
    match way {
        Way::Rotate { wit } => Ok(wit),
        Way::ServersTooOld(version) => Err(Failure::refused(format!(
            "SPIRE {version} cannot taint or revoke an authority: only {FORCED_ROTATION} and later can"
        ))
        .fact("until then a stolen CA key signs what everybody accepts, for as long as the CA is within its dates")
        .next(format!("`coastal upgrade --to {0} --plan` shows the way to a SPIRE that can; then `coastal rotate`", first_line()))
        .next("`coastal rotate --rekey` tells of new keys without an upgrade, and of the outage that each way means")
        .next("meanwhile: `coastal audit` shows who holds what, `coastal contain` cuts a workload off")),
        Way::AgentsTooOld(version) => Err(Failure::refused(format!(
            "agents of {version} do not heed a taint: they would keep SVIDs of the old authorities, and be rejected after the revocation"
        ))
        .next(format!("upgrade the agents first: `coastal upgrade --to {}`", first_line()))
        .next(format!(
            "or by hand, with a short outage on each node: prepare and activate on each server, then `kubectl -n {} rollout restart daemonset/{}`, restart the workloads, taint and revoke",
            lab.spire.system_namespace,
            names::agent(&lab.spire)
        ))),
        Way::Unknown(pod) => Err(Failure::refused(format!("{pod} does not tell its version, so nobody knows what it would do"))
            .next("`coastal status` shows what runs")),
    }
}

/// Who holds the lease, as others see it: the machine, and the lab's directory on it.
pub(super) fn holder(outside: &Outside) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "somebody" } else { host.trim() };
    format!("coastal@{host}:{}", outside.paths.state().display())
}

fn slots_table(survey: &Survey) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut rows = Vec::new();
    for (key, servers) in &survey.slots {
        for (pod, seen) in servers {
            let (active, next) = match seen {
                Ok(Slots { active, next }) => (
                    brief(&active.id).to_owned(),
                    match next {
                        Next::Empty => "empty".to_owned(),
                        Next::Prepared(authority) => format!("{} prepared", brief(&authority.id)),
                        Next::Old(authority) => format!("{} old", brief(&authority.id)),
                    },
                ),
                Err(why) => ("unknown".to_owned(), why.clone()),
            };
            rows.push(vec![pod.clone(), key.to_string(), active, next]);
        }
        for id in survey.orphans.get(key).into_iter().flatten() {
            rows.push(vec![
                "(no server)".to_owned(),
                key.to_string(),
                brief(id).to_owned(),
                "in the bundle only: cannot be revoked".to_owned(),
            ]);
        }
    }
    (vec!["server", "type", "signs with", "other slot"], rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use semver::Version;

    use super::*;
    use crate::config::embedded;
    use crate::error::Kind;
    use crate::spire::rotation::Record;

    fn args(x509: bool, jwt: bool, server: Option<&str>) -> RotateArgs {
        let server = server.map(str::to_owned);
        RotateArgs { x509, jwt, server, accept_unknown: Vec::new(), anew: false, rekey: None }
    }

    #[test]
    fn an_open_rotation_is_gone_on_with_and_no_second_one_is_begun() {
        let record = Record { server: Some("s-1".into()), ..Record::default() };
        let open = Incident::open(Timestamp::UNIX_EPOCH, BTreeMap::from([(KeyType::X509, record)]));
        let of_open = ([KeyType::X509].into(), Some("s-1".to_owned()));
        assert_eq!(scope(&args(false, false, None), Some(&open)).unwrap(), of_open);
        assert_eq!(scope(&args(true, false, Some("s-1")), Some(&open)).unwrap(), of_open);
        for other in [args(false, true, None), args(false, false, Some("s-0"))] {
            assert_eq!(scope(&other, Some(&open)).unwrap_err().kind, Kind::Refused);
        }
        assert_eq!(scope(&args(false, false, None), None).unwrap(), (KeyType::ALL.into(), None));
    }

    #[test]
    fn who_cannot_rotate_is_told_of_the_ways() {
        let lab = embedded().unwrap();
        let old = permitted(Way::ServersTooOld(Version::new(1, 7, 2)), &lab).unwrap_err();
        assert!(old.next.iter().any(|next| next.contains("coastal upgrade")), "{old:?}");
        assert!(old.next.iter().any(|next| next.contains("--rekey")), "{old:?}");
        let agents = permitted(Way::AgentsTooOld(Version::new(1, 10, 4)), &lab).unwrap_err();
        assert!(agents.next.iter().any(|next| next.contains("rollout restart daemonset/spire-agent")), "{agents:?}");
    }
}
