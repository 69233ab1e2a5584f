//! kind, as version 0.27 answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::cluster::Cluster;
use super::faults::Fault;
use super::object::{items, number, text, texts};
use super::process::{Arguments, End, Ended, Process};
use super::{State, archive, docker};
use crate::files;
use crate::tools::Tool;

/// The node image that kind 0.27 makes nodes of.
const NODE_IMAGE: &str = "kindest/node:v1.32.2";

pub(super) async fn run(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let words: Vec<&str> = process.command.args.iter().map(String::as_str).take(2).collect();
    if words != ["version"] && state.faults().any(|fault| *fault == Fault::DockerDown) {
        return Err(docker_down(process, &words));
    }
    match words.as_slice() {
        ["version"] => {
            process.out(format!("kind v{} go1.24.0 linux/amd64", state.version_of(Tool::Kind)));
            Ok(())
        }
        ["get", "clusters"] => {
            process.arguments(2, &[], &[])?;
            let names = state.cluster_names();
            if names.is_empty() {
                process.err("No kind clusters found.");
            }
            for name in &names {
                process.out(name);
            }
            Ok(())
        }
        ["get", "kubeconfig"] => {
            let name = name_of(&process.arguments(2, &["--name"], &[])?).to_owned();
            let cluster = state.cluster(&name).ok_or_else(|| {
                process.fail(format!("ERROR: could not locate any control plane nodes for cluster named '{name}'. Use the --name option to select a different cluster"))
            })?;
            process.out(cluster.kubeconfig());
            Ok(())
        }
        ["create", "cluster"] => create(state, process).await,
        ["delete", "cluster"] => delete(state, process).await,
        ["load", "image-archive"] => {
            let arguments = process.arguments(2, &["--name"], &[])?;
            let path = arguments.words.get(2).ok_or_else(|| process.unknown())?;
            let images = archive::images(Path::new(path)).map_err(|error| process.fail(format!("ERROR: {error}")))?;
            load(state, process, &arguments, images).await
        }
        ["load", "docker-image"] => {
            let arguments = process.arguments(2, &["--name"], &[])?;
            let image = *arguments.words.get(2).ok_or_else(|| process.unknown())?;
            if !state.has_host_image(image) {
                return Err(process.fail(format!("ERROR: image: \"{image}\" not present locally")));
            }
            load(state, process, &arguments, vec![image.to_owned()]).await
        }
        _ => Err(process.unknown()),
    }
}

fn name_of<'a>(arguments: &Arguments<'a>) -> &'a str {
    arguments.flag("--name").unwrap_or("kind")
}

fn docker_down(process: &Process<'_>, words: &[&str]) -> End {
    let verb = match words {
        ["get", "clusters"] => "list clusters",
        ["create", ..] => "create cluster: failed to list nodes",
        ["delete", ..] => "delete cluster \"kind\": error listing nodes",
        _ => "list nodes",
    };
    process.fail(format!(
        "ERROR: failed to {verb}: command \"docker ps -a --filter label=io.x-k8s.kind.cluster --format '{{{{.Names}}}}'\" failed \
         with error: exit status 1\nCommand Output: {}",
        docker::DOWN
    ))
}

/// 19.5 s in all (facts, section 9).
async fn create(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &["--name", "--config", "--wait", "--kubeconfig", "--image"], &[])?;
    let config: Value = match arguments.flag("--config") {
        Some("-") => serde_yaml::from_str(process.stdin()).map_err(|error| {
            process.fail(format!("ERROR: failed to create cluster: unable to decode config: {error}"))
        })?,
        Some(_) => return Err(process.unknown()),
        None => json!({}),
    };
    let name = arguments.flag("--name").or(config["name"].as_str()).unwrap_or("kind").to_owned();
    if state.cluster(&name).is_some() {
        return Err(process.fail(format!(
            "ERROR: failed to create cluster: node(s) already exist for a cluster with the name \"{name}\""
        )));
    }
    let image = arguments.flag("--image").unwrap_or(NODE_IMAGE);
    process.err(format!("Creating cluster \"{name}\" ..."));
    step(process, &format!("Ensuring node image ({image}) 🖼"), 500).await;

    let nodes = nodes_of(&name, &config);
    let boxes = " 📦".repeat(nodes.len());
    process.err(format!(" • Preparing nodes{boxes}   ..."));
    sleep(Duration::from_secs(4)).await;
    let ports: BTreeSet<u16> = items(&config, "/nodes")
        .flat_map(|node| items(node, "/extraPortMappings"))
        .filter_map(|mapping| u16::try_from(number(mapping, "/hostPort", 0)).ok())
        .collect();
    if let Some(words) = state.port_trouble(&ports) {
        process.err(format!(" ✗ Preparing nodes{boxes} \nDeleted nodes: {}", quoted(nodes.keys())));
        return Err(process.fail(format!(
            "ERROR: failed to create cluster: command \"docker run --name {name}-worker --hostname {name}-worker \
             --label io.x-k8s.kind.role=worker\" failed with error: exit status 125\nCommand Output: docker: Error response from \
             daemon: driver failed programming external connectivity on endpoint {name}-worker: {words}"
        )));
    }
    let cluster = state.make_cluster(&name, nodes, ports);
    process.err(format!(" ✓ Preparing nodes{boxes} "));
    step(process, "Writing configuration 📜", 500).await;
    step(process, "Starting control-plane 🕹️", 9_000).await;
    cluster.boot(state);
    step(process, "Installing CNI 🔌", 1_000).await;
    step(process, "Installing StorageClass 💾", 500).await;
    if cluster.nodes.len() > 1 {
        step(process, "Joining worker nodes 🚜", 4_000).await;
    }
    if let Some(path) = arguments.flag("--kubeconfig") {
        write_kubeconfig(process, path, &cluster.kubeconfig())?;
    }
    process.err(format!(
        "Set kubectl context to \"kind-{name}\"\nYou can now use your cluster with:\n\nkubectl cluster-info --context kind-{name}{}",
        arguments.flag("--kubeconfig").map_or_else(String::new, |path| format!(" --kubeconfig {path}"))
    ));
    Ok(())
}

async fn step(process: &Process<'_>, what: &str, milliseconds: u64) {
    process.err(format!(" • {what}  ..."));
    sleep(Duration::from_millis(milliseconds)).await;
    process.err(format!(" ✓ {what}"));
}

/// Names and labels of the nodes, as kind derives them from its configuration.
fn nodes_of(name: &str, config: &Value) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut nodes = BTreeMap::new();
    let mut workers = 0;
    for node in items(config, "/nodes") {
        let labels = texts(node, "/labels").map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let name = match text(node, "/role") {
            "worker" => {
                workers += 1;
                if workers == 1 { format!("{name}-worker") } else { format!("{name}-worker{workers}") }
            }
            _ => format!("{name}-control-plane"),
        };
        nodes.insert(name, labels);
    }
    if nodes.is_empty() {
        nodes.insert(format!("{name}-control-plane"), BTreeMap::new());
    }
    nodes
}

fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    format!("[{}]", names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" "))
}

fn write_kubeconfig(process: &Process<'_>, path: &str, text: &str) -> Ended {
    files::write_private(Path::new(path), text.as_bytes()).map_err(|failure| {
        process.fail(format!("ERROR: failed to create cluster: failed to write kubeconfig: {failure}"))
    })
}

async fn delete(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let arguments = process.arguments(2, &["--name", "--kubeconfig"], &[])?;
    let name = name_of(&arguments);
    process.err(format!("Deleting cluster \"{name}\" ..."));
    sleep(Duration::from_millis(1_500)).await;
    if let Some(cluster) = state.remove_cluster(name) {
        process.err(format!("Deleted nodes: {}", quoted(cluster.nodes.keys())));
        if let Some(path) = arguments.flag("--kubeconfig")
            && std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("kind-{name}")))
        {
            write_kubeconfig(process, path, "apiVersion: v1\nkind: Config\npreferences: {}\n")?;
        }
    }
    Ok(())
}

/// 34 archives into two nodes took 90 s (facts, section 9).
async fn load(state: &Arc<State>, process: &Process<'_>, arguments: &Arguments<'_>, images: Vec<String>) -> Ended {
    let name = name_of(arguments);
    let cluster: Arc<Cluster> =
        state.cluster(name).ok_or_else(|| process.fail(format!("ERROR: no nodes found for cluster \"{name}\"")))?;
    sleep(Duration::from_millis(2_600)).await;
    for node in cluster.nodes.keys() {
        for image in &images {
            cluster.add_image(node, image);
        }
    }
    Ok(())
}
