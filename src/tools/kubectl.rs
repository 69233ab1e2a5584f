//! kubectl: argv and output. Used only where the API itself would not do: what `--explain` shows is typed here too.

use std::time::Duration;

use semver::Version;
use serde::Deserialize;

use super::versions::find_version;
use super::{Command, CommandError, Output, Target, Tool, excerpt, garbage, path_arg};

/// The version of kubectl itself; asks no server.
#[must_use]
pub fn version() -> Command {
    Command::new(Tool::Kubectl, ["version", "--client", "--output", "json"]).timeout(Duration::from_secs(20))
}

/// Reads the output of [`version`].
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_version(output: &Output) -> Result<Version, CommandError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        client_version: ClientVersion,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClientVersion {
        git_version: String,
    }
    serde_json::from_str::<Versions>(&output.stdout)
        .ok()
        .and_then(|versions| find_version(&versions.client_version.git_version))
        .ok_or_else(|| {
            garbage(
                version().line(),
                format!("expected JSON with `clientVersion.gitVersion`, got {}", excerpt(&output.stdout)),
            )
        })
}

/// Runs `argv` in a container, with no input.
///
/// Over SPDY: with `WebSocket`, the default from kubectl 1.31 on, what a short command prints can arrive before kubectl
/// has its streams, and is dropped (`Unknown stream id 1, discarding message`, seen with 1.32.3), and containerd keeps
/// a goroutine of each call (containerd/containerd#10568).
#[must_use]
pub fn exec<S: Into<String>>(
    target: &Target,
    namespace: &str,
    pod: &str,
    container: &str,
    argv: impl IntoIterator<Item = S>,
) -> Command {
    Command::new(Tool::Kubectl, ["exec", "--namespace", namespace, pod, "--container", container])
        .args(pins(target))
        .args(["--"])
        .args(argv)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
}

/// Like [`exec`], with `input` on its standard input; it goes into no log.
#[must_use]
pub fn exec_with_input<S: Into<String>>(
    target: &Target,
    namespace: &str,
    pod: &str,
    container: &str,
    argv: impl IntoIterator<Item = S>,
    input: Vec<u8>,
) -> Command {
    let mut command = exec(target, namespace, pod, container, argv);
    command.args.insert(1, "--stdin".into());
    command.stdin(input)
}

fn pins(target: &Target) -> [String; 4] {
    ["--kubeconfig".into(), path_arg(&target.kubeconfig), "--context".into(), target.context.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::testing::out;

    #[test]
    fn versions_are_read() {
        let recorded = r#"{
  "clientVersion": { "major": "1", "minor": "32", "gitVersion": "v1.32.3", "platform": "linux/amd64" },
  "kustomizeVersion": "v5.5.0"
}"#;
        let read = |stdout: &str| parse_version(&out(stdout));
        assert_eq!(read(recorded).unwrap(), Version::new(1, 32, 3));
        let vendor = read(r#"{"clientVersion":{"gitVersion":"v1.30.5-gke.1014001"}}"#).unwrap();
        assert_eq!((vendor.major, vendor.minor, vendor.patch), (1, 30, 5));
        for garbage in ["", "Client Version: v1.32.3\n", "{}"] {
            assert!(matches!(read(garbage), Err(CommandError::Garbage { .. })), "{garbage}");
        }
    }

    #[test]
    fn argv() {
        let target = Target { kubeconfig: "/state/kubeconfig".into(), context: "kind-kind".into() };
        assert_eq!(
            exec(&target, "n", "p", "c", ["true"]).env,
            [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS".to_owned(), "false".to_owned())]
        );
        assert_eq!(version().line(), "kubectl version --client --output json");
        assert_eq!(
            exec(&target, "spire-server", "spire-db-0", "postgres", ["psql", "-c", "select 1"]).line(),
            "kubectl exec --namespace spire-server spire-db-0 --container postgres --kubeconfig /state/kubeconfig \
             --context kind-kind -- psql -c 'select 1'"
        );
        let restore = exec_with_input(&target, "n", "p", "c", ["psql"], b"select 1".to_vec());
        assert_eq!(restore.stdin.as_deref(), Some(b"select 1".as_slice()));
        assert!(restore.line().starts_with("kubectl exec --stdin --namespace n p "), "{}", restore.line());
    }
}
