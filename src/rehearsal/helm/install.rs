//! What helm does to a cluster: install, upgrade, uninstall, test.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::{PINS, chart_at, goes_before, namespace_of, store_of, values_of};
use crate::rehearsal::State;
use crate::rehearsal::api::{self, Part, WriteOptions};
use crate::rehearsal::charts::{Chart, hooks_of, is_hook_for};
use crate::rehearsal::faults::Fault;
use crate::rehearsal::object::{condition, set, text};
use crate::rehearsal::process::{Arguments, End, Ended, Process};
use crate::rehearsal::release::{self, Info, Release};
use crate::rehearsal::store::{Key, Propagation, Store};

/// Helm merges on its own side and overwrites; for what this world observes that is a forced apply.
const HELM: WriteOptions<'_> = WriteOptions { manager: "helm", force: true, dry_run: false };

/// An upgrade that was cut off by SIGINT is marked as failed; one that was killed stays pending.
struct CutOff {
    store: Store,
    release: Option<Release>,
}

impl CutOff {
    /// Whoever was killed writes nothing down any more.
    fn forget(mut self) {
        self.release = None;
    }

    fn ends(mut self, status: &str, description: &str) {
        if let Some(mut release) = self.release.take() {
            release.save_as(&self.store, status, description);
        }
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Some(mut release) = self.release.take() {
            let description = format!("Release \"{}\" failed: context canceled", release.name);
            release.save_as(&self.store, "failed", &description);
        }
    }
}

/// Why a revision did not come about.
pub(in crate::rehearsal) enum Failed {
    /// In helm's words, as after `Error: `.
    Words(String),
    /// helm was killed.
    Killed,
}

impl From<String> for Failed {
    fn from(words: String) -> Self {
        Failed::Words(words)
    }
}

/// What a revision is to be.
pub(in crate::rehearsal) struct Wanted {
    pub(in crate::rehearsal) name: String,
    pub(in crate::rehearsal) namespace: String,
    pub(in crate::rehearsal) chart: Chart,
    pub(in crate::rehearsal) values: Value,
    pub(in crate::rehearsal) deadline: Instant,
    /// helm does not live to see the end of it.
    pub(in crate::rehearsal) dies: bool,
}

pub(super) async fn upgrade(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--values", "--timeout"], &["--install"])?;
    let [_, name, path] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let deadline = deadline_of(process, &arguments)?;
    let namespace = namespace_of(&arguments);
    let store = store_of(state, process, &arguments)?;
    let past = release::history(&store, namespace, name);
    let installs = past.is_empty();
    if installs {
        if !arguments.has("--install") {
            return Err(process.fail(format!("Error: UPGRADE FAILED: \"{name}\" has no deployed releases")));
        }
        process.out(format!("Release \"{name}\" does not exist. Installing it now."));
    }
    let chart = chart_at(process, path)?;
    let values = values_of(process, &arguments)?;
    let dies = Fault::HelmDiesIn(if installs { "install" } else { "upgrade" }.to_owned());
    let dies = chart.name == "spire" && state.faults().take(|fault| *fault == dies).is_some();
    let wanted = Wanted { name: (*name).to_owned(), namespace: namespace.to_owned(), chart, values, deadline, dies };
    match revise(&store, wanted).await {
        Ok(release) => {
            if !installs {
                process.out(format!("Release \"{name}\" has been upgraded. Happy Helming!"));
                meddle(state, &store, &release);
            }
            print_status(process, &release, "deployed");
            Ok(())
        }
        Err(Failed::Killed) => Err(End::Signal(9)),
        Err(Failed::Words(words)) => {
            let prefix = if installs { "Error: " } else { "Error: UPGRADE FAILED: " };
            Err(process.fail(format!("{prefix}{words}")))
        }
    }
}

/// Makes the next revision of a release.
pub(in crate::rehearsal) async fn revise(store: &Store, wanted: Wanted) -> Result<Release, Failed> {
    let Wanted { name, namespace, chart, values, deadline, dies } = wanted;
    let past = release::history(store, &namespace, &name);
    let installs = past.is_empty();
    if past.last().is_some_and(Release::is_pending) {
        return Err("another operation (install/upgrade/rollback) is in progress".to_owned().into());
    }
    let objects = chart.render(&name, &namespace, &values, Some(store))?;
    sleep(Duration::from_millis(1_200)).await;
    let (crds, objects): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(|object| goes_before(&chart, object));
    install_crds(store, &crds).await;
    let (hooks, manifest): (Vec<Value>, Vec<Value>) = objects
        .into_iter()
        .map(|object| owned(store, object, &name, &namespace))
        .partition(|object| !hooks_of(object).is_empty());
    unbuildable(store, &manifest, &name, &namespace, if installs { "install" } else { "update" })
        .map_or(Ok(()), Err)?;
    if store.get(&Key::new("v1", "Namespace", "", &namespace)).is_none() {
        return Err(format!("create: failed to create: namespaces \"{namespace}\" not found").into());
    }
    let now = store.now();
    let (status, verb) = if installs { ("pending-install", "install") } else { ("pending-upgrade", "upgrade") };
    let info = Info {
        first_deployed: past.first().map_or(now, |first| first.info.first_deployed),
        last_deployed: now,
        description: if installs { "Initial install underway".to_owned() } else { "Preparing upgrade".to_owned() },
        status: status.to_owned(),
    };
    let mut release = Release {
        version: past.last().map_or(1, |last| last.version + 1),
        info,
        chart: (&chart).into(),
        config: values,
        manifest,
        hooks,
        name,
        namespace,
    };
    release::prune(store, &past);
    release.save(store);
    let work = CutOff { store: store.clone(), release: Some(release.clone()) };
    match send(store, &release, &past, verb, deadline, dies).await {
        Ok(()) => {
            for mut old in past.into_iter().filter(|old| old.info.status == "deployed") {
                old.save_as(store, "superseded", &old.info.description.clone());
            }
            work.ends("deployed", if installs { "Install complete" } else { "Upgrade complete" });
            "deployed".clone_into(&mut release.info.status);
            Ok(release)
        }
        Err(Failed::Killed) => {
            work.forget();
            Err(Failed::Killed)
        }
        Err(Failed::Words(words)) => {
            let name = &release.name;
            work.ends(
                "failed",
                &if installs {
                    format!("Release \"{name}\" failed: {words}")
                } else {
                    format!("Upgrade \"{name}\" failed: {words}")
                },
            );
            Err(words.into())
        }
    }
}

pub(super) async fn rollback(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--timeout"], &[])?;
    let [_, name, revision] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let deadline = deadline_of(process, &arguments)?;
    let store = store_of(state, process, &arguments)?;
    let revision = revision.parse().map_err(|_| process.unknown())?;
    match roll_back(&store, namespace_of(&arguments), name, revision, deadline).await {
        Ok(()) => {
            process.out("Rollback was a success! Happy Helming!");
            Ok(())
        }
        Err(words) => Err(process.fail(format!("Error: {words}"))),
    }
}

/// Makes a new revision of what an older one was. Its hooks are those for rollbacks, of which the charts have none: a
/// webhook that does not answer is in the way. One that fails leaves the release `failed`, and what was deployed
/// before counts as superseded.
pub(in crate::rehearsal) async fn roll_back(
    store: &Store,
    namespace: &str,
    name: &str,
    revision: u32,
    deadline: Instant,
) -> Result<(), String> {
    let past = release::history(store, namespace, name);
    if past.last().is_some_and(Release::is_pending) {
        return Err("another operation (install/upgrade/rollback) is in progress".to_owned());
    }
    let target = past.iter().find(|release| release.version == revision).cloned();
    let mut release = target.ok_or("release: not found")?;
    sleep(Duration::from_millis(800)).await;
    release.version = past.last().map_or(1, |last| last.version + 1);
    release.info.last_deployed = store.now();
    release::prune(store, &past);
    let description = format!("Rollback to {revision}");
    release.save_as(store, "pending-rollback", &description);
    let work = CutOff { store: store.clone(), release: Some(release.clone()) };
    let sent = send(store, &release, &past, "rollback", deadline, false).await;
    for mut old in past.into_iter().filter(|old| old.info.status == "deployed") {
        old.save_as(store, "superseded", &old.info.description.clone());
    }
    match sent {
        Ok(()) => {
            work.ends("deployed", &description);
            Ok(())
        }
        Err(Failed::Words(words)) => {
            work.ends("failed", &format!("Rollback \"{name}\" failed: {words}"));
            Err(words)
        }
        Err(Failed::Killed) => Err("signal: killed".to_owned()),
    }
}

/// From our helm's end to somebody else's.
const MEDDLES_AFTER: Duration = Duration::from_secs(4);

/// Somebody else changes the release, if that is to happen.
fn meddle(state: &Arc<State>, store: &Store, ours: &Release) {
    if ours.chart.name != "spire" {
        return;
    }
    let Some(Fault::ForeignUpgrade(to)) = state.faults().take(|fault| matches!(fault, Fault::ForeignUpgrade(_))) else {
        return;
    };
    let past = release::history(store, &ours.namespace, &ours.name);
    let before = past.iter().rev().nth(1).unwrap_or(ours);
    let base = if to.is_some() { ours } else { before };
    let Some(chart) = Chart::find(&base.chart.name, &base.chart.version) else { return };
    let mut values = base.config.clone();
    for part in to.iter().flat_map(|_| ["spire-server", "spire-agent"]) {
        set(&mut values, &format!("/{part}/image/tag"), to.clone().unwrap_or_default());
    }
    let (store, name, namespace) = (store.clone(), ours.name.clone(), ours.namespace.clone());
    tokio::spawn(async move {
        sleep(MEDDLES_AFTER).await;
        let deadline = Instant::now() + Duration::from_secs(300);
        // How it goes for somebody else is for them to know.
        let _ = revise(&store, Wanted { name, namespace, chart, values, deadline, dies: false }).await;
    });
}

fn print_status(process: &Process<'_>, release: &Release, status: &str) {
    process.out(format!(
        "NAME: {}\nLAST DEPLOYED: {}\nNAMESPACE: {}\nSTATUS: {status}\nREVISION: {}",
        release.name,
        release.info.last_deployed.strftime("%a %b %e %H:%M:%S %Y"),
        release.namespace,
        release.version
    ));
}

fn deadline_of(process: &Process<'_>, arguments: &Arguments<'_>) -> Result<Instant, End> {
    let timeout = arguments.flag("--timeout").unwrap_or("300s");
    let seconds =
        timeout.strip_suffix('s').and_then(|seconds| seconds.parse().ok()).ok_or_else(|| process.unknown())?;
    Ok(Instant::now() + Duration::from_secs(seconds))
}

/// CRDs are made where they are missing, and never changed (facts, section 2: `Helm installs, never upgrades them`).
async fn install_crds(store: &Store, crds: &[Value]) {
    for crd in crds.iter().filter(|crd| store.get(&Key::of(crd)).is_none()) {
        // The server refuses no CRD of these charts.
        let _ = api::apply(store, crd, Part::Main, HELM);
        sleep(Duration::from_millis(250)).await;
    }
}

/// As helm marks what is its own.
fn owned(store: &Store, mut object: Value, release: &str, namespace: &str) -> Value {
    let namespaced =
        store.kind(text(&object, "/apiVersion"), text(&object, "/kind")).is_none_or(|served| served.namespaced);
    if namespaced && text(&object, "/metadata/namespace").is_empty() {
        set(&mut object, "/metadata/namespace", namespace);
    }
    if hooks_of(&object).is_empty() {
        set(&mut object, "/metadata/labels/app.kubernetes.io~1managed-by", "Helm");
        set(&mut object, "/metadata/annotations/meta.helm.sh~1release-name", release);
        set(&mut object, "/metadata/annotations/meta.helm.sh~1release-namespace", namespace);
    }
    object
}

/// What helm finds wrong with the objects before it sends any.
fn unbuildable(store: &Store, manifest: &[Value], release: &str, namespace: &str, verb: &str) -> Option<String> {
    manifest.iter().find_map(|object| {
        let (api_version, kind, name) = (text(object, "/apiVersion"), text(object, "/kind"), text(object, "/metadata/name"));
        if store.kind(api_version, kind).is_none() {
            return Some(format!(
                "unable to build kubernetes objects from release manifest: resource mapping not found for name: \"{name}\" namespace: \
                 \"{}\" from \"\": no matches for kind \"{kind}\" in version \"{api_version}\"\nensure CRDs are installed first",
                text(object, "/metadata/namespace")
            ));
        }
        let live = store.get(&Key::of(object))?;
        let marks = [
            ("label", "app.kubernetes.io/managed-by", "/metadata/labels/app.kubernetes.io~1managed-by", "Helm"),
            ("annotation", "meta.helm.sh/release-name", "/metadata/annotations/meta.helm.sh~1release-name", release),
            ("annotation", "meta.helm.sh/release-namespace", "/metadata/annotations/meta.helm.sh~1release-namespace", namespace),
        ];
        let wrong = marks.into_iter().filter(|(_, _, pointer, expected)| text(&live, pointer) != *expected);
        let wrong: Vec<String> = wrong
            .map(|(what, key, pointer, expected)| match text(&live, pointer) {
                "" => format!("{what} validation error: missing key \"{key}\": must be set to \"{expected}\""),
                other => format!("{what} validation error: key \"{key}\" must equal \"{expected}\": current value is \"{other}\""),
            })
            .collect();
        (!wrong.is_empty()).then(|| {
            format!(
                "Unable to continue with {verb}: {kind} \"{name}\" in namespace \"{}\" exists and cannot be imported into the current \
                 release: invalid ownership metadata; {}",
                text(object, "/metadata/namespace"),
                wrong.join("; ")
            )
        })
    })
}

/// Hooks, objects, hooks; and what the last revision had and this one has not goes.
async fn send(
    store: &Store,
    release: &Release,
    past: &[Release],
    verb: &str,
    deadline: Instant,
    dies: bool,
) -> Result<(), Failed> {
    run_hooks(store, release, &format!("pre-{verb}"), deadline).await?;
    // What cannot be made ends it; what cannot be changed is told at the end, with all else changed.
    let mut unchanged = Vec::new();
    for (sent, object) in release.manifest.iter().enumerate() {
        if dies && 2 * sent > release.manifest.len() {
            return Err(Failed::Killed);
        }
        let there = store.get(&Key::of(object)).is_some();
        if let Err(status) = api::apply(store, object, Part::Main, HELM) {
            let (name, kind) = (text(object, "/metadata/name"), text(object, "/kind"));
            match (there, verb) {
                (true, _) => unchanged.push(format!("cannot patch \"{name}\" with kind {kind}: {}", status.message)),
                (false, "install") => return Err(status.message.clone().into()),
                (false, _) => return Err(format!("failed to create resource: {}", status.message).into()),
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    if !unchanged.is_empty() {
        return Err(unchanged.join(" && ").into());
    }
    let kept: Vec<Key> = release.manifest.iter().map(Key::of).collect();
    for object in past.last().iter().flat_map(|last| &last.manifest).filter(|object| !kept.contains(&Key::of(object))) {
        store.delete(&Key::of(object), Propagation::Background);
    }
    Ok(run_hooks(store, release, &format!("post-{verb}"), deadline).await?)
}

async fn run_hooks(store: &Store, release: &Release, event: &str, deadline: Instant) -> Result<(), String> {
    for hook in release.hooks.iter().filter(|hook| is_hook_for(hook, event)) {
        let key = Key::of(hook);
        let failed = |words: &str| match event {
            "pre-upgrade" | "post-upgrade" => format!("{event} hooks failed: 1 error occurred:\n\t* {words}\n\n"),
            _ => format!("failed {event}: 1 error occurred:\n\t* {words}\n\n"),
        };
        remove(store, &key, deadline).await.map_err(|()| failed("timed out waiting for the condition"))?;
        api::create(store, hook.clone(), HELM).map_err(|status| failed(&status.message))?;
        let ended = until(store, deadline, |store| match store.get(&key) {
            Some(job) if condition(&job, "Complete") => Some(Ok(())),
            Some(job) if condition(&job, "Failed") => Some(Err("job failed: BackoffLimitExceeded")),
            _ => None,
        });
        let ended = ended.await.unwrap_or(Err("timed out waiting for the condition"));
        let policy = text(hook, "/metadata/annotations/helm.sh~1hook-delete-policy");
        if policy.contains(if ended.is_ok() { "hook-succeeded" } else { "hook-failed" }) {
            store.delete(&key, Propagation::Background);
        }
        ended.map_err(failed)?;
    }
    Ok(())
}

async fn remove(store: &Store, key: &Key, deadline: Instant) -> Result<(), ()> {
    store.delete(key, Propagation::Background);
    until(store, deadline, |store| store.get(key).is_none().then_some(())).await.ok_or(())
}

/// What `look` finds, as soon as it does; nothing after the deadline or when the cluster is gone.
async fn until<T>(store: &Store, deadline: Instant, look: impl Fn(&Store) -> Option<T>) -> Option<T> {
    let mut ticks = store.ticks();
    loop {
        if let Some(found) = look(store) {
            return Some(found);
        }
        if store.is_shut() {
            return None;
        }
        tokio::select! {
            biased;
            changed = ticks.changed() => changed.ok()?,
            () = sleep_until(deadline) => return None,
        }
    }
}

pub(super) async fn uninstall(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--timeout"], &["--wait"])?;
    let [_, name] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let deadline = deadline_of(process, &arguments)?;
    let store = store_of(state, process, &arguments)?;
    let past = release::history(&store, namespace_of(&arguments), name);
    let Some(last) = past.last().cloned() else {
        return Err(process.fail(format!("Error: uninstall: Release not loaded: {name}: release: not found")));
    };
    last.clone().save_as(&store, "uninstalling", "Deletion in progress (or silently failed)");
    sleep(Duration::from_millis(500)).await;
    let dies = last.chart.name == "spire" && {
        let dies = Fault::HelmDiesIn("uninstall".to_owned());
        state.faults().take(|fault| *fault == dies).is_some()
    };
    for (gone, object) in last.manifest.iter().rev().enumerate() {
        if dies && 2 * gone > last.manifest.len() {
            return Err(End::Signal(9));
        }
        store.delete(&Key::of(object), Propagation::Background);
    }
    if arguments.has("--wait") {
        for object in &last.manifest {
            let gone = until(&store, deadline, |store| store.get(&Key::of(object)).is_none().then_some(()));
            gone.await.ok_or_else(|| {
                process.fail("Error: uninstallation completed with 1 error(s): timed out waiting for the condition")
            })?;
        }
    }
    for release in &past {
        release.forget(&store);
    }
    process.out(format!("release \"{name}\" uninstalled"));
    Ok(())
}

pub(super) async fn test(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--timeout"], &[])?;
    let [_, name] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let deadline = deadline_of(process, &arguments)?;
    let store = store_of(state, process, &arguments)?;
    let newest = release::history(&store, namespace_of(&arguments), name).pop();
    let newest = newest.ok_or_else(|| process.fail("Error: release: not found"))?;
    let time = |time: Timestamp| time.strftime("%a %b %e %H:%M:%S %Y").to_string();
    let mut suites = Vec::new();
    let mut trouble = None;
    for pod in newest.hooks.iter().filter(|hook| is_hook_for(hook, "test")) {
        let started = store.now();
        trouble = run_test(&store, pod, deadline).await.err();
        suites.push(format!(
            "TEST SUITE:     {}\nLast Started:   {}\nLast Completed: {}\nPhase:          {}",
            text(pod, "/metadata/name"),
            time(started),
            time(store.now()),
            if trouble.is_none() { "Succeeded" } else { "Failed" },
        ));
        if trouble.is_some() {
            break;
        }
    }
    print_status(process, &newest, &newest.info.status);
    for suite in &suites {
        process.out(suite);
    }
    match trouble {
        None => Ok(()),
        Some(words) => Err(process.fail(format!("Error: 1 error occurred:\n\t* {words}\n\n"))),
    }
}

/// One test pod, from its creation to its end. It stays until the next test.
async fn run_test(store: &Store, pod: &Value, deadline: Instant) -> Result<(), String> {
    let key = Key::of(pod);
    let timed_out = || "timed out waiting for the condition".to_owned();
    remove(store, &key, deadline).await.map_err(|()| timed_out())?;
    api::create(store, pod.clone(), HELM).map_err(|status| status.message.clone())?;
    let ended = until(store, deadline, |store| match text(&store.get(&key)?, "/status/phase") {
        "Succeeded" => Some(Ok(())),
        "Failed" => Some(Err(format!("pod {} failed", key.name))),
        _ => None,
    });
    ended.await.unwrap_or_else(|| Err(timed_out()))
}
