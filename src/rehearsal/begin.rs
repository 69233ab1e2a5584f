//! A world that begins where a real one stands: `status --output json` of a cluster, or the part of it that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use semver::Version;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::charts::Chart;
use super::cluster::Cluster;
use super::controllers::is_ready;
use super::helm::{Failed, Wanted, revise};
use super::object::{set, set_condition, text};
use super::release;
use super::store::{Key, Propagation, Store};
use super::{Rehearsal, pods};
use crate::error::{Failure, Kind};
use crate::spire::policy::server_start;

/// How long it is waited for what was begun with to run. What does not run then is part of the beginning.
const PATIENCE: Duration = Duration::from_secs(300);
/// The release of SPIRE, and its namespace, and the release of the CRDs.
const CRDS: &str = "spire-crds";

/// Where a world begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Begin {
    /// Versions of the servers. Fewer than there are servers: the last one counts for all further ones.
    pub servers: Vec<Version>,
    /// Versions of the agents. There is one node here, and so one agent: the oldest.
    pub agents: Vec<Version>,
    /// The schema in the database; if it is not said, what the newest server makes of it.
    #[serde(default)]
    pub schema: Option<u32>,
    /// The newest version that wrote to the database; as above.
    #[serde(default)]
    pub code_version: Option<Version>,
    /// The chart's version; the one of the lab if it is not said.
    #[serde(default)]
    pub chart: Option<Version>,
}

impl Begin {
    /// Reads `status --output json`, or `{"spire": {"servers": […], "agents": […], …}}`.
    ///
    /// # Errors
    /// It is neither, or no server or agent is in it.
    pub fn read(text: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Status {
            spire: Begin,
        }
        let wrong = |why: &dyn std::fmt::Display| {
            Failure::new(Kind::Usage, format!("this is no state that a rehearsal can begin with: {why}"))
                .next("`coastal status --output json` writes one; servers and agents are what it needs at least")
        };
        let mut begin = serde_json::from_str::<Status>(text).map_err(|error| wrong(&error))?.spire;
        if begin.servers.is_empty() || begin.agents.is_empty() {
            return Err(wrong(&"no server or no agent runs there"));
        }
        begin.servers.sort();
        begin.agents.sort();
        Ok(begin)
    }

    /// The version that the servers' template asks for: the newest.
    #[must_use]
    pub fn server(&self) -> &Version {
        &self.servers[self.servers.len() - 1]
    }

    /// The version of the agent.
    #[must_use]
    pub fn agent(&self) -> &Version {
        &self.agents[0]
    }
}

impl Rehearsal {
    /// Takes the lab's SPIRE, which must be up, to where the world is to begin: as if it had always been so. `values` are
    /// those of the release.
    ///
    /// # Errors
    /// There is no SPIRE, this world does not have that chart, or the chart does not take the values.
    pub async fn bring_to(&self, begin: &Begin, values: Value) -> Result<(), Failure> {
        for cluster in self.state.clusters_of_kind() {
            bring(&cluster, begin, &values).await?;
        }
        Ok(())
    }
}

async fn bring(cluster: &Cluster, begin: &Begin, values: &Value) -> Result<(), Failure> {
    let store = &cluster.store;
    let all = store.list("v1", "Namespace", None);
    let mut releases = all.iter().flat_map(|namespace| release::newest(store, text(namespace, "/metadata/name")));
    let Some(now) = releases.find(|release| release.chart.name == "spire") else {
        return Err(Failure::unexpected("there is no SPIRE in the rehearsal that could be brought anywhere"));
    };
    let version = begin.chart.as_ref().map_or_else(|| now.chart.version.clone(), Version::to_string);
    let known = |name: &str, version: &str| {
        Chart::find(name, version).ok_or_else(|| {
            Failure::prerequisite(format!("the rehearsal does not know chart {name} {version}"))
                .next("it knows the published versions from 0.13.0 on")
        })
    };
    let chart = known("spire", &version)?;
    let settled = server_start(begin.server(), None).row().map_or(0, |row| row.schema);
    let code_version = begin.code_version.as_ref().unwrap_or_else(|| begin.server());
    cluster.spire().begin(&(begin.schema.unwrap_or(settled), code_version.clone()));
    let wanted = |name: &str, chart: Chart, values: Value| Wanted {
        name: name.to_owned(),
        namespace: now.namespace.clone(),
        chart,
        values,
        deadline: Instant::now() + PATIENCE,
        dies: false,
    };
    let failed = |failed: Failed| match failed {
        Failed::Words(words) => Failure::unexpected(format!("the rehearsal cannot begin with that state: {words}")),
        Failed::Killed => Failure::unexpected("the rehearsal's helm was killed"),
    };
    if let Some(crds) = chart.crds() {
        adopt(store, &now.namespace);
        revise(store, wanted(CRDS, known(CRDS, &crds)?, json!({}))).await.map_err(failed)?;
    }
    // What cannot be changed can be made anew; claims stay, and with them the authorities.
    let sets: Vec<Key> = now
        .manifest
        .iter()
        .map(Key::of)
        .filter(|key| key.name.starts_with(&now.name) && ["StatefulSet", "DaemonSet"].contains(&key.kind.as_str()))
        .collect();
    for object in &now.manifest {
        store.delete(&Key::of(object), Propagation::Background);
    }
    for old in release::history(store, &now.namespace, &now.name) {
        old.forget(store);
    }
    until(|| sets.iter().all(|key| of_set(store, key).is_empty())).await;
    revise(store, wanted(&now.name, chart, values.clone())).await.map_err(failed)?;
    let servers = sets.iter().find(|key| key.kind == "StatefulSet");
    until(|| sets.iter().all(|key| store.shared(key).is_some_and(|set| rolled_out(&set)))).await;
    if let Some(servers) = servers {
        differ(store, servers, begin);
    }
    until(|| sets.iter().all(|key| of_set(store, key).iter().all(|pod| is_ready(pod)))).await;
    Ok(())
}

/// Waits for `look`, but not for ever.
async fn until(look: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() && Instant::now() < deadline {
        sleep(Duration::from_secs(1)).await;
    }
}

fn of_set(store: &Store, set: &Key) -> Vec<std::sync::Arc<Value>> {
    let mut all = store.list_shared("v1", "Pod", Some(set.namespace()));
    all.retain(|pod| pods::name(pod).strip_prefix(set.name.as_str()).is_some_and(|rest| rest.starts_with('-')));
    all
}

fn rolled_out(set: &Value) -> bool {
    let status = &set["status"];
    let (ready, all) = if text(set, "/kind") == "DaemonSet" {
        (&status["numberReady"], &status["desiredNumberScheduled"])
    } else {
        (&status["readyReplicas"], &set["spec"]["replicas"])
    };
    status["observedGeneration"] == set["metadata"]["generation"] && ready == all
}

/// Servers of other versions than the newest, if there are such: the newest at the highest ordinals, as in the middle
/// of a rollout. Their images are changed in their pods, so that nothing rolls by itself.
fn differ(store: &Store, set: &Key, begin: &Begin) {
    for (ordinal, pod) in of_set(store, set).iter().enumerate() {
        let version = begin.servers.get(ordinal).unwrap_or_else(|| begin.server());
        store.update(&Key::of(pod), |pod| {
            let image = text(pod, "/spec/containers/0/image");
            let other = format!("{}:{version}", image.rsplit_once(':').map_or(image, |(name, _)| name));
            if other != image {
                set_restarted(pod, &other, &store.timestamp());
            }
        });
    }
}

/// As a kubelet does it when somebody changes the image of a running container.
fn set_restarted(pod: &mut Value, image: &str, now: &str) {
    if let Some(container) = pod.pointer_mut("/spec/containers/0") {
        set(container, "/image", image);
    }
    if let Some(status) = pod.pointer_mut("/status/containerStatuses/0") {
        let restarts = super::object::number(status, "/restartCount", 0) + 1;
        set(status, "/restartCount", restarts);
        set(status, "/image", image);
        set(status, "/ready", false);
    }
    for kind in ["ContainersReady", "Ready"] {
        set_condition(pod, kind, false, "ContainersNotReady", "", now);
    }
}

/// CRDs that a chart brought before 0.14.0 become helm's.
fn adopt(store: &Store, namespace: &str) {
    let marks: BTreeMap<&str, &str> = BTreeMap::from([
        ("/metadata/labels/app.kubernetes.io~1managed-by", "Helm"),
        ("/metadata/annotations/meta.helm.sh~1release-name", CRDS),
        ("/metadata/annotations/meta.helm.sh~1release-namespace", namespace),
    ]);
    for crd in store.list_shared("apiextensions.k8s.io/v1", "CustomResourceDefinition", None) {
        if text(&crd, "/spec/group") == "spire.spiffe.io" {
            store.update(&Key::of(&crd), |crd| marks.iter().for_each(|(mark, value)| set(crd, mark, *value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_names_servers_and_agents() {
        let text = r#"{"schema": 1, "lab": "x", "spire": {"servers": ["1.14.0", "1.13.6"], "agents": ["1.13.6", "1.13.2"], "schema": 23, "code_version": "1.14.0", "chart": "0.27.1", "entries": 20}}"#;
        let begin = Begin::read(text).unwrap();
        assert_eq!((begin.server().to_string(), begin.agent().to_string()), ("1.14.0".into(), "1.13.2".into()));
        assert_eq!((begin.schema, begin.chart), (Some(23), Some(Version::new(0, 27, 1))));
        for broken in [
            "",
            "{}",
            r#"{"spire": {"servers": [], "agents": ["1.7.2"]}}"#,
            r#"{"spire": {"servers": ["x"], "agents": []}}"#,
        ] {
            assert!(Begin::read(broken).is_err(), "{broken}");
        }
    }
}
