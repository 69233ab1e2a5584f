//! kubectl, as version 1.32 answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::State;
use super::cluster::Cluster;
use super::object::{items, text};
use super::process::{End, Ended, Process};
use super::store::Key;
use crate::tools::Tool;

pub(super) async fn run(state: &Arc<State>, process: &Process<'_>) -> Ended {
    match process.command.args.first().map(String::as_str) {
        Some("version") => {
            let arguments = process.arguments(1, &["--output"], &["--client"])?;
            if !arguments.has("--client") || arguments.flag("--output") != Some("json") {
                return Err(process.unknown());
            }
            let version = format!("v{}", state.version_of(Tool::Kubectl));
            process.out(json!({"clientVersion": {"gitVersion": version, "platform": "linux/amd64"}, "kustomizeVersion": "v5.5.0"}).to_string());
            Ok(())
        }
        Some("exec") => exec(state, process).await,
        _ => Err(process.unknown()),
    }
}

async fn exec(state: &Arc<State>, process: &Process<'_>) -> Ended {
    let arguments =
        process.arguments(1, &["--namespace", "--container", "--kubeconfig", "--context"], &["--stdin", "-i"])?;
    let [_, pod] = arguments.words.as_slice() else { return Err(process.unknown()) };
    let (kubeconfig, context) = (arguments.flag("--kubeconfig"), arguments.flag("--context"));
    let unreachable = |words: String| {
        process.fail(format!(
            "The connection to the server was refused - did you specify the right host or port? ({words})"
        ))
    };
    state.reach(kubeconfig, context).map_err(unreachable)?;
    let cluster = state.cluster_at(kubeconfig, context).ok_or_else(|| process.unknown())?;
    // The round trip to the API server, the kubelet and the container runtime.
    sleep(Duration::from_millis(120)).await;
    let live = cluster.store.get(&Key::pod(arguments.flag("--namespace").unwrap_or("default"), pod));
    let live = live.ok_or_else(|| process.fail(format!("Error from server (NotFound): pods \"{pod}\" not found")))?;
    if let Some(words) = super::nodes::unreachable(&cluster.store, &live) {
        return Err(process.fail(format!("error: Internal error occurred: error sending request: {words}")));
    }
    let container = running_container(process, &live, arguments.flag("--container"))?;
    super::inside::run(&cluster, process, &live, &container, &arguments.after)
}

fn running_container(process: &Process<'_>, pod: &Value, named: Option<&str>) -> Result<Value, End> {
    let name = text(pod, "/metadata/name");
    let mut containers = items(pod, "/spec/containers");
    let found = match named {
        Some(named) => containers.find(|container| text(container, "/name") == named),
        None => containers.next(),
    };
    let container = found.ok_or_else(|| {
        process.fail(format!(
            "Error from server (BadRequest): container {} is not valid for pod {name}",
            named.unwrap_or_default()
        ))
    })?;
    if text(pod, "/spec/nodeName").is_empty() {
        return Err(process.fail(format!("Error from server (BadRequest): pod {name} does not have a host assigned")));
    }
    if super::pods::life(pod, text(container, "/name")).is_none() {
        return Err(process.fail(format!(
            "error: unable to upgrade connection: container not found (\"{}\")",
            text(container, "/name")
        )));
    }
    Ok(container.clone())
}

/// What an exec ends with when the program inside ends with `code`.
pub(super) fn inner_exit(process: &Process<'_>, code: i32) -> End {
    process.err(format!("command terminated with exit code {code}"));
    End::Exit(code)
}

/// What an exec ends with when the container has no such program.
pub(super) fn no_program(process: &Process<'_>, cluster: &Cluster, program: &str) -> End {
    let id = super::identity::uid_from(&format!("{}{program}", cluster.name)).replace('-', "");
    process.err(format!(
        "error: Internal error occurred: error executing command in container: failed to exec in container: failed to start exec \"{id}\": \
         OCI runtime exec failed: exec failed: unable to start container process: exec: \"{program}\": executable file not found in $PATH: unknown"
    ));
    End::Exit(1)
}
