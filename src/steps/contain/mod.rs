//! Cutting off an identity for as long as it is wanted, and undoing that. Each step writes into the incident's record
//! what it is about to do, before it does it.

mod cut;
mod look;
#[cfg(test)]
mod tests;
mod undo;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, io_failure};
use crate::files;
use crate::kube::by_kubectl;
use crate::plan::{Containment, Finding, RECONCILE_S, SYNC_S};
use crate::spire::entries::Entry;
use crate::spire::incident::Incident;
use crate::steps::registrations;

pub use cut::CutOff;
pub use look::{Target, look};
pub use undo::Undo;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// The containment that is carried out.
fn containment(cx: &StepContext) -> Result<&Containment, Failure> {
    let containment = cx.session.containment.as_ref();
    containment.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a containment", cx.step())))
}

/// Notes what happened, and writes the record.
fn note(cx: &StepContext, what: impl Into<String>) -> Result<(), Failure> {
    let what = what.into();
    cx.progress(what.clone());
    record(cx, |incident| incident.note(cx.session.world.clock.now(), what))
}

/// Changes the record, and writes it.
fn record(cx: &StepContext, change: impl FnOnce(&mut Incident)) -> Result<(), Failure> {
    let mut incident = containment(cx)?.incident();
    change(&mut incident);
    save(cx, &incident)
}

/// Writes both forms of a record.
fn save(cx: &StepContext, incident: &Incident) -> Result<(), Failure> {
    let directory = cx.session.paths.incidents();
    let text = serde_json::to_vec_pretty(incident).map_err(|error| Failure::unexpected(error.to_string()))?;
    files::write_private(&directory.join(format!("{}.json", incident.id)), &text)?;
    files::write_private(&directory.join(format!("{}.md", incident.id)), incident.markdown().as_bytes())
}

/// The incident of that id; without one, the last that was not undone.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn load(directory: &std::path::Path, id: Option<&str>) -> Result<Incident, Failure> {
    let read = |path: &PathBuf| -> Result<Incident, Failure> {
        let text = std::fs::read(path).map_err(|error| io_failure("read the incident", path, &error))?;
        serde_json::from_slice(&text).map_err(|error| {
            Failure::tool(format!("`{}` is no record of an incident", path.display())).fact(error.to_string())
        })
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none(id, &[])),
        Err(error) => return Err(io_failure("read", directory, &error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    // Their names are their times.
    paths.sort();
    let known: Vec<String> =
        paths.iter().filter_map(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned()).collect();
    if let Some(id) = id {
        let position = known.iter().position(|known| known == id);
        return position.and_then(|at| paths.get(at)).map_or_else(|| Err(none(Some(id), &known)), read);
    }
    for path in paths.iter().rev().filter(|path| is_containment(path)) {
        let incident = read(path)?;
        if incident.undone_at.is_none() {
            return Ok(incident);
        }
    }
    Err(none(None, &known))
}

fn is_containment(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("contain-"))
}

fn none(id: Option<&str>, known: &[String]) -> Failure {
    let message = match id {
        Some(id) => format!("there is no record of incident `{id}`"),
        None => "nothing is contained that could be undone".to_owned(),
    };
    Failure::prerequisite(message)
        .facts(known.iter().rev().take(10).map(|known| format!("there is {known}")))
        .next("`coastal contain --undo INCIDENT` takes the name of one of them")
}

/// The entries that give the contained ids now.
async fn entries_now(cx: &StepContext) -> Result<Vec<Entry>, Failure> {
    let ids = containment(cx)?.incident().ids();
    let mut found = Vec::new();
    for id in ids {
        found.extend(registrations::of_id(cx, &id).await?);
    }
    Ok(found)
}

/// [`crate::plan::StepId::EntriesGone`].
pub struct EntriesGone;

#[async_trait]
impl Body for EntriesGone {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let left = entries_now(cx).await?.len();
        // That there is none now is no proof: it may come back.
        Ok(Finding::Differs(match left {
            0 => "there is none now; whether one comes back has to be seen".to_owned(),
            1 => "1 entry is there".to_owned(),
            left => format!("{left} entries are there"),
        }))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        // What is for single pods goes with them, and would come back if it was deleted before they are gone.
        for entry in entries_now(cx).await?.iter().filter(|entry| entry.pod_uid().next().is_none()) {
            note(cx, format!("delete entry {}: it is not for single pods", entry.id))?;
            registrations::delete(cx, &entry.id).await?;
        }
        loop {
            let left = entries_now(cx).await?;
            let Some(first) = left.first() else { break };
            if cx.remaining() < Duration::from_secs(2 * RECONCILE_S + 2) {
                return Err(still_there(first));
            }
            cx.progress(format!("{} entries are still there, {} among them", left.len(), first.id));
            cx.sleep(LOOK).await?;
        }
        let now = cx.session.world.clock.now();
        record(cx, |incident| incident.entries_gone_at = Some(now))?;
        note(cx, "no registration entry gives it any more")
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let rounds = Duration::from_secs(2 * RECONCILE_S);
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < rounds {
            cx.progress(format!(
                "watching that no entry comes back, {} s of {}",
                begun.elapsed().as_secs(),
                rounds.as_secs()
            ));
            cx.sleep(LOOK).await?;
            if let Some(back) = entries_now(cx).await?.first() {
                record(cx, |incident| incident.entries_gone_at = None)?;
                note(cx, format!("entry {} came back", back.id))?;
                return Err(came_back(back, begun.elapsed()));
            }
        }
        note(cx, format!("no entry came back in {} s, two rounds of the controller manager", rounds.as_secs()))?;
        Ok(format!("gone, and not back after {} s", rounds.as_secs()))
    }
}

fn selectors(entry: &Entry) -> String {
    entry.selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn still_there(entry: &Entry) -> Failure {
    Failure::timeout(format!("entry {} is still there, though the pods that it was for are gone", entry.id))
        .fact(format!("it gives {} to {}", entry.spiffe_id, selectors(entry)))
        .fact("the controller manager takes entries away; it runs beside the servers")
        .next("`coastal logs server` shows whether the servers, and it, are well")
        .next(format!("`coastal entries delete {}` deletes this one", entry.id))
}

fn came_back(entry: &Entry, after: Duration) -> Failure {
    Failure::tool(format!(
        "an entry for {} came back after {} s: something still asks for it",
        entry.spiffe_id,
        after.as_secs()
    ))
    .fact(format!("entry {} is for {}", entry.id, selectors(entry)))
    .next("`coastal entries --id ID` shows for which pod; if somebody deploys it again, stop them first")
    .next(by_kubectl("get clusterspiffeids,clusterstaticentries -o yaml"))
    .next("then run the same `coastal contain` again")
}

/// [`crate::plan::StepId::AgentsSynced`].
pub struct AgentsSynced;

#[async_trait]
impl Body for AgentsSynced {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("no server tells when an agent last asked".to_owned()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        // While it was watched that no entry came back, agents have asked several times.
        let gone = containment(cx)?.incident().entries_gone_at;
        let Some(gone) = gone else { return Err(Failure::unexpected("the entries are not known to be gone")) };
        let since = cx.session.world.clock.now().duration_since(gone).as_secs();
        let left = SYNC_S.saturating_sub(u64::try_from(since).unwrap_or_default());
        cx.sleep(Duration::from_secs(left)).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        note(cx, format!("every agent that reaches a server has asked since (every {SYNC_S} s)"))?;
        let until = containment(cx)?.incident().valid_until;
        Ok(format!("agents hand it out no more; what was handed out is valid until {until:.0} at the latest"))
    }
}

/// [`crate::plan::StepId::IncidentReport`].
pub struct Report;

#[async_trait]
impl Body for Report {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("it is written in the end".to_owned()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        record(cx, |_| {})?;
        let incident = containment(cx)?.incident().clone();
        cx.report(&incident)
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let id = containment(cx)?.incident().id.clone();
        let path = cx.session.paths.incidents().join(format!("{id}.md"));
        if !path.is_file() {
            return Err(Failure::tool(format!("`{}` is not there", path.display())));
        }
        Ok(path.display().to_string())
    }
}
