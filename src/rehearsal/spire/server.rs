//! Servers: how they start or refuse to, their authorities, and the bundle that agents boot from.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Pass, Settings, Spire, keys, log, version_of};
use crate::rehearsal::api::select;
use crate::rehearsal::authority::{Authority, jwt_key_id};
use crate::rehearsal::faults::{Fault, Faults, strikes};
use crate::rehearsal::object::{condition, set, text};
use crate::rehearsal::pods;
use crate::rehearsal::store::{Key, Store};
use crate::spire::policy::{StartOutcome, server_start};
use crate::spire::rotation::KeyType;

/// The container that runs a server.
pub(super) const CONTAINER: &str = "spire-server";
/// From a server's start to its first answer.
const SERVER_BOOT: SignedDuration = SignedDuration::from_millis(2_500);
/// From a server's start to its end, if it refuses.
pub(in crate::rehearsal) const REFUSES_AFTER: Duration = Duration::from_secs(2);
/// The publisher `k8s_configmap` writes this often, whatever happened (facts, section 4).
const REPUBLISH: SignedDuration = SignedDuration::from_secs(30);
/// Authorities leave the bundle so long after they ran out (facts, section 4).
const PRUNED_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// The first server that keeps its journal in the data store; it still writes it to disk as well.
const JOURNAL_IN_DATABASE: Version = Version::new(1, 9, 0);
/// The first server that knows nothing of a journal on disk any more.
const NO_JOURNAL_ON_DISK: Version = Version::new(1, 10, 0);

/// The authorities of one server, and which is which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::rehearsal) struct Journal {
    pub(in crate::rehearsal) active: Authority,
    /// The other slot: prepared, or old. Preparing overwrites an old one.
    pub(in crate::rehearsal) prepared: Option<Authority>,
    pub(in crate::rehearsal) old: Option<Authority>,
}

/// What a server keeps on its claim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Disk {
    /// How many authorities were made here.
    made: u32,
    /// `keys.json`: PKCS #8 in base64 by the key's id, two slots for each type.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, String>,
    /// `journal.pem`.
    pub(super) journal: Option<Journal>,
}

/// The process of a server that is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::rehearsal) struct Server {
    pub(in crate::rehearsal) version: Version,
    pub(in crate::rehearsal) settings: Settings,
    /// Its claim, and its data store's.
    pub(super) disk: String,
    pub(in crate::rehearsal) database: String,
    pub(in crate::rehearsal) journal: Journal,
    pub(super) up_since: Timestamp,
    published: Timestamp,
    /// The seed of the authority that signed the certificate of the webhook beside it: minted at the start, and kept.
    #[serde(default)]
    pub(super) webhook: String,
}

/// What a server says whose journal outlives its bundle.
const LOST_BUNDLE: &str = "failed to notify: rpc error: code = Internal desc = trust domain bundle is missing";

/// The last lines of a server that ends.
pub(super) fn fatal(error: &str) -> Vec<String> {
    let error = error.replace('"', "\\\"");
    ["Fatal run error", "Server crashed"].map(|words| format!("level=error msg=\"{words}\" error=\"{error}\"")).into()
}

/// Where a server's data store keeps its files, or why it cannot be used.
fn database_of(store: &Store, faults: &Faults, pod: &Value, settings: &Settings) -> Result<String, String> {
    let Some(host) = &settings.database_host else { return Ok(pods::home(store, pod)) };
    let (service, namespace) = host.split_once('.').unwrap_or((host, pods::namespace(pod)));
    let namespace = namespace.split('.').next().unwrap_or(namespace);
    let service = store
        .get(&Key::new("v1", "Service", namespace, service))
        .ok_or_else(|| format!("datastore-sql: dial tcp: lookup {host}: no such host"))?;
    let serves = |pod: &&std::sync::Arc<Value>| {
        pods::namespace(pod) == namespace
            && select::selects_plainly(&service["spec"]["selector"], pod)
            && condition(pod, "Ready")
            && store.down(text(pod, "/spec/nodeName")).is_none()
    };
    let all = pods::all(store);
    let down = faults.any(|fault| *fault == Fault::DatabaseUnreachable);
    let database = all.iter().find(serves).filter(|_| !down);
    database.map(|database| pods::home(store, database)).ok_or_else(|| {
        format!("datastore-sql: dial tcp {}:5432: connect: connection refused", text(&service, "/spec/clusterIP"))
    })
}

impl Spire {
    /// Why the data store does not let the server in, if it does not.
    fn locked_out(
        &self,
        store: &Store,
        faults: &Faults,
        pod: &Value,
        settings: &Settings,
        home: &str,
    ) -> Option<String> {
        let container = pods::container(pod, "spire-server")?;
        let password = pods::env(store, pod, container, "DBPW").unwrap_or_default();
        let refused = faults.any(|fault| *fault == Fault::LoginRefused)
            || (settings.database_host.is_some()
                && self.databases.get(home).is_none_or(|database| database.password != password));
        refused.then(|| "datastore-sql: pq: password authentication failed for user \"spire\"".to_owned())
    }

    /// The last lines of a server that would start in that pod now, if it would end again.
    pub(in crate::rehearsal) fn server_trouble(
        &self,
        store: &Store,
        faults: &Faults,
        pod: &Value,
    ) -> Option<Vec<String>> {
        let version = version_of(pods::container(pod, "spire-server")?);
        let loops = |fault: &Fault| matches!(fault, Fault::ServerCrashLoop(only) if strikes(only.as_deref(), &version));
        if faults.any(loops) {
            return Some(fatal("failed to create manager: unable to load X509 CA: key not found"));
        }
        if let Some(lines) = Settings::refusal(store, pod, &version) {
            return Some(lines);
        }
        let Some(settings) = Settings::of(store, pod) else {
            return Some(vec!["open /run/spire/config/server.conf: no such file or directory".to_owned()]);
        };
        let home = match database_of(store, faults, pod, &settings) {
            Ok(home) => home,
            Err(words) => return Some(fatal(&words)),
        };
        if let Some(words) = self.locked_out(store, faults, pod, &settings, &home) {
            return Some(fatal(&words));
        }
        let row = self.databases.get(&home).and_then(|database| database.migrations.as_ref());
        let before = row.map(|(schema, code)| (*schema, code));
        let StartOutcome::Refuses { message, log } = server_start(&version, before) else {
            return self.lost_bundle(store, pod, &settings, &home).then(|| fatal(LOST_BUNDLE));
        };
        let mut lines = fatal(&message);
        if let (Some(log), Some((schema, code))) = (log, row) {
            lines
                .insert(0, format!("level=error msg=\"{log}\" schema={schema} subsystem_name=sql version_info={code}"));
        }
        Some(lines)
    }

    /// Whether a journal on disk names an authority and the data store has no bundle at all: then the notifier has
    /// nothing to tell, and the server ends (facts, section 5; derived from the code).
    fn lost_bundle(&self, store: &Store, pod: &Value, settings: &Settings, home: &str) -> bool {
        let Some(container) = pods::container(pod, "spire-server") else { return false };
        let journal = self.disks.get(&pods::home(store, pod)).is_some_and(|disk| disk.journal.is_some());
        let empty = self.databases.get(home).is_none_or(|database| database.bundle.is_empty());
        version_of(container) < NO_JOURNAL_ON_DISK && journal && empty && !settings.publishes
    }

    /// A server that ends for want of a bundle has made its tables before.
    pub(in crate::rehearsal) fn makes_tables(&mut self, store: &Store, faults: &Faults, pod: &Value) {
        let Some(settings) = Settings::of(store, pod) else { return };
        let (Some(container), Ok(home)) =
            (pods::container(pod, "spire-server"), database_of(store, faults, pod, &settings))
        else {
            return;
        };
        if self.lost_bundle(store, pod, &settings, &home)
            && let Some(database) = self.databases.get_mut(&home)
        {
            migrate(database, &version_of(container), &|line: &str| log(store, pod, CONTAINER, line));
        }
    }

    /// Since when the server in that pod has known another data store than the one that is there.
    pub(in crate::rehearsal) fn stranded(&mut self, store: &Store, faults: &Faults, pod: &Value) -> Option<Timestamp> {
        let container = pods::container(pod, "spire-server")?;
        let life = pods::life(pod, text(container, "/name"))?;
        let server = self.servers.get(&life)?;
        let home = database_of(store, faults, pod, &server.settings).ok()?;
        let mark = format!("{life}/stranded");
        if home == server.database {
            self.since.remove(&mark);
            return None;
        }
        Some(*self.since.entry(mark).or_insert(store.now()))
    }

    /// The process in that pod, if it answers.
    pub(in crate::rehearsal) fn server_up(
        &self,
        store: &Store,
        faults: &Faults,
        pod: &Value,
    ) -> Option<(String, &Server)> {
        let container = pods::container(pod, "spire-server")?;
        let life = pods::life(pod, text(container, "/name"))?;
        let server = self.servers.get(&life)?;
        let home = database_of(store, faults, pod, &server.settings).ok()?;
        // What it knows of is not in another data store, and that has no tables.
        let knows = home == server.database;
        (knows && self.locked_out(store, faults, pod, &server.settings, &home).is_none()).then_some((life, server))
    }

    pub(super) fn server(&mut self, pass: &mut Pass<'_>, pod: &Value) -> Option<()> {
        let container = pods::container(pod, "spire-server")?;
        let life = pods::life(pod, text(container, "/name"))?;
        if let Some(mut server) = self.servers.remove(&life) {
            // Nothing is prepared or activated that cannot be written down.
            if database_of(pass.store, pass.faults, pod, &server.settings).is_ok_and(|home| home == server.database) {
                self.rotate(pass, pod, &mut server);
                self.rotate_jwt(pass, pod, &server);
            }
            self.servers.insert(life, server);
            return None;
        }
        let since = self.since(&life, pass.now);
        if !pass.due(since + SERVER_BOOT) || self.server_trouble(pass.store, pass.faults, pod).is_some() {
            return None;
        }
        let server = self.boot(pass, pod)?;
        self.servers.insert(life, server);
        Some(())
    }

    /// A server starts: it opens its data store, finds its authority or makes one, and serves.
    fn boot(&mut self, pass: &mut Pass<'_>, pod: &Value) -> Option<Server> {
        let version = version_of(pods::container(pod, "spire-server")?);
        let settings = Settings::of(pass.store, pod)?;
        let home = database_of(pass.store, pass.faults, pod, &settings).ok()?;
        let database = self.databases.entry(home.clone()).or_default();
        let say = |line: &str| log(pass.store, pod, CONTAINER, line);
        migrate(database, &version, &say)?;
        let disk = pods::home(pass.store, pod);
        let kept = self.disks.entry(disk.clone()).or_default();
        let found = known_journal(kept, database, &version, &say);
        let is_new = found.is_none();
        let journal = found.unwrap_or_else(|| Journal {
            active: kept.new_authority(&disk, &settings, pass.now, None),
            prepared: None,
            old: None,
        });
        let mut server = Server {
            webhook: journal.active.seed.clone(),
            version,
            settings,
            disk,
            database: home,
            journal,
            up_since: pass.now,
            published: pass.now,
        };
        if is_new {
            say("level=info msg=\"X509 CA prepared\" slot=A subsystem_name=ca_manager");
            self.append(pass.now, &server, server.journal.active.clone());
        }
        say("level=info msg=\"X509 CA activated\" slot=A subsystem_name=ca_manager");
        // Activation is written down at each start, and so gets from one kind of journal into the other.
        self.keep(&server);
        self.boot_jwt(pass, pod, &server);
        self.publish(pass, pod, &mut server);
        self.rotate(pass, pod, &mut server);
        say(&format!(
            "level=info msg=\"Starting Server APIs\" address=\"[::]:8081\" network=tcp version={}",
            server.version
        ));
        Some(server)
    }

    /// The rotator: it prepares the next authority at half of the active one's life, and activates it when a sixth is
    /// left (facts, section 4).
    fn rotate(&mut self, pass: &mut Pass<'_>, pod: &Value, server: &mut Server) {
        loop {
            let (issued, expires) = (server.journal.active.issued, server.journal.active.expires);
            // What counts is how long this one lives, not what the configuration says of the next.
            let life = expires.duration_since(issued);
            let before = |part: i32, most: i64| (life / part).min(SignedDuration::from_hours(24 * most));
            if let Some(next) = &server.journal.prepared {
                if !pass.due(expires - before(6, 7)) {
                    break;
                }
                let next = next.clone();
                let journal = &mut server.journal;
                journal.old = Some(std::mem::replace(&mut journal.active, next));
                journal.prepared = None;
                pass.log(pod, CONTAINER, "level=info msg=\"X509 CA activated\" subsystem_name=ca_manager");
                self.keep(server);
            } else {
                if !pass.due(expires - before(2, 30)) {
                    break;
                }
                let Some(disk) = self.disks.get_mut(&server.disk) else { break };
                let active = Some(&server.journal.active);
                let next = disk.new_authority(&server.disk, &server.settings, pass.now, active);
                server.journal.prepared = Some(next.clone());
                server.journal.old = None;
                pass.log(pod, CONTAINER, "level=info msg=\"X509 CA prepared\" subsystem_name=ca_manager");
                self.append(pass.now, server, next);
                self.keep(server);
                self.publish(pass, pod, server);
            }
        }
        // Every half minute, if need be.
        if server.settings.publishes
            && !self.is_published_by(pass.store, server)
            && pass.due(server.published + REPUBLISH)
        {
            self.publish(pass, pod, server);
        }
    }

    /// An authority comes into the bundle, and those that ran out long ago leave it.
    pub(super) fn append(&mut self, now: Timestamp, server: &Server, authority: Authority) {
        let Some(database) = self.databases.get_mut(&server.database) else { return };
        database.bundle.retain(|old| old.expires + PRUNED_AFTER > now);
        database.bundle.push(authority);
        database.sequence += 1;
        database.roots += 1;
        database.bundle_changed = Some(now);
    }

    /// Writes the journal where servers of this version keep it.
    pub(super) fn keep(&mut self, server: &Server) {
        if server.version >= JOURNAL_IN_DATABASE
            && let Some(database) = self.databases.get_mut(&server.database)
        {
            // The row is found by the authority; a server that comes back on another claim goes on with it.
            database.journals.retain(|home, other| *home == server.disk || other.active != server.journal.active);
            database.journals.insert(server.disk.clone(), server.journal.clone());
        }
        if server.version < NO_JOURNAL_ON_DISK
            && let Some(disk) = self.disks.get_mut(&server.disk)
        {
            disk.journal = Some(server.journal.clone());
        }
    }

    // The bundle's way to the agents.

    fn is_published_by(&self, store: &Store, server: &Server) -> bool {
        let map = store.get(&server.settings.bundle).unwrap_or_default();
        self.databases
            .get(&server.database)
            .is_none_or(|database| map["data"]["bundle.spiffe"] == spiffe_bundle(database))
    }

    /// Writes the bundle where agents boot from it: the notifier `k8sbundle` into a `ConfigMap` that is there, when an
    /// authority is added; the publisher `k8s_configmap` in any case, if it may.
    pub(super) fn publish(&self, pass: &Pass<'_>, pod: &Value, server: &mut Server) {
        let Some(database) = self.databases.get(&server.database) else { return };
        let key = &server.settings.bundle;
        if !server.settings.publishes {
            let pem = pem_bundle(database);
            pass.store.update(key, |map| set(map, "/data/bundle.crt", pem));
            return;
        }
        server.published = pass.now;
        let role = Key::new("rbac.authorization.k8s.io/v1", "Role", key.namespace(), &key.name);
        if pass.store.get(&role).is_none() {
            let line = format!(
                "level=error msg=\"Failed to publish bundle\" error=\"rpc error: code = Internal desc = configmaps \\\"{}\\\" is forbidden: User \\\"system:serviceaccount:{}:spire-server\\\" cannot patch resource \\\"configmaps\\\" in API group \\\"\\\" in the namespace \\\"{}\\\"\" plugin_name=k8s_configmap",
                key.name,
                pods::namespace(pod),
                key.namespace()
            );
            pass.log(pod, CONTAINER, &line);
            return;
        }
        if pass.store.get(key).is_none() {
            let metadata = json!({"namespace": key.namespace, "name": key.name});
            pass.store.upsert(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}));
        }
        let bundle = spiffe_bundle(database);
        pass.store.update(key, |map| set(map, "/data/bundle.spiffe", bundle));
    }
}

impl Disk {
    /// Makes an authority. Its key takes the slot that the active one's key is not in.
    pub(super) fn new_authority(
        &mut self,
        home: &str,
        settings: &Settings,
        now: Timestamp,
        active: Option<&Authority>,
    ) -> Authority {
        self.made += 1;
        let seed = format!("{home}/{}", self.made);
        let a = self.keys.get(&keys::id(KeyType::X509, 'A'));
        let taken = active.is_some_and(|active| a == Some(&keys::encoded(&active.seed)));
        self.keys.insert(keys::id(KeyType::X509, if taken { 'B' } else { 'A' }), keys::encoded(&seed));
        Authority {
            seed,
            issued: now,
            expires: now + settings.ca_ttl,
            trust_domain: settings.trust_domain.clone(),
            subject: settings.subject.clone(),
        }
    }

    /// Whether the key of an authority is in `keys.json`.
    pub(super) fn holds(&self, authority: &Authority) -> bool {
        let wanted = keys::encoded(&authority.seed);
        self.keys.values().any(|key| *key == wanted)
    }
}

/// Takes the schema to where this server wants it.
fn migrate(database: &mut Database, version: &Version, say: &impl Fn(&str)) -> Option<()> {
    let row = database.migrations.clone();
    let before = row.as_ref().map(|(schema, code)| (*schema, code));
    let StartOutcome::Starts { schema, code_version, migrated, warning } = server_start(version, before) else {
        return None;
    };
    match before {
        None => say("level=info msg=\"Initializing new database\" subsystem_name=sql"),
        Some((from, _)) if migrated => {
            say(&format!("level=info msg=\"Running migrations...\" schema={from} subsystem_name=sql"));
            for step in from..schema {
                say(&format!(
                    "level=info msg=\"Migrating version\" schema={from} subsystem_name=sql version_info={step}"
                ));
            }
            say(&format!("level=info msg=\"Done running migrations\" schema={from} subsystem_name=sql"));
        }
        Some((schema, code)) => {
            if let Some(warning) = warning {
                say(&format!("level=warning msg=\"{warning}\" schema={schema} subsystem_name=sql version_info={code}"));
            }
        }
    }
    database.migrations = Some((schema, code_version));
    say("level=info msg=\"Opened SQL database\" db_type=postgres subsystem_name=sql");
    Some(())
}

/// The journal that a server of this version finds, if it can use it. Facts, section 9: none of the servers that know
/// only the data store finds the one that was kept on disk, so a jump over 1.9 makes new authorities in silence.
fn known_journal(disk: &Disk, database: &Database, version: &Version, say: &impl Fn(&str)) -> Option<Journal> {
    let stored = database.journals.values().find(|journal| disk.holds(&journal.active));
    if *version >= JOURNAL_IN_DATABASE && stored.is_none() {
        say(
            "level=info msg=\"There is not a CA journal record that matches any of the local X509 authority IDs\" subsystem_name=ca_manager",
        );
    }
    let found = match version {
        version if *version < JOURNAL_IN_DATABASE => disk.journal.as_ref(),
        version if *version < NO_JOURNAL_ON_DISK => stored.or(disk.journal.as_ref()),
        _ => stored,
    };
    // What is not in the bundle is of no use.
    let usable = |journal: &&Journal| database.bundle.contains(&journal.active) && disk.holds(&journal.active);
    let mut found = found.filter(usable).cloned();
    if let Some(journal) = &mut found {
        journal.old.take_if(|old| !database.bundle.contains(old));
        journal.prepared.take_if(|next| !database.bundle.contains(next));
    }
    found
}

fn certificates(database: &Database) -> Vec<Vec<u8>> {
    database.bundle.iter().filter_map(|authority| authority.certificate().ok()).collect()
}

fn pem_bundle(database: &Database) -> String {
    let certificates = certificates(database);
    crate::workload::svid::pem(&certificates.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// A bundle in the format of the SPIFFE standard.
fn spiffe_bundle(database: &Database) -> String {
    let certificates = certificates(database);
    let x509 = certificates
        .iter()
        .map(|der| json!({"use": "x509-svid", "kty": "OKP", "crv": "Ed25519", "x5c": [BASE64.encode(der)]}));
    let jwt = database
        .jwt
        .iter()
        .map(|key| json!({"use": "jwt-svid", "kty": "OKP", "crv": "Ed25519", "kid": jwt_key_id(&key.seed)}));
    let keys: Vec<Value> = x509.chain(jwt).collect();
    json!({"keys": keys, "spiffe_sequence": database.sequence, "spiffe_refresh_hint": 300}).to_string()
}
