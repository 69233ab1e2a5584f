//! Authorities: those that nobody holds, those that were tainted and forgotten, and those that nothing follows.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::{Finding, Rule, Trust};

/// Servers prepare the next authority when half of the life of the active one has gone, and activate it when a sixth
/// is left (facts, section 4). With less than this part of its life left and nothing younger beside it, an authority
/// has no successor.
const FRESH: i64 = 3;

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityKind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AuthorityKind::X509 => "X.509",
            AuthorityKind::Jwt => "JWT",
        })
    }
}

/// An authority of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Authority {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Its id: the SubjectKeyId of the certificate, or the key id.
    pub id: String,
    /// When it was made, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Timestamp>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether it is tainted: on its way out, and still trusted.
    pub tainted: bool,
    /// Which servers hold its key, and in which slot: `spire-server-0 active`.
    pub held_by: Vec<String>,
    /// Which servers have it in their bundle.
    pub seen_by: Vec<String>,
}

impl Authority {
    fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires| expires > now)
    }

    /// Whether it has more than a third of its life before it; if that cannot be told, whether it is valid.
    fn is_fresh_at(&self, now: Timestamp) -> bool {
        let (Some(issued), Some(expires)) = (self.issued_at, self.expires_at) else { return self.is_valid_at(now) };
        let life = expires.as_second() - issued.as_second();
        expires.as_second() - now.as_second() > life / FRESH
    }
}

pub(super) fn findings(trust: &Trust, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for authority in &trust.authorities {
        let mut find = |rule, message: String| {
            findings.push(Finding { until: authority.expires_at, ..Finding::new(rule, &authority.id, message) });
        };
        let kind = authority.kind;
        if trust.holders_known && authority.held_by.is_empty() && authority.is_valid_at(now) {
            find(Rule::UnrecognisedAuthority, format!("{kind} authority that none of {} servers holds", trust.servers));
        }
        if authority.tainted {
            find(Rule::TaintedAuthority, format!("{kind} authority, tainted and not revoked"));
        }
    }
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        let all: Vec<&Authority> = trust.authorities.iter().filter(|authority| authority.kind == kind).collect();
        let fresh = all.iter().filter(|authority| authority.is_fresh_at(now)).count();
        // Without JWT at all there is nothing to follow.
        if all.is_empty() || fresh >= trust.servers {
            continue;
        }
        let last = all.iter().max_by_key(|authority| authority.expires_at);
        let message = format!("of {} servers only {fresh} have a {kind} authority with time before it", trust.servers);
        findings.push(Finding {
            until: last.and_then(|last| last.expires_at),
            next: Some("coastal logs server".to_owned()),
            ..Finding::new(Rule::AuthorityExpires, last.map(|last| last.id.clone()).unwrap_or_default(), message)
        });
    }
    if !trust.differing.is_empty() {
        let subject = trust.differing.join(", ");
        findings.push(Finding {
            next: Some("coastal bundle".to_owned()),
            ..Finding::new(Rule::BundlesDiffer, subject, "holds another bundle than the first server")
        });
    }
    findings
}
