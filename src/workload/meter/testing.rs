//! What the meter's tests are written in: times in seconds since some moment.

use jiff::{SignedDuration, Timestamp};

use super::{Life, Line, Observation, Pod, Update, Window};
use crate::workload::record::{Connection, SCHEMA, State};

pub(super) const ID: &str = "spiffe://coastal-containers.example/ns/default/sa/workload";

/// That many seconds after the moment.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::constant(1_698_000_000, 0) + SignedDuration::from_secs(seconds)
}

/// The update of that number: an SVID that is valid from its arrival for so long, of that authority, with a bundle.
pub(super) fn update(seconds: i64, sequence: u64, lasts: i64, anchor: &str, bundle: &[&str]) -> Line {
    Line::Update(Update {
        schema: SCHEMA,
        sequence,
        svid: 0,
        received_at: Some(at(seconds)),
        spiffe_id: ID.into(),
        hint: None,
        serial: Some(format!("{seconds:x}")),
        not_before: at(seconds - 10),
        not_after: at(seconds + lasts),
        issuer_key_id: Some(anchor.into()),
        anchor_key_id: Some(anchor.into()),
        bundle_key_ids: bundle.iter().map(|id| (*id).to_owned()).collect(),
        authorities: bundle.len(),
        verified: Some(true),
    })
}

pub(super) fn changed(line: Line, change: impl FnOnce(&mut Update)) -> Line {
    match line {
        Line::Update(mut update) => {
            change(&mut update);
            Line::Update(update)
        }
        other @ Line::Connection(_) => other,
    }
}

pub(super) fn says(seconds: i64, state: State) -> Line {
    // Whoever has run for an hour has said something before.
    let (message, after_ms) = (String::new(), 3_600_000);
    Line::Connection(Connection { schema: SCHEMA, at: at(seconds), state, message, attempts: 1, after_ms })
}

pub(super) fn life(started: i64, lines: Vec<Line>) -> Life {
    Life { started_at: at(started), ended_at: None, whole: true, lines, unread: None }
}

pub(super) fn pod(name: &str, lives: Vec<Life>) -> Pod {
    let created_at = lives.first().map_or(at(0), |life| life.started_at);
    Pod { name: name.into(), uid: format!("uid-of-{name}"), created_at, lives }
}

pub(super) fn observation(start: i64, end: i64, pods: Vec<Pod>) -> Observation {
    Observation {
        window: Window { start: at(start), end: at(end) },
        spiffe_id: Some(ID.into()),
        pods,
        lost: Vec::new(),
        tolerance: SignedDuration::ZERO,
    }
}
