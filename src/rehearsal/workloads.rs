//! What workloads receive from their agent, and log as `coastal workload` does, or `spire-agent api watch` in its place.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authority::Authority;
use super::faults::Fault;
use super::object::{items, text};
use super::pods;
use super::spire::{Database, Entry, Pass, Server, Spire};
use super::store::Store;
use crate::workload::record::{Connection, Line, SCHEMA, State, Update};
use crate::workload::svid;

/// From an entry's creation to an agent's knowing it: agents ask every 5 s.
const SYNC: SignedDuration = SignedDuration::from_secs(5);
/// From then to the SVID in the workload's hands. With the entry's delay it is 6.6 s from a new pod's start (facts,
/// section 9).
const FETCH: SignedDuration = SignedDuration::from_millis(600);
/// Once an authority is tainted, agents renew what it signed in batches of this size, one each 5 s (facts, section 4).
const BATCH: usize = 100;
/// A workload that has lost its agent looks for it again so soon (`workload::follow`).
const RECONNECT: SignedDuration = SignedDuration::from_millis(300);

/// A process that follows the Workload API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Workload {
    /// Since when it has no agent, or no entry.
    without: Option<Timestamp>,
    /// What was last said about the connection.
    said: Option<State>,
    /// Attempts since the last update, and when that was.
    attempts: u64,
    updated: Option<Timestamp>,
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
    /// The entry that it is for.
    entry: String,
    /// The bundle that came with it.
    bundle: u64,
    /// The seed of the authority that signed it.
    #[serde(default)]
    issuer: String,
}

impl Spire {
    pub(super) fn workload(&mut self, pass: &mut Pass<'_>, pod: &Value) -> Option<()> {
        let container = follower(pod)?;
        let life = pods::life(pod, text(container, "/name"))?;
        let since = self.since(&life, pass.now);
        let watches = items(container, "/command").any(|word| word == "watch");
        let place =
            Place { store: pass.store, pod, container: text(container, "/name"), watches, now: pass.now, since };
        let mut workload = self.workloads.remove(&life).unwrap_or_default();
        self.follow(pass, &place, &mut workload);
        self.workloads.insert(life, workload);
        Some(())
    }

    fn follow(&self, pass: &mut Pass<'_>, place: &Place<'_>, workload: &mut Workload) -> Option<()> {
        let node = text(place.pod, "/spec/nodeName");
        let Some((life, agent)) = self.agents.iter().find(|(_, agent)| agent.node == node) else {
            workload.is_alone(pass, place);
            return None;
        };
        let server = pass.links.get(life).and_then(|life| self.servers.get(life));
        let database = server.and_then(|server| Some((server, self.databases.get(&server.database)?)));
        let Some((server, database)) = database else {
            // With the servers away an agent serves on from its cache; who is new to it gets nothing.
            if workload.held.is_none() {
                workload.say(place, State::NoIdentity);
            }
            return None;
        };
        if pass.faults.any(|fault| *fault == Fault::AgentNeverSyncs) {
            if workload.held.is_none() {
                workload.say(place, State::NoIdentity);
            }
            return None;
        }
        let Some(entry) = database.entries.get(pods::uid(place.pod)) else {
            let missing = *workload.without.get_or_insert(place.now);
            if workload.held.is_none() || pass.due(missing + SYNC) {
                workload.held = None;
                workload.say(place, State::NoIdentity);
            }
            return None;
        };
        workload.without = None;
        // What was there before the agent started, it has asked for before it serves; of what is new it hears later.
        let is_news = entry.created >= agent.up_since;
        let own = pods::life(place.pod, place.container).unwrap_or_default();
        let tainted = workload.held.as_ref().and_then(|held| database.tainted.get(&held.issuer)).map(|since| {
            let batch = self.workloads.range(..own).count() / BATCH;
            *since + SYNC * i32::try_from(batch + 1).unwrap_or(i32::MAX)
        });
        let due = match &workload.held {
            None if is_news => entry.created + SYNC + FETCH,
            None => agent.up_since.max(place.since) + RECONNECT,
            Some(held) if held.entry != entry.id => entry.created + SYNC,
            Some(held) if held.bundle != database.roots => held.renew.min(database.bundle_changed? + SYNC),
            Some(held) => held.renew,
        };
        let due = tainted.map_or(due, |tainted| due.min(tainted));
        if !pass.due(due) {
            if workload.held.is_none() && is_news {
                workload.say(place, State::NoIdentity);
            }
            return None;
        }
        let authorities = pass.certificates(&database.bundle);
        let renews = tainted.is_some_and(|tainted| tainted <= place.now);
        let source = Source { server, database, entry, authorities, renews };
        workload.receive(place, &source)?;
        let renew = workload.held.as_ref()?.renew;
        pass.due(renew);
        Some(())
    }
}

/// Where an update comes from.
struct Source<'a> {
    server: &'a Server,
    database: &'a Database,
    entry: &'a Entry,
    /// The certificates of the bundle.
    authorities: Vec<Vec<u8>>,
    /// What is held came of a tainted authority, and its turn has come.
    renews: bool,
}

/// The container that follows the Workload API: the first that mounts the CSI driver's volume.
pub(super) fn follower(pod: &Value) -> Option<&Value> {
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
        self.attempts += 1;
        let since = self.updated.unwrap_or(place.since);
        place.line(&Line::Connection(Connection {
            schema: SCHEMA,
            at: place.now,
            state,
            message: message.to_owned(),
            attempts: self.attempts,
            after_ms: u64::try_from(place.now.duration_since(since).as_millis()).unwrap_or_default(),
        }));
    }

    /// There is no agent on its node: it hears the stream end, and then finds no socket.
    fn is_alone(&mut self, pass: &mut Pass<'_>, place: &Place<'_>) {
        let without = *self.without.get_or_insert(place.now);
        if self.held.take().is_some() {
            self.say(place, State::Lost);
        } else if self.said != Some(State::Lost) || pass.due(without + RECONNECT) {
            self.say(place, State::Unreachable);
            return;
        }
        pass.due(without + RECONNECT);
    }

    /// An update of the Workload API: the SVID it holds if that is still good, else a new one, and the bundle.
    fn receive(&mut self, place: &Place<'_>, source: &Source<'_>) -> Option<()> {
        let Source { server, database, entry, authorities, renews } = source;
        let (sequence, bundle) = (database.roots, &database.bundle);
        let id = format!("spiffe://{}{}", server.settings.trust_domain, entry.path);
        let held = match self.held.take() {
            Some(held) if held.renew > place.now && held.entry == entry.id && !renews => {
                Held { bundle: sequence, ..held }
            }
            _ => {
                self.signed += 1;
                let (workload, life) = (pods::uid(place.pod), server.settings.svid_ttl);
                let (der, expires) = server.journal.active.sign(&id, workload, self.signed, place.now, life).ok()?;
                let half = expires.duration_since(place.now) / 2;
                let issuer = server.journal.active.seed.clone();
                Held { der, renew: place.now + half, entry: entry.id.clone(), bundle: sequence, issuer }
            }
        };
        let authorities: Vec<&[u8]> = authorities.iter().map(Vec::as_slice).collect();
        let facts = svid::read(&[&held.der], &authorities).ok()?;
        self.say(place, State::Following);
        self.sequence += 1;
        (self.attempts, self.updated) = (0, Some(place.now));
        if place.watches {
            place.log(&watch_text(&id, &facts, bundle, place.now.duration_since(place.since)));
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
            spiffe_id: id,
            hint: Some(entry.hint.clone()).filter(|hint| !hint.is_empty()),
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
        lines.push(format!("CA #{number} Valid Until:\t{}", time(authority.expires)));
    }
    lines.join("\n") + "\n"
}
