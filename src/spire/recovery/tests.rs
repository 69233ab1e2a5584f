//! The table of losses, the choice of versions, and what is made of what was seen.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use semver::Version;

use super::diagnosis::Plane;
use super::facts::{
    AgentFacts, AgentPod, Authority, DatabaseFacts, Facts, Held, Node, PodState, ReleaseFacts, ServerFacts, ServerPod,
    Workload,
};
use super::loss::{Authorities, BundleAfter, JournalPlace, TrustAfter};
use super::version::Source;
use super::*;

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    "2026-08-21T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

/// The lines of versions between which anything differs.
const LINES: [&str; 6] = ["1.7.2", "1.8.11", "1.9.6", "1.10.4", "1.11.3", "1.15.3"];

#[test]
fn every_combination_of_losses_on_every_line() {
    use Authorities as A;
    use BundleAfter as B;
    use Database as D;
    use Keys as K;
    use TrustAfter as T;
    // Database, keys: what signs, bundle, trust; whether entries are lost, orphans stay; servers, agents, workloads
    // that have to be started again. And per line whether the journal is left, and whether keys go first.
    let rows = [
        (D::Kept, K::Kept, (A::Same, B::Same, T::Kept), (false, false), [false, false, false], "jjjjjj", "......"),
        (
            D::Kept,
            K::Lost,
            (A::New, B::Appended, T::ByAnother),
            (false, true),
            [false, true, false],
            "..jjjj",
            "......",
        ),
        (
            D::Older,
            K::Kept,
            (A::SameIfOlder, B::Older, T::ByAnother),
            (true, false),
            [true, true, false],
            "jjjjjj",
            "......",
        ),
        (D::Older, K::Lost, (A::New, B::Older, T::ByAnother), (true, true), [true, true, true], "...jjj", "......"),
        (D::Lost, K::Kept, (A::New, B::Fresh, T::Gone), (true, false), [true, true, true], "jjj...", "ccc..."),
        (D::Lost, K::Lost, (A::New, B::Fresh, T::Gone), (true, false), [true, true, true], "......", "......"),
    ];
    for (database, keys, after, (entries_lost, orphans), restarts, journals, cleared) in rows {
        for (at, line) in LINES.iter().enumerate() {
            let loss = Loss { database, keys };
            let seen = outlook(loss, &version(line));
            let case = format!("{database:?} {keys:?} {line}");
            assert_eq!((seen.authorities, seen.bundle, seen.trust), after, "{case}");
            assert_eq!((seen.entries_lost, seen.orphans), (entries_lost, orphans), "{case}");
            let again = [seen.restarts.servers, seen.restarts.agents, seen.restarts.workloads];
            assert_eq!(again, restarts, "{case}");
            assert_eq!(JournalPlace::of(&version(line)).survives(loss), &journals[at..=at] == "j", "{case}: journal");
            assert_eq!(seen.clear_keys, &cleared[at..=at] == "c", "{case}: keys");
            assert!(seen.words().len() >= 2);
        }
    }
}

#[test]
fn agents_react_by_their_version_and_their_chart() {
    use Reaction as R;
    for (agent, chart, expected) in [
        ("1.7.2", Some("0.13.0"), R::RetriesForEver),
        ("1.8.6", Some("0.16.0"), R::RetriesForEver),
        ("1.8.6", Some("0.27.0"), R::RetriesForEver),
        ("1.8.7", Some("0.17.0"), R::ExitsAndHeals),
        ("1.9.6", None, R::ExitsAndHeals),
        ("1.10.4", Some("0.22.0"), R::ExitsAndHeals),
        ("1.10.4", Some("0.23.0"), R::ExitsForEver),
        ("1.12.6", Some("0.26.1"), R::ExitsForEver),
        ("1.13.0", Some("0.26.1"), R::ExitsForEver),
        ("1.13.0", Some("0.27.0"), R::Rebootstraps),
        ("1.15.3", Some("0.30.0"), R::Rebootstraps),
        ("1.15.3", Some("0.13.0"), R::ExitsAndHeals),
    ] {
        let found = reaction(&version(agent), chart.map(version).as_ref());
        assert_eq!(found, expected, "{agent} on {chart:?}");
        assert_eq!(found.needs_a_new_pod(), matches!(expected, R::RetriesForEver | R::ExitsForEver));
    }
    for (agent, in_process) in [("1.7.2", false), ("1.9.6", false), ("1.10.0", true), ("1.15.3", true)] {
        assert_eq!(loss::reattests_in_process(&version(agent)), in_process, "{agent}");
    }
}

fn revision(number: u32, deployed: bool, chart: &str, server: &str, agent: &str) -> Revision {
    Revision {
        number,
        deployed,
        chart: Some(version(chart)),
        server: Some(version(server)),
        agent: Some(version(agent)),
    }
}

/// The release of the lab after three upgrades, and after `helm rollback spire 1` has failed.
fn wreck() -> Known {
    Known {
        server_template: Some(version("1.7.2")),
        agent_template: Some(version("1.7.2")),
        row: Some((23, version("1.11.3"))),
        revisions: vec![
            revision(1, true, "0.13.0", "1.7.2", "1.7.2"),
            revision(2, true, "0.13.0", "1.8.0", "1.7.2"),
            revision(7, true, "0.24.2", "1.11.3", "1.10.4"),
            revision(8, true, "0.24.2", "1.11.3", "1.11.3"),
            revision(9, false, "0.13.0", "1.7.2", "1.7.2"),
        ],
        lab: (Some(version("1.7.2")), Some(version("1.7.2")), Some(version("0.13.0"))),
        ..Known::default()
    }
}

fn told(current: Option<Current>) -> Option<(String, String, String, Source)> {
    let current = current?;
    let chart = current.chart.map_or_else(String::new, |chart| chart.to_string());
    Some((current.server.to_string(), current.agent.to_string(), chart, current.source))
}

#[test]
fn with_no_server_left_it_is_the_newest_revision_that_the_database_permits() {
    let is = |known: &Known, server: &str, agent: &str, chart: &str, source: Source| {
        let expected = (server.to_owned(), agent.to_owned(), chart.to_owned(), source);
        assert_eq!(told(current(known)), Some(expected), "{known:?}");
    };
    is(&wreck(), "1.11.3", "1.11.3", "0.24.2", Source::Revision(8));
    // Nobody has written at 1.11 yet: the newest deployed one could still start, one minor version ahead.
    let earlier = Known { row: Some((23, version("1.10.4"))), ..wreck() };
    is(&earlier, "1.11.3", "1.11.3", "0.24.2", Source::Revision(8));
    // But not four ahead, though the server would start on that row.
    let long_ago = Known { row: Some((22, version("1.7.2"))), ..wreck() };
    is(&long_ago, "1.8.0", "1.7.2", "0.13.0", Source::Revision(2));
    // An empty database permits everything.
    let empty = Known { row: None, ..wreck() };
    is(&empty, "1.11.3", "1.11.3", "0.24.2", Source::Revision(8));
    // helm remembers nothing: the template if it may start, else lab.toml.
    let forgotten = Known { revisions: Vec::new(), row: Some((22, version("1.7.2"))), ..wreck() };
    is(&forgotten, "1.7.2", "1.7.2", "0.13.0", Source::Template);
    let bare = Known { server_template: None, agent_template: None, ..forgotten };
    is(&bare, "1.7.2", "1.7.2", "0.13.0", Source::LabFile);
    // Nothing may start.
    let hopeless = Known { row: Some((25, version("1.15.3"))), ..wreck() };
    assert_eq!(current(&hopeless), None);
}

#[test]
fn what_runs_counts_before_what_helm_remembers() {
    // An illegal downgrade: one server crash-loops at 1.7.2, the others serve on at 1.11.3.
    let broken = Known { servers: vec![version("1.11.3")], agents: vec![version("1.11.3")], ..wreck() };
    assert_eq!(
        told(current(&broken)),
        Some(("1.11.3".into(), "1.11.3".into(), "0.24.2".into(), Source::Running)),
        "{broken:?}"
    );
    // An upgrade stopped amid the servers: forward, as the template says, and the agents stay.
    let halfway = Known {
        servers: vec![version("1.7.2"), version("1.8.0")],
        agents: vec![version("1.7.2")],
        server_template: Some(version("1.8.0")),
        row: Some((23, version("1.8.0"))),
        ..wreck()
    };
    let (server, agent, _, source) = told(current(&halfway)).unwrap();
    assert_eq!((server.as_str(), agent.as_str(), source), ("1.8.0", "1.7.2", Source::Running));
    // An agent that is newer than the servers is none that may stay.
    let ahead = Known {
        servers: vec![version("1.7.2")],
        agents: vec![version("1.8.0")],
        row: Some((22, version("1.7.2"))),
        ..wreck()
    };
    let (server, agent, ..) = told(current(&ahead)).unwrap();
    assert_eq!((server.as_str(), agent.as_str()), ("1.7.2", "1.7.2"));
}

proptest! {
    #[test]
    fn no_choice_is_one_that_the_database_refuses(
        servers in proptest::collection::vec(0_usize..8, 0..3),
        template in 0_usize..8,
        revisions in proptest::collection::vec((0_usize..8, any::<bool>()), 0..6),
        row in 0_usize..9,
    ) {
        let all = ["1.7.2", "1.8.0", "1.8.11", "1.9.6", "1.10.4", "1.11.3", "1.13.6", "1.15.3"];
        let rows = [(22, "1.7.2"), (23, "1.8.0"), (23, "1.9.6"), (23, "1.10.4"), (23, "1.11.3"), (23, "1.13.6"), (24, "1.14.7"), (25, "1.15.3")];
        let row = rows.get(row).map(|(schema, code)| (*schema, version(code)));
        let revisions = (1..).zip(revisions).map(|(number, (at, deployed))| revision(number, deployed, "0.13.0", all[at], all[at]));
        let known = Known {
            servers: servers.into_iter().map(|at| version(all[at])).collect(),
            server_template: Some(version(all[template])),
            row: row.clone(),
            revisions: revisions.collect(),
            ..Known::default()
        };
        if let Some(current) = current(&known) {
            let row = row.as_ref().map(|(schema, code)| (*schema, code));
            prop_assert!(crate::spire::policy::server_start(&current.server, row).is_started());
            prop_assert!(current.agent <= current.server);
            prop_assert!(current.server.minor - current.agent.minor <= 1);
        }
    }
}

/// A lab in which all is well, at that version.
fn healthy(line: &str) -> Facts {
    let ids = ["aa", "bb", "cc"];
    let bundle = ids.iter().map(|id| Authority { key_id: (*id).to_owned(), not_before: Some(at(-3000)) }).collect();
    let schema = crate::spire::releases::schema(&version(line)).unwrap().latest;
    Facts {
        at: at(0),
        nodes: ["control-plane", "worker"]
            .map(|name| Node { name: format!("kind-{name}"), stopped: false, ready: true })
            .into(),
        reached: true,
        database: DatabaseFacts { silent: None, row: Some((schema, version(line))), bundle: Some(true) },
        release: Some(ReleaseFacts { revision: 3, status: "deployed".into(), deployed: true }),
        current: Some(Current {
            server: version(line),
            agent: version(line),
            chart: Some(version("0.13.0")),
            source: Source::Running,
        }),
        servers: ServerFacts {
            there: true,
            wanted: 3,
            asked: 3,
            template: Some(version(line)),
            pods: (0..3)
                .map(|n| ServerPod {
                    name: format!("spire-server-{n}"),
                    state: PodState::Serving,
                    version: Some(version(line)),
                    outdated: false,
                })
                .collect(),
            claims_missing: Vec::new(),
            claims_made: vec![at(-3010); 3],
        },
        webhook: None,
        agents: AgentFacts {
            there: true,
            wanted: 1,
            template: Some(version(line)),
            pods: vec![AgentPod {
                name: "spire-agent-x".into(),
                node: "kind-worker".into(),
                state: PodState::Serving,
                version: Some(version(line)),
                attested: Some(true),
                complains: None,
            }],
        },
        bundle: Some(bundle),
        entries: Some(20),
        workloads: (0..5)
            .map(|n| Workload {
                name: format!("workload-{n}"),
                node: "kind-worker".into(),
                held: Some(Held {
                    not_before: at(-100),
                    not_after: at(14_300),
                    anchor: Some("aa".into()),
                    bundle: ids.map(str::to_owned).into(),
                }),
            })
            .collect(),
        workloads_wanted: 5,
    }
}

fn parts(diagnosis: &Diagnosis) -> Vec<Part> {
    diagnosis.way.iter().map(|needed| needed.part).collect()
}

fn servers_down(facts: &mut Facts, words: &str) {
    for pod in &mut facts.servers.pods {
        (pod.state, pod.version) = (PodState::Broken(words.to_owned()), None);
    }
    (facts.bundle, facts.entries) = (None, None);
    facts.agents.pods[0].attested = None;
    facts.webhook = Some("connection refused".into());
}

const PROOF: [Part; 3] = [Part::Workloads, Part::Gate, Part::Verdict];

#[test]
fn a_healthy_lab_needs_nothing() {
    for line in LINES {
        let diagnosis = diagnose(&healthy(line));
        assert!(diagnosis.is_healthy(), "{line}: {:?}", diagnosis.broken());
        assert_eq!((diagnosis.loss, &diagnosis.outlook), (Loss::NONE, &None));
        assert!(!diagnosis.budget.unwrap().half_is_gone());
    }
    let mut alone = healthy("1.7.2");
    (alone.workloads, alone.workloads_wanted) = (Vec::new(), 0);
    assert!(diagnose(&alone).is_healthy());
}

#[test]
fn each_loss_has_its_way_back_on_every_line() {
    for line in LINES {
        let on_disk = JournalPlace::of(&version(line)) != JournalPlace::Database;
        // The volume of the database is lost; servers still run, and serve nothing.
        let mut facts = healthy(line);
        servers_down(&mut facts, "does not serve");
        facts.database = DatabaseFacts { silent: None, row: None, bundle: None };
        let diagnosis = diagnose(&facts);
        let mut expected = vec![Part::Servers, Part::Webhook, Part::Agents];
        if on_disk {
            expected.insert(0, Part::Keys);
        }
        expected.extend(PROOF);
        assert_eq!(parts(&diagnosis), expected, "{line}");
        assert_eq!(diagnosis.condition(Plane::Entries), Condition::Lost);
        // A server has begun it anew and ended for want of a bundle: still lost.
        let schema = crate::spire::releases::schema(&version(line)).unwrap().latest;
        facts.database = DatabaseFacts { silent: None, row: Some((schema, version(line))), bundle: Some(false) };
        assert_eq!(parts(&diagnose(&facts)), expected, "{line}");
        // Both lost: nothing is left that could be in the way.
        facts.servers.claims_missing = (0..3).map(|n| format!("spire-data-spire-server-{n}")).collect();
        let both = diagnose(&facts);
        assert_eq!(both.loss, Loss { database: Database::Lost, keys: Keys::Lost });
        assert!(!both.needs(Part::Keys), "{line}");

        // Keys are lost: claims are missing, servers on their way.
        let mut facts = healthy(line);
        servers_down(&mut facts, "ended");
        facts.servers.claims_missing = vec!["spire-data-spire-server-0".into()];
        let diagnosis = diagnose(&facts);
        assert_eq!(diagnosis.loss, Loss { database: Database::Kept, keys: Keys::Lost });
        let expected: Vec<Part> = [Part::Servers, Part::Webhook, Part::Agents].into_iter().chain(PROOF).collect();
        assert_eq!(parts(&diagnosis), expected, "{line}");
        // The servers are back with new authorities, and an agent does not know them.
        let mut facts = healthy(line);
        facts.servers.claims_made = vec![at(-5); 3];
        let new = |id: &str| Authority { key_id: id.to_owned(), not_before: Some(at(-4)) };
        facts.bundle.as_mut().unwrap().extend(["dd", "ee", "ff"].map(new));
        facts.agents.pods[0].complains = Some("certificate signed by unknown authority".into());
        let diagnosis = diagnose(&facts);
        assert_eq!(diagnosis.loss.keys, Keys::Lost, "{line}");
        assert_eq!(parts(&diagnosis), [&[Part::Agents][..], &PROOF].concat(), "{line}");

        // The database is older than what workloads hold.
        let mut facts = healthy(line);
        facts.bundle.as_mut().unwrap().remove(0);
        let diagnosis = diagnose(&facts);
        assert_eq!(diagnosis.loss.database, Database::Older, "{line}");
        assert_eq!(diagnosis.condition(Plane::WorkloadsTrust), Condition::Broken);
        assert!(diagnosis.needs(Part::Workloads) && diagnosis.needs(Part::Gate), "{line}");

        // The servers have begun anew; agents and workloads know nothing of it.
        let mut facts = healthy(line);
        facts.bundle = Some(vec![Authority { key_id: "xx".into(), not_before: Some(at(-5)) }]);
        let diagnosis = diagnose(&facts);
        assert_eq!(diagnosis.loss.database, Database::Lost, "{line}");
        assert!(diagnosis.needs(Part::Agents) && !diagnosis.needs(Part::Keys), "{line}");
        assert!(diagnosis.needs(Part::Workloads), "{line}");
    }
}

#[test]
fn what_else_breaks_has_its_part() {
    use Part as P;
    let broken = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy("1.11.3");
        change(&mut facts);
        let diagnosis = diagnose(&facts);
        assert!(diagnosis.way.iter().all(|needed| !needed.because.is_empty()));
        parts(&diagnosis)
    };
    let with = |first: &[Part]| [first, &PROOF].concat();
    assert_eq!(
        broken(&|facts| {
            facts.nodes[0].stopped = true;
            facts.reached = false;
        }),
        with(&[P::Node])
    );
    assert!(broken(&|facts| facts.nodes[1].ready = false).starts_with(&[P::Node]));
    assert_eq!(broken(&|facts| facts.database.silent = Some("refused".into())), with(&[P::Database]));
    // Whether it has lost what a journal on disk names is seen when it answers.
    let on_disk = |facts: &mut Facts| {
        *facts = healthy("1.7.2");
        facts.database.silent = Some("refused".into());
    };
    assert_eq!(broken(&on_disk), with(&[P::Database, P::Keys]));
    let release = with(&[P::Release, P::Servers, P::Agents]);
    for status in ["failed", "pending-upgrade", "pending-rollback"] {
        let change = |facts: &mut Facts| {
            facts.release = Some(ReleaseFacts { revision: 4, status: status.into(), deployed: false });
        };
        assert_eq!(broken(&change), release, "{status}");
    }
    assert_eq!(broken(&|facts| facts.servers.template = Some(version("1.7.2"))), release);
    assert_eq!(broken(&|facts| facts.agents.there = false), release);
    assert_eq!(broken(&|facts| facts.servers.asked = 0), with(&[P::Release, P::Servers, P::Webhook, P::Agents]));
    assert_eq!(
        broken(&|facts| {
            facts.servers.there = false;
            facts.servers.pods.clear();
            facts.bundle = None;
        }),
        with(&[P::Release, P::Servers, P::Webhook, P::Agents])
    );
    assert_eq!(broken(&|facts| facts.webhook = Some("refused".into())), with(&[P::Webhook]));
    // A broken pod of an older template, which the StatefulSet never replaces.
    let stuck = |facts: &mut Facts| {
        facts.servers.pods[2].state = PodState::Broken("CrashLoopBackOff".into());
        facts.servers.pods[2].outdated = true;
    };
    assert_eq!(broken(&stuck), with(&[P::Servers, P::Webhook, P::Agents]));
    let agent = |state: PodState| move |facts: &mut Facts| facts.agents.pods[0].state = state.clone();
    assert_eq!(broken(&agent(PodState::Broken("CrashLoopBackOff".into()))), with(&[P::Agents]));
    assert_eq!(broken(&agent(PodState::Starting("PodInitializing".into()))), with(&[P::Agents]));
    assert_eq!(broken(&|facts| facts.agents.pods[0].attested = Some(false)), with(&[P::Agents]));
    assert_eq!(broken(&|facts| facts.workloads[0].held = None), PROOF);
    assert_eq!(broken(&|facts| facts.at = at(14_301)), PROOF);
    assert_eq!(broken(&|facts| drop(facts.workloads.pop())), PROOF);
}

#[test]
fn an_agent_that_has_the_servers_bundle_is_believed_over_what_it_said() {
    let mut facts = healthy("1.11.3");
    facts.agents.pods[0].complains = Some("certificate signed by unknown authority".into());
    assert!(diagnose(&facts).is_healthy(), "it has learnt of them since");
    for workload in &mut facts.workloads {
        workload.held.as_mut().unwrap().bundle = BTreeSet::new();
    }
    assert_eq!(diagnose(&facts).condition(Plane::AgentsTrust), Condition::Broken, "nobody contradicts it");
}

#[test]
fn a_budget_warns_when_half_is_gone() {
    let spent = |used: i64| Budget::new(at(0), at(used), at(1000));
    assert!(!spent(499).half_is_gone());
    assert!(spent(500).half_is_gone() && !spent(500).is_spent());
    assert!(spent(1000).is_spent());
    assert_eq!(spent(5000).used_ms, 1_000_000);
    assert!(Budget::new(at(0), at(1), at(-5)).is_spent(), "it had expired before");
}

#[test]
fn drills_are_named_as_they_are_typed() {
    for drill in Drill::ALL {
        assert!(!drill.does().is_empty() && !drill.stakes().is_empty());
        assert_eq!(serde_json::to_value(drill).unwrap(), format!("drill-{drill}"));
    }
    assert_eq!(Drill::Database.loss().database, Database::Lost);
    assert_eq!(Drill::Keys.loss().keys, Keys::Lost);
}
