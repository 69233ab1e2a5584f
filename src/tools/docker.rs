//! Docker: argv and output.

use std::path::Path;
use std::time::Duration;

use semver::Version;
use serde::Deserialize;

use super::versions::find_version;
use super::{Command, CommandError, Output, Tool, excerpt, garbage, lines, path_arg};
use crate::error::Failure;

/// The versions of client and server. Ends with exit code 1 if the daemon does not answer.
#[must_use]
pub fn version() -> Command {
    Command::new(Tool::Docker, ["version", "--format", "{{json .}}"]).timeout(Duration::from_secs(20))
}

/// Reads the server's version from the output of [`version`].
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_version(output: &Output) -> Result<Version, CommandError> {
    #[derive(Deserialize)]
    struct Versions {
        #[serde(rename = "Server")]
        server: Option<Server>,
    }
    #[derive(Deserialize)]
    struct Server {
        #[serde(rename = "Version")]
        version: String,
    }
    let unreadable =
        |expected: &str| garbage(version().line(), format!("expected {expected}, got {}", excerpt(&output.stdout)));
    let versions: Versions =
        serde_json::from_str(output.stdout.trim()).map_err(|_| unreadable("a JSON object with `Server`"))?;
    let server = versions.server.ok_or_else(|| unreadable("the version of the Docker server"))?;
    find_version(&server.version).ok_or_else(|| unreadable("`Server.Version` X.Y.Z"))
}

/// What the daemon has to run containers with.
#[must_use]
pub fn info() -> Command {
    Command::new(Tool::Docker, ["info", "--format", "{{json .}}"]).timeout(Duration::from_secs(20))
}

/// The answer to [`info`], as far as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Info {
    /// CPUs.
    #[serde(rename = "NCPU")]
    pub cpus: u32,
    /// Bytes of memory.
    #[serde(rename = "MemTotal")]
    pub memory: u64,
    /// `1` or `2`.
    #[serde(rename = "CgroupVersion", default)]
    pub cgroup_version: String,
}

/// Reads the output of [`info`].
///
/// # Errors
/// [`CommandError::Garbage`]; also where the client answers alone, for then there are no CPUs.
pub fn parse_info(output: &Output) -> Result<Info, CommandError> {
    let unreadable = || {
        let expected = "expected a JSON object with `NCPU` and `MemTotal`";
        garbage(info().line(), format!("{expected}, got {}", excerpt(&output.stdout)))
    };
    let read: Info = serde_json::from_str(output.stdout.trim()).map_err(|_| unreadable())?;
    if read.cpus == 0 { Err(unreadable()) } else { Ok(read) }
}

/// Why the Docker daemon cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonTrouble {
    /// Nothing listens.
    NotAnswering(String),
    /// It listens, but not to this user.
    NotAllowed(String),
}

/// Whether a command (docker's, or kind's, which calls it) failed because of the daemon, with its own words.
#[must_use]
pub fn daemon_trouble(error: &CommandError) -> Option<DaemonTrouble> {
    let CommandError::Exit { output, .. } = error else { return None };
    output.stderr.lines().find_map(|line| {
        let words = line.trim().trim_start_matches("Command Output: ");
        if words.contains("permission denied while trying to connect to the Docker daemon")
            || words.contains("permission denied while trying to connect to the docker API")
        {
            Some(DaemonTrouble::NotAllowed(words.to_owned()))
        } else if words.contains("Cannot connect to the Docker daemon")
            || words.contains("failed to connect to the docker API")
            || words.starts_with("error during connect:")
        {
            Some(DaemonTrouble::NotAnswering(words.to_owned()))
        } else {
            None
        }
    })
}

/// [`daemon_trouble`] as a failure.
#[must_use]
pub fn explain_daemon_trouble(error: &CommandError) -> Option<Failure> {
    let failure = match daemon_trouble(error)? {
        DaemonTrouble::NotAnswering(words) => {
            Failure::prerequisite("the Docker daemon does not answer").fact(words).next(start_hint())
        }
        DaemonTrouble::NotAllowed(words) => {
            Failure::prerequisite("the Docker daemon does not let this user in").fact(words).next(permission_hint())
        }
    };
    Some(failure)
}

/// How to start the daemon, on this operating system.
pub(super) fn start_hint() -> String {
    if cfg!(target_os = "macos") {
        "start it: `open -a Docker`, and wait until `docker version` answers".into()
    } else {
        "start it: `sudo systemctl start docker`; if DOCKER_HOST or a docker context is set, see that it points to a running daemon".into()
    }
}

/// How to be let in.
pub(super) fn permission_hint() -> String {
    "join the group: `sudo usermod -aG docker \"$USER\"`, then log in again".into()
}

/// Builds the Dockerfile of a directory.
#[must_use]
pub fn build(dir: &Path, tag: &str, timeout: Duration) -> Command {
    Command::new(Tool::Docker, ["build", "--tag", tag]).args([path_arg(dir)]).timeout(timeout)
}

/// The images that a node's containerd holds for Kubernetes.
#[must_use]
pub fn node_images(node: &str) -> Command {
    Command::new(Tool::Docker, ["exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "-q"])
}

/// Reads the output of [`node_images`]: full references, without the bare digests that containerd lists as well.
#[must_use]
pub fn parse_node_images(output: &Output) -> Vec<String> {
    lines(&output.stdout).into_iter().filter(|image| !image.starts_with("sha256:")).collect()
}

/// A reference as containerd lists it: with registry, and with tag if it has neither tag nor digest.
/// `workload:1` is `docker.io/library/workload:1`.
#[must_use]
pub fn full_reference(image: &str) -> String {
    let (first, rest) = image.split_once('/').map_or(("", image), |(first, rest)| (first, rest));
    let has_registry = !first.is_empty() && (first.contains(['.', ':']) || first == "localhost");
    let named = match (has_registry, first) {
        (true, _) => image.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{image}"),
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { named } else { format!("{named}:latest") }
}

/// Every container of a kind cluster, running or not.
#[must_use]
pub fn kind_containers(cluster: &str) -> Command {
    Command::new(Tool::Docker, ["ps", "--all", "--no-trunc", "--filter"])
        .args([format!("label=io.x-k8s.kind.cluster={cluster}")])
        .args(["--format", "{{json .}}"])
}

/// Starts containers that are stopped.
#[must_use]
pub fn start(containers: &[String]) -> Command {
    Command::new(Tool::Docker, ["start"]).args(containers.iter().cloned())
}

/// Stops a container; its programs have ten seconds to end.
#[must_use]
pub fn stop(container: &str) -> Command {
    Command::new(Tool::Docker, ["stop", container])
}

/// A container of a kind cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its name, which is the node's.
    #[serde(rename = "Names")]
    pub name: String,
    /// Docker's word: `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    #[serde(rename = "State")]
    pub state: String,
    /// When it was made, in Docker's words: `2026-11-24 05:39:32 +0000 UTC`.
    #[serde(rename = "CreatedAt")]
    pub created: String,
}

impl Container {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// Reads the output of [`kind_containers`].
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_kind_containers(output: &Output) -> Result<Vec<Container>, CommandError> {
    lines(&output.stdout)
        .iter()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| {
                garbage(
                    "docker ps",
                    format!("expected a JSON object with Names, State and CreatedAt ({error}), got {}", excerpt(line)),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::tools::testing::{failed, out};

    #[test]
    fn the_servers_version_counts() {
        let recorded = r#"{"Client":{"Version":"28.2.2","ApiVersion":"1.41"},"Server":{"Platform":{"Name":""},"Components":[{"Name":"Engine","Version":"20.10.24+dfsg1"}],"Version":"20.10.24+dfsg1","ApiVersion":"1.41"}}"#;
        let version = parse_version(&out(recorded)).unwrap();
        assert_eq!((version.major, version.minor, version.patch), (20, 10, 24));
        for garbage in
            ["", "null", "{}", r#"{"Client":{},"Server":null}"#, r#"{"Server":{"Version":"dev"}}"#, "\u{fffd}"]
        {
            let error = parse_version(&out(garbage)).unwrap_err();
            assert!(matches!(error, CommandError::Garbage { .. }), "{garbage}");
        }
    }

    #[test]
    fn a_silent_daemon_is_not_a_missing_program() {
        let silent =
            failed("Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?\n");
        let failure = explain_daemon_trouble(&silent).unwrap();
        assert_eq!(failure.kind, Kind::Prerequisite);
        assert_eq!(failure.message, "the Docker daemon does not answer");
        assert_eq!(
            failure.facts,
            ["Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?"]
        );

        let closed = failed(
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \
             \"http://%2Fvar%2Frun%2Fdocker.sock/v1.50/version\": dial unix /var/run/docker.sock: connect: permission denied\n",
        );
        assert!(matches!(daemon_trouble(&closed), Some(DaemonTrouble::NotAllowed(_))));
        assert_eq!(daemon_trouble(&failed("unknown flag: --format")), None);
        assert_eq!(daemon_trouble(&CommandError::NotFound { tool: Tool::Docker }), None);
    }

    #[test]
    fn argv() {
        for (command, expected) in [
            (version(), "docker version --format '{{json .}}'"),
            (build(Path::new("/src/app"), "app:1", Duration::from_secs(600)), "docker build --tag app:1 /src/app"),
            (node_images("kind-worker"), "docker exec kind-worker ctr --namespace k8s.io images list -q"),
            (
                kind_containers("kind"),
                "docker ps --all --no-trunc --filter label=io.x-k8s.kind.cluster=kind --format '{{json .}}'",
            ),
        ] {
            assert_eq!(command.line(), expected);
        }
    }

    #[test]
    fn node_images_are_read_without_bare_digests() {
        let recorded = "cgr.dev/chainguard/bash:latest\ncgr.dev/chainguard/bash@sha256:96ab1600d945b4a9\n\
                        docker.io/example/toolbox:1\nregistry.k8s.io/pause:3.10\nsha256:165dcc3922aeac5bcade5e78\n";
        assert_eq!(
            parse_node_images(&out(recorded)),
            [
                "cgr.dev/chainguard/bash:latest",
                "cgr.dev/chainguard/bash@sha256:96ab1600d945b4a9",
                "docker.io/example/toolbox:1",
                "registry.k8s.io/pause:3.10"
            ]
        );
    }

    #[test]
    fn references_are_completed_as_containerd_does() {
        for (image, expected) in [
            ("workload", "docker.io/library/workload:latest"),
            ("workload:1", "docker.io/library/workload:1"),
            ("example/toolbox:1", "docker.io/example/toolbox:1"),
            ("ghcr.io/spiffe/spire-server:1.7.2", "ghcr.io/spiffe/spire-server:1.7.2"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:2", "localhost:5000/app:2"),
            ("registry.k8s.io/pause@sha256:aa", "registry.k8s.io/pause@sha256:aa"),
        ] {
            assert_eq!(full_reference(image), expected);
        }
    }

    #[test]
    fn containers_are_read() {
        let recorded = r#"{"Command":"\"/usr/local/bin/entr…\"","CreatedAt":"2026-11-24 05:39:32 +0000 UTC","ID":"e13032b2bf00","Image":"kindest/node:v1.32.3","Labels":"io.x-k8s.kind.cluster=lab,io.x-k8s.kind.role=control-plane","LocalVolumes":"1","Names":"lab-control-plane","Networks":"kind","Ports":"127.0.0.1:42239-\u003e6443/tcp","RunningFor":"2 minutes ago","State":"running","Status":"Up 2 minutes"}
{"CreatedAt":"2026-11-24 05:39:32 +0000 UTC","ID":"7fe341d8c88e","Names":"lab-worker","State":"exited","Status":"Exited (137)"}
"#;
        let containers = parse_kind_containers(&out(recorded)).unwrap();
        assert_eq!(containers.len(), 2);
        assert_eq!(containers[0].name, "lab-control-plane");
        assert!(containers[0].is_running() && !containers[1].is_running());
        assert_eq!(parse_kind_containers(&out("")).unwrap(), []);
        assert!(parse_kind_containers(&out("CONTAINER ID   IMAGE\n")).is_err());
    }
}
