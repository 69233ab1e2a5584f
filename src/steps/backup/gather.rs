//! Everything that SPIRE cannot make anew, into one archive: the database through its pod, the servers' keys through
//! pods on their claims, and what tells how to make the rest again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::core::gvk::GroupVersionKind;
use semver::Version;
use serde_json::Value;

use super::vault::{self, Vault};
use crate::backup::archive::{Head, LAB};
use crate::backup::authorities::{self, Server};
use crate::backup::dump::{Scanner, Seen};
use crate::backup::keys::Keys;
use crate::backup::{Described, Manifest, Migrations, Seal, Writer};
use crate::config;
use crate::engine::StepContext;
use crate::error::{Failure, Kind, io_failure};
use crate::kube::{Cluster, api_failure};
use crate::spire::cli::{Bundle, LOCAL_AUTHORITY, LocalAuthorities, X509Authority};
use crate::spire::names;
use crate::spire::records::Journal;
use crate::steps::identity::server_json_of;
use crate::steps::live::Live;
use crate::steps::{dump, reach, release};

/// The kinds that people make themselves (facts, section 7).
const KINDS: [&str; 3] = ["ClusterSPIFFEID", "ClusterStaticEntry", "ClusterFederatedTrustDomain"];

/// Takes a backup.
///
/// # Errors
/// The database does not answer, a claim cannot be reached, or the archive cannot be written; then there is none.
pub(in crate::steps) async fn gather(cx: &StepContext, to: &Path, seal: &Seal) -> Result<Described, Failure> {
    gathered(cx, to, seal, true).await
}

/// The same of a lab that may be broken: what does not answer is left out, and the manifest says so.
///
/// # Errors
/// As [`gather`], but for the database.
pub(in crate::steps) async fn salvage(cx: &StepContext, to: &Path, seal: &Seal) -> Result<Described, Failure> {
    gathered(cx, to, seal, false).await
}

async fn gathered(cx: &StepContext, to: &Path, seal: &Seal, strict: bool) -> Result<Described, Failure> {
    let lab = &cx.session.lab;
    let cluster = reach::cluster(cx).await?;
    let begun_at = cx.session.world.clock.now();
    let live = Live::look(cx).await?;
    cx.progress("reaching the servers' keys");
    let servers = names::server_pods(&lab.spire);
    let vaults = try_join_all(servers.iter().map(|server| Vault::open(cx, &cluster, server))).await;
    let result = match vaults {
        Ok(vaults) => {
            let vaults: Vec<Vault> = vaults.into_iter().flatten().collect();
            let result = archived(cx, &cluster, &vaults, &live, (to, seal, begun_at), strict).await;
            try_join_all(vaults.iter().map(|vault| vault.close(cx, &cluster))).await.and(result)
        }
        Err(failure) => Err(failure),
    };
    if result.is_err() {
        // Pods that were started beside the one that failed.
        join_all(servers.iter().map(|server| vault::close_left(cx, &cluster, server))).await;
    }
    result
}

/// What can change while a backup is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Moment {
    /// Authority ids of the bundle, where a server answers.
    bundle: Option<BTreeSet<String>>,
    /// Per server, what it signs with.
    active: Vec<(String, Option<String>)>,
    /// Per server, its files.
    files: Vec<(String, Files)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Files {
    keys: Option<String>,
    journal: Option<String>,
}

impl Moment {
    async fn look(cx: &StepContext, vaults: &[Vault], live: &Live) -> Result<Self, Failure> {
        let running: Vec<&(String, Option<Version>)> =
            live.servers.iter().filter(|(_, version)| version.is_some()).collect();
        let bundles = running.iter().map(|(pod, _)| server_json_of::<Bundle>(cx, pod, &["bundle", "show"]));
        let telling =
            running.iter().filter(|(_, version)| version.as_ref().is_some_and(|version| *version >= LOCAL_AUTHORITY));
        let active = telling.map(|(pod, _)| async move {
            let local = server_json_of::<LocalAuthorities>(cx, pod, &["localauthority", "x509", "show"]).await;
            (pod.clone(), local.ok().map(|local| local.active.authority_id))
        });
        let files = try_join_all(vaults.iter().map(|vault| async move {
            let (keys, journal) = tokio::try_join!(vault.get(cx, "keys.json"), vault.get(cx, "journal.pem"))?;
            Ok::<_, Failure>((vault.server().to_owned(), Files { keys, journal }))
        }));
        let (bundles, active, files) = tokio::join!(join_all(bundles), join_all(active), files);
        let bundle = bundles.into_iter().find_map(Result::ok);
        let ids = |bundle: Bundle| bundle.x509_authorities.iter().filter_map(X509Authority::key_id).collect();
        Ok(Moment { bundle: bundle.map(ids), active, files: files? })
    }

    /// What is not as it was, in words.
    fn changes(&self, later: &Moment) -> Vec<String> {
        let mut changes = Vec::new();
        if self.bundle != later.bundle {
            changes.push("the bundle changed while the backup was taken".to_owned());
        }
        let differing = |a: &[(String, Option<String>)], b: &[(String, Option<String>)]| a != b;
        if differing(&self.active, &later.active) {
            changes.push("a server began to sign with another authority while the backup was taken".to_owned());
        }
        for ((server, before), (_, after)) in self.files.iter().zip(&later.files) {
            if before != after {
                changes.push(format!("the keys of {server} changed while the backup was taken"));
            }
        }
        changes
    }
}

async fn archived(
    cx: &StepContext,
    cluster: &Cluster,
    vaults: &[Vault],
    live: &Live,
    (to, seal, begun_at): (&Path, &Seal, Timestamp),
    strict: bool,
) -> Result<Described, Failure> {
    let lab = &cx.session.lab;
    let head = Head { coastal_backup: Manifest::SCHEMA, trust_domain: lab.spire.trust_domain.clone(), begun_at };
    let writer = Writer::create(to, &lab.name, seal, &head)?;
    let before = Moment::look(cx, vaults, live).await?;
    cx.progress("dumping the database");
    let (mut writer, seen) = match dumped(cx, writer).await {
        Ok((writer, seen)) => (writer, Some(seen)),
        Err(failure) if strict || failure.kind == Kind::Interrupted => return Err(failure),
        Err(failure) => {
            cx.progress(format!("the database is left out: {}", failure.message));
            (Writer::create(to, &lab.name, seal, &head)?, None)
        }
    };
    let after = Moment::look(cx, vaults, live).await?;
    let taken_at = cx.session.world.clock.now();
    let mut incomplete = Vec::new();
    for server in names::server_pods(&lab.spire) {
        let files = after.files.iter().find(|(name, _)| *name == server).map(|(_, files)| files);
        let Some(keys) = files.and_then(|files| files.keys.as_ref()) else {
            incomplete.push(format!("the keys of {server} are not in it"));
            continue;
        };
        writer.add(&format!("servers/{server}/keys.json"), keys.as_bytes())?;
        if let Some(journal) = files.and_then(|files| files.journal.as_ref()) {
            writer.add(&format!("servers/{server}/journal.pem"), journal.as_bytes())?;
        }
    }
    if seen.is_none() {
        incomplete.push("the database is not in it: it did not answer".to_owned());
    }
    for (path, bytes) in surroundings(cx, cluster, live).await? {
        writer.add(&path, &bytes)?;
    }
    let changed = before.changes(&after);
    let seen = seen.unwrap_or_default();
    let authorities = authorities_of(cx, &seen, &after, taken_at);
    let none = Migrations { schema: 0, code_version: Version::new(0, 0, 0) };
    writer.finish(Manifest {
        schema: Manifest::SCHEMA,
        coastal: env!("CARGO_PKG_VERSION").to_owned(),
        lab: lab.name.clone(),
        trust_domain: lab.spire.trust_domain.clone(),
        taken_at,
        one_moment: changed.is_empty(),
        changed,
        incomplete,
        migrations: seen.migrations.unwrap_or(none),
        servers: live.server_versions(),
        agents: live.agent_versions(),
        chart: live.chart.as_ref().map(|chart| format!("spire-{chart}")),
        entries: seen.entries,
        attested_agents: seen.agents,
        authorities,
        members: Vec::new(),
    })
}

fn authorities_of(cx: &StepContext, seen: &Seen, moment: &Moment, at: Timestamp) -> Vec<crate::backup::Authority> {
    let Some(bundle) = seen.bundle(&cx.session.lab.spire.trust_domain) else { return Vec::new() };
    let servers: Vec<Server<'_>> = moment
        .files
        .iter()
        .map(|(pod, files)| Server {
            pod,
            keys: files.keys.as_ref().and_then(|keys| Keys::read(keys.as_bytes()).ok()).unwrap_or_default(),
            journal: files.journal.as_ref().and_then(|text| Journal::read_pem(text).ok()),
            active: moment.active.iter().find(|(name, _)| name == pod).and_then(|(_, active)| active.clone()),
        })
        .collect();
    authorities::find(bundle, &seen.journals, &servers, at)
}

struct Stream {
    writer: Option<Writer>,
    scanner: Scanner,
    trouble: Option<Failure>,
}

/// The dump goes from `pg_dump` into the archive as it comes; what is in it is looked at on the way.
async fn dumped(cx: &StepContext, writer: Writer) -> Result<(Writer, Seen), Failure> {
    let stream = Arc::new(Mutex::new(Stream { writer: Some(writer), scanner: Scanner::default(), trouble: None }));
    let into = Arc::clone(&stream);
    let take = move |piece: &[u8]| {
        let mut stream = into.lock().unwrap_or_else(PoisonError::into_inner);
        stream.scanner.push(piece);
        if let Some(writer) = &mut stream.writer
            && let Err(failure) = writer.dump(piece)
        {
            // Nothing more is written; the dump itself cannot be stopped from here.
            stream.writer = None;
            stream.trouble = Some(failure);
        }
    };
    let ended = cx.run(&dump::command(cx).tap(take)).await;
    let (writer, scanner, trouble) = {
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        (stream.writer.take(), std::mem::take(&mut stream.scanner), stream.trouble.take())
    };
    if let Some(failure) = trouble {
        return Err(failure);
    }
    ended.map_err(|error| dump::trouble(Failure::from(error)))?;
    let seen = scanner.finish();
    if seen.migrations.is_none() && seen.whole {
        return Err(Failure::prerequisite("SPIRE has not written to the database yet: there is nothing to back up")
            .next("`coastal spire-install` first"));
    }
    if let Some(problem) = seen.problems.first() {
        return Err(Failure::tool(format!("pg_dump ended well, but what it wrote is not right: {problem}"))
            .next("run the same command again"));
    }
    let mut writer = writer.ok_or_else(|| Failure::unexpected("the archive was lost while the database was dumped"))?;
    writer.end_dump()?;
    Ok((writer, seen))
}

/// What tells how the rest was: entries and bundle as the servers show them, custom resources, the releases with their
/// values, and the lab file. Nothing of it is needed for the CA to come back.
async fn surroundings(cx: &StepContext, cluster: &Cluster, live: &Live) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let lab = &cx.session.lab;
    let mut members = Vec::new();
    if let Some((pod, _)) = live.servers.iter().find(|(_, version)| version.is_some()) {
        for (name, words) in
            [("entries", ["entry", "show"]), ("bundle", ["bundle", "show"]), ("agents", ["agent", "list"])]
        {
            if let Ok(answer) = server_json_of::<Value>(cx, pod, &words).await {
                members.push((format!("spire/{name}.json"), pretty(&answer)));
            }
        }
    }
    for kind in KINDS {
        let gvk = GroupVersionKind::gvk("spire.spiffe.io", "v1alpha1", kind);
        let Some(api) = cluster.dynamic(&gvk, None).await? else { continue };
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(|error| api_failure(&format!("could not list the {kind}s"), &error))?;
        let mut objects = serde_json::to_value(list.items).unwrap_or_default();
        for object in objects.as_array_mut().into_iter().flatten() {
            // The items of a list do not always say what they are.
            object["apiVersion"] = gvk.api_version().into();
            object["kind"] = kind.into();
            if let Some(object) = object.as_object_mut() {
                object.remove("status");
            }
            for field in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"] {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove(field);
                }
            }
        }
        members.push((format!("kubernetes/{}s.json", kind.to_lowercase()), pretty(&objects)));
    }
    let spire = &lab.spire;
    let (helm, namespace) = (reach::helm(cx), &spire.release_namespace);
    for name in [spire.release.clone(), format!("{}-crds", spire.release)] {
        let Some(found) = release::current(cx, &name, namespace).await? else { continue };
        let values = cx.run(&helm.get_values(&name, namespace)).await?;
        let facts = serde_json::json!({
            "name": found.name, "namespace": namespace, "chart": found.chart, "revision": found.revision,
            "values": serde_json::from_str::<Value>(&values.stdout).unwrap_or_default(),
        });
        members.push((format!("helm/{name}.json"), pretty(&facts)));
    }
    let text = match &lab.file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?,
        None => config::DEFAULT.to_owned(),
    };
    members.push((LAB.to_owned(), text.into_bytes()));
    Ok(members)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
