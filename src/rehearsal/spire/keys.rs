//! What servers keep on their claims, as files: `keys.json`, and `journal.pem` until SPIRE 1.9. The key material is real.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::server::Disk;
use super::{Journal, Spire};
use crate::rehearsal::authority::{Authority, private_key};
use crate::spire::records::{self, Entry, Status};
use crate::spire::rotation::KeyType;

/// Before the PEM block of a journal: what it brings back here. Readers of PEM pass over it.
const STATE: &str = "Rehearsal: ";

/// The id of a key in `keys.json` (facts, section 5).
pub(super) fn id(key: KeyType, slot: char) -> String {
    match key {
        KeyType::X509 => format!("x509-CA-{slot}"),
        KeyType::Jwt => format!("JWT-Signer-{slot}"),
    }
}

/// An authority's key as `keys.json` has it.
pub(super) fn encoded(seed: &str) -> String {
    BASE64.encode(private_key(seed))
}

impl Journal {
    /// As SPIRE writes it down.
    pub(super) fn record(&self) -> records::Journal {
        let slots = [(&self.old, Status::Old), (&self.prepared, Status::Prepared)];
        let others = slots.into_iter().filter_map(|(one, slot)| Some((one.as_ref()?, slot)));
        let entry = |(one, slot): (&Authority, Status)| Some(Entry::new(one.certificate().ok()?, slot));
        records::Journal { authorities: others.chain([(&self.active, Status::Active)]).filter_map(entry).collect() }
    }
}

impl Disk {
    /// Which JWT keys of the bundle are here, as a journal.
    pub(super) fn jwt_journal(&self, bundle: &[Authority]) -> Option<Journal> {
        let mut held: Vec<&Authority> = bundle.iter().filter(|key| self.holds(key)).collect();
        held.sort_by_key(|key| key.issued);
        let mut held = held.into_iter().cloned();
        Some(Journal { active: held.next()?, prepared: held.next(), old: None })
    }
}

impl Spire {
    /// A file on the claim `home`, if it is there.
    pub(in crate::rehearsal) fn file(&self, home: &str, name: &str) -> Option<String> {
        let disk = self.disks.get(home)?;
        match name {
            "keys.json" => {
                let mut keys = disk.keys.clone();
                if let Some(journal) = self.jwt.get(home) {
                    keys.retain(|id, _| !id.starts_with("JWT"));
                    let others = journal.prepared.as_ref().or(journal.old.as_ref());
                    let signers = [('A', Some(&journal.active)), ('B', others)];
                    let signers = signers.into_iter().filter_map(|(slot, key)| Some((slot, key?)));
                    keys.extend(signers.map(|(slot, key)| (id(KeyType::Jwt, slot), encoded(&key.seed))));
                }
                (!keys.is_empty()).then(|| format!("{:#}\n", json!({ "keys": keys })))
            }
            "journal.pem" => {
                let journal = disk.journal.as_ref()?;
                let state = BASE64.encode(serde_json::to_vec(journal).unwrap_or_default());
                Some(format!("{STATE}{state}\n{}", journal.record().to_pem()))
            }
            _ => None,
        }
    }

    /// Puts a file onto the claim `home`. A server reads it when it starts.
    pub(in crate::rehearsal) fn put_file(&mut self, home: &str, name: &str, text: &str) -> Result<(), String> {
        let disk = self.disks.entry(home.to_owned()).or_default();
        match name {
            "keys.json" => {
                let file: BTreeMap<String, BTreeMap<String, String>> =
                    serde_json::from_str(text).map_err(|error| error.to_string())?;
                disk.keys = file.into_iter().find(|(name, _)| name == "keys").map(|(_, keys)| keys).unwrap_or_default();
                self.jwt.remove(home);
                Ok(())
            }
            "journal.pem" => {
                let state = text.lines().find_map(|line| line.strip_prefix(STATE));
                let state = state.ok_or("the rehearsal reads only journals that it made")?;
                let state = BASE64.decode(state).map_err(|error| error.to_string())?;
                disk.journal = Some(serde_json::from_slice(&state).map_err(|error| error.to_string())?);
                Ok(())
            }
            other => Err(format!("the rehearsal keeps no file `{other}`")),
        }
    }

    /// Takes a file off the claim `home`.
    pub(in crate::rehearsal) fn remove_file(&mut self, home: &str, name: &str) {
        let Some(disk) = self.disks.get_mut(home) else { return };
        match name {
            "keys.json" => {
                disk.keys.clear();
                self.jwt.remove(home);
            }
            "journal.pem" => disk.journal = None,
            _ => {}
        }
    }
}

/// The name of the file that a path below the mount point of the claim leads to.
pub(in crate::rehearsal) fn below_mount<'a>(container: &Value, volume: &str, path: &'a str) -> Option<&'a str> {
    let mounts = container.get("volumeMounts").and_then(Value::as_array)?;
    let mount = mounts.iter().find(|mount| mount["name"] == volume)?;
    let rest = path.strip_prefix(mount["mountPath"].as_str()?)?.strip_prefix('/')?;
    (!rest.contains('/')).then_some(rest)
}
