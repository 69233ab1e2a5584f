//! helm, as version 3.17 answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{self, Part, WriteOptions};
use super::charts::{Chart, hooks_of, is_hook_for};
use super::object::{condition, items, map_of, set, text};
use super::process::{Arguments, End, Ended, Process};
use super::release::{self, Info, Release};
use super::store::{Key, Propagation, Store};
use super::{State, archive};
use crate::tools::Tool;

/// Helm merges on its own side and overwrites; for what this world observes that is a forced apply.
const HELM: WriteOptions<'_> = WriteOptions { manager: "helm", force: true, dry_run: false };
const PINS: [&str; 3] = ["--kubeconfig", "--kube-context", "--namespace"];

pub(super) async fn run(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let words: Vec<&str> = process.command.args.iter().map(String::as_str).take(2).collect();
    match words.as_slice() {
        ["version", "--template"] => {
            process.arguments(1, &["--template"], &[])?;
            process.out(format!("v{}", state.version_of(Tool::Helm)));
            Ok(())
        }
        ["repo", "add"] => repo_add(process).await,
        ["repo", "list"] => repo_list(process),
        ["repo", "update"] => {
            sleep(Duration::from_secs(1)).await;
            process.out("Hang tight while we grab the latest from your chart repositories...\nUpdate Complete. ⎈Happy Helming!⎈");
            Ok(())
        }
        ["pull", _] => pull(process).await,
        ["template", _] => template(process),
        ["list", _] => list(state, process),
        ["get", "values"] => get_values(state, process),
        ["history", _] => history(state, process),
        ["upgrade", _] => upgrade(state, process).await,
        ["uninstall", _] => uninstall(state, process).await,
        ["test", _] => test(state, process).await,
        _ => Err(process.unknown()),
    }
}

// Repositories. They are kept in the file that helm keeps them in, so that they are the lab's as much as in the real world.

fn repositories(process: &Process<'_>) -> Result<Vec<(String, String)>, End> {
    let path = process.env("HELM_REPOSITORY_CONFIG").ok_or_else(|| process.unknown())?;
    let Ok(yaml) = std::fs::read_to_string(path) else { return Ok(Vec::new()) };
    let file: Value = serde_yaml::from_str(&yaml)
        .map_err(|error| process.fail(format!("Error: couldn't load repositories file ({path}): error converting YAML to JSON: {error}")))?;
    let rows = items(&file, "/repositories");
    Ok(rows.map(|row| (text(row, "/name").to_owned(), text(row, "/url").to_owned())).collect())
}

async fn repo_add(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &[], &["--force-update"])?;
    let [_, _, name, url] = arguments.words.as_slice() else { return Err(process.unknown()) };
    sleep(Duration::from_millis(800)).await;
    if Chart::of_repository(url).next().is_none() {
        return Err(process.fail(format!(
            "Error: looks like \"{url}\" is not a valid chart repository or cannot be reached: failed to fetch {}/index.yaml : 404 Not Found",
            url.trim_end_matches('/')
        )));
    }
    let mut known = repositories(process)?;
    known.retain(|(other, _)| other != name);
    known.push(((*name).to_owned(), (*url).to_owned()));
    let rows: Vec<Value> = known.iter().map(|(name, url)| json!({"name": name, "url": url})).collect();
    let path = process.env("HELM_REPOSITORY_CONFIG").unwrap_or_default();
    let file = serde_yaml::to_string(&json!({"apiVersion": "", "repositories": rows})).map_err(|error| process.fail(error.to_string()))?;
    let written = Path::new(path).parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, file));
    written.map_err(|error| process.fail(format!("Error: open {path}: {error}")))?;
    process.out(format!("\"{name}\" has been added to your repositories"));
    Ok(())
}

fn repo_list(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &["--output"], &[])?;
    let known = repositories(process)?;
    match arguments.flag("--output") {
        Some("json") => {
            process.out(json!(known.iter().map(|(name, url)| json!({"name": name, "url": url})).collect::<Vec<_>>()).to_string());
            Ok(())
        }
        _ => Err(process.unknown()),
    }
}

async fn pull(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &["--version", "--destination"], &[])?;
    let (Some((repository, name)), Some(version), Some(directory)) =
        (arguments.words.get(1).and_then(|chart| chart.split_once('/')), arguments.flag("--version"), arguments.flag("--destination"))
    else {
        return Err(process.unknown());
    };
    let known = repositories(process)?;
    let url = known.iter().find(|(other, _)| other == repository).map(|(_, url)| url.clone());
    let url = url.ok_or_else(|| process.fail(format!("Error: repo {repository} not found")))?;
    let chart = Chart::of_repository(&url).find(|chart| chart.name == name && chart.version == version).ok_or_else(|| {
        process.fail(format!("Error: chart \"{name}\" matching {version} not found in {repository} index. (try 'helm repo update'): no chart version found for {name}-{version}"))
    })?;
    sleep(Duration::from_millis(900)).await;
    let path = Path::new(directory).join(format!("{name}-{version}.tgz"));
    archive::write_chart(chart, &path).map_err(|error| process.fail(format!("Error: failed to save chart: open {}: {error}", path.display())))
}

// Charts.

fn chart_at(process: &Process<'_>, path: &str) -> Result<&'static Chart, End> {
    let metadata = archive::chart_metadata(Path::new(path)).map_err(|words| process.fail(format!("Error: {words}")))?;
    let (name, version) = (text(&metadata, "/name"), text(&metadata, "/version"));
    Chart::find(name, version).ok_or_else(|| End::Unknown(format!("the rehearsal does not know the objects of chart {name} {version}")))
}

fn values_of(process: &Process<'_>, arguments: &Arguments<'_>) -> Result<Value, End> {
    match arguments.flag("--values") {
        None => Ok(json!({})),
        Some("-") => {
            let values: Value = serde_yaml::from_str(process.stdin())
                .map_err(|error| process.fail(format!("Error: failed to parse -: error converting YAML to JSON: {error}")))?;
            Ok(if values.is_null() { json!({}) } else { values })
        }
        Some(_) => Err(process.unknown()),
    }
}

fn template(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &["--namespace", "--values"], &["--include-crds"])?;
    let [_, release, path] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let chart = chart_at(process, path)?;
    let values = values_of(process, &arguments)?;
    let objects = chart
        .render(release, arguments.flag("--namespace").unwrap_or("default"), &values)
        .map_err(|words| process.fail(format!("Error: {words}")))?;
    for object in objects.iter().filter(|object| !is_crd(object) || arguments.has("--include-crds")) {
        process.out("---");
        process.out(serde_yaml::to_string(object).map_err(|error| process.fail(error.to_string()))?);
    }
    Ok(())
}

fn is_crd(object: &Value) -> bool {
    text(object, "/kind") == "CustomResourceDefinition"
}

// Releases.

fn store_of(state: &State, process: &Process<'_>, arguments: &Arguments<'_>) -> Result<Store, End> {
    state
        .reach(arguments.flag("--kubeconfig"), arguments.flag("--kube-context"))
        .map_err(|words| process.fail(format!("Error: Kubernetes cluster unreachable: {words}")))
}

fn namespace_of<'a>(arguments: &Arguments<'a>) -> &'a str {
    arguments.flag("--namespace").unwrap_or("default")
}

fn go_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC").to_string()
}

fn row(release: &Release) -> Value {
    json!({
        "name": release.name, "namespace": release.namespace, "revision": release.version.to_string(),
        "updated": go_time(release.info.last_deployed), "status": release.info.status,
        "chart": format!("{}-{}", release.chart.name, release.chart.version), "app_version": release.chart.app_version,
    })
}

fn list(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--filter", "--output"], &["--all"])?;
    let store = store_of(state, process, &arguments)?;
    let filter = arguments.flag("--filter").unwrap_or_default();
    let exact = filter.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
    let mut newest: Vec<Release> = Vec::new();
    for release in release::all(&store, namespace_of(&arguments)) {
        newest.retain(|other| other.name != release.name);
        newest.push(release);
    }
    let rows: Vec<Value> = newest.iter().filter(|release| exact.is_empty() || release.name == exact).map(row).collect();
    process.out(Value::from(rows).to_string());
    Ok(())
}

fn get_values(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &[PINS[0], PINS[1], PINS[2], "--output"], &[])?;
    let store = store_of(state, process, &arguments)?;
    let name = arguments.words.get(2).ok_or_else(|| process.unknown())?;
    let newest = release::history(&store, namespace_of(&arguments), name).pop();
    let newest = newest.ok_or_else(|| process.fail("Error: release: not found"))?;
    process.out(newest.config.to_string());
    Ok(())
}

fn history(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--output"], &[])?;
    let store = store_of(state, process, &arguments)?;
    let name = arguments.words.get(1).ok_or_else(|| process.unknown())?;
    let all = release::history(&store, namespace_of(&arguments), name);
    if all.is_empty() {
        return Err(process.fail("Error: release: not found"));
    }
    let rows = all.iter().map(|release| {
        let mut row = row(release);
        map_of(&mut row).insert("description".to_owned(), release.info.description.clone().into());
        row["revision"] = release.version.into();
        row
    });
    process.out(rows.collect::<Value>().to_string());
    Ok(())
}

/// An upgrade that was cut off by SIGINT is marked as failed; one that was killed stays pending, but nothing here is killed.
struct CutOff {
    store: Store,
    release: Option<Release>,
}

impl CutOff {
    fn release(&self) -> Result<&Release, End> {
        self.release.as_ref().ok_or(End::Signal(2))
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

async fn upgrade(state: &State, process: &Process<'_>) -> Ended {
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
    let prefix = if installs { "Error: " } else { "Error: UPGRADE FAILED: " };
    if past.last().is_some_and(Release::is_pending) {
        return Err(process.fail(format!("{prefix}another operation (install/upgrade/rollback) is in progress")));
    }
    let objects = chart.render(name, namespace, &values).map_err(|words| process.fail(format!("{prefix}{words}")))?;
    sleep(Duration::from_millis(1_200)).await;
    let (crds, objects): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(is_crd);
    install_crds(&store, &crds).await;
    let (hooks, manifest): (Vec<Value>, Vec<Value>) =
        objects.into_iter().map(|object| owned(&store, object, name, namespace)).partition(|object| !hooks_of(object).is_empty());
    unbuildable(&store, &manifest, name, namespace).map_or(Ok(()), |words| Err(process.fail(format!("{prefix}{words}"))))?;

    let now = store.now();
    let revision = past.last().map_or(1, |last| last.version + 1);
    let (status, verb) = if installs { ("pending-install", "install") } else { ("pending-upgrade", "upgrade") };
    let info = Info {
        first_deployed: past.first().map_or(now, |first| first.info.first_deployed),
        last_deployed: now,
        description: if installs { "Initial install underway".to_owned() } else { "Preparing upgrade".to_owned() },
        status: status.to_owned(),
    };
    if store.get(&Key::new("v1", "Namespace", "", namespace)).is_none() {
        return Err(process.fail(format!("Error: create: failed to create: namespaces \"{namespace}\" not found")));
    }
    let release = Release {
        name: (*name).to_owned(), namespace: namespace.to_owned(), version: revision, info, chart: chart.into(), config: values, manifest, hooks,
    };
    release.save(&store);
    let work = CutOff { store: store.clone(), release: Some(release) };

    let result = send(&store, work.release()?, &past, verb, deadline).await;
    match result {
        Ok(()) => {
            for mut old in past.into_iter().filter(|old| old.info.status == "deployed") {
                old.save_as(&store, "superseded", &old.info.description.clone());
            }
            if !installs {
                process.out(format!("Release \"{name}\" has been upgraded. Happy Helming!"));
            }
            print_status(process, work.release()?, "deployed");
            work.ends("deployed", if installs { "Install complete" } else { "Upgrade complete" });
            Ok(())
        }
        Err(words) => {
            let description = if installs { format!("Release \"{name}\" failed: {words}") } else { format!("Upgrade \"{name}\" failed: {words}") };
            work.ends("failed", &description);
            Err(process.fail(format!("{prefix}{words}")))
        }
    }
}

fn print_status(process: &Process<'_>, release: &Release, status: &str) {
    process.out(format!(
        "NAME: {}\nLAST DEPLOYED: {}\nNAMESPACE: {}\nSTATUS: {status}\nREVISION: {}",
        release.name, release.info.last_deployed.strftime("%a %b %e %H:%M:%S %Y"), release.namespace, release.version
    ));
}

fn deadline_of(process: &Process<'_>, arguments: &Arguments<'_>) -> Result<Instant, End> {
    let timeout = arguments.flag("--timeout").unwrap_or("300s");
    let seconds = timeout.strip_suffix('s').and_then(|seconds| seconds.parse().ok()).ok_or_else(|| process.unknown())?;
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
    let namespaced = store.kind(text(&object, "/apiVersion"), text(&object, "/kind")).is_none_or(|served| served.namespaced);
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
fn unbuildable(store: &Store, manifest: &[Value], release: &str, namespace: &str) -> Option<String> {
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
        let (owner, home) = ("/metadata/annotations/meta.helm.sh~1release-name", "/metadata/annotations/meta.helm.sh~1release-namespace");
        (text(&live, owner) != release || text(&live, home) != namespace).then(|| {
            format!(
                "Unable to continue with install: {kind} \"{name}\" in namespace \"{}\" exists and cannot be imported into the current \
                 release: invalid ownership metadata; annotation validation error: missing key \"meta.helm.sh/release-name\": must be set to \"{release}\"",
                text(object, "/metadata/namespace")
            )
        })
    })
}

/// Hooks, objects, hooks; and what the last revision had and this one has not goes.
async fn send(store: &Store, release: &Release, past: &[Release], verb: &str, deadline: Instant) -> Result<(), String> {
    run_hooks(store, release, &format!("pre-{verb}"), deadline).await?;
    for object in &release.manifest {
        api::apply(store, object, Part::Main, HELM).map_err(|status| match verb {
            "install" => status.message.clone(),
            _ => format!("cannot patch \"{}\" with kind {}: {}", text(object, "/metadata/name"), text(object, "/kind"), status.message),
        })?;
        sleep(Duration::from_millis(20)).await;
    }
    let kept: Vec<Key> = release.manifest.iter().map(Key::of).collect();
    for object in past.last().iter().flat_map(|last| &last.manifest).filter(|object| !kept.contains(&Key::of(object))) {
        store.delete(&Key::of(object), Propagation::Background);
    }
    run_hooks(store, release, &format!("post-{verb}"), deadline).await
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

async fn uninstall(state: &State, process: &Process<'_>) -> Ended {
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
    for object in last.manifest.iter().rev() {
        store.delete(&Key::of(object), Propagation::Background);
    }
    if arguments.has("--wait") {
        for object in &last.manifest {
            let gone = until(&store, deadline, |store| store.get(&Key::of(object)).is_none().then_some(()));
            gone.await.ok_or_else(|| process.fail("Error: uninstallation completed with 1 error(s): timed out waiting for the condition"))?;
        }
    }
    for release in &past {
        release.forget(&store);
    }
    process.out(format!("release \"{name}\" uninstalled"));
    Ok(())
}

async fn test(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--timeout"], &[])?;
    let [_, name] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let deadline = deadline_of(process, &arguments)?;
    let store = store_of(state, process, &arguments)?;
    let newest = release::history(&store, namespace_of(&arguments), name).pop();
    let newest = newest.ok_or_else(|| process.fail("Error: release: not found"))?;
    let mut suites = Vec::new();
    let mut trouble = None;
    for pod in newest.hooks.iter().filter(|hook| is_hook_for(hook, "test")) {
        let (key, started) = (Key::of(pod), store.now());
        let timed_out = || "timed out waiting for the condition".to_owned();
        let phase = match remove(&store, &key, deadline).await {
            Err(()) => Err(timed_out()),
            Ok(()) => match api::create(&store, pod.clone(), HELM) {
                Err(status) => Err(status.message.clone()),
                Ok(_) => until(&store, deadline, |store| {
                    let pod = store.get(&key)?;
                    match text(&pod, "/status/phase") {
                        "Succeeded" => Some(Ok(())),
                        "Failed" => Some(Err(format!("pod {} failed", key.name))),
                        _ => None,
                    }
                })
                .await
                .unwrap_or_else(|| Err(timed_out())),
            },
        };
        let word = if phase.is_ok() { "Succeeded" } else { "Failed" };
        let time = |time: Timestamp| time.strftime("%a %b %e %H:%M:%S %Y").to_string();
        suites.push(format!(
            "TEST SUITE:     {}\nLast Started:   {}\nLast Completed: {}\nPhase:          {word}",
            key.name, time(started), time(store.now())
        ));
        if let Err(words) = phase {
            trouble = Some(words);
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
