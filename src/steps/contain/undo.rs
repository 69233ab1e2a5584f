//! Starting again what was stopped.

use std::time::Duration;

use async_trait::async_trait;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use super::cut::{api_of, now, patch};
use super::{LOOK, containment, note, record};
use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::{Cluster, api_failure};
use crate::plan::Finding;
use crate::spire::incident::{Action, CONTAINED, How};
use crate::steps::reach;

/// [`crate::plan::StepId::UndoContainment`].
pub struct Undo;

#[async_trait]
impl Body for Undo {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let incident = containment(cx)?.incident().clone();
        if let Some(at) = incident.undone_at {
            return Ok(Finding::Satisfied(format!("it was undone at {at:.0}")));
        }
        let for_good: Vec<String> =
            incident.actions.iter().filter(|action| !action.how.can_be_undone()).map(Action::words).collect();
        if !for_good.is_empty() {
            return Err(Failure::refused(format!("{} cannot be undone: something was deleted for good", incident.id))
                .facts(for_good)
                .next("deploy it again from where it came from"));
        }
        Ok(Finding::Differs(match incident.actions.len() {
            1 => "1 thing is stopped".to_owned(),
            count => format!("{count} things are stopped"),
        }))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        let cluster = reach::cluster(cx).await?;
        let actions = containment(cx)?.incident().actions.clone();
        // What was announced and not done is looked at as well: the run may have ended between the two.
        for action in &actions {
            let done = undo(&cluster, action).await?;
            note(cx, done)?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let cluster = reach::cluster(cx).await?;
        let actions = containment(cx)?.incident().actions.clone();
        for action in &actions {
            while let Some(missing) = missing(&cluster, action).await? {
                if cx.remaining() < Duration::from_secs(2) {
                    return Err(Failure::timeout(missing).next("`coastal status`, and the pods' own words, say why"));
                }
                cx.progress(missing);
                cx.sleep(LOOK).await?;
            }
        }
        let now = cx.session.world.clock.now();
        record(cx, |incident| {
            incident.undone_at = Some(now);
            incident.note(now, "undone");
        })?;
        Ok("as it was before; the controller manager makes the entries again".to_owned())
    }
}

/// Undoes one action; says what was done.
async fn undo(cluster: &Cluster, action: &Action) -> Result<String, Failure> {
    let owner = &action.owner;
    let Some(api) = api_of(cluster, owner).await? else {
        return Ok(format!("{owner}: the cluster does not know its kind any more"));
    };
    if let How::DeletePod { manifest } = &action.how {
        let again: DynamicObject =
            serde_json::from_value(manifest.clone()).map_err(|error| Failure::unexpected(error.to_string()))?;
        return match api.create(&PostParams::default(), &again).await {
            Ok(_) => Ok(format!("made {owner} again")),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(format!("{owner} is there")),
            Err(error) => Err(api_failure(&format!("could not make {owner}"), &error)),
        };
    }
    let Some(object) = now(&api, owner).await? else {
        return Ok(format!("{owner} is not there any more; nothing to undo"));
    };
    let at = |pointer: &str| object.data.pointer(pointer).cloned().unwrap_or_default();
    match &action.how {
        // Somebody who has scaled it since has had a reason.
        How::Scale { .. } if at("/spec/replicas").as_i64() != Some(0) => {
            Ok(format!("{owner} was scaled meanwhile; left as it is"))
        }
        How::Scale { replicas } => {
            patch(&api, owner, &json!({"spec": {"replicas": replicas}})).await?;
            Ok(format!("scaled {owner} from 0 to {replicas}"))
        }
        How::Unschedule => {
            let anywhere = json!({"spec": {"template": {"spec": {"nodeSelector": {CONTAINED: Value::Null}}}}});
            patch(&api, owner, &anywhere).await?;
            Ok(format!("allowed {owner} its nodes again"))
        }
        How::Suspend => {
            patch(&api, owner, &json!({"spec": {"suspend": false}})).await?;
            Ok(format!("resumed {owner}"))
        }
        How::DeletePod { .. } | How::Delete => Ok(format!("{owner}: nothing to undo")),
    }
}

/// What is not as before yet.
async fn missing(cluster: &Cluster, action: &Action) -> Result<Option<String>, Failure> {
    let owner = &action.owner;
    let How::Scale { replicas } = &action.how else { return Ok(None) };
    let Some(api) = api_of(cluster, owner).await? else { return Ok(None) };
    let Some(object) = now(&api, owner).await? else { return Ok(None) };
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let wanted = number("/spec/replicas");
    if wanted != *replicas {
        return Ok(None);
    }
    let there = number("/status/replicas");
    Ok((there < wanted).then(|| format!("{owner}: {there} of {wanted} pods are there")))
}
