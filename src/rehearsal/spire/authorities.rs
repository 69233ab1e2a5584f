//! `localauthority` and the keys behind it: two slots per server and type of key, one bundle for all, and what taints
//! and revokes in it (facts, section 4; the errors are those of SPIRE 1.11.3).

use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use serde_json::{Value, json};

use super::server::CONTAINER;
use super::{Database, Journal, Pass, Server, Spire};
use crate::rehearsal::api::admission::UNTRUSTED_WEBHOOK;
use crate::rehearsal::authority::{Authority, jwt_key_id, public_key};
use crate::rehearsal::faults::Fault;
use crate::rehearsal::object::set;
use crate::rehearsal::pods;
use crate::rehearsal::store::Key;
use crate::spire::certificate;
use crate::spire::records::{Bundle, Certificate, PublicKey};
use crate::spire::rotation::KeyType;

/// For so long a server believes what it has read of the bundle.
const CACHE: SignedDuration = SignedDuration::from_secs(1);

/// What a server answers, or its status code and words.
type Answer = Result<Value, (&'static str, String)>;

/// The authority's id, as SPIRE spells it.
pub(in crate::rehearsal) fn id_of(key: KeyType, authority: &Authority) -> String {
    match key {
        KeyType::X509 => {
            let facts = authority.certificate().ok().and_then(|der| certificate::facts(&der));
            facts.map(|facts| facts.id).unwrap_or_default()
        }
        KeyType::Jwt => jwt_key_id(&authority.seed),
    }
}

fn state(key: KeyType, authority: &Authority) -> Value {
    let expires = authority.expires.as_second().to_string();
    json!({"authority_id": id_of(key, authority), "expires_at": expires, "upstream_authority_subject_key_id": ""})
}

/// The slots of a server: the other one holds what is prepared or what is old.
fn shown(key: KeyType, journal: &Journal) -> Value {
    let mut slots = json!({"active": state(key, &journal.active)});
    for (name, authority) in [("prepared", &journal.prepared), ("old", &journal.old)] {
        if let Some(authority) = authority {
            slots[name] = state(key, authority);
        }
    }
    slots
}

impl Database {
    /// The bundle's part of a type.
    fn keys(&mut self, key: KeyType) -> &mut Vec<Authority> {
        match key {
            KeyType::X509 => &mut self.bundle,
            KeyType::Jwt => &mut self.jwt,
        }
    }

    /// The row of the table `bundles` is deleted. Its sequence goes with it: the next one begins anew.
    pub(in crate::rehearsal) fn drop_bundle(&mut self) {
        self.bundle.clear();
        self.jwt.clear();
        self.tainted.clear();
        self.sequence = 0;
    }

    /// The row of the table `bundles`.
    pub(in crate::rehearsal) fn bundle_row(&self, trust_domain: &str) -> Vec<u8> {
        if self.bundle.is_empty() && self.jwt.is_empty() {
            return Vec::new(); // there is none
        }
        let tainted = |authority: &Authority| self.tainted.contains_key(&authority.seed);
        let certificates = self.bundle.iter().map(|authority| Certificate {
            der: authority.certificate().unwrap_or_default(),
            tainted: tainted(authority),
        });
        let jwt_keys = self.jwt.iter().map(|authority| PublicKey {
            pkix: public_key(&authority.seed).unwrap_or_default(),
            id: jwt_key_id(&authority.seed),
            not_after: authority.expires.as_second(),
            tainted: tainted(authority),
        });
        let trust_domain = format!("spiffe://{trust_domain}");
        Bundle { trust_domain, certificates: certificates.collect(), jwt_keys: jwt_keys.collect() }.encode_to_vec()
    }
}

impl Spire {
    /// A server's JWT key comes back from its claim if the bundle still has it, else a new one is made.
    pub(super) fn boot_jwt(&mut self, pass: &Pass<'_>, pod: &Value, server: &Server) {
        let Some(database) = self.databases.get(&server.database) else { return };
        if let Some(journal) = self.jwt.get_mut(&server.disk)
            && database.jwt.contains(&journal.active)
        {
            journal.old.take_if(|old| !database.jwt.contains(old));
            journal.prepared.take_if(|next| !database.jwt.contains(next));
            return;
        }
        let kept = self.disks.get(&server.disk).and_then(|disk| disk.jwt_journal(&database.jwt));
        if let Some(journal) = kept {
            self.jwt.insert(server.disk.clone(), journal);
            return;
        }
        let active = self.new_jwt(pass, server);
        self.jwt.insert(server.disk.clone(), Journal { active: active.clone(), prepared: None, old: None });
        self.append_jwt(pass, server, active);
        for words in ["JWT key prepared", "JWT key activated"] {
            pass.log(pod, CONTAINER, &format!("level=info msg=\"{words}\" slot=A subsystem_name=ca_manager"));
        }
    }

    fn new_jwt(&mut self, pass: &Pass<'_>, server: &Server) -> Authority {
        let made = self.jwt_made.entry(server.disk.clone()).or_default();
        *made += 1;
        Authority {
            seed: format!("{}/jwt/{made}", server.disk),
            issued: pass.now,
            expires: pass.now + server.settings.ca_ttl,
            trust_domain: server.settings.trust_domain.clone(),
            subject: server.settings.subject.clone(),
        }
    }

    fn append_jwt(&mut self, pass: &Pass<'_>, server: &Server, authority: Authority) {
        if let Some(database) = self.databases.get_mut(&server.database) {
            database.jwt.retain(|old| old.expires + SignedDuration::from_hours(24) > pass.now);
            database.jwt.push(authority);
            database.sequence += 1;
        }
    }

    /// The ordinary rotator, for JWT keys: by the same rule as for CAs.
    pub(super) fn rotate_jwt(&mut self, pass: &mut Pass<'_>, pod: &Value, server: &Server) {
        while let Some(journal) = self.jwt.get(&server.disk) {
            let (issued, expires) = (journal.active.issued, journal.active.expires);
            let life = expires.duration_since(issued);
            let before = |part: i32, most: i64| (life / part).min(SignedDuration::from_hours(24 * most));
            let prepared = journal.prepared.clone();
            if !pass.due(expires - if prepared.is_some() { before(6, 7) } else { before(2, 30) }) {
                return;
            }
            let words = if prepared.is_some() { "activated" } else { "prepared" };
            match prepared {
                Some(next) => {
                    if let Some(journal) = self.jwt.get_mut(&server.disk) {
                        journal.old = Some(std::mem::replace(&mut journal.active, next));
                        journal.prepared = None;
                    }
                }
                None => self.prepare_jwt(pass, server),
            }
            pass.log(pod, CONTAINER, &format!("level=info msg=\"JWT key {words}\" subsystem_name=ca_manager"));
        }
    }

    fn prepare_jwt(&mut self, pass: &Pass<'_>, server: &Server) {
        let next = self.new_jwt(pass, server);
        if let Some(journal) = self.jwt.get_mut(&server.disk) {
            (journal.prepared, journal.old) = (Some(next.clone()), None);
        }
        self.append_jwt(pass, server, next);
    }

    /// Runs `localauthority KEY VERB [-authorityID ID]` on the server whose process is `life`.
    pub(in crate::rehearsal) fn local_authority(
        &mut self,
        pass: &Pass<'_>,
        pod: &Value,
        life: &str,
        key: KeyType,
        (verb, id): (&str, &str),
    ) -> Answer {
        let Some(mut server) = self.servers.get(life).cloned() else {
            return Err(("Unavailable", "server is initializing".into()));
        };
        let journal = match key {
            KeyType::X509 => Some(server.journal.clone()),
            KeyType::Jwt => self.jwt.get(&server.disk).cloned(),
        };
        let journal = journal.ok_or_else(|| ("Unavailable", "server is initializing".to_owned()))?;
        let words = match key {
            KeyType::X509 => "X509 CA",
            KeyType::Jwt => "JWT key",
        };
        let answer = match verb {
            "show" => return Ok(shown(key, &journal)),
            "prepare" => {
                match key {
                    KeyType::X509 => self.prepare_x509(pass, &mut server),
                    KeyType::Jwt => self.prepare_jwt(pass, &server),
                }
                pass.log(pod, CONTAINER, &format!("level=info msg=\"{words} prepared\" subsystem_name=ca_manager"));
                // The notifier is told of what is added.
                self.publish(pass, pod, &mut server);
                let prepared = match key {
                    KeyType::X509 => server.journal.prepared.clone(),
                    KeyType::Jwt => self.jwt.get(&server.disk).and_then(|journal| journal.prepared.clone()),
                };
                json!({"prepared_authority": prepared.map(|prepared| state(key, &prepared))})
            }
            "activate" => {
                let next = activatable(key, &journal, id)?;
                let swapped = Journal { active: next.clone(), prepared: None, old: Some(journal.active.clone()) };
                match key {
                    KeyType::X509 => server.journal = swapped,
                    KeyType::Jwt => drop(self.jwt.insert(server.disk.clone(), swapped)),
                }
                pass.log(pod, CONTAINER, &format!("level=info msg=\"{words} activated\" subsystem_name=ca_manager"));
                json!({"activated_authority": state(key, &next)})
            }
            "taint" => {
                let old = taintable(key, &journal, id)?;
                self.taint(pass, &server, key, &old)?;
                let name = if key == KeyType::X509 { "X.509" } else { "JWT" };
                pass.log(
                    pod,
                    CONTAINER,
                    &format!("level=info msg=\"{name} authority tainted successfully\" local_authority_id={id}"),
                );
                json!({"tainted_authority": state(key, &old)})
            }
            "revoke" => {
                self.revoke(pass, &server, key, &journal, id)?;
                if journal.old.as_ref().is_some_and(|old| key == KeyType::X509 && old.seed == server.webhook) {
                    pass.store.update(&Key::of(pod), |pod| set(pod, UNTRUSTED_WEBHOOK, "true"));
                }
                let name = if key == KeyType::X509 { "X.509" } else { "JWT" };
                pass.log(
                    pod,
                    CONTAINER,
                    &format!("level=info msg=\"{name} authority revoked successfully\" local_authority_id={id}"),
                );
                // The publisher is told of what is taken away, the notifier is not.
                if server.settings.publishes {
                    self.publish(pass, pod, &mut server);
                }
                json!({"revoked_authority": {"authority_id": id, "expires_at": "0", "upstream_authority_subject_key_id": ""}})
            }
            other => return Err(("Unimplemented", format!("the rehearsal does not know `{other}`"))),
        };
        self.keep(&server);
        // Its own changes it knows of at once.
        self.heard.remove(life);
        self.servers.insert(life.to_owned(), server);
        Ok(answer)
    }

    fn prepare_x509(&mut self, pass: &Pass<'_>, server: &mut Server) {
        let Some(disk) = self.disks.get_mut(&server.disk) else { return };
        let next = disk.new_authority(&server.disk, &server.settings, pass.now, Some(&server.journal.active));
        (server.journal.prepared, server.journal.old) = (Some(next.clone()), None);
        self.append(pass.now, server, next);
    }

    fn taint(
        &mut self,
        pass: &Pass<'_>,
        server: &Server,
        key: KeyType,
        old: &Authority,
    ) -> Result<(), (&'static str, String)> {
        let failed = |why: &str| ("Internal", format!("failed to taint {key} authority: {why}"));
        let database = self.databases.get_mut(&server.database).ok_or_else(|| failed("record not found"))?;
        let (gone, twice) = match key {
            KeyType::X509 => ("no ca found with provided subject key ID", "root CA is already tainted"),
            KeyType::Jwt => ("no JWT Key found with provided key ID", "key is already tainted"),
        };
        if !database.keys(key).contains(old) {
            return Err(failed(gone));
        }
        if database.tainted.insert(old.seed.clone(), pass.now).is_some() {
            return Err(failed(twice));
        }
        database.sequence += 1;
        Ok(())
    }

    fn revoke(
        &mut self,
        pass: &Pass<'_>,
        server: &Server,
        key: KeyType,
        journal: &Journal,
        id: &str,
    ) -> Result<(), (&'static str, String)> {
        let invalid = |why: &str| ("InvalidArgument", format!("invalid authority ID: {why}"));
        let failed = |why: &str| ("Internal", format!("failed to revoke {key} authority: {why}"));
        let is =
            |authority: &Option<Authority>| authority.as_ref().is_some_and(|authority| id_of(key, authority) == id);
        let database = self.databases.get_mut(&server.database).ok_or_else(|| failed("record not found"))?;
        if id_of(key, &journal.active) == id {
            return Err(invalid("unable to use current authority"));
        }
        let found = database.keys(key).iter().find(|authority| id_of(key, authority) == id).cloned();
        match key {
            KeyType::X509 if !is(&journal.old) => return Err(invalid("only Old local authority can be revoked")),
            KeyType::Jwt if is(&journal.prepared) => return Err(invalid("unable to use a prepared key")),
            KeyType::Jwt if !is(&journal.old) && found.is_none() => {
                return Err(invalid("no JWT authority found with provided authority ID"));
            }
            _ => {}
        }
        let (gone, untainted) = match key {
            KeyType::X509 => {
                ("no ca found with provided subject key ID", "it is not possible to revoke an untainted root CA")
            }
            KeyType::Jwt => ("no JWT Key found with provided key ID", "it is not possible to revoke an untainted key"),
        };
        let found = found.ok_or_else(|| failed(gone))?;
        if database.tainted.remove(&found.seed).is_none() {
            return Err(failed(untainted));
        }
        database.keys(key).retain(|authority| *authority != found);
        database.sequence += 1;
        if key == KeyType::X509 {
            database.roots += 1;
            database.bundle_changed = Some(pass.now);
        }
        Ok(())
    }

    /// The bundle as a server tells of it: it keeps what it has read for a second (facts, section 9).
    pub(in crate::rehearsal) fn heard(&mut self, life: &str, now: Timestamp, fresh: Value) -> Value {
        match self.heard.get(life) {
            Some((at, kept)) if now.duration_since(*at) < CACHE => kept.clone(),
            _ => {
                self.heard.insert(life.to_owned(), (now, fresh.clone()));
                fresh
            }
        }
    }

    /// A server's process ends and starts again; if so told, without what was on its disk.
    pub(in crate::rehearsal) fn restart_server(&mut self, life: &str, now: Timestamp, without_keys: bool) {
        let Some(server) = self.servers.remove(life) else { return };
        self.since.insert(life.to_owned(), now);
        if without_keys {
            self.jwt.remove(&server.disk);
            if let Some(database) = self.databases.get_mut(&server.database) {
                database.journals.remove(&server.disk);
            }
            if let Some(disk) = self.disks.get_mut(&server.disk) {
                disk.journal = None;
                disk.keys.clear();
            }
        }
    }
}

fn activatable(key: KeyType, journal: &Journal, id: &str) -> Result<Authority, (&'static str, String)> {
    let is = |authority: &Authority| id_of(key, authority) == id;
    match (&journal.prepared, &journal.old) {
        (Some(next), _) if is(next) => Ok(next.clone()),
        (None, Some(old)) if is(old) => Err((
            "Internal",
            "only Prepared authorities can be activated: unsupported local authority status: OLD".into(),
        )),
        _ => Err(("InvalidArgument", "unexpected authority ID".into())),
    }
}

fn taintable(key: KeyType, journal: &Journal, id: &str) -> Result<Authority, (&'static str, String)> {
    let is = |authority: &Authority| id_of(key, authority) == id;
    match (&journal.prepared, &journal.old) {
        _ if is(&journal.active) => Err(("InvalidArgument", "unable to taint current local authority".into())),
        (None, Some(old)) if is(old) => Ok(old.clone()),
        (Some(next), _) if is(next) => Err((
            "InvalidArgument",
            "only Old local authorities can be tainted: unsupported local authority status: PREPARED".into(),
        )),
        _ => Err(("InvalidArgument", "unexpected authority ID".into())),
    }
}

/// What strikes a server after it has prepared an authority: whether it loses its keys as well.
pub(in crate::rehearsal) fn struck_after_prepare(fault: &Fault, pod: &Value) -> Option<bool> {
    let meant = |only: &Option<String>| only.as_ref().is_none_or(|only| only == pods::name(pod));
    match fault {
        Fault::ServerRestarts(only) if meant(only) => Some(false),
        Fault::ServerLosesKeys(only) if meant(only) => Some(true),
        _ => None,
    }
}
