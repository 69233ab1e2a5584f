//! Agents: how they attest, and which server they talk to.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AgentSettings, AttestedAgent, Pass, Server, Spire, version_of};
use crate::rehearsal::api::select;
use crate::rehearsal::authority::Authority;
use crate::rehearsal::controllers::is_ready;
use crate::rehearsal::faults::{Fault, Faults, strikes};
use crate::rehearsal::object::{at, items, text};
use crate::rehearsal::pods;
use crate::rehearsal::store::{Key, Store};

/// An agent serves the Workload API so long after its start (facts, section 9).
const AGENT_BOOT: SignedDuration = SignedDuration::from_secs(1);

/// Agents ask for what is new every 5 s.
const SYNC: SignedDuration = SignedDuration::from_secs(5);
/// One that cannot begin is started again after so long; the first back-off of a kubelet stands for all.
const CRASH_LOOP: SignedDuration = SignedDuration::from_secs(10);
/// One that cannot reach its servers tries less and less often; it says so about once a minute.
const COMPLAINS_AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// From this version on an agent ends when it does not trust its servers (facts, section 5).
const ENDS_ON_DISTRUST: Version = Version::new(1, 8, 7);
/// From this version on it may be told to replace its bundle instead.
const REBOOTSTRAPS: Version = Version::new(1, 13, 0);
/// After so long.
const REBOOTSTRAP_DELAY: SignedDuration = SignedDuration::from_mins(10);
/// From this version on an agent that the servers have no record of attests again within its process.
const REATTESTS_IN_PROCESS: Version = Version::new(1, 10, 0);

/// The process of an agent that serves the Workload API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::rehearsal) struct Agent {
    pub(super) settings: AgentSettings,
    pub(in crate::rehearsal) node: String,
    pub(in crate::rehearsal) up_since: Timestamp,
    /// The authorities that it trusts.
    #[serde(default)]
    bundle: Vec<Authority>,
    /// Since when it meets only servers that it does not trust.
    #[serde(default)]
    distrusts: Option<Timestamp>,
    /// When it last said so.
    #[serde(default)]
    complained: Option<Timestamp>,
}

impl Agent {
    /// Whether it trusts what a server signs with.
    pub(super) fn trusts(&self, server: &Server) -> bool {
        self.bundle.contains(&server.journal.active)
    }
}

/// The container that runs an agent; the image serves as a workload too, with other arguments.
pub(in crate::rehearsal) fn agent_container(pod: &Value) -> Option<&Value> {
    pods::container(pod, "spire-agent").filter(|container| items(container, "/args").any(|word| word == "-config"))
}

/// The path of the SPIFFE id of the agent on a node.
pub(super) fn path(cluster: &str, node: &Value) -> String {
    format!("/spire/agent/k8s_psat/{cluster}/{}", pods::uid(node))
}

/// The pods that a client reaches who dials that host and port: those behind the Service that are Ready.
fn behind(store: &Store, (host, port): &(String, String)) -> Vec<Arc<Value>> {
    let Some((service, namespace)) = host.split_once('.') else { return Vec::new() };
    let namespace = namespace.split('.').next().unwrap_or(namespace);
    let Some(service) = store.shared(&Key::new("v1", "Service", namespace, service)) else { return Vec::new() };
    if !items(&service, "/spec/ports").any(|open| port.parse().is_ok_and(|port: u64| open["port"] == port)) {
        return Vec::new();
    }
    let mut all = store.list_shared("v1", "Pod", Some(namespace));
    all.retain(|pod| {
        let going = at(pod, "/metadata/deletionTimestamp").is_some();
        select::selects_plainly(&service["spec"]["selector"], pod) && is_ready(pod) && !going
    });
    all
}

impl Spire {
    /// Whether an init container that waits for the servers would see them answer.
    pub(in crate::rehearsal) fn answers(&self, store: &Store, faults: &Faults, pod: &Value) -> bool {
        let Some(settings) = AgentSettings::of(store, pod) else { return false };
        behind(store, &settings.server).iter().any(|pod| self.server_up(store, faults, pod).is_some())
    }

    pub(super) fn agent(&mut self, pass: &mut Pass<'_>, pod: &Value) -> Option<()> {
        let container = agent_container(pod)?;
        let life = pods::life(pod, text(container, "/name"))?;
        let version = version_of(container);
        let since = self.since(&life, pass.now);
        if let Some(agent) = self.agents.remove(&life) {
            let agent = self.sync(pass, pod, &life, &version, agent)?;
            self.agents.insert(life, agent);
            return None;
        }
        if !pass.due(since + AGENT_BOOT) || cannot_attest(pass.faults, &version) {
            return None;
        }
        let settings = AgentSettings::of(pass.store, pod)?;
        // It boots from what it kept, else from the bundle that is published.
        let kept = self.kept_bundles.get(pods::uid(pod)).cloned();
        let published = pods::mounted(pass.store, pod, &settings.bundle)?;
        let trusts = |server: &Server| match &kept {
            Some(kept) => kept.contains(&server.journal.active),
            None => holds(&published, &server.journal.active),
        };
        let Some(chosen) = self.reached(pass, &settings, &life, trusts) else {
            if self.reached(pass, &settings, &life, |_| true).is_some() {
                // It ends, and is started again.
                complain(pass, pod, "Agent crashed", "failed to attest: ");
                self.since.insert(life, pass.now + CRASH_LOOP);
                pass.due(pass.now + CRASH_LOOP + AGENT_BOOT);
            }
            return None;
        };
        let server = self.servers.get(&chosen)?.clone();
        self.attest(pass, pod, &settings, &server, &version)?;
        let name = text(container, "/name");
        pass.log(pod, name, "level=info msg=\"Starting Workload and SDS APIs\" network=unix subsystem_name=endpoints");
        let bundle = self.databases.get(&server.database).map(|database| database.bundle.clone()).unwrap_or_default();
        let node = text(pod, "/spec/nodeName").to_owned();
        let agent = Agent { settings, node, up_since: pass.now, bundle, distrusts: None, complained: None };
        self.keep_bundle(pod, &agent);
        self.agents.insert(life, agent);
        Some(())
    }

    /// The servers come to know an agent. Not one that is banned.
    fn attest(
        &mut self,
        pass: &Pass<'_>,
        pod: &Value,
        settings: &AgentSettings,
        server: &Server,
        version: &Version,
    ) -> Option<()> {
        let node = pass.store.shared(&Key::new("v1", "Node", "", text(pod, "/spec/nodeName")))?;
        let attested = AttestedAgent {
            path: path(&settings.cluster, &node),
            attested: pass.now,
            svid_ttl: server.settings.svid_ttl,
            version: version.to_string(),
            pod: pods::name(pod).to_owned(),
            namespace: pods::namespace(pod).to_owned(),
            node: text(pod, "/spec/nodeName").to_owned(),
            banned: false,
        };
        let id = format!("spiffe://{}{}", server.settings.trust_domain, attested.path);
        let agents = &mut self.databases.get_mut(&server.database)?.agents;
        if agents.get(pods::uid(&node)).is_some_and(|known| known.banned) {
            return None;
        }
        agents.insert(pods::uid(&node).to_owned(), attested);
        let name = text(agent_container(pod)?, "/name").to_owned();
        for line in [
            "level=info msg=\"SVID is not found. Starting node attestation\" subsystem_name=attestor".to_owned(),
            format!(
                "level=info msg=\"Node attestation was successful\" reattestable=true spiffe_id=\"{id}\" subsystem_name=attestor"
            ),
        ] {
            pass.log(pod, &name, &line);
        }
        Some(())
    }

    /// An agent that serves asks its servers what is new (facts, sections 4 and 5). Nothing if it ends.
    fn sync(
        &mut self,
        pass: &mut Pass<'_>,
        pod: &Value,
        life: &str,
        version: &Version,
        mut agent: Agent,
    ) -> Option<Agent> {
        let trusted = self.reached(pass, &agent.settings, life, |server| agent.trusts(server));
        let Some(server) = trusted.and_then(|life| self.servers.get(&life)).cloned() else {
            return match self.reached(pass, &agent.settings, life, |_| true) {
                // With the servers away it serves on from what it has.
                None => Some(agent),
                Some(_) => self.distrust(pass, pod, life, version, agent),
            };
        };
        (agent.distrusts, agent.complained) = (None, None);
        let database = self.databases.get(&server.database)?;
        let node = pass.store.shared(&Key::new("v1", "Node", "", text(pod, "/spec/nodeName")))?;
        if !database.agents.contains_key(pods::uid(&node)) {
            let name = text(agent_container(pod)?, "/name").to_owned();
            if *version < REATTESTS_IN_PROCESS {
                pass.log(pod, &name, "level=error msg=\"Agent needs to re-attest; removing SVID and shutting down\" subsystem_name=manager");
                return self.ends(pass, life);
            }
            pass.log(
                pod,
                &name,
                "level=warning msg=\"Agent needs to re-attest; will attempt to re-attest\" subsystem_name=manager",
            );
            let settings = agent.settings.clone();
            self.attest(pass, pod, &settings, &server, version);
        }
        let database = self.databases.get(&server.database)?;
        let changed = database.bundle_changed.map_or(pass.now, |changed| changed + SYNC);
        if agent.bundle != database.bundle && pass.due(changed) {
            agent.bundle.clone_from(&database.bundle);
            self.keep_bundle(pod, &agent);
        }
        Some(agent)
    }

    /// An agent meets only servers that it does not trust. What it does then, each line of versions does otherwise.
    fn distrust(
        &mut self,
        pass: &mut Pass<'_>,
        pod: &Value,
        life: &str,
        version: &Version,
        mut agent: Agent,
    ) -> Option<Agent> {
        let since = *agent.distrusts.get_or_insert(pass.now);
        let waits = *version >= REBOOTSTRAPS && agent.settings.rebootstraps;
        if *version >= ENDS_ON_DISTRUST && !waits {
            complain(pass, pod, "Agent crashed", "failed to sync with SPIRE Server: ");
            return self.ends(pass, life);
        }
        if agent.complained.is_none_or(|complained| complained + COMPLAINS_AGAIN <= pass.now) {
            agent.complained = Some(pass.now);
            let words =
                if waits { "Trust Bundle and Server don't agree, ignoring for now" } else { "Synchronize failed" };
            complain(pass, pod, words, "");
        }
        pass.due(pass.now + COMPLAINS_AGAIN);
        if waits && pass.due(since + REBOOTSTRAP_DELAY) {
            self.kept_bundles.remove(pods::uid(pod));
            return self.ends(pass, life);
        }
        Some(agent)
    }

    /// The process ends, and the kubelet starts it again at once.
    fn ends(&mut self, pass: &mut Pass<'_>, life: &str) -> Option<Agent> {
        self.since.insert(life.to_owned(), pass.now + AGENT_BOOT);
        pass.due(pass.now + AGENT_BOOT + AGENT_BOOT);
        None
    }

    fn keep_bundle(&mut self, pod: &Value, agent: &Agent) {
        if agent.settings.keeps {
            self.kept_bundles.insert(pods::uid(pod).to_owned(), agent.bundle.clone());
        }
    }

    /// The process of the server that an agent is connected to: of those that answer and that it trusts always the
    /// same one, for a connection that fails is tried with another.
    pub(super) fn reached(
        &self,
        pass: &Pass<'_>,
        settings: &AgentSettings,
        life: &str,
        trusts: impl Fn(&Server) -> bool,
    ) -> Option<String> {
        let pods = behind(pass.store, &settings.server);
        let up = pods.iter().flat_map(|pod| pods::lives(pod)).filter(|life| pass.up.contains(life));
        let up: Vec<String> = up.filter(|life| self.servers.contains_key(life)).collect();
        let chosen = life.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let mut in_turn = (0..up.len()).filter_map(|step| up.get((chosen % up.len() + step) % up.len()));
        in_turn.find(|life| self.servers.get(*life).is_some_and(&trusts)).cloned()
    }

    /// Whether the agent in that pod serves the Workload API.
    pub(in crate::rehearsal) fn is_agent_up(&self, pod: &Value) -> bool {
        let life = agent_container(pod).and_then(|container| pods::life(pod, text(container, "/name")));
        life.is_some_and(|life| self.agents.contains_key(&life))
    }
}

/// An agent says that it does not trust its servers.
fn complain(pass: &Pass<'_>, pod: &Value, words: &str, prefix: &str) {
    let line = format!(
        "level=error msg=\"{words}\" error=\"{prefix}rpc error: code = Unavailable desc = connection error: desc = \\\"transport: authentication handshake failed: x509svid: could not verify leaf certificate: x509: certificate signed by unknown authority\\\"\" subsystem_name=manager"
    );
    if let Some(container) = agent_container(pod) {
        pass.log(pod, text(container, "/name"), &line);
    }
}

/// Whether an authority's certificate is in a published bundle, in either of its formats.
fn holds(published: &str, authority: &Authority) -> bool {
    let Ok(der) = authority.certificate() else { return false };
    published.contains(&BASE64.encode(&der)) || published.contains(crate::workload::svid::pem(&[&der]).trim())
}

/// Whether a fault keeps agents of that version from attesting.
pub(in crate::rehearsal) fn cannot_attest(faults: &Faults, version: &Version) -> bool {
    faults.any(|fault| matches!(fault, Fault::AgentNeverReady(only) if strikes(only.as_deref(), version)))
}
