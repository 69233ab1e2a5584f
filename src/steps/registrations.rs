//! Registration entries, asked of a server that answers.

use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::is_ready;
use crate::spire::cli::Batch;
use crate::spire::entries::{Entries, Entry, EntryReader};
use crate::spire::names;
use crate::steps::identity::{server_json_of, unreadable};
use crate::steps::{live, reach};
use crate::tools::kubectl;

/// gRPC's number for what is not there.
const NOT_FOUND: i32 = 5;

/// A server that is ready, the first if none is: its words then say why not.
///
/// # Errors
/// The servers cannot be listed.
pub async fn server(cx: &StepContext) -> Result<String, Failure> {
    let spire = &cx.session.lab.spire;
    let cluster = reach::cluster(cx).await?;
    let pods = live::pods(&cluster, &spire.server_namespace, names::SERVER_SELECTOR).await?;
    let ready = pods.iter().find(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    Ok(ready.map_or_else(|| format!("{}-0", names::server(spire)), ResourceExt::name_any))
}

/// The entries that give that SPIFFE id.
///
/// # Errors
/// No server answers.
pub async fn of_id(cx: &StepContext, id: &str) -> Result<Vec<Entry>, Failure> {
    let pod = server(cx).await?;
    let found: Entries = server_json_of(cx, &pod, &["entry", "show", "-spiffeID", id]).await?;
    Ok(found.entries)
}

/// Hands all entries to `each`, one by one as they come; says how many there were.
///
/// # Errors
/// No server answers, or the answer is not whole. Then `each` has seen some of them all the same.
pub async fn each(cx: &StepContext, each: impl FnMut(Entry) + Send + 'static) -> Result<usize, Failure> {
    let spire = &cx.session.lab.spire;
    let (pod, args) = (server(cx).await?, ["entry", "show"]);
    let reader = Arc::new(Mutex::new(EntryReader::new(each)));
    let tap = {
        let reader = Arc::clone(&reader);
        move |bytes: &[u8]| reader.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
    };
    let command_line = ["/opt/spire/bin/spire-server", "entry", "show", "-output", "json"];
    let command =
        kubectl::exec(&reach::target(cx), &spire.server_namespace, &pod, names::SERVER_CONTAINER, command_line)
            .tap(tap);
    cx.run(&command).await?;
    drop(command);
    let reader = Arc::into_inner(reader).ok_or_else(|| Failure::unexpected("the entries are still being read"))?;
    let reader = reader.into_inner().unwrap_or_else(PoisonError::into_inner);
    reader.finish().map_err(|error| unreadable(&pod, &args, &error))
}

/// Deletes an entry. One that is not there is told, not passed over.
///
/// # Errors
/// There is none, or the server does not delete it.
pub async fn delete(cx: &StepContext, entry: &str) -> Result<(), Failure> {
    let pod = server(cx).await?;
    let batch: Batch = server_json_of(cx, &pod, &["entry", "delete", "-entryID", entry]).await?;
    batch.check().map_err(|status| {
        if status.code == NOT_FOUND {
            Failure::prerequisite(format!("there is no registration entry `{entry}`"))
                .fact(format!("the server says: {}", status.message))
                .next("`coastal entries` shows all of them, with their ids")
        } else {
            Failure::tool(format!("the server did not delete entry `{entry}`"))
                .fact(format!("code {}: {}", status.code, status.message))
                .next("`coastal logs server` shows what the servers say")
        }
    })
}
