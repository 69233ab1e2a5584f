//! What the steps of a key rotation do. Each asks the servers what they hold now, and decides anew.

mod act;
mod config_map;
mod gate;
mod observe;
pub mod record;
mod verify;
mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::engine::{Body, StepContext};
use crate::error::Failure;
use crate::kube::Holder;
use crate::plan::{Finding, RotatePart, RotateStep, Rotation};
use crate::spire::rotation::{Gate, Incident, KeyType, Phase, Plan, Record, View};
use crate::steps::{planes, reach};

pub(super) use observe::view;
pub use observe::{Survey, survey};
pub(super) use verify::last_svid;

/// A quarter of the time for which others believe that a silent holder is at work.
const RENEW: Duration = Duration::from_secs(15);
/// The name of the lease that keeps two rotations apart.
const LEASE: &str = "coastal-rotate";

/// The body of a step of a rotation.
#[must_use]
pub fn body(step: RotateStep) -> Box<dyn Body> {
    match step {
        RotateStep::Begin => Box::new(Begin),
        RotateStep::Key(key, part) => Box::new(Part { key, part }),
        RotateStep::Webhook => Box::new(webhook::Webhook),
        RotateStep::ConfigMap => Box::new(config_map::ConfigMap),
        RotateStep::Verify => Box::new(verify::Verify),
    }
}

/// The rotation that is carried out.
pub(super) fn rotation(cx: &StepContext) -> Result<&Rotation, Failure> {
    let rotation = cx.session.rotation.as_ref();
    rotation.ok_or_else(|| Failure::unexpected(format!("step `{}` outside a rotation", cx.step())))
}

/// What is to go, of a type.
fn record_of(cx: &StepContext, key: KeyType) -> Result<Record, Failure> {
    let incident = rotation(cx)?.incident();
    let record = incident.as_ref().and_then(|incident| incident.keys.get(&key)).cloned();
    record.ok_or_else(|| Failure::unexpected(format!("nobody has written down which {key} authorities are to go")))
}

/// Changes what is remembered, and writes it down.
pub(super) fn remember(cx: &StepContext, change: impl FnOnce(&mut Incident)) -> Result<(), Failure> {
    let mut incident = rotation(cx)?.incident();
    let Some(incident) = incident.as_mut() else { return Ok(()) };
    change(incident);
    record::save(&cx.session.paths.incidents(), incident)
}

/// Says to others that this one is still at it; often enough is enough.
pub(super) async fn hold(cx: &StepContext) -> Result<(), Failure> {
    let cluster = reach::cluster(cx).await?;
    let mut held = rotation(cx)?.held.lock().await;
    if held.is_none_or(|since| since.elapsed() >= RENEW) {
        cluster.hold(holder(cx)?, cx.session.world.clock.now()).await?;
        *held = Some(Instant::now());
    }
    Ok(())
}

fn holder(cx: &StepContext) -> Result<Holder<'_>, Failure> {
    let namespace = &cx.session.lab.spire.server_namespace;
    Ok(Holder { namespace, name: LEASE, who: &rotation(cx)?.holder })
}

/// Lets others rotate.
///
/// # Errors
/// As [`crate::kube::Cluster::let_go`].
pub async fn let_go(cx: &StepContext) -> Result<(), Failure> {
    reach::cluster(cx).await?.let_go(holder(cx)?).await
}

/// [`RotateStep::Begin`].
struct Begin;

#[async_trait]
impl Body for Begin {
    async fn check(&self, _cx: &StepContext) -> Result<Finding, Failure> {
        Ok(Finding::Missing("the slots are read, and the lease is taken".into()))
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        hold(cx).await?;
        let rotation = rotation(cx)?;
        let looks = rotation.keys.iter().map(|key| async {
            let view = observe::view(cx, *key).await?;
            Ok::<(KeyType, View), Failure>((*key, view))
        });
        let (views, planes) = tokio::join!(try_join_all(looks), planes::collect(cx));
        let views = views?;
        for (_, view) in &views {
            observe::complete(view, rotation.server.as_deref())?;
        }
        let planes = planes?;
        let unknown: Vec<String> = planes.unknown(&rotation.accepted).map(|lag| lag.to_string()).collect();
        if !unknown.is_empty() {
            let names: Vec<String> = planes.unknown(&rotation.accepted).map(|lag| lag.plane).collect();
            return Err(Failure::refused("what some planes hold is unknown, and nothing may be revoked while it is")
                .facts(unknown)
                .next(format!(
                    "`coastal rotate --yes --accept-unknown {}` goes on all the same",
                    names.join(" --accept-unknown ")
                ))
                .next("`coastal bundle planes` shows every plane"));
        }
        if rotation.incident().is_some() {
            return Ok(());
        }
        let mut incident = Incident::open(cx.session.world.clock.now(), std::collections::BTreeMap::new());
        for (key, view) in &views {
            incident.keys.insert(*key, Record::open(view, rotation.server.clone()));
            incident.saw(*key, view);
        }
        incident.planes_before = Some(planes);
        incident.note(cx.session.world.clock.now(), "opened: every authority that is there now is to go");
        *rotation.incident() = Some(incident);
        remember(cx, |_| ())
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let incident = rotation(cx)?.incident();
        let incident = incident.as_ref().ok_or_else(|| Failure::unexpected("no incident was opened"))?;
        let counts: Vec<String> =
            incident.keys.iter().map(|(key, record)| format!("{} {key}", record.compromised.len())).collect();
        Ok(format!("incident {}: {} authorities are to go", incident.id, counts.join(" and ")))
    }
}

/// [`RotateStep::Key`].
struct Part {
    key: KeyType,
    part: RotatePart,
}

impl Part {
    /// Up to which phase the part brings the servers.
    fn upto(&self) -> Phase {
        match self.part {
            RotatePart::Clear => Phase::ClearRevoke,
            RotatePart::Prepare | RotatePart::Spread => Phase::Prepare,
            RotatePart::Activate | RotatePart::Reissue => Phase::Activate,
            RotatePart::Taint | RotatePart::Drain => Phase::Restart,
            RotatePart::Revoke => Phase::Revoke,
        }
    }

    /// Whether it only waits, for what the phase after needs.
    fn waits(&self) -> bool {
        matches!(self.part, RotatePart::Spread | RotatePart::Reissue | RotatePart::Drain)
    }

    /// The phase that the wait is for.
    fn before(&self) -> Phase {
        match self.part {
            RotatePart::Spread => Phase::Activate,
            RotatePart::Reissue => Phase::Taint,
            _ => Phase::Revoke,
        }
    }

    async fn decide(&self, cx: &StepContext) -> Result<Plan, Failure> {
        observe::decide(cx, self.key).await
    }
}

#[async_trait]
impl Body for Part {
    async fn check(&self, cx: &StepContext) -> Result<Finding, Failure> {
        let plan = self.decide(cx).await?;
        let due = if self.waits() { plan.phase <= self.before() } else { plan.phase <= self.upto() };
        Ok(if due { Finding::Differs(in_words(&plan)) } else { Finding::Satisfied(passed(self.part).into()) })
    }

    async fn run(&self, cx: &StepContext, _found: &Finding) -> Result<(), Failure> {
        // A wait has nothing to do; whether its time has come is decided anew at its end.
        if self.waits() { Ok(()) } else { act::advance(cx, self.key, self.upto()).await }
    }

    async fn verify(&self, cx: &StepContext) -> Result<String, Failure> {
        let plan = self.decide(cx).await?;
        if plan.phase <= self.upto() {
            return Err(Failure::check_failed(format!(
                "the servers are not where they were brought: {}",
                in_words(&plan)
            ))
            .next("somebody else may be rotating; `coastal rotate` shows the slots"));
        }
        if !self.waits() {
            return Ok(passed(self.part).into());
        }
        let gate = if plan.phase == self.before() { plan.gate } else { Gate::Open };
        let proof = gate::wait(cx, self.key, &gate).await?;
        rotation(cx)?.open_gates().insert((self.key, self.part));
        Ok(proof)
    }
}

/// What is to be done, as a person reads it.
fn in_words(plan: &Plan) -> String {
    let actions: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match &action.id {
            Some(id) => format!("{} {} {}", action.pod, action.verb, crate::spire::planes::brief(id)),
            None => format!("{} {}", action.pod, action.verb),
        })
        .collect();
    if actions.is_empty() { "nothing is left to do".to_owned() } else { actions.join(", ") }
}

fn passed(part: RotatePart) -> &'static str {
    match part {
        RotatePart::Clear => "no authority of before is in the way",
        RotatePart::Prepare => "each server has a new authority",
        RotatePart::Spread => "the new authorities are in use",
        RotatePart::Activate => "each server signs with a new authority",
        RotatePart::Reissue => "the old authorities are tainted",
        RotatePart::Taint => "each old authority is tainted",
        RotatePart::Drain => "the old authorities are revoked",
        RotatePart::Revoke => "each old authority is revoked",
    }
}
