//! What runs of SPIRE: each process' version, and the versions that the templates ask for.

use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::api::ListParams;
use semver::Version;

use crate::engine::StepContext;
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::spire::cli::version_in;
use crate::spire::names;
use crate::spire::policy::{self, Seen};
use crate::steps::{database, reach, release};

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Server pods, and the versions that their processes tell; none where a process does not answer.
    pub servers: Vec<(String, Option<Version>)>,
    /// Agent pods.
    pub agents: Vec<(String, Option<Version>)>,
    /// What the servers' template asks for, if there is one and its image has a version for a tag.
    pub server_template: Option<Version>,
    /// What the agents' template asks for.
    pub agent_template: Option<Version>,
    /// The chart of the newest revision.
    pub chart: Option<Version>,
}

impl Live {
    /// Looks.
    ///
    /// # Errors
    /// The cluster or helm does not answer. A process that does not is without a version.
    pub async fn look(cx: &StepContext) -> Result<Self, Failure> {
        let lab = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let (servers, agents, server_template, agent_template, release) = tokio::try_join!(
            versions(cx, &cluster, &SERVERS),
            versions(cx, &cluster, &AGENTS),
            async {
                let set = cluster.get::<StatefulSet>(&lab.server_namespace, &names::server(lab)).await?;
                Ok(set.and_then(|set| tag_of(&set.spec.template, names::SERVER_CONTAINER)))
            },
            async {
                let set = cluster.get::<DaemonSet>(&lab.system_namespace, &names::agent(lab)).await?;
                Ok(set.and_then(|set| tag_of(&set.spec.template, names::AGENT_CONTAINER)))
            },
            release::current(cx, &lab.release, &lab.release_namespace),
        )?;
        let chart = release.and_then(|release| Version::parse(release.chart.strip_prefix("spire-")?).ok());
        Ok(Live { servers, agents, server_template, agent_template, chart })
    }

    /// Whether every process answers and runs what its template asks for: no change is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let all = |pods: &[(String, Option<Version>)], template: &Option<Version>| {
            template.is_some() && !pods.is_empty() && pods.iter().all(|(_, version)| version == template)
        };
        all(&self.servers, &self.server_template) && all(&self.agents, &self.agent_template)
    }

    /// Versions of the servers that answer, sorted, without repetition.
    #[must_use]
    pub fn server_versions(&self) -> Vec<Version> {
        distinct(&self.servers)
    }

    /// Versions of the agents that answer, sorted, without repetition.
    #[must_use]
    pub fn agent_versions(&self) -> Vec<Version> {
        distinct(&self.agents)
    }
}

/// What a change of versions is judged by.
///
/// With no server that answers, the version is that of the template, if the database would let it start.
///
/// # Errors
/// The database is there and does not answer, or no version can be told.
pub async fn seen(cx: &StepContext, live: &Live) -> Result<Seen, Failure> {
    let (schema, code_version) = database::migrations(cx).await.map_err(|failure| {
        failure
            .context("the data store must answer before SPIRE's versions are changed")
            .next("`coastal deploy-database` mends what is missing")
    })?;
    let mut servers = live.server_versions();
    if servers.is_empty() {
        let stored = code_version.parse().ok();
        let starts = |version: &&Version| {
            policy::server_start(version, stored.as_ref().map(|stored| (schema, stored))).is_started()
        };
        servers.extend(live.server_template.iter().find(starts).cloned());
    }
    if servers.is_empty() {
        return Err(Failure::refused("no SPIRE server answers, and what its template asks for could not start")
            .facts(live.server_template.iter().map(|version| format!("the servers' template asks for {version}")))
            .fact(format!("the database is at schema {schema}, written by SPIRE {code_version}"))
            .next("`coastal logs server` shows what the servers say"));
    }
    // An agent that does not answer is not one that is not there: it counts as what it was started as.
    let mut agents = live.agent_versions();
    if live.agents.iter().any(|(_, version)| version.is_none()) {
        agents.extend(
            live.agent_template.iter().filter(|version| !agents.contains(version)).cloned().collect::<Vec<_>>(),
        );
    }
    let text = |versions: Vec<Version>| versions.iter().map(ToString::to_string).collect();
    Ok(Seen {
        servers: text(servers),
        agents: text(agents),
        schema: Some(schema),
        code_version: Some(code_version),
        chart: live.chart.as_ref().map(ToString::to_string),
    })
}

fn distinct(pods: &[(String, Option<Version>)]) -> Vec<Version> {
    let mut versions: Vec<Version> = pods.iter().filter_map(|(_, version)| version.clone()).collect();
    versions.sort();
    versions.dedup();
    versions
}

/// Whose processes are asked.
struct Part {
    selector: &'static str,
    container: &'static str,
    program: &'static str,
}

const SERVERS: Part = Part {
    selector: names::SERVER_SELECTOR,
    container: names::SERVER_CONTAINER,
    program: "/opt/spire/bin/spire-server",
};

const AGENTS: Part =
    Part { selector: names::AGENT_SELECTOR, container: names::AGENT_CONTAINER, program: "/opt/spire/bin/spire-agent" };

async fn versions(cx: &StepContext, cluster: &Cluster, part: &Part) -> Result<Vec<(String, Option<Version>)>, Failure> {
    let lab = &cx.session.lab.spire;
    let namespace = if part.selector == names::SERVER_SELECTOR { &lab.server_namespace } else { &lab.system_namespace };
    let pods = pods(cluster, namespace, part.selector).await?;
    // One on its way out does not count any more; the test pods of the chart are no agents.
    let pods = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && has(pod, part.container));
    let asked = pods.map(|pod| async move {
        let name = pod.name_any();
        let said = reach::exec(cx, namespace, &name, part.container, &[part.program, "--version"]).await;
        // SPIRE prints its version on standard error.
        let version = said.ok().and_then(|said| version_in(&said.stderr).or_else(|| version_in(&said.stdout)));
        (name, version)
    });
    Ok(stream::iter(asked.collect::<Vec<_>>()).buffered(reach::AT_ONCE).collect().await)
}

/// The pods of a selector.
///
/// # Errors
/// They cannot be listed.
pub async fn pods(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Pod>, Failure> {
    let list = cluster.namespaced::<Pod>(namespace).list(&ListParams::default().labels(selector)).await;
    Ok(list.map_err(|error| api_failure(&format!("could not list the pods of {namespace}"), &error))?.items)
}

fn has(pod: &Pod, container: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.containers.iter().any(|found| found.name == container))
}

/// The tag of a container's image, as a version.
fn tag_of(template: &PodTemplateSpec, container: &str) -> Option<Version> {
    let container = template.spec.as_ref()?.containers.iter().find(|found| found.name == container)?;
    let image = container.image.as_deref()?;
    let name = image.split('@').next()?;
    Version::parse(name.rsplit('/').next()?.split_once(':')?.1).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_process_is_not_settled() {
        let version = Some(Version::new(1, 8, 0));
        let pods = |versions: &[Option<Version>]| versions.iter().cloned().map(|v| ("pod".to_owned(), v)).collect();
        let live = |servers: &[Option<Version>], agents: &[Option<Version>]| Live {
            servers: pods(servers),
            agents: pods(agents),
            server_template: version.clone(),
            agent_template: version.clone(),
            chart: None,
        };
        let one = [version.clone()];
        assert!(live(&one, &one).is_settled());
        assert!(!live(&[], &one).is_settled(), "a restore was cut off while the servers were stopped");
        assert!(!live(&one, &[]).is_settled());
        assert!(!live(&[version.clone(), None], &one).is_settled());
        assert!(!live(&one, &[Some(Version::new(1, 7, 2))]).is_settled());
    }

    #[test]
    fn a_template_tells_its_version_by_its_tag() {
        let tag = |image: &str| {
            let template = json!({"spec": {"containers": [{"name": "other", "image": "x:9.9.9"}, {"name": "spire-server", "image": image}]}});
            tag_of(&serde_json::from_value(template).unwrap(), "spire-server").map(|version| version.to_string())
        };
        assert_eq!(tag("ghcr.io/spiffe/spire-server:1.7.2").as_deref(), Some("1.7.2"));
        assert_eq!(tag("registry:5000/spire-server:1.7.2@sha256:00").as_deref(), Some("1.7.2"));
        for image in ["registry:5000/spire-server", "ghcr.io/spiffe/spire-server:latest", "spire-server@sha256:00"] {
            assert_eq!(tag(image), None, "{image}");
        }
    }
}
