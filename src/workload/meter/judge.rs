//! Whether what a pod held at a moment was valid then.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::report::Cause;
use super::timeline::{Hold, Timeline, Why};
use crate::workload::record::Update;

/// What is so of a pod at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State<'a> {
    /// It does not run.
    Absent,
    /// It has run since then and waits for its first SVID.
    Waiting { since: Timestamp },
    /// Its SVID is good.
    Valid,
    /// It has none that is good.
    Invalid(Cause),
    /// Nobody knows. If it may still have been waiting for its first SVID: since when it ran.
    Unknown { why: Why<'a>, waiting: Option<Timestamp> },
}

/// All pods, and what is asked of them.
pub(super) struct Judge<'a> {
    pub(super) pods: &'a [Timeline<'a>],
    pub(super) spiffe_id: Option<&'a str>,
    pub(super) tolerance: SignedDuration,
}

impl<'a> Judge<'a> {
    /// The pods at that moment.
    pub(super) fn at(&self, at: Timestamp) -> Moment<'_, 'a> {
        Moment { judge: self, at, trusted: BTreeMap::new() }
    }

    /// The SVIDs of an update that would do: those of the expected identity, or the default one.
    pub(super) fn candidates<'s>(&'s self, svids: &'s [&'a Update]) -> impl Iterator<Item = &'a Update> + 's {
        svids.iter().copied().enumerate().filter_map(move |(position, svid)| {
            let wanted = match self.spiffe_id {
                Some(id) => svid.spiffe_id == id,
                None => position == 0,
            };
            wanted.then_some(svid)
        })
    }

    /// What all pods together make of SVIDs of that authority: valid, or the first that does not trust it, or else the
    /// first of which that is not known.
    fn trusted(&self, anchor: &str, at: Timestamp) -> State<'a> {
        let mut doubt = None;
        for peer in self.pods {
            match self.trusts(peer, anchor, at) {
                Trust::Yes => {}
                Trust::No => return State::Invalid(Cause::NotTrustedBy { pod: peer.pod.name.clone() }),
                Trust::Unknown(why) => {
                    doubt.get_or_insert_with(|| unknown(format!("whether {} trusts it: {why}", peer.pod.name).into()));
                }
            }
        }
        doubt.unwrap_or(State::Valid)
    }

    /// Whether a pod trusts the authority, give or take the tolerance. One that holds no bundle has no say.
    fn trusts(&self, peer: &Timeline<'a>, anchor: &str, at: Timestamp) -> Trust<'a> {
        match peer.hold(at) {
            Hold::Absent | Hold::Nothing { .. } => return Trust::Yes,
            Hold::Unknown { why, .. } => return Trust::Unknown(why.clone()),
            Hold::Svids(_) => {}
        }
        let from = at.checked_sub(self.tolerance).unwrap_or(Timestamp::MIN);
        let to = at.checked_add(self.tolerance).unwrap_or(Timestamp::MAX);
        let mut so_far = Trust::No;
        for hold in peer.holds_within(from, to) {
            match hold {
                Hold::Absent | Hold::Nothing { .. } => {}
                Hold::Unknown { why, .. } => so_far = Trust::Unknown(why.clone()),
                Hold::Svids(svids) => match trust(svids, anchor) {
                    Some(true) => return Trust::Yes,
                    Some(false) => {}
                    None => so_far = Trust::Unknown("its log does not name every authority of its bundle".into()),
                },
            }
        }
        so_far
    }
}

/// The pods at a moment.
pub(super) struct Moment<'j, 'a> {
    judge: &'j Judge<'a>,
    at: Timestamp,
    /// By authority: nearly all SVIDs of a moment are of the same few.
    trusted: BTreeMap<&'a str, State<'a>>,
}

impl<'a> Moment<'_, 'a> {
    /// What is so of a pod.
    pub(super) fn state(&mut self, pod: &Timeline<'a>) -> State<'a> {
        match pod.hold(self.at) {
            Hold::Absent => State::Absent,
            Hold::Nothing { since } => State::Waiting { since: *since },
            Hold::Unknown { why, waiting } => State::Unknown { why: why.clone(), waiting: *waiting },
            Hold::Svids(svids) => {
                let mut best = None;
                for svid in self.judge.candidates(svids) {
                    let state = self.svid(svids, svid);
                    match (&state, &best) {
                        (State::Valid, _) => return State::Valid,
                        (State::Unknown { .. }, Some(State::Invalid(_))) | (_, None) => best = Some(state),
                        _ => {}
                    }
                }
                best.unwrap_or_else(|| {
                    let spiffe_id = svids.first().map(|svid| svid.spiffe_id.clone()).unwrap_or_default();
                    State::Invalid(Cause::OtherIdentity { spiffe_id })
                })
            }
        }
    }

    /// What an SVID is worth; `together` is the update that it came with.
    fn svid(&mut self, together: &[&Update], svid: &'a Update) -> State<'a> {
        if self.at < svid.not_before {
            return State::Invalid(Cause::NotYetValid);
        }
        if self.at >= svid.not_after {
            return State::Invalid(Cause::Expired);
        }
        let Some(anchor) = svid.anchor_key_id.as_deref() else {
            return unknown("its program does not log which authority its SVID chains to".into());
        };
        // The workload has the certificates and we have key ids: its no is final where key ids say yes.
        if svid.verified == Some(false) && trust(together, anchor) == Some(true) {
            return State::Invalid(Cause::BadSignature);
        }
        let (judge, at) = (self.judge, self.at);
        self.trusted.entry(anchor).or_insert_with(|| judge.trusted(anchor, at)).clone()
    }
}

enum Trust<'a> {
    Yes,
    No,
    Unknown(Why<'a>),
}

/// Whether the bundle that came with an update has the authority; nothing if it has authorities without a key id.
/// All pods are of one trust domain.
fn trust(svids: &[&Update], anchor: &str) -> Option<bool> {
    if svids.iter().any(|svid| svid.bundle_key_ids.iter().any(|id| id == anchor)) {
        return Some(true);
    }
    svids.iter().all(|svid| svid.bundle_key_ids.len() >= svid.authorities).then_some(false)
}

fn unknown(why: Why<'_>) -> State<'_> {
    State::Unknown { why, waiting: None }
}
