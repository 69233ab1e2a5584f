//! What is found, and what is not.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::embedded;

const TD: &str = "coastal-containers.example";
const AGENT: &str = "/spire/agent/k8s_psat/kind-kind/node-1";

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn pod(namespace: &str, account: &str, uid: &str) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: namespace.into(),
        name: format!("{account}-{uid}"),
        account: account.into(),
        node: "kind-worker".into(),
        age_s: 60,
        runs: true,
        mounts: true,
    }
}

fn entry(namespace: &str, account: &str, uid: &str) -> Entry {
    read(json!({
        "id": format!("entry-{uid}"), "spiffe_id": {"trust_domain": TD, "path": format!("/ns/{namespace}/sa/{account}")},
        "parent_id": {"trust_domain": TD, "path": AGENT}, "selectors": [{"type": "k8s", "value": format!("pod-uid:{uid}")}],
    }))
}

fn read(entry: Value) -> Entry {
    serde_json::from_value(entry).unwrap()
}

fn agent(path: &str) -> Agent {
    serde_json::from_value(json!({
        "id": {"trust_domain": TD, "path": path}, "attestation_type": "k8s_psat", "x509svid_expires_at": "1700003600",
    }))
    .unwrap()
}

fn authority(id: &str, left_h: i64, servers: &[&str]) -> Authority {
    let expires = now() + SignedDuration::from_hours(left_h);
    Authority {
        kind: AuthorityKind::X509,
        id: id.into(),
        issued_at: Some(expires - SignedDuration::from_hours(24)),
        expires_at: Some(expires),
        tainted: false,
        held_by: servers.iter().map(|server| format!("{server} active")).collect(),
        seen_by: vec!["spire-server-0".into()],
    }
}

/// A lab as it should be: its workload, its agent, its server.
fn facts() -> Facts {
    Facts {
        now: now(),
        trust_domain: TD.into(),
        expected: embedded().unwrap().identities,
        pods: vec![pod("default", "workload", "1")],
        nodes: BTreeMap::from([("node-1".to_owned(), "kind-worker".to_owned())]),
        agents: vec![agent(AGENT)],
        ..Facts::default()
    }
}

fn trust() -> Trust {
    Trust {
        authorities: vec![authority("aa", 20, &["spire-server-0"])],
        servers: 1,
        holders_known: true,
        ..Trust::default()
    }
}

fn audit(facts: Facts, entries: &[Entry]) -> Audit {
    audit_with(facts, entries, trust())
}

fn audit_with(facts: Facts, entries: &[Entry], trust: Trust) -> Audit {
    let mut auditor = Auditor::new(facts);
    for entry in entries {
        auditor.entry(entry);
    }
    auditor.finish(trust)
}

fn rules(audit: &Audit) -> Vec<(&'static str, &str)> {
    audit.findings.iter().map(|finding| (finding.rule.id(), finding.subject.as_str())).collect()
}

#[test]
fn what_is_expected_is_not_found() {
    let audit = audit(facts(), &[entry("default", "workload", "1")]);
    assert_eq!(rules(&audit), []);
    assert_eq!(audit.seen, Seen { entries: 1, pods: 1, agents: 1, authorities: 1 });
}

#[test]
fn the_pirate_ship_is_found_twice_with_who_holds_it_and_until_when() {
    let mut facts = facts();
    facts.pods.push(pod("pirate-coast", "pirate-ship", "2"));
    facts.lifetimes = Lifetimes { x509: SignedDuration::from_hours(4), jwt: SignedDuration::from_mins(5) };
    let audit = audit(facts, &[entry("default", "workload", "1"), entry("pirate-coast", "pirate-ship", "2")]);
    let id = "spiffe://coastal-containers.example/ns/pirate-coast/sa/pirate-ship";
    assert_eq!(rules(&audit), [("AUDIT-UNRECOGNISED-ID", id), ("AUDIT-UNRECOGNISED-POD", "pirate-coast/pirate-ship")]);
    let found = &audit.findings[0];
    assert_eq!(found.message, "an entry gives it, and it is not on the allow-list");
    assert_eq!(found.holders, ["pirate-coast/pirate-ship-2 on kind-worker"]);
    assert_eq!(found.until, Some(now() + SignedDuration::from_hours(4)));
    assert_eq!(found.next.as_deref(), Some(format!("coastal contain {id}").as_str()));
    assert_eq!(audit.findings[1].next.as_deref(), Some("coastal contain pirate-coast"));
    assert_eq!(audit.count(Level::Error), 2);
}

#[test]
fn an_entrys_own_lifetime_counts_and_the_longer_of_the_two() {
    let of = |x509: i64, jwt: i64| {
        let mut entry = entry("a", "b", "1");
        (entry.x509_svid_ttl, entry.jwt_svid_ttl) = (x509, jwt);
        Lifetimes::default().until(&entry, now()).as_second() - now().as_second()
    };
    assert_eq!(of(0, 0), 3600);
    assert_eq!(of(60, 0), 300);
    assert_eq!(of(60, 90), 90);
    assert_eq!(of(i64::MAX, 0), Timestamp::MAX.as_second() - now().as_second());
}

#[test]
fn ten_thousand_entries_of_one_id_are_one_finding() {
    let entries: Vec<Entry> = (0..10_000).map(|n| entry("pirate-coast", "fleet", &n.to_string())).collect();
    let mut facts = facts();
    facts.pods.extend((0..10_000).map(|n| Pod { uid: format!("{n}"), ..pod("pirate-coast", "fleet", "x") }));
    let audit = audit(facts, &entries);
    let found: Vec<_> = audit.findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert_eq!(found.len(), 2, "{:#?}", rules(&audit));
    assert_eq!((found[0].entry_count, found[0].entries.len()), (10_000, MOST));
    assert!(found[0].message.starts_with("10000 entries give it"));
    assert!(found[1].message.starts_with("10000 pods run there"), "{}", found[1].message);
}

#[test]
fn entries_and_pods_that_have_lost_each_other() {
    let mut facts = facts();
    facts.pods.push(pod("default", "alone", "2"));
    facts.pods.push(Pod { age_s: 3, ..pod("default", "young", "3") });
    facts.pods.push(Pod { mounts: false, ..pod("default", "without", "4") });
    facts.pods.push(Pod { runs: false, ..pod("default", "ended", "5") });
    let entries = [entry("default", "workload", "1"), entry("default", "gone", "9"), entry("default", "ended", "5")];
    assert_eq!(
        rules(&audit(facts, &entries)),
        [
            ("AUDIT-ENTRY-WITHOUT-POD", "spiffe://coastal-containers.example/ns/default/sa/gone"),
            ("AUDIT-POD-WITHOUT-ENTRY", "default/alone-2"),
        ]
    );
}

#[test]
fn entries_that_give_more_than_an_identity_or_to_more_than_one() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = json!({
            "id": "e", "spiffe_id": {"trust_domain": TD, "path": "/ns/default/sa/workload"}, "parent_id": {"trust_domain": TD, "path": AGENT},
            "selectors": [{"type": "k8s", "value": "ns:default"}, {"type": "k8s", "value": "sa:workload"}],
        });
        change(&mut value);
        let audit = audit(facts(), &[read(value)]);
        audit.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>()
    };
    assert_eq!(with(&|_| {}), []);
    assert_eq!(with(&|entry| entry["admin"] = true.into()), [Rule::Admin]);
    assert_eq!(with(&|entry| entry["downstream"] = true.into()), [Rule::Downstream]);
    let namespace = json!([{"type": "k8s", "value": "ns:default"}]);
    assert_eq!(with(&|entry| entry["selectors"] = namespace.clone()), [Rule::Wildcard]);
    // Below the server: which nodes there are, not which workloads.
    let alias = |entry: &mut Value| {
        entry["parent_id"]["path"] = "/spire/server".into();
        entry["selectors"] = json!([{"type": "k8s_psat", "value": "cluster:kind-kind"}]);
    };
    assert_eq!(with(&alias), [Rule::PodWithoutEntry]);
    let foreign = |entry: &mut Value| entry["spiffe_id"]["trust_domain"] = "other.example".into();
    assert_eq!(with(&foreign), [Rule::UnrecognisedId]);
}

#[test]
fn agents_that_nobody_expects() {
    let mut facts = facts();
    facts.agents.push(agent("/spire/agent/join_token/1234"));
    facts.agents.push(agent("/spire/agent/k8s_psat/kind-kind/node-9"));
    facts.agents[0].banned = true;
    let audit = audit(facts, &[entry("default", "workload", "1")]);
    assert_eq!(
        audit
            .findings
            .iter()
            .map(|finding| (finding.rule, finding.subject.rsplit('/').next().unwrap()))
            .collect::<Vec<_>>(),
        [
            (Rule::UnrecognisedAgent, "1234"),
            (Rule::AgentWithoutNode, "1234"),
            (Rule::AgentWithoutNode, "node-9"),
            (Rule::BannedAgent, "node-1"),
        ]
    );
    assert_eq!(audit.findings[0].until, Timestamp::from_second(1_700_003_600).ok());
}

#[test]
fn authorities_that_nobody_holds_or_follows() {
    let with = |change: &dyn Fn(&mut Trust)| {
        let mut trust = trust();
        change(&mut trust);
        let audit = audit_with(facts(), &[entry("default", "workload", "1")], trust);
        audit.findings.iter().map(|finding| (finding.rule, finding.subject.clone())).collect::<Vec<_>>()
    };
    let planted = || authority("bb", 20, &[]);
    assert_eq!(with(&|trust| trust.authorities.push(planted())), [(Rule::UnrecognisedAuthority, "bb".to_owned())]);
    assert_eq!(with(&|trust| (trust.holders_known = false, trust.authorities.push(planted())).1), []);
    assert_eq!(with(&|trust| trust.authorities.push(authority("cc", -1, &[]))), [], "expired, and soon to be pruned");
    assert_eq!(with(&|trust| trust.authorities[0].tainted = true), [(Rule::TaintedAuthority, "aa".to_owned())]);
    assert_eq!(
        with(&|trust| trust.authorities[0] = authority("aa", 7, &["s"])),
        [(Rule::AuthorityExpires, "aa".to_owned())]
    );
    let followed =
        |trust: &mut Trust| trust.authorities = vec![authority("aa", 7, &["s"]), authority("dd", 20, &["s"])];
    assert_eq!(with(&followed), []);
    assert_eq!(with(&|trust| trust.servers = 2), [(Rule::AuthorityExpires, "aa".to_owned())], "one of two has none");
    let differ = |trust: &mut Trust| trust.differing = vec!["spire-server-1".into()];
    assert_eq!(with(&differ), [(Rule::BundlesDiffer, "spire-server-1".to_owned())]);
}

proptest! {
    /// Whatever an entry says, the audit counts it, never panics, and an id that no glob covers is never passed over.
    #[test]
    fn no_unrecognised_id_gets_through(entries in prop::collection::vec(("[a-z]{1,3}", "[a-z]{1,3}", any::<bool>()), 0..30)) {
        let mut facts = facts();
        facts.expected.allow = vec![format!("spiffe://{TD}/ns/a*/sa/*")];
        let all: Vec<Entry> = entries.iter().map(|(namespace, account, admin)| Entry { admin: *admin, ..entry(namespace, account, "1") }).collect();
        let audit = audit(facts, &all);
        prop_assert_eq!(audit.seen.entries, all.len());
        let found: BTreeSet<&str> =
            audit.findings.iter().filter(|finding| finding.rule == Rule::UnrecognisedId).map(|finding| finding.subject.as_str()).collect();
        let strange: BTreeSet<String> =
            all.iter().filter(|entry| !entry.spiffe_id.path.starts_with("/ns/a")).map(|entry| entry.spiffe_id.to_string()).collect();
        prop_assert_eq!(found, strange.iter().map(String::as_str).collect::<BTreeSet<_>>());
    }
}
