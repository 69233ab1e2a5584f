//! What is observed: the slots of each server, and the bundle that all share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spire::cli::{LocalAuthorities, LocalAuthority};

/// What a key signs. The keys of WIT-SVIDs (SPIRE 1.14 and later) have slots too, but no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// X.509-SVIDs: a CA certificate, named by its SubjectKeyId.
    X509,
    /// JWT-SVIDs: a key, named by its `kid`.
    Jwt,
}

impl KeyType {
    /// All that have a command.
    pub const ALL: [KeyType; 2] = [KeyType::X509, KeyType::Jwt];

    /// As `spire-server localauthority` takes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            KeyType::X509 => "x509",
            KeyType::Jwt => "jwt",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KeyType::X509 => "X.509",
            KeyType::Jwt => "JWT",
        })
    }
}

/// An authority in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// SubjectKeyId or `kid`.
    pub id: String,
    /// When it runs out, if the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The SubjectKeyId of the upstream authority that signed it, if there is one. Then that one is in the bundle, and
    /// this one is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

impl Authority {
    /// What has to be in the bundle for its signatures to count.
    #[must_use]
    pub fn root(&self) -> &str {
        self.upstream.as_deref().unwrap_or(&self.id)
    }
}

impl From<&LocalAuthority> for Authority {
    fn from(told: &LocalAuthority) -> Self {
        let upstream = told.upstream_authority_subject_key_id.to_ascii_lowercase();
        let seconds = told.expires_at.parse().ok().filter(|seconds| *seconds > 0);
        Authority {
            id: told.authority_id.clone(),
            expires_at: seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()),
            upstream: Some(upstream).filter(|id| !id.is_empty()),
        }
    }
}

/// The slot beside the active one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// Nothing is in it.
    Empty,
    /// It will sign once it is activated.
    Prepared(Authority),
    /// It signed before. After it was revoked the server goes on showing it; then it is in no bundle.
    Old(Authority),
}

/// The slots of one server for one type of key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Signs now.
    pub active: Authority,
    /// The other one.
    pub next: Next,
}

impl From<&LocalAuthorities> for Slots {
    fn from(told: &LocalAuthorities) -> Self {
        let next = match (&told.prepared, &told.old) {
            (Some(prepared), _) => Next::Prepared(prepared.into()),
            (None, Some(old)) => Next::Old(old.into()),
            (None, None) => Next::Empty,
        };
        Slots { active: (&told.active).into(), next }
    }
}

impl Slots {
    /// The authorities in both.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        let next = match &self.next {
            Next::Empty => None,
            Next::Prepared(authority) | Next::Old(authority) => Some(authority),
        };
        std::iter::once(&self.active).chain(next)
    }
}

/// An authority in the bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Agents drop what it signed and ask anew.
    pub tainted: bool,
    /// When it runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Everything that decides, for one type of key, at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The servers by their pods; or why one does not show its slots.
    pub servers: BTreeMap<String, Result<Slots, String>>,
    /// The bundle, by id.
    pub bundle: BTreeMap<String, Held>,
    /// Servers that have run since before their upstream authority was tainted, without having done it themselves:
    /// they have not heard of it (spiffe/spire#5587).
    pub stale: BTreeSet<String>,
}

impl View {
    /// Whether an upstream authority signs what the servers sign with.
    #[must_use]
    pub fn has_upstream(&self) -> bool {
        self.servers.values().flatten().any(|slots| slots.active.upstream.is_some())
    }

    /// Every id in a slot or in the bundle.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        let slots = self.servers.values().flatten().flat_map(Slots::authorities);
        slots
            .flat_map(|authority| [authority.id.clone(), authority.root().to_owned()])
            .chain(self.bundle.keys().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(json: &str) -> Slots {
        Slots::from(&serde_json::from_str::<LocalAuthorities>(json).unwrap())
    }

    #[test]
    fn slots_are_read_as_the_cli_prints_them() {
        let read = slots(
            r#"{"active":{"authority_id":"aa","expires_at":"1700000000","upstream_authority_subject_key_id":""},
                "old":{"authority_id":"bb","expires_at":"0","upstream_authority_subject_key_id":"CC01"}}"#,
        );
        assert_eq!(read.active.root(), "aa");
        assert_eq!(read.active.expires_at, Timestamp::from_second(1_700_000_000).ok());
        let Next::Old(old) = &read.next else { panic!("{read:?}") };
        assert_eq!((old.root(), old.expires_at), ("cc01", None), "an id is spelt in lower case, and 0 is no time");
        assert_eq!(slots(r#"{"active":{"authority_id":"aa"}}"#).next, Next::Empty);
        let both = slots(r#"{"active":{"authority_id":"a"},"prepared":{"authority_id":"b"}}"#);
        assert_eq!(both.authorities().map(|authority| authority.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
