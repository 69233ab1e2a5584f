//! The world in a file, between calls (`--world FILE`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;
use super::cluster::Cluster;
use super::spire::Spire;
use super::store::Snapshot;
use crate::error::{Failure, Kind, io_failure};

const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Saved {
    schema: u32,
    now: Timestamp,
    servers: u16,
    images: BTreeSet<String>,
    clusters: Vec<SavedCluster>,
}

#[derive(Serialize, Deserialize)]
struct SavedCluster {
    name: String,
    created: Timestamp,
    nodes: BTreeMap<String, BTreeMap<String, String>>,
    ports: BTreeSet<u16>,
    server: String,
    /// False for one that was cut off before its API server started.
    runs: bool,
    images: BTreeMap<String, BTreeSet<String>>,
    spire: Spire,
    objects: Snapshot,
}

/// Writes the world into its file, if it has one.
pub(super) fn save(state: &State) -> Result<(), Failure> {
    let Some(path) = &state.file else { return Ok(()) };
    let clusters = state.clusters_of_kind().into_iter().map(|cluster| SavedCluster {
        name: cluster.name.clone(),
        created: cluster.created,
        nodes: cluster.nodes.clone(),
        ports: cluster.ports.clone(),
        server: cluster.server.clone(),
        runs: state.api_servers.get(&cluster.server).is_some(),
        images: cluster.images.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        spire: cluster.spire().clone(),
        objects: cluster.store.snapshot(),
    });
    let clusters = clusters.collect();
    let host = state.host();
    let saved =
        Saved { schema: SCHEMA, now: state.clock.now(), servers: host.servers, images: host.images.clone(), clusters };
    let json = serde_json::to_vec(&saved)
        .map_err(|error| Failure::unexpected(format!("the world cannot be written: {error}")))?;
    let beside = path.with_extension("part");
    std::fs::write(&beside, json)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| io_failure("write", path, &error))
}

/// Takes up the world that is in its file, if there is one.
pub(super) fn restore(state: &Arc<State>) -> Result<(), Failure> {
    let Some(path) = &state.file else { return Ok(()) };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_failure("read", path, &error)),
    };
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|error| unreadable(path, &error))?;
    if saved.schema != SCHEMA {
        return Err(unreadable(path, &format!("its schema is {}, not {SCHEMA}", saved.schema)));
    }
    *state.clock.begins.lock().unwrap_or_else(PoisonError::into_inner) = saved.now;
    state.host().images = saved.images;
    for kept in saved.clusters {
        let mut cluster: Cluster = state.new_cluster(&kept.name, kept.server, kept.nodes, kept.ports);
        cluster.created = kept.created;
        *cluster.images.lock().unwrap_or_else(PoisonError::into_inner) = kept.images;
        *cluster.spire() = kept.spire;
        cluster.store.restore(kept.objects);
        let cluster = Arc::new(cluster);
        state.host().clusters.insert(kept.name, Arc::clone(&cluster));
        if kept.runs {
            cluster.run(state);
        }
    }
    state.host().servers = saved.servers;
    Ok(())
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Usage, format!("`{}` does not hold a rehearsal world: {why}", path.display()))
        .next("name another file with --world, or remove this one to begin anew")
}
