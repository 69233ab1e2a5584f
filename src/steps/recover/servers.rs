//! Servers that serve again.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use crate::engine::{Body, StepContext};
use crate::error::{Failure, Kind};
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::names;
use crate::spire::recovery::Facts;
use crate::spire::recovery::diagnosis::Diagnosis;
use crate::spire::recovery::facts::PodState;
use crate::steps::live::{self, Live};
use crate::steps::recover::{examine, versions};
use crate::steps::upgrade::half;
use crate::steps::{reach, spire};

/// How often it is looked again, and with how much time left it is no more.
const LOOK: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(5);

/// [`crate::spire::recovery::Part::Servers`].
pub(super) struct Servers;

/// Pods that have to go: time alone does not mend them.
fn hopeless(facts: &Facts, diagnosis: &Diagnosis) -> Vec<String> {
    // Processes that were up before the data store was lost believe in what is gone, also those that are just coming.
    let all = diagnosis.outlook.as_ref().is_some_and(|outlook| outlook.restarts.servers) && facts.bundle.is_none();
    let goes = |state: &PodState| all || matches!(state, PodState::Broken(_));
    facts.servers.pods.iter().filter(|pod| goes(&pod.state)).map(|pod| pod.name.clone()).collect()
}

/// Deletes exactly these pods; their successors may have the same names.
pub(in crate::steps) async fn delete_pods(
    cx: &StepContext,
    cluster: &Cluster,
    namespace: &str,
    names: &[String],
) -> Result<(), Failure> {
    let api = cluster.namespaced::<Pod>(namespace);
    let pods = live::pods(cluster, namespace, "").await?;
    for pod in pods.iter().filter(|pod| names.contains(&pod.name_any())) {
        let exactly = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
        match api.delete(&pod.name_any(), &params).await {
            Ok(_) => cx.progress(format!("deleted {namespace}/{}", pod.name_any())),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(api_failure(&format!("could not delete {}", pod.name_any()), &error)),
        }
    }
    Ok(())
}

#[async_trait]
impl Body for Servers {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let (facts, diagnosis) = examine(cx).await?;
        let wanted = &versions(&facts)?.server;
        let servers = &facts.servers;
        if let Some(pod) = hopeless(&facts, &diagnosis).first() {
            return Ok(Finding::Differs(format!("{pod} does not serve, and time alone will not mend it")));
        }
        let good = |pod: &&crate::spire::recovery::facts::ServerPod| {
            pod.state.serves() && pod.version.as_ref() == Some(wanted)
        };
        let serving = servers.pods.iter().filter(good).count();
        Ok(if serving == servers.wanted && servers.pods.len() == servers.wanted {
            Finding::Satisfied(format!("{serving} of {} serve, at {wanted}", servers.wanted))
        } else {
            Finding::Differs(format!("{serving} of {} serve at {wanted}", servers.wanted))
        })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let (facts, diagnosis) = examine(cx).await?;
        let cluster = reach::cluster(cx).await?;
        let namespace = &cx.session.lab.spire.server_namespace;
        delete_pods(cx, &cluster, namespace, &hopeless(&facts, &diagnosis)).await
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let lab = &cx.session.lab.spire;
        let cluster = reach::cluster(cx).await?;
        let healthy = loop {
            half::roll_servers(cx, &cluster).await.map_err(|failure| {
                failure.next("`coastal logs server` shows what the servers say; then `coastal recover` again")
            })?;
            match spire::healthy(cx).await {
                Ok(healthy) => break healthy,
                Err(failure) if failure.kind == Kind::Interrupted || cx.remaining() < LATE => return Err(failure),
                // Ready was true when it was looked; it need not stay so.
                Err(failure) => cx.progress(failure.message),
            }
            self.run(cx, &Finding::Satisfied(String::new())).await?;
            cx.sleep(LOOK).await?;
        };
        let live = Live::look(cx).await?;
        let template = live.server_template.clone();
        let template =
            template.ok_or_else(|| Failure::tool(format!("{} has no version for a tag", names::server(lab))))?;
        let at = half::all_at(&live.servers, &template, lab.servers as usize).map_err(Failure::check_failed)?;
        Ok(format!("{healthy}, {at}"))
    }
}
