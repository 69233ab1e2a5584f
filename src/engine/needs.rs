//! What a run rests on is looked at before the run touches anything.
//!
//! A need that is so stands for whatever it rests on itself (a running SPIRE does not care whether its chart is still
//! in the cache), so only what is not so is followed further down. All that is missing is reported at once, with
//! the commands that make it so in the order in which they work.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::engine::turn::{Turns, Verdict};
use crate::error::{Failure, Kind};
use crate::plan::{Finding, Plan, Role, Step, StepId, command_for};

/// Without these nothing else can be looked at: if one is not so, it alone is reported.
const GROUND: [StepId; 2] = [StepId::Tools, StepId::Cluster];

/// What a look at the needs saw.
#[derive(Default)]
pub(super) struct Look {
    /// Needs that are so, in the order in which they were found so.
    pub(super) met: Vec<StepId>,
    /// Needs that are not so, in the plan's order.
    pub(super) unmet: Vec<StepId>,
    /// Milliseconds per need that was looked at.
    pub(super) took_ms: Vec<(StepId, u64)>,
    /// Why the run cannot go on, if it cannot.
    pub(super) failure: Option<Failure>,
}

/// Looks at the needs of `plan`. A need that nothing had to ask about is not looked at.
pub(super) async fn look(plan: &Plan, turns: &Turns<'_>) -> Look {
    let mut look = Look::default();
    let mut missing: Vec<(&Step, Result<Finding, Failure>)> = Vec::new();
    let mut asked: BTreeSet<StepId> = BTreeSet::new();
    let needs_of = |step: &Step| -> Vec<&Step> {
        step.needs.iter().filter_map(|need| plan.step(*need)).filter(|need| need.role == Role::Need).collect()
    };
    let ground = GROUND.iter().filter_map(|id| plan.step(*id)).filter(|step| step.role == Role::Need);
    let direct: Vec<&Step> = plan.steps.iter().filter(|step| step.role == Role::Goal).flat_map(needs_of).collect();

    let mut waves: Vec<Vec<&Step>> = ground.map(|step| vec![step]).collect();
    waves.push(direct);
    waves.reverse();
    while let Some(wave) = waves.pop() {
        let mut running: FuturesUnordered<_> =
            wave.into_iter().filter(|step| asked.insert(step.id)).map(|step| turns.take(step)).collect();
        let mut further = Vec::new();
        while let Some((step, verdict, took_ms)) = running.next().await {
            look.took_ms.push((step.id, took_ms));
            match verdict {
                Verdict::AlreadySo | Verdict::Made => look.met.push(step.id),
                Verdict::NotSo(finding) => {
                    missing.push((step, Ok(finding)));
                    further.extend(needs_of(step));
                }
                Verdict::Failed(failure) => missing.push((step, Err(failure))),
            }
        }
        if missing.iter().any(|(step, _)| GROUND.contains(&step.id)) || turns.cancel.is_cancelled() {
            break;
        }
        if !further.is_empty() {
            waves.push(further);
        }
    }

    missing.sort_by_key(|(step, _)| plan.steps.iter().position(|other| other.id == step.id));
    look.unmet = missing.iter().map(|(step, _)| step.id).collect();
    if !missing.is_empty() {
        look.failure = Some(unmet(&missing));
    }
    look
}

/// One failure for all needs that are not so. A look that ended in something graver than "not there" (a foreign
/// cluster, a bug, Ctrl-C) is that failure itself.
pub(super) fn unmet(missing: &[(&Step, Result<Finding, Failure>)]) -> Failure {
    let grave = missing.iter().find_map(|(_, seen)| match seen {
        Err(failure) => match failure.kind {
            Kind::Prerequisite | Kind::Tool | Kind::Timeout | Kind::CheckFailed => None,
            Kind::Unexpected | Kind::Usage | Kind::Config | Kind::Refused | Kind::Interrupted => Some(failure),
        },
        Ok(_) => None,
    });
    if let Some(failure) = grave {
        return failure.clone();
    }
    let mut failure = match missing {
        [(step, Ok(finding))] => {
            Failure::prerequisite(format!("step `{}` must be done first: {}", step.id, finding.detail()))
        }
        [(_, Err(failure))] => Failure::prerequisite(failure.message.clone()).facts(failure.facts.iter().cloned()),
        _ => {
            let facts = missing.iter().flat_map(|(step, seen)| match seen {
                Ok(finding) => vec![format!("`{}`: {}", step.id, finding.detail())],
                Err(failure) => std::iter::once(format!("`{}`: {}", step.id, failure.message))
                    .chain(failure.facts.iter().map(|fact| format!("  {fact}")))
                    .collect(),
            });
            Failure::prerequisite(format!("{} steps must be done first", missing.len())).facts(facts)
        }
    };
    for (step, seen) in missing {
        match seen {
            Err(cause) if !cause.next.is_empty() => {
                let new: Vec<_> = cause.next.iter().filter(|line| !failure.next.contains(line)).cloned().collect();
                failure.next.extend(new);
            }
            Ok(_) | Err(_) => {
                // A command that makes several steps comes after those that the last of them rests on.
                let line = format!("`{}`", command_for(step.id));
                failure.next.retain(|other| *other != line);
                failure.next.push(line);
            }
        }
    }
    failure
}
