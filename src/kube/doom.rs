//! What waiting does not mend: a pod that can never start, a container that ends each time it is started.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use tokio::time::Instant;

use crate::error::Failure;
use crate::kube::diagnose::statuses;
use crate::kube::{Cluster, Patience, by_kubectl};

/// How long a pod is seen beyond hope before it is given up: a node may finish what it was doing, a pull that loses a
/// race with an image being loaded mends itself.
const GRACE: Duration = Duration::from_secs(4);

/// From this restart on a container that crashes is given up. The kubelet restarts it at once, then after 10, 20 and
/// 40 s, so whatever the container may have needed (a data store that starts) had more than a minute to come up.
const RESTARTS: i32 = 4;

/// Waiting reasons that do not end by themselves. `ErrImagePull` counts from the first time: the kubelet says it
/// once a pull has failed, and a failed name, digest or policy fails again.
const HOPELESS: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// Why waiting for a pod is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doom {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The container in trouble.
    pub container: String,
    /// What the trouble is.
    pub trouble: Trouble,
}

/// A container's trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be started.
    CannotStart {
        /// `ErrImagePull: rpc error: …`.
        reason: String,
        /// The image, if that is the trouble.
        image: Option<String>,
    },
    /// It ends each time it is started.
    Crashes {
        /// How often it has ended.
        times: i32,
        /// The last exit code, if it is told.
        code: Option<i32>,
    },
}

impl Doom {
    /// As a failure; `last_words` is the last line of the container's log, if there is one.
    #[must_use]
    pub fn failure(&self, last_words: Option<&str>) -> Failure {
        let Doom { namespace, pod, container, .. } = self;
        match &self.trouble {
            Trouble::CannotStart { reason, image } => {
                let failure = Failure::tool(format!("pod {namespace}/{pod} cannot start: {reason}"));
                match image {
                    Some(image) => failure
                        .fact(format!("image: {image}"))
                        .next("load the image from an archive (`[images] archives` in lab.toml), or make its registry reachable from the nodes"),
                    None => failure.next(by_kubectl(&format!("-n {namespace} describe pod {pod}"))),
                }
            }
            Trouble::Crashes { times, code } => {
                let code = code.map_or_else(String::new, |code| format!(", last with exit code {code}"));
                let words = last_words.map_or_else(String::new, |words| format!(": {words}"));
                Failure::tool(format!(
                    "container {container} of pod {namespace}/{pod} ended {times} times{code}{words}"
                ))
                .next(by_kubectl(&format!("-n {namespace} logs {pod} -c {container} --previous")))
            }
        }
    }
}

/// Whether the pod is beyond hope, and why.
#[must_use]
pub fn doom_of(pod: &Pod) -> Option<Doom> {
    troubles(pod).map(|(_, doom)| doom).next()
}

/// The containers of a pod that are beyond hope; none of a pod that is going away.
fn troubles(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, Doom)> {
    let stays = pod.metadata.deletion_timestamp.is_none();
    statuses(pod).filter(move |_| stays).filter_map(|container| {
        let doom = Doom {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            container: container.name.clone(),
            trouble: trouble_of(container)?,
        };
        Some((container, doom))
    })
}

fn trouble_of(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if reason == "CrashLoopBackOff" && container.restart_count >= RESTARTS {
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        return Some(Trouble::Crashes { times: container.restart_count + 1, code: last.map(|ended| ended.exit_code) });
    }
    if !HOPELESS.contains(&reason) {
        return None;
    }
    let message = waiting.message.clone().unwrap_or_default();
    Some(Trouble::CannotStart {
        reason: if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") },
        image: reason.contains("Image").then(|| container.image.clone()),
    })
}

/// Restarts per pod (by uid) and container, as a wait found them: crashes of before are not held against a container
/// that what the wait is for may have mended.
struct Before(BTreeMap<(String, String), i32>);

impl Before {
    fn of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let restarts = |pod: &'a Pod| {
            let uid = pod.uid().unwrap_or_default();
            statuses(pod).map(move |container| ((uid.clone(), container.name.clone()), container.restart_count))
        };
        Before(pods.flat_map(restarts).collect())
    }

    fn has_crashed_since(&self, pod: &Pod, container: &ContainerStatus) -> bool {
        let key = (pod.uid().unwrap_or_default(), container.name.clone());
        self.0.get(&key).is_none_or(|before| container.restart_count > *before)
    }
}

impl Cluster {
    /// Resolves as soon as a pod in one of the places (namespace, label selector) has been beyond hope for some
    /// seconds, or the run is to stop; never otherwise.
    ///
    /// Runs beside work that would only notice at its time limit. Crashes count only where a selector names the pods
    /// (in a whole namespace they may be somebody else's), and only if the container crashed again meanwhile.
    pub async fn until_doomed(&self, places: &[(&str, &str)], patience: &Patience<'_>) -> Failure {
        let mut before: Option<Before> = None;
        let mut first_seen: Option<(Doom, Instant)> = None;
        loop {
            let mut now = None;
            if let Some(pods) = self.pods_at(places).await {
                let before = before.get_or_insert_with(|| Before::of(pods.iter().map(|(pod, _)| pod)));
                now = pods.iter().find_map(|(pod, named)| {
                    let counts = |container: &ContainerStatus, doom: &Doom| match doom.trouble {
                        Trouble::CannotStart { .. } => true,
                        Trouble::Crashes { .. } => *named && before.has_crashed_since(pod, container),
                    };
                    troubles(pod).find(|(container, doom)| counts(container, doom)).map(|(_, doom)| doom)
                });
            }
            first_seen = match (now, first_seen) {
                (Some(doom), Some((same, since))) if doom.pod == same.pod => {
                    if since.elapsed() >= GRACE {
                        return self.failure_of(&doom).await;
                    }
                    Some((same, since))
                }
                (Some(doom), _) => Some((doom, Instant::now())),
                (None, _) => None,
            };
            match patience.limit(tokio::time::sleep(Duration::from_secs(1))).await {
                Ok(Some(())) => {}
                Ok(None) => std::future::pending().await,
                Err(stopped) => return stopped,
            }
        }
    }

    /// The pods of all places, and whether a selector names them; nothing if the server does not tell.
    async fn pods_at(&self, places: &[(&str, &str)]) -> Option<Vec<(Pod, bool)>> {
        let mut pods = Vec::new();
        for (namespace, selector) in places {
            let params = ListParams::default().labels(selector);
            let list = self.namespaced::<Pod>(namespace).list(&params).await.ok()?;
            pods.extend(list.items.into_iter().map(|pod| (pod, !selector.is_empty())));
        }
        Some(pods)
    }

    async fn failure_of(&self, doom: &Doom) -> Failure {
        let params = LogParams {
            container: Some(doom.container.clone()),
            tail_lines: Some(5),
            previous: true,
            ..LogParams::default()
        };
        // The log of a container that never ran cannot be read: then there are no last words.
        let log = self.namespaced::<Pod>(&doom.namespace).logs(&doom.pod, &params).await.unwrap_or_default();
        doom.failure(log.lines().rev().find(|line| !line.trim().is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: &Value) -> Pod {
        let mut container = container.clone();
        for (key, value) in
            [("name", json!("c")), ("image", json!("i:1")), ("imageID", json!("")), ("ready", json!(false))]
        {
            container[key] = value;
        }
        let metadata = json!({"namespace": "n", "name": "p", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "status": {"containerStatuses": [container]}})).unwrap()
    }

    fn waits(reason: &str, restarts: i32) -> Value {
        json!({
            "restartCount": restarts,
            "state": {"waiting": {"reason": reason, "message": "so it is"}},
            "lastState": {"terminated": {"exitCode": 3}},
        })
    }

    fn waiting(reason: &str, restarts: i32) -> Pod {
        pod(&waits(reason, restarts))
    }

    #[test]
    fn what_mends_itself_is_not_doom() {
        for container in [
            waits("ContainerCreating", 0),
            waits("PodInitializing", 0),
            waits("CrashLoopBackOff", 1),
            waits("CrashLoopBackOff", RESTARTS - 1),
            json!({"restartCount": 9, "state": {"running": {}}}),
            json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0}}}),
            json!({"restartCount": 0}),
        ] {
            assert_eq!(doom_of(&pod(&container)), None, "{container}");
        }
        assert_eq!(doom_of(&Pod::default()), None);
    }

    #[test]
    fn what_does_not_is_told_with_what_to_do() {
        for (reason, message, next) in [
            ("ErrImagePull", "pod n/p cannot start: ErrImagePull: so it is", "`[images] archives` in lab.toml"),
            ("InvalidImageName", "pod n/p cannot start: InvalidImageName: so it is", "`[images] archives`"),
            ("CreateContainerConfigError", "pod n/p cannot start: CreateContainerConfigError", "describe pod p`"),
            (
                "CrashLoopBackOff",
                "container c of pod n/p ended 5 times, last with exit code 3: no database",
                "`kubectl -n n logs p -c c --previous`",
            ),
        ] {
            let failure = doom_of(&waiting(reason, RESTARTS)).unwrap().failure(Some("no database"));
            assert!(failure.message.starts_with(message), "{}", failure.message);
            assert!(failure.next[0].contains(next), "{:?}", failure.next);
        }
    }

    #[test]
    fn a_pod_that_goes_away_is_nobodys_doom() {
        let mut pod = waiting("ImagePullBackOff", 0);
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(doom_of(&pod), None);
    }

    #[test]
    fn crashes_of_before_the_wait_do_not_count() {
        let crashed = |pod: &Pod, before: &Before| before.has_crashed_since(pod, statuses(pod).next().unwrap());
        let old = waiting("CrashLoopBackOff", 7);
        let before = Before::of([&old].into_iter());
        assert!(!crashed(&old, &before));
        assert!(crashed(&waiting("CrashLoopBackOff", 8), &before));
        let mut other = old.clone();
        other.metadata.uid = Some("another".into());
        assert!(crashed(&other, &before), "a pod that came later");
    }
}
