//! What lab.toml asks for, against what is there.

mod allow_list;
mod chart;
mod database;
mod drift;
mod leftovers;
mod monitors;
mod pending_release;
mod plain_password;
mod releases;
mod tornjak;
mod value_keys;
mod version;
mod workload;

use super::Check;
use super::evidence::{Evidence, Known};
use crate::plan::{Finding, StepId};

pub(super) const ALL: &[&Check] = &[
    &releases::CHECK,
    &pending_release::CHECK,
    &drift::CHECK,
    &version::CHECK,
    &chart::CHECK,
    &database::CHECK,
    &value_keys::CHECK,
    &plain_password::CHECK,
    &monitors::CHECK,
    &tornjak::CHECK,
    &workload::CHECK,
    &allow_list::CHECK,
    &leftovers::CHECK,
];

/// How a step of `up` stands.
fn step(evidence: &Evidence, step: StepId) -> Known<&Finding> {
    let steps = evidence.drift.as_ref()?;
    let found = steps.iter().find(|(id, _)| *id == step);
    found.map(|(_, finding)| finding).ok_or_else(|| format!("{step} was not looked at"))
}
