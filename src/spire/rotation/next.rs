//! What is to be done next.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Authority, KeyType, Next, Record, Slots, View};

/// How far a rotation is: everything of an earlier phase is done before anything of a later one.
///
/// The first three make room: whatever the servers had prepared, or not revoked, before the compromise was noticed is
/// as suspect as what they sign with, and a prepare over it would leave it in the bundle for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A suspect authority that is prepared becomes active, for only what was active can be tainted.
    ClearActivate,
    /// An old authority that is in the way is tainted.
    ClearTaint,
    /// And revoked.
    ClearRevoke,
    /// Each server makes its new authority.
    Prepare,
    /// Each server signs with it.
    Activate,
    /// What it signed with before is tainted: agents renew what came of it.
    Taint,
    /// Servers that did not hear of the taint of their upstream authority are started anew.
    Restart,
    /// The suspect authorities leave the bundle.
    Revoke,
    /// Nothing is left that could be done.
    Done,
}

/// What one server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// `localauthority … prepare`.
    Prepare,
    /// `localauthority … activate`.
    Activate,
    /// `localauthority … taint`.
    Taint,
    /// `localauthority … revoke`.
    Revoke,
    /// `upstreamauthority taint`.
    TaintUpstream,
    /// `upstreamauthority revoke`.
    RevokeUpstream,
    /// Its pod is deleted; the StatefulSet makes it anew.
    Restart,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verb::Prepare => "prepare",
            Verb::Activate => "activate",
            Verb::Taint => "taint",
            Verb::Revoke => "revoke",
            Verb::TaintUpstream => "taint upstream",
            Verb::RevokeUpstream => "revoke upstream",
            Verb::Restart => "restart",
        })
    }
}

/// One thing to do, on one server's own socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Action {
    /// The server's pod.
    pub pod: String,
    /// What.
    pub verb: Verb,
    /// With which authority; a prepare names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Action {
    /// The words after `spire-server`, but for `-output json`; none for a restart.
    #[must_use]
    pub fn argv(&self, key: KeyType) -> Option<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let id = self.id.as_deref().unwrap_or_default();
        Some(match self.verb {
            Verb::Prepare => words(&["localauthority", key.word(), "prepare"]),
            Verb::Activate => words(&["localauthority", key.word(), "activate", "-authorityID", id]),
            Verb::Taint => words(&["localauthority", key.word(), "taint", "-authorityID", id]),
            Verb::Revoke => words(&["localauthority", key.word(), "revoke", "-authorityID", id]),
            Verb::TaintUpstream => words(&["upstreamauthority", "taint", "-subjectKeyID", id]),
            Verb::RevokeUpstream => words(&["upstreamauthority", "revoke", "-subjectKeyID", id]),
            Verb::Restart => return None,
        })
    }
}

/// What has to be seen in the planes before the actions of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    Open,
    /// These authorities are everywhere: what they sign will be accepted.
    Spread(BTreeSet<String>),
    /// What is issued now comes of none of these.
    Issuing(BTreeSet<String>),
    /// Nobody holds anything that came of these.
    Drained(BTreeSet<String>),
}

/// A suspect authority that no server has in a slot any more: no API can taint or revoke it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Which.
    pub id: String,
    /// Whether it is at least tainted.
    pub tainted: bool,
    /// Until when it is trusted; the servers take it out of the bundle a day later.
    pub expires_at: Option<Timestamp>,
}

/// Why nothing can be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// A server does not show its slots.
    Unreachable {
        /// Its pod.
        pod: String,
        /// What it answered.
        why: String,
    },
    /// What was prepared came of the very upstream authority that is to go.
    UpstreamUnchanged {
        /// The server's pod.
        pod: String,
        /// The upstream authority.
        upstream: String,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of which phase the actions are.
    pub phase: Phase,
    /// May be done in any order, and at once. Empty if everything is done, or something is [`Plan::blocked`].
    pub actions: Vec<Action>,
    /// What must be seen before.
    pub gate: Gate,
    /// What can no longer be revoked.
    pub orphans: Vec<Orphan>,
    /// What keeps everything from going on.
    pub blocked: Vec<Blocked>,
}

/// Decides what is to be done, from what is observed now.
#[must_use]
pub fn next_actions(key: KeyType, view: &View, record: &Record) -> Plan {
    let upstream = view.has_upstream();
    let mut wants: Vec<(Phase, Action)> = Vec::new();
    let mut blocked = Vec::new();
    for (pod, seen) in view.servers.iter().filter(|(pod, _)| record.covers(pod)) {
        match seen {
            Err(why) => blocked.push(Blocked::Unreachable { pod: pod.clone(), why: why.clone() }),
            Ok(slots) if upstream => match want_upstream(pod, slots, view, record) {
                Ok(want) => wants.extend(want),
                Err(why) => blocked.push(why),
            },
            Ok(slots) => wants.extend(want(pod, slots, view, record)),
        }
    }
    // One upstream authority is tainted and revoked once, whoever does it.
    let mut seen = BTreeSet::new();
    wants.retain(|(_, action)| {
        !matches!(action.verb, Verb::TaintUpstream | Verb::RevokeUpstream)
            || seen.insert((action.verb, action.id.clone()))
    });
    let (orphans, revocable) = orphans(key, view, record);
    wants.extend(revocable);
    let phase = if blocked.is_empty() { wants.iter().map(|(phase, _)| *phase).min() } else { None };
    let phase = phase.unwrap_or(Phase::Done);
    let mut actions: Vec<Action> =
        wants.into_iter().filter(|(of, _)| *of == phase && blocked.is_empty()).map(|(_, action)| action).collect();
    actions.sort();
    let gate = gate(phase, &actions, record);
    Plan { phase, actions, gate, orphans, blocked }
}

fn gate(phase: Phase, actions: &[Action], record: &Record) -> Gate {
    let ids = || actions.iter().filter_map(|action| action.id.clone()).collect();
    match phase {
        Phase::ClearActivate | Phase::Activate => Gate::Spread(ids()),
        Phase::ClearRevoke | Phase::Revoke => Gate::Drained(ids()),
        Phase::Taint => Gate::Issuing(record.compromised.clone()),
        Phase::ClearTaint | Phase::Prepare | Phase::Restart | Phase::Done => Gate::Open,
    }
}

fn action(pod: &str, verb: Verb, id: Option<&str>) -> Action {
    Action { pod: pod.to_owned(), verb, id: id.map(str::to_owned) }
}

/// What one server still needs, if its authorities are in the bundle themselves.
fn want(pod: &str, slots: &Slots, view: &View, record: &Record) -> Option<(Phase, Action)> {
    let fresh = |authority: &Authority| !record.is_compromised(authority);
    let settled = fresh(&slots.active);
    match &slots.next {
        Next::Old(old) => match view.bundle.get(&old.id) {
            // Somebody's ordinary rotation; none of it is suspect.
            Some(_) if settled && fresh(old) => None,
            Some(held) => {
                let (taint, revoke) =
                    if settled { (Phase::Taint, Phase::Revoke) } else { (Phase::ClearTaint, Phase::ClearRevoke) };
                let id = Some(old.id.as_str());
                Some(if held.tainted {
                    (revoke, action(pod, Verb::Revoke, id))
                } else {
                    (taint, action(pod, Verb::Taint, id))
                })
            }
            // Revoked: the slot is as good as empty.
            None if settled => None,
            None => Some((Phase::Prepare, action(pod, Verb::Prepare, None))),
        },
        Next::Prepared(prepared) if settled && fresh(prepared) => None,
        Next::Prepared(prepared) => {
            let phase = if fresh(prepared) { Phase::Activate } else { Phase::ClearActivate };
            Some((phase, action(pod, Verb::Activate, Some(&prepared.id))))
        }
        Next::Empty if settled => None,
        Next::Empty => Some((Phase::Prepare, action(pod, Verb::Prepare, None))),
    }
}

/// What one server still needs under an upstream authority. Its own authorities are in no bundle, so that none of them
/// has to be cleared away; what is tainted and revoked is the upstream one, which must have been changed by then.
fn want_upstream(pod: &str, slots: &Slots, view: &View, record: &Record) -> Result<Option<(Phase, Action)>, Blocked> {
    let prepare = Some((Phase::Prepare, action(pod, Verb::Prepare, None)));
    if record.is_compromised(&slots.active) {
        return match &slots.next {
            Next::Prepared(new) if !record.is_compromised(new) => {
                Ok(Some((Phase::Activate, action(pod, Verb::Activate, Some(&new.id)))))
            }
            // Made since, and yet signed by what is to go: a second one would be no better.
            Next::Prepared(new) if !record.compromised.contains(&new.id) => {
                Err(Blocked::UpstreamUnchanged { pod: pod.to_owned(), upstream: new.root().to_owned() })
            }
            _ => Ok(prepare),
        };
    }
    let Next::Old(old) = &slots.next else { return Ok(None) };
    let root = old.root();
    Ok(match view.bundle.get(root) {
        _ if !record.compromised.contains(root) => None,
        None => None,
        Some(held) if !held.tainted => Some((Phase::Taint, action(pod, Verb::TaintUpstream, Some(root)))),
        Some(_) if view.stale.contains(pod) => Some((Phase::Restart, action(pod, Verb::Restart, None))),
        Some(_) => Some((Phase::Revoke, action(pod, Verb::RevokeUpstream, Some(root)))),
    })
}

/// Suspect authorities that are in the bundle and in no slot; and of them those that can be revoked all the same: any
/// server revokes a JWT key that is tainted (facts, section 4).
fn orphans(key: KeyType, view: &View, record: &Record) -> (Vec<Orphan>, Vec<(Phase, Action)>) {
    let in_slots: BTreeSet<&str> =
        view.servers.values().flatten().flat_map(Slots::authorities).map(Authority::root).collect();
    if view.servers.values().any(Result::is_err) {
        // The one that does not answer may have it in a slot.
        return (Vec::new(), Vec::new());
    }
    let anybody = view.servers.iter().find(|(pod, seen)| seen.is_ok() && record.covers(pod)).map(|(pod, _)| pod);
    let (mut orphans, mut revocable) = (Vec::new(), Vec::new());
    for (id, held) in &view.bundle {
        if !record.compromised.contains(id) || in_slots.contains(id.as_str()) {
            continue;
        }
        match anybody {
            Some(pod) if key == KeyType::Jwt && held.tainted => {
                revocable.push((Phase::Revoke, action(pod, Verb::Revoke, Some(id))));
            }
            _ => orphans.push(Orphan { id: id.clone(), tainted: held.tainted, expires_at: held.expires_at }),
        }
    }
    (orphans, revocable)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Held;
    use super::*;

    fn authority(id: &str) -> Authority {
        let (id, upstream) = id.split_once('/').map_or((id, None), |(id, upstream)| (id, Some(upstream.to_owned())));
        Authority { id: id.to_owned(), expires_at: None, upstream }
    }

    /// `A+p` is active A beside prepared p, `A-o` beside old o; `!` before an id in the bundle: tainted.
    fn view(servers: &[&str], bundle: &str) -> View {
        let slots = |text: &str| {
            let (active, next) = match (text.split_once('+'), text.split_once('-')) {
                (Some((active, next)), _) => (active, Next::Prepared(authority(next))),
                (_, Some((active, next))) => (active, Next::Old(authority(next))),
                _ => (text, Next::Empty),
            };
            Slots { active: authority(active), next }
        };
        let servers = (0..).zip(servers).map(|(number, text)| {
            let seen = if text.is_empty() { Err("no socket".to_owned()) } else { Ok(slots(text)) };
            (format!("s{number}"), seen)
        });
        let held = |word: &str| {
            (word.trim_start_matches('!').to_owned(), Held { tainted: word.starts_with('!'), expires_at: None })
        };
        let bundle: BTreeMap<String, Held> = bundle.split_whitespace().map(held).collect();
        View { servers: servers.collect(), bundle, stale: BTreeSet::new() }
    }

    fn record(compromised: &str, server: Option<&str>) -> Record {
        Record {
            compromised: compromised.split_whitespace().map(str::to_owned).collect(),
            server: server.map(str::to_owned),
            ..Record::default()
        }
    }

    fn decided(key: KeyType, view: &View, record: &Record) -> String {
        let plan = next_actions(key, view, record);
        let mut words: Vec<String> = plan
            .actions
            .iter()
            .map(|action| format!("{} {} {}", action.pod, action.verb, action.id.as_deref().unwrap_or("")))
            .collect();
        words.extend(plan.orphans.iter().map(|orphan| format!("orphan {}", orphan.id)));
        words.extend(plan.blocked.iter().map(|blocked| format!("{blocked:?}")));
        format!("{:?}: {}", plan.phase, words.join(", ").replace(" ,", ",")).trim().to_owned()
    }

    #[test]
    fn every_state_of_the_slots_leads_on() {
        for (servers, bundle, compromised, expected) in [
            // A whole round.
            (vec!["a", "b"], "a b", "a b", "Prepare: s0 prepare, s1 prepare"),
            (vec!["a+A", "b"], "a b A", "a b", "Prepare: s1 prepare"),
            (vec!["a+A", "b+B"], "a b A B", "a b", "Activate: s0 activate A, s1 activate B"),
            (vec!["A-a", "b+B"], "a b A B", "a b", "Activate: s1 activate B"),
            (vec!["A-a", "B-b"], "a b A B", "a b", "Taint: s0 taint a, s1 taint b"),
            (vec!["A-a", "B-b"], "!a b A B", "a b", "Taint: s1 taint b"),
            (vec!["A-a", "B-b"], "!a !b A B", "a b", "Revoke: s0 revoke a, s1 revoke b"),
            (vec!["A-a", "B-b"], "!b A B", "a b", "Revoke: s1 revoke b"),
            (vec!["A-a", "B"], "A B", "a b", "Done:"),
            // What was beside the active one at the start is as suspect, and nothing is prepared over it.
            (vec!["a-o", "b"], "a b o", "a b o", "ClearTaint: s0 taint o"),
            (vec!["a-o", "b"], "a b !o", "a b o", "ClearRevoke: s0 revoke o"),
            (vec!["a-o", "b"], "a b", "a b o", "Prepare: s0 prepare, s1 prepare"),
            (vec!["a+p", "b-o"], "a b p o", "a b p o", "ClearActivate: s0 activate p"),
            (vec!["p-a", "b-o"], "a b p o", "a b p o", "ClearTaint: s0 taint a, s1 taint o"),
            (vec!["p-a", "b-o"], "!a b p", "a b p o", "ClearRevoke: s0 revoke a"),
            // The ordinary rotator was there: what it made since is new, what it overwrote can no longer be revoked.
            (vec!["A+X"], "A X a", "a", "Done: orphan a"),
            (vec!["X-A"], "X A", "a", "Done:"),
            (vec!["a+X"], "a X", "a", "Activate: s0 activate X"),
            // A server that lost its keys and made new ones.
            (vec!["N", "B-b"], "a N b B", "a b", "Taint: s1 taint b, orphan a"),
            // One that does not answer: nothing goes on, for it may still sign with what is to go.
            (vec!["a", ""], "a b", "a b", "Done: Unreachable { pod: \"s1\", why: \"no socket\" }"),
        ] {
            let (view, record) = (view(&servers, bundle), record(compromised, None));
            assert_eq!(decided(KeyType::X509, &view, &record), expected, "{servers:?} {bundle}");
        }
    }

    #[test]
    fn one_compromised_server_is_rotated_alone() {
        let of_s1 = record("b", Some("s1"));
        assert_eq!(decided(KeyType::X509, &view(&["a-o", "b"], "a o b"), &of_s1), "Prepare: s1 prepare");
        assert_eq!(decided(KeyType::X509, &view(&["", "B-b"], "a o b B"), &of_s1), "Taint: s1 taint b");
    }

    #[test]
    fn a_tainted_jwt_key_is_revoked_by_any_server() {
        let record = record("a", None);
        assert_eq!(decided(KeyType::Jwt, &view(&["N"], "!a N"), &record), "Revoke: s0 revoke a");
        assert_eq!(decided(KeyType::X509, &view(&["N"], "!a N"), &record), "Done: orphan a");
        assert_eq!(decided(KeyType::Jwt, &view(&["N"], "a N"), &record), "Done: orphan a");
    }

    #[test]
    fn under_an_upstream_authority_that_one_is_tainted_once() {
        let record = record("a b u", None);
        for (servers, bundle, expected) in [
            (vec!["a/u-o/u", "b/u+p/u"], "u", "Done: UpstreamUnchanged { pod: \"s1\", upstream: \"u\" }"),
            (vec!["a/u-o/u", "b/u"], "u v", "Prepare: s0 prepare, s1 prepare"),
            (vec!["a/u+A/v", "b/u+B/v"], "u v", "Activate: s0 activate A, s1 activate B"),
            (vec!["A/v-a/u", "B/v-b/u"], "u v", "Taint: s0 taint upstream u"),
            (vec!["A/v-a/u", "B/v-b/u"], "!u v", "Revoke: s0 revoke upstream u"),
            (vec!["A/v-a/u", "B/v-b/u"], "v", "Done:"),
        ] {
            assert_eq!(decided(KeyType::X509, &view(&servers, bundle), &record), expected, "{servers:?} {bundle}");
        }
        let mut late = view(&["A/v-a/u", "B/v-b/u"], "!u v");
        late.stale.insert("s1".to_owned());
        assert_eq!(decided(KeyType::X509, &late, &record), "Restart: s1 restart");
    }

    #[test]
    fn argv_is_the_clis() {
        let words = |verb, id| action("p", verb, id).argv(KeyType::Jwt).map(|words| words.join(" "));
        assert_eq!(words(Verb::Prepare, None).as_deref(), Some("localauthority jwt prepare"));
        assert_eq!(words(Verb::Taint, Some("k")).as_deref(), Some("localauthority jwt taint -authorityID k"));
        assert_eq!(words(Verb::RevokeUpstream, Some("k")).as_deref(), Some("upstreamauthority revoke -subjectKeyID k"));
        assert_eq!(words(Verb::Restart, None), None);
    }
}
