//! Agents: how they attest, and which server they talk to.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AgentSettings, AttestedAgent, Pass, Spire, version_of};
use crate::rehearsal::api::select;
use crate::rehearsal::controllers::is_ready;
use crate::rehearsal::faults::{Fault, Faults, strikes};
use crate::rehearsal::object::{at, items, text};
use crate::rehearsal::pods;
use crate::rehearsal::store::{Key, Store};

/// An agent serves the Workload API so long after its start (facts, section 9).
const AGENT_BOOT: SignedDuration = SignedDuration::from_secs(1);

/// The process of an agent that serves the Workload API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::rehearsal) struct Agent {
    pub(super) settings: AgentSettings,
    pub(in crate::rehearsal) node: String,
    pub(in crate::rehearsal) up_since: Timestamp,
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
        if self.agents.contains_key(&life) || !pass.due(since + AGENT_BOOT) || cannot_attest(pass.faults, &version) {
            return None;
        }
        let settings = AgentSettings::of(pass.store, pod)?;
        let server = self.servers.get(&reached(pass, &settings, &life)?)?.clone();
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
        for line in [
            "level=info msg=\"SVID is not found. Starting node attestation\" subsystem_name=attestor".to_owned(),
            format!(
                "level=info msg=\"Node attestation was successful\" reattestable=true spiffe_id=\"{id}\" subsystem_name=attestor"
            ),
            "level=info msg=\"Starting Workload and SDS APIs\" network=unix subsystem_name=endpoints".to_owned(),
        ] {
            pass.log(pod, text(container, "/name"), &line);
        }
        self.agents.insert(life, Agent { settings, node: text(pod, "/spec/nodeName").to_owned(), up_since: pass.now });
        Some(())
    }

    /// Whether the agent in that pod serves the Workload API.
    pub(in crate::rehearsal) fn is_agent_up(&self, pod: &Value) -> bool {
        let life = agent_container(pod).and_then(|container| pods::life(pod, text(container, "/name")));
        life.is_some_and(|life| self.agents.contains_key(&life))
    }
}

/// The process of the server that an agent is connected to: always the same one of those that answer.
pub(super) fn reached(pass: &Pass<'_>, settings: &AgentSettings, life: &str) -> Option<String> {
    let pods = behind(pass.store, &settings.server);
    let up: Vec<String> = pods.iter().flat_map(|pod| pods::lives(pod)).filter(|life| pass.up.contains(life)).collect();
    let chosen = life.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    (!up.is_empty()).then(|| up[chosen % up.len()].clone())
}

/// Whether a fault keeps agents of that version from attesting.
pub(in crate::rehearsal) fn cannot_attest(faults: &Faults, version: &Version) -> bool {
    faults.any(|fault| matches!(fault, Fault::AgentNeverReady(only) if strikes(only.as_deref(), version)))
}
