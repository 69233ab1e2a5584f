//! Whether a Deployment, StatefulSet or DaemonSet has become what its spec says.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::error::{Failure, Kind};
use crate::kube::wait::{Judgement, Patience};
use crate::kube::{Cluster, api_failure, look_if_late};

/// A kind of object whose pods are rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 StatefulSet.
    StatefulSet,
    /// apps/v1 DaemonSet. With no node to run on it is not rolled out: nothing would serve.
    DaemonSet,
}

impl Rollout {
    /// As kubectl calls it.
    fn resource(self) -> &'static str {
        match self {
            Rollout::Deployment => "deployment",
            Rollout::StatefulSet => "statefulset",
            Rollout::DaemonSet => "daemonset",
        }
    }
}

impl Cluster {
    /// Asks for so many pods of a StatefulSet, and does not wait for them.
    ///
    /// # Errors
    /// It is not there, or the server refuses.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: u32) -> Result<(), Failure> {
        let patch = json!({"spec": {"replicas": replicas}});
        let api = self.namespaced::<StatefulSet>(namespace);
        let scaled = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        scaled.map(drop).map_err(|error| api_failure(&format!("could not scale {name} to {replicas}"), &error))
    }

    /// Waits until all pods of the object run its newest template and are ready; says how many.
    ///
    /// # Errors
    /// A pod is beyond hope, or it takes too long; then with what the pods say.
    pub async fn rolled_out(
        &self,
        what: Rollout,
        namespace: &str,
        name: &str,
        patience: &Patience<'_>,
    ) -> Result<String, Failure> {
        let selector = self.selector_of(what, namespace, name).await?;
        let waiting = async {
            match what {
                Rollout::Deployment => {
                    self.wait_one(self.namespaced(namespace), name, patience, |o| judge(deployment_state(name, o)))
                        .await
                }
                Rollout::StatefulSet => {
                    self.wait_one(self.namespaced(namespace), name, patience, |o| judge(stateful_set_state(name, o)))
                        .await
                }
                Rollout::DaemonSet => {
                    self.wait_one(self.namespaced(namespace), name, patience, |o| judge(daemon_set_state(name, o)))
                        .await
                }
            }
        };
        let selector_text = selector.as_deref().unwrap_or("");
        let places = [(namespace, selector_text)];
        let result = tokio::select! {
            result = waiting => result,
            failure = self.until_doomed(&places, patience) => Err(failure),
        };
        let result = match result {
            Err(failure) if failure.kind != Kind::Interrupted && selector.is_some() => {
                Err(self.explain(failure, namespace, selector_text).await)
            }
            other => other,
        };
        look_if_late(result, || format!("-n {namespace} describe {}/{name}", what.resource()))
    }

    /// Whether it is rolled out now, without waiting: `Ok(Err(..))` says what is missing.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn rollout_state(
        &self,
        what: Rollout,
        namespace: &str,
        name: &str,
    ) -> Result<Result<String, String>, Failure> {
        Ok(match what {
            Rollout::Deployment => deployment_state(name, self.get(namespace, name).await?.as_ref()),
            Rollout::StatefulSet => stateful_set_state(name, self.get(namespace, name).await?.as_ref()),
            Rollout::DaemonSet => daemon_set_state(name, self.get(namespace, name).await?.as_ref()),
        })
    }

    async fn selector_of(&self, what: Rollout, namespace: &str, name: &str) -> Result<Option<String>, Failure> {
        let selector = match what {
            Rollout::Deployment => self.get::<Deployment>(namespace, name).await?.map(|o| o.spec.selector),
            Rollout::StatefulSet => self.get::<StatefulSet>(namespace, name).await?.map(|o| o.spec.selector),
            Rollout::DaemonSet => self.get::<DaemonSet>(namespace, name).await?.map(|o| o.spec.selector),
        };
        Ok(selector.map(|selector| selector_text(&selector)))
    }
}

fn judge(state: Result<String, String>) -> Judgement<String> {
    match state {
        Ok(proof) => Judgement::Good(proof),
        Err(missing) => Judgement::Waiting(missing),
    }
}

pub(super) fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.clone().unwrap_or_default();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn deployment_state(name: &str, object: Option<&Deployment>) -> Result<String, String> {
    let object = object.ok_or_else(|| format!("{name}: not there yet"))?;
    let want = object.spec.replicas.unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let (updated, available, all) =
        (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
    if status.observed_generation < object.meta_generation() {
        return Err(format!("{name}: its controller has not seen the change yet"));
    }
    if updated < want || available < want || all > want {
        return Err(format!("{name}: {available} of {want} pods available"));
    }
    Ok(format!("{name} {available} of {want}"))
}

fn stateful_set_state(name: &str, object: Option<&StatefulSet>) -> Result<String, String> {
    let object = object.ok_or_else(|| format!("{name}: not there yet"))?;
    let want = object.spec.replicas.unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    if status.observed_generation < object.meta_generation() {
        return Err(format!("{name}: its controller has not seen the change yet"));
    }
    let rolled = status.current_revision.is_none() || status.current_revision == status.update_revision;
    if ready < want || !rolled {
        return Err(format!("{name}: {ready} of {want} pods ready"));
    }
    Ok(format!("{name} {ready} of {want}"))
}

fn daemon_set_state(name: &str, object: Option<&DaemonSet>) -> Result<String, String> {
    let object = object.ok_or_else(|| format!("{name}: not there yet"))?;
    let status = object.status.clone().unwrap_or_default();
    let (want, ready) = (status.desired_number_scheduled, status.number_ready);
    if status.observed_generation < object.meta_generation() {
        return Err(format!("{name}: its controller has not seen the change yet"));
    }
    if want == 0 || ready < want || status.updated_number_scheduled.unwrap_or(0) < want {
        return Err(format!("{name}: {ready} of {want} pods ready"));
    }
    Ok(format!("{name} {ready} of {want}"))
}

trait Generation {
    fn meta_generation(&self) -> Option<i64>;
}

impl<K: ResourceExt> Generation for K {
    fn meta_generation(&self) -> Option<i64> {
        self.meta().generation
    }
}
