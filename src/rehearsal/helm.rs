//! helm, as version 3.17 answers.

mod install;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::charts::Chart;
use super::object::{items, map_of, text};
use super::process::{Arguments, End, Ended, Process};
use super::release::{self, Release};
use super::store::Store;
use super::{State, archive};
use crate::tools::Tool;

pub(super) use self::install::{Failed, Wanted, revise, roll_back};

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
        ["get", "manifest"] => get_manifest(state, process),
        ["history", _] => history(state, process),
        ["rollback", _] => install::rollback(state, process).await,
        ["upgrade", _] => install::upgrade(state, process).await,
        ["uninstall", _] => install::uninstall(state, process).await,
        ["test", _] => install::test(state, process).await,
        _ => Err(process.unknown()),
    }
}

// Repositories. They are kept in the file that helm keeps them in, so that they are the lab's as much as in the real world.

fn repositories(process: &Process<'_>) -> Result<Vec<(String, String)>, End> {
    let path = process.env("HELM_REPOSITORY_CONFIG").ok_or_else(|| process.unknown())?;
    let Ok(yaml) = std::fs::read_to_string(path) else { return Ok(Vec::new()) };
    let file: Value = serde_yaml::from_str(&yaml).map_err(|error| {
        process.fail(format!("Error: couldn't load repositories file ({path}): error converting YAML to JSON: {error}"))
    })?;
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
    let file = serde_yaml::to_string(&json!({"apiVersion": "", "repositories": rows}))
        .map_err(|error| process.fail(error.to_string()))?;
    let written =
        Path::new(path).parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, file));
    written.map_err(|error| process.fail(format!("Error: open {path}: {error}")))?;
    process.out(format!("\"{name}\" has been added to your repositories"));
    Ok(())
}

fn repo_list(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &["--output"], &[])?;
    let known = repositories(process)?;
    match arguments.flag("--output") {
        Some("json") => {
            process.out(
                json!(known.iter().map(|(name, url)| json!({"name": name, "url": url})).collect::<Vec<_>>())
                    .to_string(),
            );
            Ok(())
        }
        _ => Err(process.unknown()),
    }
}

async fn pull(process: &Process<'_>) -> Ended {
    let arguments = process.arguments(1, &["--version", "--destination"], &[])?;
    let (Some((repository, name)), Some(version), Some(directory)) = (
        arguments.words.get(1).and_then(|chart| chart.split_once('/')),
        arguments.flag("--version"),
        arguments.flag("--destination"),
    ) else {
        return Err(process.unknown());
    };
    let known = repositories(process)?;
    let url = known.iter().find(|(other, _)| other == repository).map(|(_, url)| url.clone());
    let url = url.ok_or_else(|| process.fail(format!("Error: repo {repository} not found")))?;
    let chart = Chart::of_repository(&url).find(|chart| chart.name == name && chart.version.to_string() == version).ok_or_else(|| {
        process.fail(format!("Error: chart \"{name}\" matching {version} not found in {repository} index. (try 'helm repo update'): no chart version found for {name}-{version}"))
    })?;
    sleep(Duration::from_millis(900)).await;
    let path = Path::new(directory).join(format!("{name}-{version}.tgz"));
    archive::write_chart(&chart, &path)
        .map_err(|error| process.fail(format!("Error: failed to save chart: open {}: {error}", path.display())))
}

// Charts.

fn chart_at(process: &Process<'_>, path: &str) -> Result<Chart, End> {
    let metadata = archive::chart_metadata(Path::new(path)).map_err(|words| process.fail(format!("Error: {words}")))?;
    let (name, version) = (text(&metadata, "/name"), text(&metadata, "/version"));
    Chart::find(name, version)
        .ok_or_else(|| End::Unknown(format!("the rehearsal does not know the objects of chart {name} {version}")))
}

fn values_of(process: &Process<'_>, arguments: &Arguments<'_>) -> Result<Value, End> {
    match arguments.flag("--values") {
        None => Ok(json!({})),
        Some("-") => {
            let values: Value = serde_yaml::from_str(process.stdin()).map_err(|error| {
                process.fail(format!("Error: failed to parse -: error converting YAML to JSON: {error}"))
            })?;
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
        .render(release, arguments.flag("--namespace").unwrap_or("default"), &values, None)
        .map_err(|words| process.fail(format!("Error: {words}")))?;
    for object in objects.iter().filter(|object| !goes_before(&chart, object) || arguments.has("--include-crds")) {
        process.out("---");
        process.out(serde_yaml::to_string(object).map_err(|error| process.fail(error.to_string()))?);
    }
    Ok(())
}

/// Whether the object is in the chart's directory `crds`: made once, before all else, and no part of the release. Those
/// of the chart `spire-crds` are ordinary objects.
fn goes_before(chart: &Chart, object: &Value) -> bool {
    text(object, "/kind") == "CustomResourceDefinition" && chart.name != "spire-crds"
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
    let arguments = process.arguments(1, &[PINS[0], PINS[1], PINS[2], "--max", "--output"], &["--all"])?;
    let store = store_of(state, process, &arguments)?;
    let newest = release::newest(&store, namespace_of(&arguments));
    process.out(newest.iter().map(row).collect::<Value>().to_string());
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

fn get_manifest(state: &State, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &[PINS[0], PINS[1], PINS[2], "--revision"], &[])?;
    let store = store_of(state, process, &arguments)?;
    let name = arguments.words.get(2).ok_or_else(|| process.unknown())?;
    let all = release::history(&store, namespace_of(&arguments), name);
    let wanted = arguments.flag("--revision").and_then(|revision| revision.parse::<u32>().ok());
    let found = match wanted {
        Some(wanted) => all.iter().find(|release| release.version == wanted),
        None => all.last(),
    };
    let found = found.ok_or_else(|| process.fail("Error: release: not found"))?;
    for object in &found.manifest {
        process.out("---");
        process.out(serde_yaml::to_string(object).map_err(|error| process.fail(error.to_string()))?);
    }
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
