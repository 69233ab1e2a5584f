//! The kubelets: they mount, pull, start, probe, restart and stop.
//!
//! What a pod's programs do is not theirs to know: a [`Kubelet`] hook says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::fate::{Crash, Kubelet, PodFate, Probe, Readiness};
use super::{lifecycle, pods};
use crate::rehearsal::object::{condition, items, number, set, set_condition, text};
use crate::rehearsal::store::{Key, Store};

/// First wait between attempts to mount; doubles each time.
const MOUNT_RETRY: Duration = Duration::from_millis(500);
/// Longest wait between attempts to mount.
const MOUNT_RETRY_MOST: Duration = Duration::from_secs(122);
/// First wait before an image is pulled, or a container that crashed is started, again; doubles each time.
const BACK_OFF: Duration = Duration::from_secs(10);
/// Longest such wait.
const BACK_OFF_MOST: Duration = Duration::from_secs(300);
/// How long a failed pull shows as `ErrImagePull` before it shows as `ImagePullBackOff`.
const PULL_ERROR_SHOWS: Duration = Duration::from_secs(2);
/// How often an unfulfilled wish is looked at again: unmounting, a container's configuration, an init container.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a pod is on its way. `at` is when to go on.
enum Stage {
    /// Waits for volumes, images or configuration, after so many attempts to mount and to pull.
    Blocked { at: Instant, mounts: u32, pulls: u32 },
    /// Containers are being made.
    Creating { at: Instant, fate: PodFate },
    /// Runs since then.
    Running { since: Instant, probed: Option<Instant>, fate: PodFate },
    /// Has crashed and waits to be started again.
    BackingOff { at: Instant },
    /// Its programs are ending.
    Stopping { at: Instant },
}

/// The kubelets of all nodes.
pub struct Kubelets {
    hook: Arc<dyn Kubelet>,
    /// By pod uid.
    stages: BTreeMap<String, Stage>,
}

impl Kubelets {
    /// Kubelets that ask `hook`.
    pub fn new(hook: Arc<dyn Kubelet>) -> Self {
        Kubelets { hook, stages: BTreeMap::new() }
    }

    /// The pod with this uid is gone.
    pub fn forget(&mut self, uid: &str) {
        self.stages.remove(uid);
    }

    /// Takes a pod that has a node one step on, if it is time. Says when to come back.
    pub fn sync(&mut self, store: &Store, key: &Key, pod: &Value) -> Option<Duration> {
        let uid = text(pod, "/metadata/uid").to_owned();
        if store.down(text(pod, "/spec/nodeName")).is_some() {
            self.stages.remove(&uid);
            return None;
        }
        let now = Instant::now();
        let stage = self.stages.remove(&uid);
        let pod = Pod { store, key, object: pod };
        let next = if pods::is_going(pod.object) {
            self.stop(&pod, stage.as_ref(), now)
        } else if pods::has_ended(pod.object) {
            return None;
        } else {
            match stage {
                Some(Stage::Blocked { at, mounts, pulls }) if now >= at => Some(self.begin(&pod, (mounts, pulls), now)),
                Some(Stage::Creating { at, fate }) if now >= at => Some(pod.run(fate, now)),
                Some(Stage::Running { since, probed, fate }) => self.live(&pod, since, probed, fate, now),
                // Init containers begin the pod's start anew; of the others only the one that crashed starts.
                Some(Stage::BackingOff { at }) if now >= at && pod.restart() => Some(self.begin(&pod, (0, 0), now)),
                Some(Stage::BackingOff { at }) if now >= at => Some(pod.run(self.hook.start(pod.object), now)),
                Some(waiting) => Some(waiting),
                // Back-off is in a kubelet's memory only: after a restore the container is started at once.
                None if pod.crashed("/status/containerStatuses").next().is_some() => {
                    Some(Stage::BackingOff { at: now })
                }
                None if text(pod.object, "/status/phase") == "Running" => {
                    let of = |status: &Value| text(status, "/state/running/startedAt").parse::<Timestamp>().ok();
                    let started = items(pod.object, "/status/containerStatuses").filter_map(of).max();
                    let started = started.or_else(|| text(pod.object, "/status/startTime").parse().ok());
                    let started = started.unwrap_or_default();
                    let ran = Duration::try_from(store.now().duration_since(started)).unwrap_or_default();
                    let (since, fate) = (now.checked_sub(ran).unwrap_or(now), self.hook.start(pod.object));
                    if pods::is_ready(pod.object) {
                        Some(Stage::Running { since, probed: None, fate })
                    } else {
                        // It may have become ready while nobody looked.
                        self.live(&pod, since, None, fate, now)
                    }
                }
                None => Some(self.begin(&pod, (0, 0), now)),
            }
        }?;
        let due = next.due();
        self.stages.insert(uid, next);
        due.map(|due| due.saturating_duration_since(now))
    }

    /// Tries to start the pod, after so many attempts to mount and to pull.
    fn begin(&self, pod: &Pod<'_>, (mounts, pulls): (u32, u32), now: Instant) -> Stage {
        let fate = self.hook.start(pod.object);
        let warn = |reason: &str, message: &str| pod.store.event(pod.object, "Warning", reason, message);
        if let Some(why) = pod.unmountable().or_else(|| fate.mount_error.clone()) {
            pod.waits("", "", "");
            warn("FailedMount", &why);
            let wait = doubled(MOUNT_RETRY, mounts, MOUNT_RETRY_MOST);
            return Stage::Blocked { at: now + wait, mounts: mounts + 1, pulls };
        }
        if let Some(error) = &fate.image_error {
            let image = pod.image(&error.container);
            // After a failed pull the kubelet says the error itself, then that it waits for the next pull.
            let wait = if pulls % 2 == 1 && error.reason == "ErrImagePull" {
                let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", error.message);
                pod.waits(&error.container, "ImagePullBackOff", &message);
                pod.store.event(pod.object, "Normal", "BackOff", &format!("Back-off pulling image \"{image}\""));
                doubled(BACK_OFF, pulls / 2, BACK_OFF_MOST)
            } else {
                pod.waits(&error.container, &error.reason, &error.message);
                warn("Failed", &format!("Failed to pull image \"{image}\": {}", error.message));
                warn("Failed", &format!("Error: {}", error.reason));
                PULL_ERROR_SHOWS
            };
            return Stage::Blocked { at: now + wait, mounts, pulls: pulls + 1 };
        }
        if let Some((container, message)) = pod.unconfigurable() {
            pod.waits(&container, "CreateContainerConfigError", &message);
            warn("Failed", &format!("Error: {message}"));
            return Stage::Blocked { at: now + LOOK_AGAIN, mounts, pulls };
        }
        pod.creates();
        if fate.held_in_init {
            return Stage::Blocked { at: now + LOOK_AGAIN, mounts, pulls };
        }
        Stage::Creating { at: now + fate.start_after, fate }
    }

    /// Looks after a running pod: crash, end, readiness.
    fn live(
        &self,
        pod: &Pod<'_>,
        since: Instant,
        probed: Option<Instant>,
        fate: PodFate,
        now: Instant,
    ) -> Option<Stage> {
        if let Some(crash) = fate.crash.as_ref().filter(|crash| now >= since + crash.after) {
            return pod.crashes(crash, now);
        }
        if let Some((_, code)) = fate.ends.filter(|(after, _)| now >= since + *after) {
            if code != 0 && text(pod.object, "/spec/restartPolicy") != "Never" {
                let container =
                    items(pod.object, "/spec/containers").next().map(|c| text(c, "/name")).unwrap_or_default();
                return pod.crashes(
                    &Crash { container: container.to_owned(), after: Duration::ZERO, code, lines: Vec::new() },
                    now,
                );
            }
            pod.ends(code);
            return None;
        }
        let mut last = probed;
        match fate.readiness {
            Readiness::After(after) => pod.ready(now >= since + after),
            Readiness::Never => pod.ready(false),
            Readiness::Probe { first, period } if now >= probed.map_or(since + first, |probed| probed + period) => {
                last = Some(now);
                match self.hook.probe(pod.object) {
                    Probe::Ready => pod.ready(true),
                    Probe::NotReady => pod.ready(false),
                    Probe::Dead(crash) => return pod.crashes(&crash, now),
                }
            }
            Readiness::Probe { .. } => {}
        }
        Some(Stage::Running { since, probed: last, fate })
    }

    /// Ends a pod that is being deleted. Volumes of a CSI driver can only be unmounted while the driver runs on the
    /// node: without it the pod stays Terminating.
    fn stop(&self, pod: &Pod<'_>, stage: Option<&Stage>, now: Instant) -> Option<Stage> {
        let at = match stage {
            Some(Stage::Stopping { at }) => *at,
            _ => now + self.hook.stop_after(pod.object),
        };
        if now < at {
            return Some(Stage::Stopping { at });
        }
        let unmountable = pod.drivers().find(|driver| !pod.driver_runs(driver));
        if unmountable.is_some() || items(pod.object, "/metadata/finalizers").next().is_some() {
            return Some(Stage::Stopping { at: now + LOOK_AGAIN });
        }
        pod.store.remove(pod.key);
        None
    }
}

impl Stage {
    fn due(&self) -> Option<Instant> {
        match self {
            Stage::Blocked { at, .. }
            | Stage::Creating { at, .. }
            | Stage::BackingOff { at }
            | Stage::Stopping { at } => Some(*at),
            Stage::Running { since, probed, fate } => {
                let readiness = match fate.readiness {
                    Readiness::After(after) => Some(*since + after),
                    Readiness::Never => None,
                    Readiness::Probe { first, period } => Some(probed.map_or(*since + first, |probed| probed + period)),
                };
                let now = Instant::now();
                let crash = fate.crash.as_ref().map(|crash| *since + crash.after);
                let end = fate.ends.map(|(after, _)| *since + after);
                // What is past has been seen to.
                [readiness, crash, end].into_iter().flatten().filter(|at| *at > now).min()
            }
        }
    }
}

/// `first`, doubled so many times, but no longer than `most`.
fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}

/// A pod on its node.
struct Pod<'a> {
    store: &'a Store,
    key: &'a Key,
    object: &'a Value,
}

impl Pod<'_> {
    fn image(&self, container: &str) -> &str {
        self.containers().find(|c| text(c, "/name") == container).map(|c| text(c, "/image")).unwrap_or_default()
    }

    fn containers(&self) -> impl Iterator<Item = &Value> {
        items(self.object, "/spec/initContainers").chain(items(self.object, "/spec/containers"))
    }

    fn exists(&self, kind: &str, name: &str) -> bool {
        self.store.shared(&Key::new("v1", kind, self.key.namespace(), name)).is_some()
    }

    /// The CSI drivers that the pod's inline volumes need.
    fn drivers(&self) -> impl Iterator<Item = &str> {
        items(self.object, "/spec/volumes")
            .map(|volume| text(volume, "/csi/driver"))
            .filter(|driver| !driver.is_empty())
    }

    /// A driver runs where a running pod holds its plugin directory on the node.
    fn driver_runs(&self, driver: &str) -> bool {
        let directory = format!("/plugins/{driver}");
        self.store.list_shared("v1", "Pod", None).iter().any(|pod| {
            text(pod, "/spec/nodeName") == text(self.object, "/spec/nodeName")
                && text(pod, "/status/phase") == "Running"
                && items(pod, "/spec/volumes").any(|volume| text(volume, "/hostPath/path").contains(&directory))
        })
    }

    /// Why a volume cannot be mounted, in the kubelet's words.
    fn unmountable(&self) -> Option<String> {
        items(self.object, "/spec/volumes").find_map(|volume| {
            let volume_name = text(volume, "/name");
            let setup = format!("MountVolume.SetUp failed for volume \"{volume_name}\" : ");
            for (source, field, kind) in [("/secret", "secretName", "Secret"), ("/configMap", "name", "ConfigMap")] {
                let name = text(volume, &format!("{source}/{field}"));
                let optional = volume.pointer(&format!("{source}/optional")) == Some(&json!(true));
                if !name.is_empty() && !optional && !self.exists(kind, name) {
                    return Some(format!("{setup}{} \"{name}\" not found", kind.to_lowercase()));
                }
            }
            let driver = text(volume, "/csi/driver");
            (!driver.is_empty() && !self.driver_runs(driver)).then(|| {
                format!("{setup}kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {driver} not found in the list of registered CSI drivers")
            })
        })
    }

    /// A container whose environment names what is not there, and the kubelet's words for it.
    fn unconfigurable(&self) -> Option<(String, String)> {
        self.containers().find_map(|container| {
            let references = items(container, "/env")
                .flat_map(|env| {
                    [("secret", &env["valueFrom"]["secretKeyRef"]), ("configmap", &env["valueFrom"]["configMapKeyRef"])]
                })
                .chain(
                    items(container, "/envFrom")
                        .flat_map(|from| [("secret", &from["secretRef"]), ("configmap", &from["configMapRef"])]),
                );
            let mut missing = references.filter(|(kind, reference)| {
                let name = text(reference, "/name");
                let object = if *kind == "secret" { "Secret" } else { "ConfigMap" };
                !name.is_empty() && reference["optional"] != json!(true) && !self.exists(object, name)
            });
            let (kind, reference) = missing.next()?;
            Some((text(container, "/name").to_owned(), format!("{kind} \"{}\" not found", text(reference, "/name"))))
        })
    }

    /// Writes the status: what `state` says of each container (init ones with true, and with the status it had), and
    /// the pod's phase.
    fn write(
        &self,
        phase: &str,
        state: impl Fn(&str, bool, &Value) -> (Value, bool),
        more: impl FnOnce(&mut Value, &str),
    ) {
        let now = self.store.timestamp();
        self.store.update(self.key, |pod| {
            set(pod, "/status/phase", phase);
            for (spec, list, initial) in [
                ("/spec/initContainers", "/status/initContainerStatuses", true),
                ("/spec/containers", "/status/containerStatuses", false),
            ] {
                let statuses: Vec<Value> = items(pod, spec)
                    .map(|container| {
                        let name = text(container, "/name");
                        let before =
                            items(pod, list).find(|status| text(status, "/name") == name).unwrap_or(&Value::Null);
                        let (state, ready) = state(name, initial, before);
                        let mut status = json!({
                            "name": name, "image": container["image"], "imageID": "", "state": state, "ready": ready,
                            "started": ready, "restartCount": number(before, "/restartCount", 0),
                        });
                        if let Some(last) = before.get("lastState") {
                            set(&mut status, "/lastState", last.clone());
                        }
                        status
                    })
                    .collect();
                if !statuses.is_empty() {
                    set(pod, list, statuses);
                }
            }
            more(pod, &now);
            let ready = items(pod, "/status/containerStatuses").all(|status| status["ready"] == json!(true))
                && phase == "Running";
            set_condition(pod, "Initialized", phase == "Running" || condition(pod, "Initialized"), "", "", &now);
            set_condition(pod, "ContainersReady", ready, "", "", &now);
            set_condition(pod, "Ready", ready, "", "", &now);
        });
    }

    /// The pod waits: `container` for `reason`, all others for it. Without one, all wait for their volumes.
    fn waits(&self, container: &str, reason: &str, message: &str) {
        let others = self.makes();
        let state = |name: &str, _: bool, _: &Value| {
            let this = json!({"waiting": {"reason": reason, "message": message}});
            (if name == container { this } else { json!({"waiting": {"reason": others}}) }, false)
        };
        self.write("Pending", state, |_, _| {});
    }

    /// What containers wait for while the pod is made.
    fn makes(&self) -> &'static str {
        let initial = items(self.object, "/spec/initContainers").next().is_some();
        if initial { "PodInitializing" } else { "ContainerCreating" }
    }

    fn creates(&self) {
        let (waiting, started) = (self.makes(), self.store.timestamp());
        let state = |_: &str, init: bool, _: &Value| {
            (
                if init { json!({"running": {"startedAt": started}}) } else { json!({"waiting": {"reason": waiting}}) },
                false,
            )
        };
        self.write("Pending", state, |_, _| {});
    }

    fn run(&self, fate: PodFate, now: Instant) -> Stage {
        let started = self.store.timestamp();
        let ended =
            json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": started}});
        let state = |_: &str, init: bool, before: &Value| match before.pointer("/state/running") {
            _ if init => (ended.clone(), true),
            Some(running) => (json!({"running": running}), before["ready"] == json!(true)),
            None => (json!({"running": {"startedAt": started}}), false),
        };
        self.write("Running", state, |pod, now| {
            set(pod, "/status/startTime", now);
            set(pod, "/status/podIP", lifecycle::pod_address(self.key));
            set(pod, "/status/hostIP", "172.18.0.2");
        });
        Stage::Running { since: now, probed: None, fate }
    }

    fn ready(&self, ready: bool) {
        if pods::is_ready(self.object) == ready {
            return;
        }
        let now = self.store.timestamp();
        self.store.update(self.key, |pod| {
            for status in
                pod.pointer_mut("/status/containerStatuses").and_then(Value::as_array_mut).into_iter().flatten()
            {
                set(status, "/ready", ready);
            }
            set_condition(pod, "ContainersReady", ready, "", "", &now);
            set_condition(pod, "Ready", ready, "", "", &now);
        });
    }

    fn crashes(&self, crash: &Crash, now: Instant) -> Option<Stage> {
        for line in &crash.lines {
            self.store.append_log(self.key.namespace(), &self.key.name, &crash.container, line);
        }
        if text(self.object, "/spec/restartPolicy") == "Never" {
            self.ends(crash.code);
            return None;
        }
        let status =
            items(self.object, "/status/containerStatuses").chain(items(self.object, "/status/initContainerStatuses"));
        let restarts = status
            .filter(|s| text(s, "/name") == crash.container)
            .map(|s| number(s, "/restartCount", 0))
            .max()
            .unwrap_or(0);
        let restarts = u32::try_from(restarts).unwrap_or(u32::MAX);
        let wait = doubled(BACK_OFF, restarts, BACK_OFF_MOST);
        let finished = self.store.timestamp();
        let message = format!(
            "back-off {}s restarting failed container={} pod={}_{}({})",
            wait.as_secs(),
            crash.container,
            self.key.name,
            self.key.namespace(),
            text(self.object, "/metadata/uid")
        );
        self.store.update(self.key, |pod| {
            for list in ["/status/containerStatuses", "/status/initContainerStatuses"] {
                for status in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if text(status, "/name") == crash.container {
                        let ended =
                            json!({"terminated": {"exitCode": crash.code, "reason": "Error", "finishedAt": finished}});
                        set(status, "/lastState", ended);
                        set(status, "/state", json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
                        set(status, "/ready", false);
                        set(status, "/restartCount", restarts + 1);
                    }
                }
            }
            for kind in ["ContainersReady", "Ready"] {
                let unready = format!("containers with unready status: [{}]", crash.container);
                set_condition(pod, kind, false, "ContainersNotReady", &unready, &finished);
            }
        });
        let event = format!("Back-off restarting failed container {} in pod {}", crash.container, self.key.name);
        self.store.event(self.object, "Warning", "BackOff", &event);
        Some(Stage::BackingOff { at: now + wait })
    }

    /// A crashed container is about to be started again. True if it is an init container.
    fn restart(&self) -> bool {
        for status in self.crashed("/status/containerStatuses").chain(self.crashed("/status/initContainerStatuses")) {
            self.store.restart_log(self.key, text(status, "/name"));
        }
        self.crashed("/status/initContainerStatuses").next().is_some()
    }

    /// The containers' statuses in that list which say that they crashed and wait to be started again.
    fn crashed(&self, list: &str) -> impl Iterator<Item = &Value> {
        items(self.object, list).filter(|status| text(status, "/state/waiting/reason") == "CrashLoopBackOff")
    }

    fn ends(&self, code: i32) {
        let finished = self.store.timestamp();
        let reason = if code == 0 { "Completed" } else { "Error" };
        let state = json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": finished}});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.write(phase, |_, _, _| (state.clone(), false), |pod, now| set(pod, "/status/finishedAt", now));
    }
}
