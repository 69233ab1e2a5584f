//! SPIRE: data store, servers, controller manager, agents, and what reaches the workloads.
//!
//! Each pass looks at the pods that run, moves on what has become due, and says when to look again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::authority::{Authority, Subject};
use super::faults::{Fault, Faults};
use super::identity::uid_from;
use super::object::{condition, items, text, texts};
use super::store::{Key, Store};
use super::{pods, workloads};

/// From a server's start to its first answer.
const SERVER_BOOT: SignedDuration = SignedDuration::from_millis(2_500);
/// An agent serves the Workload API so long after its start (facts, section 9).
const AGENT_BOOT: SignedDuration = SignedDuration::from_secs(1);
/// The controller manager makes a pod's entry so long after the pod (facts, section 9).
const ENTRY_DELAY: SignedDuration = SignedDuration::from_secs(1);

/// Schema of the data store by the first version that brought it (facts, section 1, column L).
const SCHEMAS: &[((u64, u64, u64), u32)] = &[
    ((1, 15, 0), 25),
    ((1, 14, 3), 24),
    ((1, 8, 0), 23),
    ((1, 7, 2), 22),
    ((1, 6, 0), 21),
    ((1, 3, 2), 19),
    ((1, 2, 0), 18),
    ((1, 0, 0), 17),
];

/// The state of everything SPIRE in one cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Spire {
    /// By where the data store keeps its files.
    pub(super) databases: BTreeMap<String, Database>,
    /// `keys.json` of each server, by its claim: a server that finds its claim again keeps its authority.
    pub(super) keys: BTreeMap<String, Authority>,
    /// When each running process was first seen.
    pub(super) since: BTreeMap<String, Timestamp>,
    /// Processes of agents that have attested.
    pub(super) attested: BTreeSet<String>,
    /// Processes of servers that have said that they are up.
    started: BTreeSet<String>,
    pub(super) workloads: BTreeMap<String, workloads::Workload>,
}

/// A data store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Database {
    /// Set when the data store makes its files, and not changed by a later environment.
    pub(super) password: String,
    /// The row of the table `migrations`.
    pub(super) migrations: Option<(u32, String)>,
    /// The trust domain's bundle.
    pub(super) bundle: Vec<Authority>,
    /// Moves on with each change of the bundle.
    pub(super) sequence: u64,
    pub(super) bundle_changed: Option<Timestamp>,
    /// Registration entries, by the uid of the pod that they are for.
    pub(super) entries: BTreeMap<String, Entry>,
    /// Attested agents, by the uid of their node.
    pub(super) agents: BTreeMap<String, AttestedAgent>,
}

/// A registration entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    /// The path of its SPIFFE id.
    pub(super) path: String,
    /// The path of its parent's.
    pub(super) parent: String,
    pub(super) created: Timestamp,
}

/// An attested agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttestedAgent {
    pub(super) path: String,
    pub(super) expires: Timestamp,
    pub(super) pod: String,
    pub(super) namespace: String,
}

/// What a server's configuration says.
pub(super) struct Settings {
    pub(super) trust_domain: String,
    pub(super) cluster: String,
    /// Where its data store is: a host name, or nothing for sqlite.
    database_host: Option<String>,
    bundle: Key,
    subject: Subject,
}

impl Settings {
    /// Out of the `server.conf` that the pod mounts.
    pub(super) fn of(store: &Store, pod: &Value) -> Option<Self> {
        let config: Value = serde_json::from_str(&pods::mounted(store, pod, "server.conf")?).ok()?;
        let sql = config.pointer("/plugins/DataStore/0/sql/plugin_data")?;
        let host = text(sql, "/connection_string").split(' ').find_map(|word| word.strip_prefix("host="));
        let clusters = config.pointer("/plugins/NodeAttestor/0/k8s_psat/plugin_data/clusters")?.as_object()?;
        let notifier = config.pointer("/plugins/Notifier/0/k8sbundle/plugin_data")?;
        let subject = |field: &str| {
            let value = config.pointer(&format!("/server/ca_subject/0/{field}")).cloned().unwrap_or_default();
            value.as_str().or_else(|| value[0].as_str()).unwrap_or_default().to_owned()
        };
        Some(Settings {
            trust_domain: text(&config, "/server/trust_domain").to_owned(),
            cluster: clusters.keys().next().cloned().unwrap_or_default(),
            database_host: (text(sql, "/database_type") == "postgres").then(|| host.unwrap_or_default().to_owned()),
            bundle: Key::new("v1", "ConfigMap", text(notifier, "/namespace"), text(notifier, "/config_map")),
            subject: Subject {
                country: subject("country"),
                organization: subject("organization"),
                common_name: subject("common_name"),
            },
        })
    }
}

/// A pass over the cluster at one moment.
pub(super) struct Pass<'a> {
    pub(super) store: &'a Store,
    pub(super) faults: &'a Faults,
    pub(super) now: Timestamp,
    /// The soonest thing that is not due yet.
    next: Option<Timestamp>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(store: &'a Store, faults: &'a Faults) -> Self {
        Pass { store, faults, now: store.now(), next: None }
    }

    /// Whether `time` has come; if not, somebody will look again then.
    pub(super) fn due(&mut self, time: Timestamp) -> bool {
        if time > self.now {
            self.next = Some(self.next.map_or(time, |next| next.min(time)));
        }
        time <= self.now
    }

    /// When to look again, if nothing changes before.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }
}

impl Spire {
    /// Moves on what is due.
    pub(super) fn pass(&mut self, pass: &mut Pass<'_>) {
        let all = pods::all(pass.store);
        self.forget_the_dead(&all);
        for pod in &all {
            if let Some(container) = pods::container(pod, "postgres")
                && pods::life(pod, text(container, "/name")).is_some()
            {
                let password = pods::env(pass.store, pod, container, "POSTGRES_PASSWORD").unwrap_or_default();
                self.databases
                    .entry(pods::home(pass.store, pod))
                    .or_insert_with(|| Database { password, ..Database::default() });
            }
        }
        for pod in &all {
            self.server(pass, pod);
        }
        let up = all.iter().find_map(|pod| {
            self.is_server_up(pass.store, pass.faults, pod).then(|| Spire::connection(pass.store, pod)).flatten()
        });
        if let Some((settings, home)) = &up {
            self.entries(pass, settings, home, &all);
        }
        for pod in &all {
            self.agent(pass, pod, up.as_ref());
        }
        for pod in &all {
            self.workload(pass, pod, up.as_ref().map(|(_, home)| home.as_str()));
        }
    }

    fn forget_the_dead(&mut self, all: &[std::sync::Arc<Value>]) {
        let uids: BTreeSet<&str> = all.iter().map(|pod| pods::uid(pod)).collect();
        let lives = |life: &String| life.split('/').next().is_some_and(|uid| uids.contains(uid));
        self.since.retain(|life, _| lives(life));
        self.attested.retain(lives);
        self.started.retain(lives);
        self.workloads.retain(|life, _| lives(life));
    }

    /// When a process was first seen to run: now, if it is new.
    pub(super) fn since(&mut self, life: &str, now: Timestamp) -> Timestamp {
        *self.since.entry(life.to_owned()).or_insert(now)
    }

    // Servers.

    /// A server's settings, and where its data store keeps its files, if that answers.
    pub(super) fn connection(store: &Store, pod: &Value) -> Option<(Settings, String)> {
        let settings = Settings::of(store, pod)?;
        let Some(host) = &settings.database_host else { return Some((settings, pods::home(store, pod))) };
        let (service, namespace) = host.split_once('.').unwrap_or((host, pods::namespace(pod)));
        let namespace = namespace.split('.').next().unwrap_or(namespace);
        let service = store.get(&Key::new("v1", "Service", namespace, service))?;
        let selected =
            |pod: &Value| texts(&service, "/spec/selector").all(|(key, value)| pod["metadata"]["labels"][key] == value);
        let database = pods::all(store)
            .into_iter()
            .find(|pod| pods::namespace(pod) == namespace && selected(pod) && condition(pod, "Ready"))?;
        Some((settings, pods::home(store, &database)))
    }

    /// Why a server that starts now would end again: the words of its last log line.
    pub(super) fn server_trouble(&self, store: &Store, faults: &Faults, pod: &Value) -> Option<String> {
        if faults.any(|fault| *fault == Fault::ServerCrashLoop) {
            return Some("failed to create manager: unable to load X509 CA: key not found".to_owned());
        }
        let Some((settings, home)) = Spire::connection(store, pod) else {
            return Some("datastore-sql: dial tcp: connect: connection refused".to_owned());
        };
        let container = pods::container(pod, "spire-server")?;
        let password = pods::env(store, pod, container, "DBPW").unwrap_or_default();
        let refused = faults.any(|fault| *fault == Fault::LoginRefused)
            || (settings.database_host.is_some()
                && self.databases.get(&home).is_none_or(|database| database.password != password));
        refused.then(|| "datastore-sql: pq: password authentication failed for user \"spire\"".to_owned())
    }

    /// Whether the server in that pod answers.
    pub(super) fn is_server_up(&self, store: &Store, faults: &Faults, pod: &Value) -> bool {
        let life = pods::container(pod, "spire-server").and_then(|container| pods::life(pod, text(container, "/name")));
        life.is_some_and(|life| self.started.contains(&life)) && self.server_trouble(store, faults, pod).is_none()
    }

    fn server(&mut self, pass: &mut Pass<'_>, pod: &Value) -> Option<()> {
        let container = pods::container(pod, "spire-server")?;
        let life = pods::life(pod, text(container, "/name"))?;
        let since = self.since(&life, pass.now);
        if self.started.contains(&life)
            || !pass.due(since + SERVER_BOOT)
            || self.server_trouble(pass.store, pass.faults, pod).is_some()
        {
            return None;
        }
        let (settings, home) = Spire::connection(pass.store, pod)?;
        let version = pods::tag(text(container, "/image")).to_owned();
        let log = |line: String| {
            pass.store.append_log(pods::namespace(pod), pods::name(pod), text(container, "/name"), &line);
        };
        let authority = self.keys.entry(pods::home(pass.store, pod)).or_insert_with(|| Authority {
            seed: format!("{}/{}", pods::name(pod), pods::home(pass.store, pod)),
            issued: pass.now,
            trust_domain: settings.trust_domain.clone(),
            subject: settings.subject.clone(),
        });
        let database = self.databases.entry(home).or_default();
        if schema_of(&version) >= database.migrations.as_ref().map_or(0, |(schema, _)| *schema) {
            database.migrations = Some((schema_of(&version), version.clone()));
        }
        log("time=\"\" level=info msg=\"Opened SQL database\" db_type=postgres subsystem_name=sql".to_owned());
        if !database.bundle.contains(authority) {
            database.bundle.push(authority.clone());
            database.sequence += 1;
            database.bundle_changed = Some(pass.now);
            log("level=info msg=\"X509 CA prepared\" slot=A subsystem_name=ca_manager".to_owned());
        }
        log(format!("level=info msg=\"Starting Server APIs\" address=\"[::]:8081\" network=tcp version={version}"));
        publish(pass.store, &settings.bundle, &database.bundle);
        self.started.insert(life);
        Some(())
    }

    // The controller manager.

    /// One entry per pod outside the ignored namespaces (facts, sections 7 and 9).
    fn entries(&mut self, pass: &mut Pass<'_>, settings: &Settings, home: &str, all: &[std::sync::Arc<Value>]) {
        let Some(database) = self.databases.get_mut(home) else { return };
        let rules = !pass.store.list_shared("spire.spiffe.io/v1alpha1", "ClusterSPIFFEID", None).is_empty();
        let ignored = all.iter().find_map(|pod| pods::mounted(pass.store, pod, "controller-manager-config.yaml"));
        let ignored: Value = ignored.and_then(|yaml| serde_yaml::from_str(&yaml).ok()).unwrap_or_default();
        let ignored: Vec<&str> = items(&ignored, "/ignoreNamespaces").filter_map(Value::as_str).collect();
        let mut wanted = BTreeSet::new();
        for pod in all
            .iter()
            .filter(|pod| rules && !ignored.contains(&pods::namespace(pod)) && !text(pod, "/spec/nodeName").is_empty())
        {
            let uid = pods::uid(pod).to_owned();
            let seen = *self.since.entry(format!("{uid}/entry")).or_insert(pass.now);
            let node = pass.store.get(&Key::new("v1", "Node", "", text(pod, "/spec/nodeName")));
            if let Some(node) = node
                && (database.entries.contains_key(&uid) || pass.due(seen + ENTRY_DELAY))
            {
                database.entries.entry(uid.clone()).or_insert_with(|| Entry {
                    id: uid_from(&format!("entry {uid}")),
                    path: format!("/ns/{}/sa/{}", pods::namespace(pod), service_account(pod)),
                    parent: agent_path(settings, &node),
                    created: pass.now,
                });
                wanted.insert(uid);
            }
        }
        database.entries.retain(|uid, _| wanted.contains(uid));
    }

    // Agents.

    fn agent(&mut self, pass: &mut Pass<'_>, pod: &Value, up: Option<&(Settings, String)>) -> Option<()> {
        let container = agent_container(pod)?;
        let life = pods::life(pod, text(container, "/name"))?;
        let since = self.since(&life, pass.now);
        if self.attested.contains(&life)
            || !pass.due(since + AGENT_BOOT)
            || pass.faults.any(|fault| *fault == Fault::AgentNeverReady)
        {
            return None;
        }
        let (settings, home) = up?;
        let node = pass.store.get(&Key::new("v1", "Node", "", text(pod, "/spec/nodeName")))?;
        let agent = AttestedAgent {
            path: agent_path(settings, &node),
            expires: pass.now + SignedDuration::from_hours(4),
            pod: pods::name(pod).to_owned(),
            namespace: pods::namespace(pod).to_owned(),
        };
        let id = format!("spiffe://{}{}", settings.trust_domain, agent.path);
        self.databases.get_mut(home)?.agents.insert(pods::uid(&node).to_owned(), agent);
        for line in [
            "level=info msg=\"SVID is not found. Starting node attestation\" subsystem_name=attestor".to_owned(),
            format!(
                "level=info msg=\"Node attestation was successful\" reattestable=true spiffe_id=\"{id}\" subsystem_name=attestor"
            ),
            "level=info msg=\"Starting Workload and SDS APIs\" network=unix subsystem_name=endpoints".to_owned(),
        ] {
            pass.store.append_log(pods::namespace(pod), pods::name(pod), text(container, "/name"), &line);
        }
        self.attested.insert(life);
        Some(())
    }

    /// Whether the agent in that pod serves the Workload API.
    pub(super) fn is_agent_up(&self, pod: &Value) -> bool {
        let life = agent_container(pod).and_then(|container| pods::life(pod, text(container, "/name")));
        life.is_some_and(|life| self.attested.contains(&life))
    }
}

/// The container that runs an agent; the image serves as a workload too, with other arguments.
pub(super) fn agent_container(pod: &Value) -> Option<&Value> {
    pods::container(pod, "spire-agent").filter(|container| items(container, "/args").any(|word| word == "-config"))
}

fn service_account(pod: &Value) -> &str {
    Some(text(pod, "/spec/serviceAccountName")).filter(|name| !name.is_empty()).unwrap_or("default")
}

fn agent_path(settings: &Settings, node: &Value) -> String {
    format!("/spire/agent/k8s_psat/{}/{}", settings.cluster, pods::uid(node))
}

/// The data store's schema at a version.
pub(super) fn schema_of(version: &str) -> u32 {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    SCHEMAS.iter().find(|(first, _)| version >= *first).map_or(0, |(_, schema)| *schema)
}

/// The notifier `k8sbundle` writes the bundle where agents boot from it. It is told when an authority is added, not
/// when one is revoked (facts, section 9).
fn publish(store: &Store, key: &Key, bundle: &[Authority]) {
    let certificates: Vec<Vec<u8>> = bundle.iter().filter_map(|authority| authority.certificate().ok()).collect();
    let pem = crate::workload::svid::pem(&certificates.iter().map(Vec::as_slice).collect::<Vec<_>>());
    store.update(key, |map| super::object::set(map, "/data", json!({"bundle.crt": pem})));
}
