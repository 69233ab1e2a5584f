//! kind: argv and output.

use std::path::Path;
use std::time::Duration;

use semver::Version;
use serde_json::json;

use super::versions::find_version;
use super::{Command, CommandError, Output, Tool, excerpt, garbage, lines, path_arg};
use crate::error::{Failure, Kind};

/// The version of kind.
#[must_use]
pub fn version() -> Command {
    Command::new(Tool::Kind, ["version"]).timeout(Duration::from_secs(20))
}

/// Reads the output of [`version`]: `kind v0.27.0 go1.24.4 linux/amd64`.
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn parse_version(output: &Output) -> Result<Version, CommandError> {
    output
        .stdout
        .trim()
        .strip_prefix("kind ")
        .and_then(find_version)
        .ok_or_else(|| garbage(version().line(), format!("expected `kind vX.Y.Z …`, got {}", excerpt(&output.stdout))))
}

/// The names of kind's clusters.
#[must_use]
pub fn get_clusters() -> Command {
    Command::new(Tool::Kind, ["get", "clusters"])
}

/// Reads the output of [`get_clusters`]. With no cluster, standard output is empty (the remark about it goes to
/// standard error).
#[must_use]
pub fn parse_clusters(output: &Output) -> Vec<String> {
    lines(&output.stdout)
}

/// The kubeconfig of a cluster; it holds a private key.
#[must_use]
pub fn get_kubeconfig(name: &str) -> Command {
    Command::new(Tool::Kind, ["get", "kubeconfig", "--name", name]).secret_output()
}

/// kind's configuration (`kind.x-k8s.io/v1alpha4`) of a control plane and a worker, both labelled. The worker's
/// ports 80 and 443, on which Envoy listens there, are `for_80` and `for_443` of this machine's loopback
/// address.
#[must_use]
pub fn cluster_config(name: &str, for_80: u16, for_443: u16, label: (&str, &str)) -> String {
    let labels = json!({ label.0: label.1 });
    let mapping = |container: u16, host: u16| json!({ "containerPort": container, "hostPort": host, "listenAddress": "127.0.0.1", "protocol": "TCP" });
    let config = json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": name,
        "nodes": [
            { "role": "control-plane", "labels": labels },
            {
                "role": "worker",
                "labels": labels,
                "extraPortMappings": [mapping(80, for_80), mapping(443, for_443)],
            },
        ],
    });
    // JSON is YAML: no serialiser that could fail stands between the two.
    format!("{config:#}\n")
}

/// Makes a cluster and writes its kubeconfig. `config` is [`cluster_config`]'s, read from standard input. kind does
/// not wait for the nodes: that is done by watch.
#[must_use]
pub fn create_cluster(
    name: &str,
    config: String,
    kubeconfig: &Path,
    node_image: Option<&str>,
    timeout: Duration,
) -> Command {
    let command = Command::new(Tool::Kind, ["create", "cluster", "--name", name, "--config", "-", "--wait", "0s"])
        .args(["--kubeconfig".to_owned(), path_arg(kubeconfig)])
        .stdin(config)
        .timeout(timeout);
    match node_image {
        Some(image) => command.args(["--image", image]),
        None => command,
    }
}

/// Removes a cluster and its context from `kubeconfig`. It is no error if there is no such cluster.
#[must_use]
pub fn delete_cluster(name: &str, kubeconfig: &Path, timeout: Duration) -> Command {
    Command::new(Tool::Kind, ["delete", "cluster", "--name", name])
        .args(["--kubeconfig".to_owned(), path_arg(kubeconfig)])
        .timeout(timeout)
}

/// Loads an image archive into every node.
#[must_use]
pub fn load_image_archive(archive: &Path, name: &str, timeout: Duration) -> Command {
    Command::new(Tool::Kind, ["load".to_owned(), "image-archive".to_owned(), path_arg(archive)])
        .args(["--name", name])
        .timeout(timeout)
}

/// Loads an image of the Docker daemon into every node.
#[must_use]
pub fn load_docker_image(image: &str, name: &str, timeout: Duration) -> Command {
    Command::new(Tool::Kind, ["load", "docker-image", image, "--name", name]).timeout(timeout)
}

/// What a failed [`create_cluster`] means, where kind's words are known. kind has already taken away the nodes of
/// a cluster that it could not finish.
#[must_use]
pub fn explain_create_error(error: &CommandError) -> Option<Failure> {
    let CommandError::Exit { output, .. } = error else { return None };
    let text = &output.stderr;
    let failure = if let Some(line) = line_with(text, &["port is already allocated", "address already in use"]) {
        port_taken(line)
    } else if let Some(line) = line_with(text, &["no space left on device"]) {
        Failure::prerequisite("the kind cluster could not be made: the disk is full")
            .fact(line)
            .next("free some space: `docker system df` shows what Docker uses, `docker system prune` removes what nothing uses")
    } else if super::docker::daemon_trouble(error).is_some() {
        return super::docker::explain_daemon_trouble(error);
    } else if text.contains("failed to pull image") {
        Failure::prerequisite("the kind cluster could not be made: its node image cannot be pulled")
            .facts(error.tail(3))
            .next("choose an image that exists for this version of kind (`[cluster] node-image` in lab.toml); https://github.com/kubernetes-sigs/kind/releases lists them")
            .next("with no network: load the image first, `docker load -i ARCHIVE`")
    } else if text.contains("node(s) already exist for a cluster with the name") {
        Failure::prerequisite("the kind cluster could not be made: nodes of a cluster of that name exist already")
            .facts(error.tail(1))
            .next("`coastal status` shows whose they are; `coastal cluster-down` removes the lab's own")
    } else if text.contains("could not find a log line that matches") || text.contains("too many open files") {
        Failure::tool("the kind cluster could not be made: a node did not boot")
            .facts(error.tail(5))
            .next("raise the inotify limits: `sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`")
            .next("https://kind.sigs.k8s.io/docs/user/known-issues/ lists other causes")
    } else if text.contains("kubelet isn't running")
        || text.contains("kubelet is not healthy")
        || text.contains("kubelet is unhealthy")
    {
        Failure::tool("the kind cluster could not be made: the kubelet of a node did not become healthy")
            .facts(error.tail(5))
            .next("see that Docker uses cgroup v2 and enough memory is free: `docker info` and `free -m`")
            .next("raise the inotify limits: `sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`")
            .next("https://kind.sigs.k8s.io/docs/user/known-issues/ lists other causes")
    } else {
        return None;
    };
    Some(failure)
}

fn port_taken(line: &str) -> Failure {
    let port = host_port(line);
    let what = port.map_or_else(|| "a port".to_owned(), |port| format!("port {port}"));
    let failure = Failure::new(
        Kind::Prerequisite,
        format!("the kind cluster could not be made: {what} of this machine is taken"),
    )
    .fact(line);
    let failure = match port {
        Some(port) if cfg!(target_os = "macos") => failure.next(format!(
            "find who holds it: `lsof -nP -iTCP:{port} -sTCP:LISTEN`, `docker ps --filter publish={port}`"
        )),
        Some(port) => failure
            .next(format!("find who holds it: `ss -ltnp 'sport = :{port}'`, `docker ps --filter publish={port}`")),
        None => failure,
    };
    failure.next("end that program, or choose another port in lab.toml: `[cluster] http-port`, `https-port`")
}

fn line_with<'a>(text: &'a str, needles: &[&str]) -> Option<&'a str> {
    text.lines().map(str::trim).find(|line| needles.iter().any(|needle| line.contains(needle)))
}

/// The port of the first `ADDRESS:PORT` in what Docker says about a binding.
fn host_port(line: &str) -> Option<u16> {
    line.split(|c: char| c.is_whitespace() || c == ',').find_map(|word| {
        let (address, rest) = match word.strip_prefix('[') {
            Some(v6) => v6.split_once("]:")?,
            None => word.split_once(':')?,
        };
        address.parse::<std::net::IpAddr>().ok()?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::testing::{failed, out};

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("kind v0.27.0 go1.24.4 linux/amd64\n", Some(Version::new(0, 27, 0))),
            ("kind v0.20.0 go1.20.4 darwin/arm64\n", Some(Version::new(0, 20, 0))),
            ("", None),
            ("Segmentation fault\n", None),
            ("kind version unknown\n", None),
        ] {
            assert_eq!(parse_version(&out(text)).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn garbage_is_shown() {
        let error = parse_version(&out("\u{fffd}\u{fffd} what\nis this\n")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`kind version` printed something unexpected: expected `kind vX.Y.Z …`, got `\u{fffd}\u{fffd} what is this`"
        );
    }

    #[test]
    fn listings_are_read() {
        assert_eq!(parse_clusters(&out("lab\nother\n")), ["lab", "other"]);
        let none = Output { stdout: String::new(), stderr: "No kind clusters found.\n".into() };
        assert!(parse_clusters(&none).is_empty());
    }

    #[test]
    fn argv() {
        let kubeconfig = Path::new("/state/kube config");
        let minute = Duration::from_secs(60);
        for (command, expected) in [
            (version(), "kind version"),
            (get_clusters(), "kind get clusters"),
            (get_kubeconfig("kind"), "kind get kubeconfig --name kind"),
            (
                create_cluster("kind", "x".into(), kubeconfig, None, minute),
                "kind create cluster --name kind --config - --wait 0s --kubeconfig '/state/kube config'",
            ),
            (
                create_cluster("kind", "x".into(), kubeconfig, Some("kindest/node:v1.32.3"), minute),
                "kind create cluster --name kind --config - --wait 0s --kubeconfig '/state/kube config' \
                 --image kindest/node:v1.32.3",
            ),
            (
                delete_cluster("kind", kubeconfig, minute),
                "kind delete cluster --name kind --kubeconfig '/state/kube config'",
            ),
            (
                load_image_archive(Path::new("/images/w.tar"), "kind", minute),
                "kind load image-archive /images/w.tar --name kind",
            ),
            (load_docker_image("workload:1", "kind", minute), "kind load docker-image workload:1 --name kind"),
        ] {
            assert_eq!(command.line(), expected);
        }
        assert!(get_kubeconfig("kind").secret_output);
        assert_eq!(create_cluster("kind", "x".into(), kubeconfig, None, minute).stdin.as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn the_configuration_is_yaml_that_says_what_was_asked() {
        let text = cluster_config("kind", 8080, 8443, ("coastal-containers.example/lab", "dayTwo"));
        let config: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(config["apiVersion"], "kind.x-k8s.io/v1alpha4");
        assert_eq!(config["name"], "kind");
        for node in 0..2 {
            assert_eq!(config["nodes"][node]["labels"]["coastal-containers.example/lab"], "dayTwo");
        }
        assert_eq!(config["nodes"][0]["role"], "control-plane");
        assert!(config["nodes"][0].get("extraPortMappings").is_none());
        let mappings = &config["nodes"][1]["extraPortMappings"];
        assert_eq!(
            *mappings,
            json!([
                { "containerPort": 80, "hostPort": 8080, "listenAddress": "127.0.0.1", "protocol": "TCP" },
                { "containerPort": 443, "hostPort": 8443, "listenAddress": "127.0.0.1", "protocol": "TCP" },
            ])
        );
    }

    #[test]
    fn taken_ports_are_named() {
        for (said, port) in [
            // Docker 20.10, another program holds it; recorded.
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint \
                 kind-worker (55ceee0079deed7cb04cbcd6b947947a74be848c4130cd359ecabdb77bfd2468): Error starting \
                 userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use.",
                "port 8080",
            ),
            // Docker 20.10, another container holds it; recorded.
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint \
                 kind-worker (f1433da35fbd0f33b04fb47940b742f30c77bf113a733e12c52def98849dd777): Bind for \
                 127.0.0.1:8443 failed: port is already allocated.",
                "port 8443",
            ),
            // Docker 28.
            (
                "docker: Error response from daemon: failed to set up container networking: driver failed programming \
                 external connectivity on endpoint kind-worker (aa): failed to bind host port for \
                 127.0.0.1:8080:172.18.0.2:80/tcp: address already in use",
                "port 8080",
            ),
            ("docker: Bind for [::1]:8443 failed: port is already allocated.", "port 8443"),
            ("docker: port is already allocated", "a port"),
        ] {
            let stderr = format!(
                "Creating cluster \"kind\" ...\nERROR: failed to create cluster: command \"docker run --name kind-worker \
                 --publish=127.0.0.1:1:80/TCP\" failed with error: exit status 125\nCommand Output: 0bd0\n{said}\n"
            );
            let failure = explain_create_error(&failed(&stderr)).unwrap();
            assert_eq!(failure.kind, Kind::Prerequisite);
            assert_eq!(
                failure.message,
                format!("the kind cluster could not be made: {port} of this machine is taken"),
                "{said}"
            );
            assert!(failure.next.last().unwrap().contains("http-port"));
        }
    }

    #[test]
    fn other_reasons_are_told_apart() {
        for (said, kind, sentence) in [
            (
                "ERROR: failed to create cluster: command \"docker run\" failed with error: exit status 125\nCommand \
                 Output: docker: Error response from daemon: mkdir /var/lib/docker/overlay2/a: no space left on device.",
                Kind::Prerequisite,
                "the disk is full",
            ),
            (
                "ERROR: failed to list nodes: command \"docker ps -a\" failed with error: exit status 1\n\nCommand Output: \
                 Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?",
                Kind::Prerequisite,
                "the Docker daemon does not answer",
            ),
            (
                "ERROR: failed to create cluster: failed to pull image \"kindest/node:v9.9.9\": command \"docker pull \
                 kindest/node:v9.9.9\" failed with error: exit status 1\n\nCommand Output: Error response from daemon: \
                 Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
                Kind::Prerequisite,
                "its node image cannot be pulled",
            ),
            (
                "ERROR: failed to create cluster: node(s) already exist for a cluster with the name \"lab\"",
                Kind::Prerequisite,
                "nodes of a cluster of that name exist already",
            ),
            (
                "ERROR: failed to create cluster: could not find a log line that matches \"Reached target \
                 .*Multi-User System.*|detected cgroup v1\"",
                Kind::Tool,
                "a node did not boot",
            ),
            (
                "[kubelet-check] The kubelet is not healthy after 4m0s\nERROR: failed to create cluster: failed to init \
                 node with kubeadm",
                Kind::Tool,
                "the kubelet of a node did not become healthy",
            ),
        ] {
            let failure = explain_create_error(&failed(said)).unwrap();
            assert_eq!(failure.kind, kind, "{said}");
            assert!(failure.message.contains(sentence), "{} for {said}", failure.message);
            assert!(!failure.facts.is_empty() && !failure.next.is_empty(), "{said}");
        }
        assert_eq!(explain_create_error(&failed("ERROR: something new")), None);
        assert_eq!(explain_create_error(&CommandError::NotFound { tool: Tool::Kind }), None);
    }
}
