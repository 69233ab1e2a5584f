//! What becomes of a pod when its node's kubelet starts it: what the programs in its containers do, and whether
//! their images can be had.

use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::controllers::{Crash, ImageError, Kubelet, PodFate, Probe, Readiness, is_ready};
use super::faults::Fault;
use super::object::{items, number, text};
use super::store::Key;
use super::{pods, spire};

/// From a container's creation to its running.
const START: Duration = Duration::from_secs(1);
/// Pulling an image from a registry.
const PULL: Duration = Duration::from_secs(2);
/// A server that cannot use its data store is started again after so long.
const UNHEALTHY: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);
/// Jobs and test pods do their work in so long.
const JOB: Duration = Duration::from_secs(2);

/// Registries and, on Docker Hub, organisations whose images can be pulled.
const REGISTRIES: &[&str] = &[
    "ghcr.io/spiffe/",
    "ghcr.io/projectcontour/",
    "cgr.dev/chainguard/",
    "quay.io/",
    "registry.k8s.io/",
    "docker.io/kindest/",
    "docker.io/envoyproxy/",
    "docker.io/grafana/",
    "docker.io/rancher/",
    "docker.io/library/postgres",
    "docker.io/library/nginx",
    "docker.io/library/busybox",
    "docker.io/library/bash",
];

impl Kubelet for Cluster {
    fn start(&self, pod: &Value) -> PodFate {
        let mut fate = PodFate { start_after: START, readiness: readiness(pod), ..PodFate::default() };
        match self.pull(pod) {
            Ok(took) => fate.start_after += took,
            Err(error) => return PodFate { image_error: Some(error), ..fate },
        }
        let faults = self.faults().clone();
        let mut spire = self.spire();
        if let Some(container) = pods::container(pod, "spire-server") {
            let trouble = spire.server_trouble(&self.store, &faults, pod);
            fate.crash = trouble.map(|lines| self.crash(container, lines));
            spire.makes_tables(&self.store, &faults, pod);
        } else if let Some(container) = spire::agent_container(pod) {
            let version = spire::version_of(container);
            // In older charts an init container waits until the servers' Service answers.
            let waits = items(pod, "/spec/initContainers").any(|init| text(init, "/name") == "init");
            if waits && !spire.answers(&self.store, &faults, pod) {
                fate.held_in_init = true;
            } else if let Some(lines) = spire::AgentSettings::refusal(&self.store, pod, &version) {
                fate.crash = Some(self.crash(container, lines));
            } else if spire::cannot_attest(&faults, &version) {
                let line = "level=error msg=\"Agent crashed\" error=\"failed to receive attestation response: rpc error: code = Internal desc = failed to attest: nodeattestor(k8s_psat): token not authenticated\"";
                fate.crash = Some(self.crash(container, vec![line.to_owned()]));
            }
        } else if super::workloads::follower(pod).is_some() {
            // It follows the Workload API for ever, whatever becomes of it when it ends.
        } else if text(pod, "/spec/restartPolicy") == "Never" || is_of_job(pod) {
            fate.ends = Some((JOB, i32::from(!self.succeeds(pod))));
        } else if text(pod, "/metadata/name").starts_with("cert-manager-webhook")
            && let Some(slow) =
                faults.find(|fault| if let Fault::WebhookSlow(time) = fault { Some(*time) } else { None })
        {
            fate.readiness = Readiness::After(slow);
        }
        fate
    }

    fn probe(&self, pod: &Value) -> Probe {
        let faults = self.faults().clone();
        let mut spire = self.spire();
        let up = if let Some(container) = pods::container(pod, "spire-server") {
            let started =
                pods::life(pod, text(container, "/name")).is_some_and(|life| spire.servers.contains_key(&life));
            // What was fine when the container was made may not be so any more when the server looks at it.
            if !started && let Some(lines) = spire.server_trouble(&self.store, &faults, pod) {
                return Probe::Dead(self.crash(container, lines));
            }
            // Two failures of the liveness probe, a minute apart.
            if spire.stranded(&self.store, &faults, pod).is_some_and(|since| since + UNHEALTHY <= self.store.now()) {
                return Probe::Dead(self.crash(container, Vec::new()));
            }
            spire.server_up(&self.store, &faults, pod).is_some()
        } else {
            spire::agent_container(pod).is_none() || spire.is_agent_up(pod)
        };
        if up { Probe::Ready } else { Probe::NotReady }
    }
}

impl Cluster {
    /// A program of SPIRE ends soon after its start, with these last lines.
    fn crash(&self, container: &Value, lines: Vec<String>) -> Crash {
        let stamped = |line: String| {
            if line.starts_with("level=") { format!("time=\"{}\" {line}", self.store.timestamp()) } else { line }
        };
        Crash {
            container: text(container, "/name").to_owned(),
            after: spire::REFUSES_AFTER,
            code: 1,
            lines: lines.into_iter().map(stamped).collect(),
        }
    }

    /// Sees that the node has the pod's images; says how long that took.
    fn pull(&self, pod: &Value) -> Result<Duration, ImageError> {
        let node = text(pod, "/spec/nodeName");
        let mut took = Duration::ZERO;
        for container in items(pod, "/spec/initContainers").chain(items(pod, "/spec/containers")) {
            let image = crate::tools::docker::full_reference(text(container, "/image"));
            // Without a policy, `latest` means Always, digest or not (facts, section 9).
            let policy = match text(container, "/imagePullPolicy") {
                "" if pods::tag(&image) == "latest" => "Always",
                "" => "IfNotPresent",
                policy => policy,
            };
            let present = self.images(node).contains(&image);
            if present && policy != "Always" {
                continue;
            }
            self.pull_error(&image).map_or(Ok(()), |message| {
                Err(ImageError {
                    container: text(container, "/name").to_owned(),
                    reason: "ErrImagePull".to_owned(),
                    message,
                })
            })?;
            if !present {
                self.add_image(node, &image);
                took += PULL;
            }
        }
        Ok(took)
    }

    fn pull_error(&self, image: &str) -> Option<String> {
        let registry = image.split('/').next().unwrap_or_default();
        let failed = format!("failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\"");
        if self.faults().any(|fault| matches!(fault, Fault::PullFails(part) if image.contains(part.as_str()))) {
            return Some(format!(
                "rpc error: code = Unknown desc = {failed}: failed to do request: Head \"https://{registry}/v2/\": dial tcp: lookup {registry}: no such host"
            ));
        }
        let of_spire =
            image.starts_with("ghcr.io/spiffe/spire-server:") || image.starts_with("ghcr.io/spiffe/spire-agent:");
        let version = semver::Version::parse(pods::tag(image)).ok();
        if of_spire && version.is_some_and(|version| !crate::spire::releases::is_published(&version)) {
            return Some(format!("rpc error: code = NotFound desc = {failed}: {image}: not found"));
        }
        let known = REGISTRIES.iter().any(|prefix| image.starts_with(prefix));
        (!known).then(|| {
            format!("rpc error: code = NotFound desc = {failed}: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed")
        })
    }

    /// Whether a pod that runs to its end ends well: a test succeeds if what it tests answers.
    fn succeeds(&self, pod: &Value) -> bool {
        let answers = |image: &str| {
            pods::all(&self.store).iter().any(|pod| is_ready(pod) && pods::container(pod, image).is_some())
        };
        // What a hook patches has to be there.
        let args = items(pod, "/spec/containers").flat_map(|container| items(container, "/args"));
        let args: Vec<&str> = args.filter_map(Value::as_str).collect();
        if let ["patch", "validatingwebhookconfiguration", name, ..] = args.as_slice() {
            let kind = "ValidatingWebhookConfiguration";
            return self.store.shared(&Key::new("admissionregistration.k8s.io/v1", kind, "", name)).is_some();
        }
        match text(pod, "/metadata/name") {
            name if name.ends_with("-frontend-test-connection") => answers("tornjak-frontend"),
            name if name.ends_with("-tornjak-test-connection") => answers("tornjak-backend"),
            name if name.ends_with("-test-connection") => answers("spire-server"),
            _ => true,
        }
    }
}

fn is_of_job(pod: &Value) -> bool {
    items(pod, "/metadata/ownerReferences").any(|owner| text(owner, "/kind") == "Job")
}

/// When a pod is found to be ready at the earliest, and how often it is looked at then.
///
/// The kubelet probes on whole periods from the start, and not before the initial delay has passed. Hence an agent
/// (15 s, period 60 s) is ready after 60 s although it serves after one (facts, section 9). When a startup probe
/// succeeds, readiness probes whose delay is over are run at once: a server's pod with the chart's values is ready
/// after 10 s, with Tornjak's startup probe (5 s, period 10 s).
fn readiness(pod: &Value) -> Readiness {
    let probes = |kind: &'static str| {
        items(pod, "/spec/containers").filter_map(move |container| container.get(kind)).map(timing)
    };
    let started = probes("startupProbe").map(|probe| probe.first).max();
    let ready = probes("readinessProbe").map(|probe| match started {
        Some(started) if probe.delay <= started => started,
        _ => probe.first,
    });
    let Some(first) = ready.chain(started).max() else { return Readiness::After(Duration::ZERO) };
    let period = probes("readinessProbe").chain(probes("startupProbe")).map(|probe| probe.period).min().unwrap_or(10);
    Readiness::Probe { first: Duration::from_secs(first), period: Duration::from_secs(period) }
}

/// When a probe happens, in seconds.
struct Timing {
    delay: u64,
    first: u64,
    period: u64,
}

fn timing(probe: &Value) -> Timing {
    let seconds = |field: &str, otherwise| u64::try_from(number(probe, field, otherwise)).unwrap_or_default();
    let (delay, period) = (seconds("/initialDelaySeconds", 0), seconds("/periodSeconds", 10).max(1));
    Timing { delay, first: period * (delay / period + 1), period }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_happen_on_whole_periods_after_the_delay() {
        let chart = json!({"containers": [
            {"readinessProbe": {"initialDelaySeconds": 5, "periodSeconds": 5}}, {"readinessProbe": {}},
            {"startupProbe": {"initialDelaySeconds": 5, "periodSeconds": 10}},
        ]});
        let quick = json!({"containers": [
            {"readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 2}}, {"readinessProbe": {}},
            {"startupProbe": {"initialDelaySeconds": 1, "periodSeconds": 2}},
        ]});
        let alone = |probe: Value| json!({"containers": [{"readinessProbe": probe}, {}]});
        for (spec, first, period) in [
            (chart, 10, 5),
            (quick, 2, 2),
            (alone(json!({"initialDelaySeconds": 5, "periodSeconds": 5})), 10, 5),
            (alone(json!({"initialDelaySeconds": 15, "periodSeconds": 60})), 60, 60),
            (alone(json!({"periodSeconds": 1})), 1, 1),
            (alone(json!({})), 10, 10),
        ] {
            let expected = Readiness::Probe { first: Duration::from_secs(first), period: Duration::from_secs(period) };
            assert_eq!(readiness(&json!({"spec": spec})), expected, "{spec}");
        }
        assert_eq!(readiness(&alone(json!({}))["nothing"]), Readiness::After(Duration::ZERO));
    }
}
