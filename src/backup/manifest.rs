//! What a backup says of itself: what is in it, of when, and what it could bring back.
//!
//! The manifest is the archive's last member, for only then are all digests known. A copy lies beside the archive as
//! its description, so that `backup list` needs no key; it holds nothing secret, and whatever matters is read out of
//! the archive itself.

use jiff::{SignedDuration, Timestamp};
use semver::Version;
use serde::{Deserialize, Serialize};

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format: [`Manifest::SCHEMA`].
    pub schema: u32,
    /// The version of `coastal` that wrote it.
    pub coastal: String,
    /// The lab's name.
    pub lab: String,
    /// Without `spiffe://`.
    pub trust_domain: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Nothing changed while it was taken.
    pub one_moment: bool,
    /// What changed meanwhile, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// What should be in it and is not, in words: then it covers no authority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// The row of `migrations` in the dump.
    pub migrations: Migrations,
    /// Versions of the servers that answered, sorted, without repetition.
    pub servers: Vec<Version>,
    /// Versions of the agents that answered.
    pub agents: Vec<Version>,
    /// The chart of the release, like `spire-0.13.0`.
    pub chart: Option<String>,
    /// Registration entries in the dump.
    pub entries: u64,
    /// Attested agents in the dump.
    pub attested_agents: u64,
    /// The X.509 authorities of the bundle, and those that a server signs with though the bundle lacks them.
    pub authorities: Vec<Authority>,
    /// Every other member of the archive, in its order.
    pub members: Vec<Member>,
}

impl Manifest {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;
}

/// The row of `migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    /// The schema's version.
    pub schema: u32,
    /// The newest SPIRE version that wrote to the database.
    pub code_version: Version,
}

/// A member of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its path in the archive.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest, hexadecimal.
    pub sha256: String,
}

/// An X.509 authority, as it was when the backup was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its SubjectKeyId, lower-case hex.
    pub id: String,
    /// The server pod whose it is, where that is known.
    pub server: Option<String>,
    /// What it was to that server.
    pub slot: Slot,
    /// Backdated by ten seconds, as SPIRE does.
    pub not_before: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// Whether its private key is in the backup.
    pub key: bool,
    /// Whether the bundle in the dump holds it.
    pub trusted: bool,
}

impl Authority {
    /// When its server activates the next one: when a sixth of its life is left, at most seven days before its end
    /// (facts, section 4).
    #[must_use]
    pub fn succeeded_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after - (life / 6).min(SignedDuration::from_hours(24 * 7))
    }

    /// When its server prepares the next one: at half of its life, at most thirty days before its end.
    #[must_use]
    pub fn successor_prepared_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after - (life / 2).min(SignedDuration::from_hours(24 * 30))
    }
}

/// What an authority is to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// It signs.
    Active,
    /// It signs next.
    Prepared,
    /// It signed before, or nobody knows whose it is.
    Old,
}
