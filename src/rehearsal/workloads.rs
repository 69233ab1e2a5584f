//! What workloads receive from their agent, and log as `coastal workload` does, or `spire-agent api watch` in its place.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authority::Authority;
use super::object::{items, text};
use super::pods;
use super::spire::{Pass, Spire};
use super::store::Store;
use crate::workload::record::{Connection, Line, SCHEMA, State, Update};
use crate::workload::svid;

/// From a workload's first try to its SVID, entry and agent being there: agents ask for new entries every 5 s. With
/// the entry's delay it is 6.6 s from the pod's start (facts, section 9).
const FIRST_SVID: SignedDuration = SignedDuration::from_millis(5_600);
/// An agent hears of a change of the bundle at its next sync.
const SYNC: SignedDuration = SignedDuration::from_secs(5);

/// A process that follows the Workload API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Workload {
    /// Since when it has both an entry and an agent.
    eligible: Option<Timestamp>,
    /// What was last said about the connection.
    said: Option<State>,
    /// How many updates it got.
    sequence: u64,
    /// How many SVIDs were signed for it.
    signed: u64,
    held: Option<Held>,
}

/// The SVID that it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    der: Vec<u8>,
    renew: Timestamp,
    /// The bundle that came with it.
    bundle: u64,
}

impl Spire {
    pub(super) fn workload(&mut self, pass: &mut Pass<'_>, pod: &Value, database: Option<&str>) -> Option<()> {
        let container = follower(pod)?;
        let life = pods::life(pod, text(container, "/name"))?;
        let since = self.since(&life, pass.now);
        let agent = pods::all(pass.store)
            .into_iter()
            .any(|agent| agent["spec"]["nodeName"] == pod["spec"]["nodeName"] && self.is_agent_up(&agent));
        let watches = items(container, "/command").any(|word| word == "watch");
        let place =
            Place { store: pass.store, pod, container: text(container, "/name"), watches, now: pass.now, since };
        let workload = self.workloads.entry(life).or_default();
        if !agent {
            let state = if workload.held.is_some() { State::Lost } else { State::Unreachable };
            workload.held = None;
            workload.eligible = None;
            workload.say(&place, state);
            return None;
        }
        let database = database.and_then(|home| self.databases.get(home));
        let entry = database.and_then(|database| database.entries.get(pods::uid(pod)));
        let (Some(database), Some(entry)) = (database, entry) else {
            // With the servers away an agent serves on from its cache; without an entry it never had anything.
            if workload.held.is_none() {
                workload.eligible = None;
                workload.say(&place, State::NoIdentity);
            }
            return None;
        };
        let due = match &workload.held {
            None => *workload.eligible.get_or_insert(pass.now) + FIRST_SVID,
            Some(held) if held.bundle != database.sequence => held.renew.min(database.bundle_changed? + SYNC),
            Some(held) => held.renew,
        };
        if !pass.due(due) {
            if workload.held.is_none() {
                workload.say(&place, State::NoIdentity);
            }
            return None;
        }
        let authority = database.bundle.iter().find(|authority| self.keys.values().any(|key| key == *authority))?;
        let id = format!("spiffe://{}{}", authority.trust_domain, entry.path);
        workload.receive(&place, &id, authority, &database.bundle, database.sequence)
    }
}

/// The container that follows the Workload API: the first that mounts the CSI driver's volume.
fn follower(pod: &Value) -> Option<&Value> {
    let volume = items(pod, "/spec/volumes").find(|volume| text(volume, "/csi/driver") == "csi.spiffe.io")?;
    items(pod, "/spec/containers")
        .find(|container| items(container, "/volumeMounts").any(|mount| text(mount, "/name") == text(volume, "/name")))
}

struct Place<'a> {
    store: &'a Store,
    pod: &'a Value,
    container: &'a str,
    /// It is `spire-agent api watch`, which prints text only.
    watches: bool,
    now: Timestamp,
    since: Timestamp,
}

impl Place<'_> {
    fn log(&self, text: &str) {
        for line in text.lines() {
            self.store.append_log(pods::namespace(self.pod), pods::name(self.pod), self.container, line);
        }
    }

    fn line(&self, line: &Line) {
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = line.write(&mut text);
        self.log(&String::from_utf8_lossy(&text));
    }
}

impl Workload {
    /// Says how it stands with the Workload API, if that is news.
    fn say(&mut self, place: &Place<'_>, state: State) {
        if self.said == Some(state) {
            return;
        }
        self.said = Some(state);
        if place.watches {
            if state != State::Following {
                place.log("rpc error: code = PermissionDenied desc = no identity issued");
            }
            return;
        }
        let message = match state {
            State::Following => "receiving SVIDs",
            State::NoIdentity => "no identity issued",
            State::Lost => "the agent ended the stream",
            _ => "transport error: No such file or directory (os error 2)",
        };
        place.line(&Line::Connection(Connection {
            schema: SCHEMA,
            at: place.now,
            state,
            message: message.to_owned(),
            attempts: 1,
            after_ms: u64::try_from(place.now.duration_since(place.since).as_millis()).unwrap_or_default(),
        }));
    }

    /// An update of the Workload API: the SVID it holds if that is still good, else a new one, and the bundle.
    fn receive(
        &mut self,
        place: &Place<'_>,
        id: &str,
        authority: &Authority,
        bundle: &[Authority],
        sequence: u64,
    ) -> Option<()> {
        let held = match self.held.take() {
            Some(held) if held.renew > place.now => Held { bundle: sequence, ..held },
            _ => {
                self.signed += 1;
                let (der, expires) = authority.sign(id, pods::uid(place.pod), self.signed, place.now).ok()?;
                let half = expires.duration_since(place.now) / 2;
                Held { der, renew: place.now + half, bundle: sequence }
            }
        };
        let authorities: Vec<Vec<u8>> = bundle.iter().filter_map(|authority| authority.certificate().ok()).collect();
        let authorities: Vec<&[u8]> = authorities.iter().map(Vec::as_slice).collect();
        let facts = svid::read(&[&held.der], &authorities).ok()?;
        self.say(place, State::Following);
        self.sequence += 1;
        if place.watches {
            place.log(&watch_text(id, &facts, bundle, place.now.duration_since(place.since)));
            self.held = Some(held);
            return Some(());
        }
        let time = place.now.strftime("%Y/%m/%d %H:%M:%S");
        place.log(&format!("{time} SVID updated for \"{id}\":\n{}\n", svid::pem(&[&held.der])));
        place.line(&Line::Update(Update {
            schema: SCHEMA,
            sequence: self.sequence,
            svid: 0,
            received_at: Some(place.now),
            spiffe_id: id.to_owned(),
            hint: None,
            serial: Some(facts.serial),
            not_before: facts.not_before,
            not_after: facts.not_after,
            issuer_key_id: facts.issuer_key_id,
            anchor_key_id: facts.anchor_key_id,
            bundle_key_ids: facts.bundle_key_ids,
            authorities: authorities.len(),
            verified: Some(facts.verified),
        }));
        self.held = Some(held);
        Some(())
    }
}

/// What `spire-agent api watch` prints of an update (see `workload::watch_text`).
fn watch_text(id: &str, facts: &svid::Facts, bundle: &[Authority], after: SignedDuration) -> String {
    let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string();
    let mut lines = vec![
        format!("Received 1 svid after {:.6}s\n", after.as_secs_f64()),
        format!("SPIFFE ID:\t\t{id}"),
        format!("SVID Valid After:\t{}", time(facts.not_before)),
        format!("SVID Valid Until:\t{}", time(facts.not_after)),
    ];
    for (number, authority) in (1..).zip(bundle) {
        lines.push(format!("CA #{number} Valid After:\t{}", time(authority.issued)));
        lines.push(format!("CA #{number} Valid Until:\t{}", time(authority.expires())));
    }
    lines.join("\n") + "\n"
}
