//! Whether a backup still covers what runs: a CA lives 24 hours, and one that is not in the backup cannot come back.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::manifest::{Authority, Manifest, Slot};

/// For how long a backup brings back the authorities that sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "cover", content = "detail", rename_all = "kebab-case")]
pub enum Cover {
    /// Until then at the latest: at that time the first server activates an authority that is not in the backup, or one
    /// that is in it expires. A forced rotation ends it sooner: [`of`] holds it against what is active now.
    Until(Timestamp),
    /// It did until then.
    Expired(Timestamp),
    /// It never did, or does not any more; says why.
    Never(String),
}

impl Cover {
    /// Whether it covers now.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self, Cover::Until(_))
    }
}

impl fmt::Display for Cover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cover::Until(until) => write!(f, "covers until {until:.0}"),
            Cover::Expired(until) => write!(f, "covered until {until:.0}: the CAs in it are not those that sign now"),
            Cover::Never(why) => write!(f, "covers no authority: {why}"),
        }
    }
}

/// Until when the backup covers, by what it holds itself: every authority that was active is in it with its key,
/// unexpired, and has no successor yet that is not.
#[must_use]
pub fn until(manifest: &Manifest, now: Timestamp) -> Cover {
    if let Some(missing) = manifest.incomplete.first() {
        return Cover::Never(missing.clone());
    }
    let active: Vec<&Authority> = manifest.authorities.iter().filter(|one| one.slot == Slot::Active).collect();
    if active.is_empty() {
        return Cover::Never("no server's active authority is in it".to_owned());
    }
    if let Some(lost) = active.iter().find(|one| !one.key || !one.trusted) {
        let what = if lost.key { "is not in the bundle of the dump" } else { "is in it without its key" };
        return Cover::Never(format!(
            "authority {} of {} {what}",
            lost.id,
            lost.server.as_deref().unwrap_or("a server")
        ));
    }
    let ends = active.iter().map(|one| {
        let prepared = manifest.authorities.iter().find(|other| {
            other.slot == Slot::Prepared && other.server.is_some() && other.server == one.server && other.key
        });
        prepared.filter(|next| next.trusted).unwrap_or(one).succeeded_at()
    });
    match ends.min() {
        Some(end) if end > now => Cover::Until(end),
        Some(end) => Cover::Expired(end),
        None => Cover::Never("no server's active authority is in it".to_owned()),
    }
}

/// As [`until`], where it is known which authorities (by their SubjectKeyId in hex) are active now: a rotation that was
/// forced since the backup ends its cover at once.
#[must_use]
pub fn of(manifest: &Manifest, active: &BTreeSet<String>, now: Timestamp) -> Cover {
    let held = |id: &String| manifest.authorities.iter().any(|one| one.id == *id && one.key && one.trusted);
    match active.iter().find(|id| !held(id)) {
        Some(id) => Cover::Never(format!("authority {id}, which signs now, is not in it")),
        None => until(manifest, now),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use semver::Version;

    use super::*;
    use crate::backup::manifest::Migrations;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    fn authority(id: &str, server: &str, slot: Slot, made: i64) -> Authority {
        Authority {
            id: id.into(),
            server: Some(server.into()),
            slot,
            not_before: at(made),
            not_after: at(made + 24),
            key: true,
            trusted: true,
        }
    }

    fn manifest(authorities: Vec<Authority>) -> Manifest {
        Manifest {
            schema: Manifest::SCHEMA,
            coastal: "0.1.0".into(),
            lab: "day-two".into(),
            trust_domain: "example.org".into(),
            taken_at: at(1),
            one_moment: true,
            changed: Vec::new(),
            incomplete: Vec::new(),
            migrations: Migrations { schema: 22, code_version: Version::new(1, 7, 2) },
            servers: vec![Version::new(1, 7, 2)],
            agents: Vec::new(),
            chart: None,
            entries: 0,
            attested_agents: 0,
            authorities,
            members: Vec::new(),
        }
    }

    #[test]
    fn it_covers_until_a_server_signs_with_what_is_not_in_it() {
        use Slot::{Active, Old, Prepared};
        let without_key = |mut one: Authority| {
            one.key = false;
            one
        };
        let never = |words: &str| Cover::Never(words.into());
        let cases = [
            // The next one signs after 20 of 24 hours.
            (vec![authority("a", "s-0", Active, 0)], 2, Cover::Until(at(20))),
            (vec![authority("a", "s-0", Active, 0)], 20, Cover::Expired(at(20))),
            // With the next one in it, too, it lasts until that one's successor.
            (vec![authority("a", "s-0", Active, 0), authority("b", "s-0", Prepared, 12)], 21, Cover::Until(at(32))),
            // Another server's does not help.
            (vec![authority("a", "s-0", Active, 0), authority("b", "s-1", Prepared, 12)], 2, Cover::Until(at(20))),
            (
                vec![authority("a", "s-0", Active, 0), without_key(authority("b", "s-0", Prepared, 12))],
                2,
                Cover::Until(at(20)),
            ),
            // The server that is soonest counts.
            (vec![authority("a", "s-0", Active, 5), authority("b", "s-1", Active, 0)], 2, Cover::Until(at(20))),
            (
                vec![authority("a", "s-0", Active, 0), without_key(authority("b", "s-1", Active, 0))],
                2,
                never("authority b of s-1 is in it without its key"),
            ),
            (vec![authority("a", "s-0", Old, 0)], 2, never("no server's active authority is in it")),
            (vec![], 2, never("no server's active authority is in it")),
        ];
        for (authorities, now, expected) in cases {
            assert_eq!(until(&manifest(authorities.clone()), at(now)), expected, "{authorities:?} at {now}");
        }
        let mut torn = manifest(vec![authority("a", "s-0", Active, 0)]);
        torn.incomplete.push("no keys of s-1".into());
        assert_eq!(until(&torn, at(2)), never("no keys of s-1"));
    }

    #[test]
    fn a_forced_rotation_ends_the_cover() {
        let manifest = manifest(vec![authority("a", "s-0", Slot::Active, 0)]);
        assert!(of(&manifest, &["a".to_owned()].into(), at(2)).holds());
        let cover = of(&manifest, &["c".to_owned()].into(), at(2));
        assert_eq!(cover, Cover::Never("authority c, which signs now, is not in it".into()));
        assert!(!cover.holds());
    }
}
