//! Docker, as its command line answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::State;
use super::cluster::Cluster;
use super::faults::Fault;
use super::process::{End, Ended, Process};
use crate::tools::Tool;

/// What Docker says when its daemon does not answer.
pub(super) const DOWN: &str =
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";

/// The cluster that a node is of.
fn node_of(state: &Arc<State>, process: &Process<'_>, node: &str) -> Result<Arc<Cluster>, End> {
    let cluster = state.clusters_of_kind().into_iter().find(|cluster| cluster.nodes.contains_key(node));
    cluster.ok_or_else(|| process.fail(format!("Error response from daemon: No such container: {node}")))
}

pub(super) async fn run(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let words: Vec<&str> = process.command.args.iter().map(String::as_str).collect();
    let down = state.faults().any(|fault| *fault == Fault::DockerDown);
    match words.as_slice() {
        ["version", "--format", "{{json .}}"] => {
            let version = state.version_of(Tool::Docker);
            let server =
                json!({"Platform": {"Name": "Docker Engine - Community"}, "Version": version, "ApiVersion": "1.48"});
            let server = if down { serde_json::Value::Null } else { server };
            process.out(json!({"Client": {"Version": "28.0.4", "ApiVersion": "1.48"}, "Server": server}).to_string());
            if down { Err(process.fail(DOWN)) } else { Ok(()) }
        }
        _ if down => Err(process.fail(DOWN)),
        ["ps", "--all", "--no-trunc", "--filter", filter, "--format", "{{json .}}"] => {
            let name = filter.strip_prefix("label=io.x-k8s.kind.cluster=").ok_or_else(|| process.unknown())?;
            let Some(cluster) = state.cluster(name) else { return Ok(()) };
            for node in cluster.nodes.keys() {
                let down = cluster.store.down(node).is_some_and(|down| down.starts.is_none());
                let role = if node.ends_with("control-plane") { "control-plane" } else { "worker" };
                let row = json!({
                    "ID": super::identity::uid_from(node).replace('-', ""), "Names": node, "Image": "kindest/node:v1.32.2",
                    "State": if down { "exited" } else { "running" }, "Status": if down { "Exited (137)" } else { "Up" }, "CreatedAt": cluster.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
                    "Labels": format!("io.x-k8s.kind.cluster={name},io.x-k8s.kind.role={role}"),
                });
                process.out(row.to_string());
            }
            Ok(())
        }
        ["info", "--format", "{{json .}}"] => {
            process.out(
                json!({
                    "ServerVersion": state.version_of(Tool::Docker), "NCPU": 4, "MemTotal": 16_u64 << 30, "CgroupVersion": "2",
                    "CgroupDriver": "systemd", "Driver": "overlay2", "DockerRootDir": "/var/lib/docker",
                    "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
                })
                .to_string(),
            );
            Ok(())
        }
        ["exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "-q"] => {
            let cluster = node_of(state, process, node)?;
            cluster.images(node).iter().for_each(|image| process.out(image));
            Ok(())
        }
        ["stop", node] => {
            let cluster = node_of(state, process, node)?;
            // The programs in it have ten seconds to end; systemd in kind's nodes needs some of them.
            sleep(Duration::from_secs(2)).await;
            super::nodes::stop(state, &cluster, node);
            process.out(node);
            Ok(())
        }
        ["start", nodes @ ..] if !nodes.is_empty() => {
            for node in nodes {
                let cluster = node_of(state, process, node)?;
                sleep(Duration::from_millis(500)).await;
                super::nodes::start(state, &cluster, node);
                process.out(node);
            }
            Ok(())
        }
        ["build", "--tag", tag, directory] => {
            if !Path::new(directory).join("Dockerfile").is_file() {
                return Err(process.fail(
                    "ERROR: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory",
                ));
            }
            process.err("#1 [internal] load build definition from Dockerfile");
            sleep(Duration::from_secs(8)).await;
            process.err(format!("#8 naming to {} done", crate::tools::docker::full_reference(tag)));
            state.add_host_image(tag);
            Ok(())
        }
        _ => Err(process.unknown()),
    }
}
