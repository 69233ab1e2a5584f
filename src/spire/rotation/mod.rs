//! Replacing the keys that SPIRE signs with, after a compromise: what each server holds, what is to be done next, and
//! what can no longer be done.
//!
//! From SPIRE 1.11 on each server process has two slots for each type of key: the authority that it signs with, and
//! one beside it that is prepared or old (facts, section 4). The slots are the server's own, the bundle is everybody's.
//! [`next_actions`] decides from what was observed of both, and from the [`Record`] of which authorities were
//! there when the compromise was noticed; nothing else is remembered. So a run that was killed anywhere is gone on
//! with by the next one, and the servers' own rotator may act in between.

mod incident;
mod next;
#[cfg(test)]
mod properties;
mod report;
mod slots;
mod ways;

pub use incident::{Change, Incident, Note, Outcome, Record, Reissued};
pub use next::{Action, Blocked, Gate, Orphan, Phase, Plan, Verb, next_actions};
pub use slots::{Authority, Held, KeyType, Next, Slots, View};
pub use ways::{FORCED_ROTATION, Rekey, Way, way};
