//! What the steps of a recovery do. Each looks at what is there, never at what an earlier one did: a recovery that was
//! interrupted anywhere is gone on with, and what has healed by itself is left alone.

mod agents;
mod gate;
mod keys;
pub mod look;
mod node;
mod release;
pub mod revisions;
mod servers;
mod verdict;
mod workloads;

use crate::engine::{Body, StepContext};
use crate::error::{Failure, io_failure};
use crate::files;
use crate::plan::{Notes, Recovery};
use crate::spire::recovery::{Current, Diagnosis, Facts, Part, diagnose};
use crate::steps::database;

pub(super) use agents::{at_terms, none_is_ending};
pub(super) use gate::issued;
pub use look::look;
pub(super) use servers::delete_pods;
pub(super) use verdict::identities;
pub(super) use workloads::follow;

/// The body of a part.
#[must_use]
pub fn body(part: Part) -> Box<dyn Body> {
    match part {
        Part::Node => Box::new(node::Start),
        // What brings it up for the first time brings it back: what is there is kept, its password too.
        Part::Database => Box::new(database::Up),
        Part::Keys => Box::new(keys::Clear),
        Part::Release => Box::new(release::Release),
        Part::Servers => Box::new(servers::Servers),
        Part::Webhook => Box::new(gate::Webhook),
        Part::Agents => Box::new(agents::Agents),
        Part::Workloads => Box::new(workloads::Workloads),
        Part::Gate => Box::new(gate::Gate),
        Part::Verdict => Box::new(verdict::Verdict),
    }
}

/// The recovery that is carried out.
pub(super) fn recovery(cx: &StepContext) -> Result<&Recovery, Failure> {
    let recovery = cx.session.recovery.as_ref();
    recovery.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a recovery", cx.step())))
}

/// Looks, and judges.
///
/// # Errors
/// As [`look()`].
pub async fn examine(cx: &StepContext) -> Result<(Facts, Diagnosis), Failure> {
    let facts = look(cx).await?;
    let diagnosis = diagnose(&facts);
    if let Some(recovery) = &cx.session.recovery {
        recovery.notes().absorb(&diagnosis);
    }
    Ok((facts, diagnosis))
}

/// The versions to go back to.
fn versions(facts: &Facts) -> Result<Current, Failure> {
    facts.current.clone().ok_or_else(|| {
        let row = facts.database.row.as_ref();
        let row = row.map(|(schema, code)| format!("the database is at schema {schema}, written by SPIRE {code}"));
        Failure::refused("no version is known that could start: no server answers, and nothing that helm or lab.toml remembers would be let in by the database")
            .facts(row)
            .next("set `[spire] server-version` in lab.toml to the version that wrote the database, then `coastal recover`")
            .next("`coastal logs server` shows what the servers say")
    })
}

/// What an earlier `drill` remembers, if it was not recovered from yet.
///
/// # Errors
/// It is there and cannot be read.
pub fn remembered(path: &std::path::Path) -> Result<Option<Notes>, Failure> {
    match std::fs::read(path) {
        // One that was torn is no more than nothing: the moment of the disaster is then not known.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_failure("read", path, &error)),
    }
}

/// Writes down what `recover` needs to know of a drill.
pub(super) fn remember(cx: &StepContext) -> Result<(), Failure> {
    let notes = recovery(cx)?.notes().clone();
    let text = serde_json::to_vec_pretty(&notes).map_err(|error| Failure::unexpected(error.to_string()))?;
    files::write_private(&cx.session.paths.drill(), &text)
}

/// Forgets it.
fn forget(cx: &StepContext) -> Result<(), Failure> {
    let path = cx.session.paths.drill();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", &path, &error)),
        _ => Ok(()),
    }
}
