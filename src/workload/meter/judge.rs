//! Whether what a pod held at a moment was valid then.

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
    /// What is so of a pod at that moment.
    pub(super) fn state(&self, pod: &Timeline<'a>, at: Timestamp) -> State<'a> {
        match pod.hold(at) {
            Hold::Absent => State::Absent,
            Hold::Nothing { since } => State::Waiting { since: *since },
            Hold::Unknown { why, waiting } => State::Unknown { why: why.clone(), waiting: *waiting },
            Hold::Svids(svids) => {
                let mut best = None;
                for svid in self.candidates(svids) {
                    let state = self.svid(pod, svids, svid, at);
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

    fn svid(&self, pod: &Timeline<'a>, together: &[&Update], svid: &'a Update, at: Timestamp) -> State<'a> {
        if at < svid.not_before {
            return State::Invalid(Cause::NotYetValid);
        }
        if at >= svid.not_after {
            return State::Invalid(Cause::Expired);
        }
        let Some(anchor) = svid.anchor_key_id.as_deref() else {
            return unknown("its program does not log which authority its SVID chains to".into());
        };
        // The workload has the certificates and we have key ids: its no is final where key ids say yes.
        if svid.verified == Some(false) && trust(together, anchor) == Some(true) {
            return State::Invalid(Cause::BadSignature);
        }
        let mut doubt = None;
        for peer in self.pods {
            match self.trusts(peer, anchor, at) {
                Trust::Yes => {}
                Trust::No => return State::Invalid(Cause::NotTrustedBy { pod: peer.pod.name.clone() }),
                Trust::Unknown(_) if std::ptr::eq(peer, pod) => {
                    doubt.get_or_insert(unknown("its log does not name every authority of its bundle".into()));
                }
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
        let mut trust_ = Trust::No;
        for hold in peer.holds_within(from, to) {
            match hold {
                Hold::Absent | Hold::Nothing { .. } => {}
                Hold::Unknown { why, .. } => trust_ = Trust::Unknown(why.clone()),
                Hold::Svids(svids) => match trust(svids, anchor) {
                    Some(true) => return Trust::Yes,
                    Some(false) => {}
                    None => trust_ = Trust::Unknown("its log does not name every authority of its bundle".into()),
                },
            }
        }
        trust_
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
