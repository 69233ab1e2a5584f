//! Everything that has, or could get, an identity, held against the lab's allow-list. Pure: what was seen comes in,
//! findings go out. Registration entries come one by one; of each only what a finding needs is kept.

mod authorities;
mod pods;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

pub use authorities::{Authority, AuthorityKind};
pub use pods::{Pod, Pods};
pub use rules::{Level, Rule};

use crate::config::Identities;
use crate::spire::cli::Agent;
use crate::spire::entries::Entry;
use crate::spire::id::Glob;

/// The most ids of entries, and holders, that a finding lists; it counts all of them.
const MOST: usize = 20;

/// How long an SVID lives if its entry does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// X.509-SVIDs.
    pub x509: SignedDuration,
    /// JWT-SVIDs.
    pub jwt: SignedDuration,
}

impl Default for Lifetimes {
    /// SPIRE's own, where the servers' configuration says nothing.
    fn default() -> Self {
        Lifetimes { x509: SignedDuration::from_hours(1), jwt: SignedDuration::from_mins(5) }
    }
}

impl Lifetimes {
    /// When the last SVID that an entry has given until `now` expires. Servers keep no list of what they issued, so it
    /// is taken to have been issued just now.
    #[must_use]
    pub fn until(&self, entry: &Entry, now: Timestamp) -> Timestamp {
        let of = |seconds: i64, default| if seconds > 0 { SignedDuration::from_secs(seconds) } else { default };
        let longest = of(entry.x509_svid_ttl, self.x509).max(of(entry.jwt_svid_ttl, self.jwt));
        now.checked_add(longest).unwrap_or(Timestamp::MAX)
    }
}

/// Who has an identity, or could get one, but for the entries.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// When it was looked.
    pub now: Timestamp,
    /// The trust domain, without `spiffe://`.
    pub trust_domain: String,
    /// What is expected.
    pub expected: Identities,
    /// All pods.
    pub pods: Vec<Pod>,
    /// All nodes, by uid.
    pub nodes: BTreeMap<String, String>,
    /// All attested agents.
    pub agents: Vec<Agent>,
    /// What the servers' configuration says.
    pub lifetimes: Lifetimes,
}

/// What the servers trust and hold.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// What the servers' bundles hold.
    pub authorities: Vec<Authority>,
    /// How many servers answered.
    pub servers: usize,
    /// Whether each of them told which authorities are its own: they can from SPIRE 1.11 on.
    pub holders_known: bool,
    /// Servers whose bundles are not that of the first.
    pub differing: Vec<String>,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The version of this format.
    pub schema: u32,
    /// When it was looked.
    pub at: Timestamp,
    /// The trust domain.
    pub trust_domain: String,
    /// How much was looked at.
    pub seen: Seen,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
}

impl Audit {
    /// How many findings are of that level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Registration entries.
    pub entries: usize,
    /// Pods.
    pub pods: usize,
    /// Agents.
    pub agents: usize,
    /// Authorities.
    pub authorities: usize,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad.
    pub level: Level,
    /// What it is about: a SPIFFE id, `NAMESPACE/ACCOUNT` or `NAMESPACE/POD`, an authority's id.
    pub subject: String,
    /// What was found, in a sentence without a full stop.
    pub message: String,
    /// Ids of the entries, the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<String>,
    /// How many entries there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub entry_count: usize,
    /// Who can present it, the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// Until when it can be presented, at the latest. There is no revocation list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The command that does something about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Finding {
    fn new(rule: Rule, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding {
            rule,
            level: rule.level(),
            subject: subject.into(),
            message: message.into(),
            entries: Vec::new(),
            entry_count: 0,
            holders: Vec::new(),
            until: None,
            next: None,
        }
    }
}

/// What is kept of entries that make the same finding about the same SPIFFE id.
#[derive(Default)]
struct Group {
    entries: Vec<String>,
    count: usize,
    holders: BTreeSet<String>,
    until: Option<Timestamp>,
    detail: String,
}

/// The allow-list, ready to be asked.
struct Allowed {
    ids: Vec<Glob>,
    agents: Vec<Glob>,
}

/// Holds entries against the facts.
pub struct Auditor {
    facts: Facts,
    pods: Pods,
    allowed: Allowed,
    groups: BTreeMap<(Rule, String), Group>,
    seen: Seen,
}

impl Auditor {
    /// An auditor that is to see the entries, and then what the servers trust.
    #[must_use]
    pub fn new(mut facts: Facts) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        let allowed = Allowed { ids: globs(&facts.expected.allow), agents: globs(&facts.expected.agents) };
        let pods = Pods::new(std::mem::take(&mut facts.pods));
        let seen = Seen { entries: 0, pods: pods.len(), agents: facts.agents.len(), authorities: 0 };
        Auditor { facts, pods, allowed, groups: BTreeMap::new(), seen }
    }

    /// The next entry.
    pub fn entry(&mut self, entry: &Entry) {
        self.seen.entries += 1;
        let id = entry.spiffe_id.to_string();
        let (has_pod, holders) = self.pods.claim(entry);
        if !self.allowed.ids.iter().any(|glob| glob.matches(&id)) {
            self.note(Rule::UnrecognisedId, &id, entry, &holders, String::new);
        }
        if entry.admin {
            self.note(Rule::Admin, &id, entry, &holders, String::new);
        }
        if entry.downstream {
            self.note(Rule::Downstream, &id, entry, &holders, String::new);
        }
        // Below the server itself are nodes, not workloads.
        if entry.parent_id.path == "/spire/server" {
            return;
        }
        if is_wildcard(entry) {
            let selectors = || entry.selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.note(Rule::Wildcard, &id, entry, &holders, selectors);
        }
        if !has_pod && Pods::are_asked_for_by(entry) {
            self.note(Rule::EntryWithoutPod, &id, entry, &holders, String::new);
        }
    }

    fn note(&mut self, rule: Rule, id: &str, entry: &Entry, holders: &[String], detail: impl FnOnce() -> String) {
        let until = self.facts.lifetimes.until(entry, self.facts.now);
        let group = self.groups.entry((rule, id.to_owned())).or_default();
        group.count += 1;
        if group.entries.len() < MOST {
            group.entries.push(entry.id.clone());
        }
        if group.count == 1 {
            group.detail = detail();
        }
        group.until = group.until.max(Some(until));
        if group.holders.len() < MOST {
            group.holders.extend(holders.iter().cloned());
            if holders.is_empty() && !Pods::are_asked_for_by(entry) {
                let selectors: Vec<String> = entry.selectors.iter().map(ToString::to_string).collect();
                group.holders.insert(format!("whoever matches {} at {}", selectors.join(", "), entry.parent_id));
            }
        }
    }

    /// Everything that was found.
    #[must_use]
    pub fn finish(mut self, trust: Trust) -> Audit {
        let mut findings: Vec<Finding> =
            std::mem::take(&mut self.groups).into_iter().map(|((rule, id), group)| of_group(rule, id, group)).collect();
        findings.extend(self.pods.findings(&self.facts));
        findings.extend(self.agents());
        findings.extend(authorities::findings(&trust, self.facts.now));
        findings.sort_by(|a, b| (a.level, a.rule, &a.subject).cmp(&(b.level, b.rule, &b.subject)));
        Audit {
            schema: 1,
            at: self.facts.now,
            trust_domain: self.facts.trust_domain,
            seen: Seen { authorities: trust.authorities.len(), ..self.seen },
            findings,
            unknown: trust.unknown,
        }
    }

    fn agents(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for agent in &self.facts.agents {
            let id = agent.id.to_string();
            let until = agent.x509svid_expires_at.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
            let node = agent.id.path.rsplit('/').next().unwrap_or_default();
            let mut find = |rule, message: String, next: Option<String>| {
                findings.push(Finding { until, next, ..Finding::new(rule, &id, message) });
            };
            if !self.allowed.agents.iter().any(|glob| glob.matches(&id)) {
                let by = &agent.attestation_type;
                find(
                    Rule::UnrecognisedAgent,
                    format!("attested by {by}, and not on the allow-list of agents"),
                    Some(format!("coastal agents ban {id}")),
                );
            }
            if agent.attestation_type == "k8s_psat"
                && !self.facts.nodes.is_empty()
                && !self.facts.nodes.contains_key(node)
            {
                find(
                    Rule::AgentWithoutNode,
                    "the node that it attested from is not in the cluster".to_owned(),
                    Some(format!("coastal agents evict {id}")),
                );
            }
            if agent.banned {
                let next = format!("coastal agents evict {id}");
                find(Rule::BannedAgent, "banned: it gets nothing until it is evicted".to_owned(), Some(next));
            }
        }
        findings
    }
}

/// Whether an entry's selectors name neither a pod nor what runs as one account.
fn is_wildcard(entry: &Entry) -> bool {
    const NARROW: [&str; 5] = ["pod-uid:", "pod-name:", "sa:", "pod-image:", "container-image:"];
    let is_narrow = |selector: &crate::spire::entries::Selector| {
        selector.kind != "k8s" || NARROW.iter().any(|narrow| selector.value.starts_with(narrow))
    };
    !entry.selectors.iter().any(is_narrow)
}

fn of_group(rule: Rule, id: String, group: Group) -> Finding {
    let one = group.count == 1;
    let entries = if one { "an entry".to_owned() } else { format!("{} entries", group.count) };
    let message = match rule {
        Rule::UnrecognisedId => {
            format!("{entries} {} it, and it is not on the allow-list", if one { "gives" } else { "give" })
        }
        Rule::Admin => {
            format!("{entries} {} whoever holds it an administrator of the servers", if one { "makes" } else { "make" })
        }
        Rule::Downstream => {
            format!("{entries} {} whoever holds it have an intermediate CA signed", if one { "lets" } else { "let" })
        }
        Rule::Wildcard => {
            format!("{entries} {} it to everything that matches {}", if one { "gives" } else { "give" }, group.detail)
        }
        _ => format!("{entries} {} no pod", if one { "matches" } else { "match" }),
    };
    let next = match rule {
        Rule::UnrecognisedId => Some(format!("coastal contain {id}")),
        Rule::EntryWithoutPod => group.entries.first().map(|entry| format!("coastal entries delete {entry}")),
        _ => None,
    };
    Finding {
        entries: group.entries,
        entry_count: group.count,
        holders: group.holders.into_iter().take(MOST).collect(),
        until: group.until,
        next,
        ..Finding::new(rule, id, message)
    }
}
