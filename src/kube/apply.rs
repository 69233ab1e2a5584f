//! Server-side apply, and the question whether it would change anything.

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::Value;

use crate::config::Lab;
use crate::error::Failure;
use crate::kube::wait::{Judgement, Patience};
use crate::kube::{Cluster, api_failure, differs, look_if_late};

/// As many requests as an API server on two cores answers at once without queueing.
pub(super) const AT_ONCE: usize = 12;

impl Cluster {
    /// Makes every object as given, in an order that works: namespaces and CRDs first, and the CRDs established
    /// before anything that may be of their kinds.
    ///
    /// # Errors
    /// The server refuses one; the sentence names it.
    pub async fn apply(&self, objects: &[DynamicObject], patience: &Patience<'_>) -> Result<(), Failure> {
        let kind = |object: &DynamicObject| object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        let (first, rest): (Vec<_>, Vec<_>) =
            objects.iter().partition(|o| matches!(kind(o).as_str(), "Namespace" | "CustomResourceDefinition"));
        self.apply_all(first.iter().copied(), patience).await?;
        for crd in first.iter().filter(|o| kind(o) == "CustomResourceDefinition") {
            self.established(&crd.name_any(), patience).await?;
        }
        self.apply_all(rest.into_iter(), patience).await
    }

    async fn apply_all(
        &self,
        objects: impl Iterator<Item = &DynamicObject>,
        patience: &Patience<'_>,
    ) -> Result<(), Failure> {
        let applies: Vec<BoxFuture<'_, _>> =
            objects.map(|object| self.apply_unless_stopped(object, patience).boxed()).collect();
        stream::iter(applies).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn apply_unless_stopped(&self, object: &DynamicObject, patience: &Patience<'_>) -> Result<(), Failure> {
        tokio::select! {
            result = self.apply_or_renew(object, patience) => result,
            () = patience.cancel.cancelled() => Err(Failure::interrupted()),
        }
    }

    /// Applies; a Job that would run something else now is deleted and made anew, which is the only way to change one.
    async fn apply_or_renew(&self, object: &DynamicObject, patience: &Patience<'_>) -> Result<(), Failure> {
        match self.send(object, false).await? {
            Err(error) if is_job(object) && is_immutable(&error) => {
                let api = self.api_of(object).await?;
                let live = api.get_opt(&object.name_any()).await.map_err(|error| refused(object, &error))?;
                if live.is_some_and(|live| live.labels().get(Lab::LABEL) != object.labels().get(Lab::LABEL)) {
                    return Err(
                        refused(object, &error).fact("it is somebody else's: it does not carry the lab's label")
                    );
                }
                self.delete_named(api, &object.name_any(), &name_of(object), patience).await?;
                self.apply_one(object, false).await.map(|_| ())
            }
            sent => sent.map(|_| ()).map_err(|error| refused(object, &error)),
        }
    }

    /// Applies one object and returns it as the server has it then. A dry run changes nothing but asks every
    /// webhook, and so is also the way to see whether one answers.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn apply_one(&self, object: &DynamicObject, dry_run: bool) -> Result<DynamicObject, Failure> {
        self.send(object, dry_run).await?.map_err(|error| refused(object, &error))
    }

    /// What the server says to an apply.
    async fn send(&self, object: &DynamicObject, dry_run: bool) -> Result<Result<DynamicObject, kube::Error>, Failure> {
        let api = self.api_of(object).await?;
        let mut params = PatchParams::apply(Lab::FIELD_MANAGER).force();
        if dry_run {
            params = params.dry_run();
        }
        Ok(api.patch(&object.name_any(), &params, &Patch::Apply(object)).await)
    }

    /// The first object that is not as given, in words; nothing if all are. Reads only.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn difference(&self, objects: &[DynamicObject]) -> Result<Option<Difference>, Failure> {
        let looks: Vec<BoxFuture<'_, _>> = objects.iter().map(|object| self.difference_of(object).boxed()).collect();
        let mut looks = stream::iter(looks).buffered(AT_ONCE);
        while let Some(result) = looks.next().await {
            if let Some(difference) = result? {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    async fn difference_of(&self, object: &DynamicObject) -> Result<Option<Difference>, Failure> {
        let types = object.types.clone().unwrap_or_default();
        let gvk = kube::core::GroupVersionKind::try_from(&types).map_err(|error| {
            Failure::tool(format!("{} has no readable apiVersion: {error}", name_of(object)))
                .next("look at the manifest that it is from: every object needs `apiVersion` and `kind`")
        })?;
        let Some(api) = self.dynamic(&gvk, object.metadata.namespace.as_deref()).await? else {
            return Ok(Some(Difference::Missing(name_of(object))));
        };
        let live = self
            .look(&api, &object.name_any())
            .await
            .map_err(|error| api_failure(&format!("could not read {}", name_of(object)), &error))?;
        let Some(live) = live else { return Ok(Some(Difference::Missing(name_of(object)))) };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(Some(Difference::Changed(format!("{} is being deleted", name_of(object)))));
        }
        let (want, have) = (as_value(object), as_value(&live));
        if differs(&want, &have).is_none() {
            return Ok(None);
        }
        // It may differ only in spelling (0.5 and 500m): the server itself says whether an apply would change it.
        let after = match self.send(object, true).await? {
            Ok(after) => as_value(&after),
            Err(error) if is_job(object) && is_immutable(&error) => {
                return Ok(Some(Difference::Changed(format!("{} would run something else now", name_of(object)))));
            }
            Err(error) => return Err(refused(object, &error)),
        };
        Ok(differs(&without_bookkeeping(after), &without_bookkeeping(have))
            .map(|path| Difference::Changed(format!("{} differs at {path}", name_of(object)))))
    }

    /// Waits until a CRD is established and served.
    ///
    /// # Errors
    /// Not in time.
    pub async fn established(&self, name: &str, patience: &Patience<'_>) -> Result<(), Failure> {
        let waiting = self.wait_one(self.all::<CustomResourceDefinition>(), name, patience, |crd| {
            let established = crd
                .and_then(|crd| crd.status.as_ref())
                .and_then(|status| status.conditions.as_ref())
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"));
            if established {
                Judgement::Good(())
            } else {
                Judgement::Waiting(format!("CRD {name}: not established yet"))
            }
        });
        look_if_late(waiting.await, || format!("describe crd {name}"))
    }
}

/// How the cluster is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The object is not there.
    Missing(String),
    /// The object is there and differs.
    Changed(String),
}

fn refused(object: &DynamicObject, error: &kube::Error) -> Failure {
    api_failure(&format!("could not apply {}", name_of(object)), error)
}

fn is_job(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.api_version == "batch/v1" && types.kind == "Job")
}

/// Whether all that the server refuses is to change a field that is fixed when an object is made. Several reasons it
/// writes as a list: `is invalid: [..., ...]`.
fn is_immutable(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.reason == "Invalid"
        && status.message.ends_with("field is immutable")
        && !status.message.contains("is invalid: [")
}

fn as_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn without_bookkeeping(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
                metadata.remove(key);
            }
        }
    }
    object
}

/// `Deployment default/workload`.
#[must_use]
pub fn name_of(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    match &object.metadata.namespace {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}
