//! Whether a plan can be carried out at all. A plan that cannot is a bug in its builder; it must end in a sentence,
//! never in a run that waits for ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Failure;
use crate::plan::{Plan, Role, StepId};

/// Every step occurs once, needs only steps of the plan, and none waits for itself.
///
/// # Errors
/// The first of these that does not hold, as an unexpected failure.
pub(super) fn check(plan: &Plan) -> Result<(), Failure> {
    let mut needs: BTreeMap<StepId, &[StepId]> = BTreeMap::new();
    for step in &plan.steps {
        if needs.insert(step.id, &step.needs).is_some() {
            return Err(defect(format!("step `{}` is in the plan twice", step.id)));
        }
    }
    for step in &plan.steps {
        for need in &step.needs {
            match plan.step(*need) {
                None => {
                    return Err(defect(format!("step `{}` needs `{need}`, which is not in the plan", step.id)));
                }
                // It is looked at before the first goal runs, so it could not wait for one.
                Some(goal) if step.role == Role::Need && goal.role == Role::Goal => {
                    return Err(defect(format!(
                        "step `{}` is only looked at, but needs `{need}`, which is still to be done",
                        step.id
                    )));
                }
                Some(_) => {}
            }
        }
    }
    let mut ended = BTreeSet::new();
    while !needs.is_empty() {
        let ready: Vec<StepId> = needs
            .iter()
            .filter(|(_, before)| before.iter().all(|step| ended.contains(step)))
            .map(|(step, _)| *step)
            .collect();
        if ready.is_empty() {
            let circle: Vec<String> = needs.keys().map(|step| format!("`{step}`")).collect();
            return Err(defect(format!("steps wait for each other in a circle: {}", circle.join(", "))));
        }
        for step in ready {
            needs.remove(&step);
            ended.insert(step);
        }
    }
    Ok(())
}

fn defect(what: String) -> Failure {
    Failure::unexpected(what).fact("this is a bug in coastal: nothing was done")
}
