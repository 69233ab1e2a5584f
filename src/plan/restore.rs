//! Bringing a backup back, as a plan: what is there is taken aside, servers down, database, keys, servers up, agents,
//! and the gate. What was taken aside is kept until the gate is passed.

use std::path::PathBuf;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::backup::{Contents, Seal};
use crate::config::Lab;
use crate::plan::{Explanation, Goal, Plan, Role, Step, StepId, build};
use crate::spire::names;

/// A part of a restore. Together they are in the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RestorePart {
    /// What is there now is in an archive of its own.
    #[serde(rename = "restore-aside")]
    Aside,
    /// No server runs.
    #[serde(rename = "restore-stop")]
    Stop,
    /// The database holds what the backup held.
    #[serde(rename = "restore-database")]
    Database,
    /// The servers' claims hold the backup's keys.
    #[serde(rename = "restore-keys")]
    Keys,
    /// Every server runs.
    #[serde(rename = "restore-servers")]
    Servers,
    /// Every agent serves, and trusts the servers.
    #[serde(rename = "restore-agents")]
    Agents,
    /// The CAs of the backup sign, and no other.
    #[serde(rename = "restore-gate")]
    Gate,
}

impl RestorePart {
    /// In order.
    pub const ALL: [RestorePart; 7] = [
        RestorePart::Aside,
        RestorePart::Stop,
        RestorePart::Database,
        RestorePart::Keys,
        RestorePart::Servers,
        RestorePart::Agents,
        RestorePart::Gate,
    ];
}

/// A backup that is brought back.
pub struct Restoration {
    /// The archive.
    pub file: PathBuf,
    /// Tells it from every other backup: the beginning of its manifest's digest.
    pub id: String,
    /// What is in it, the dump included.
    pub contents: Contents,
    /// The versions at which servers and agents are installed; absent if the release is there and stays as it is.
    pub install: Option<(Version, Version)>,
    /// The version that the servers will run.
    pub version: Version,
    /// Where what is there now is kept meanwhile.
    pub aside: PathBuf,
    /// How that is closed.
    pub seal: Seal,
}

impl Restoration {
    /// The steps, one after the other; what has to be fetched is fetched first.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        use StepId as S;
        // The probes of the gate run the workload's image, which a new cluster does not have either.
        let installed: &[StepId] = &[S::Repos, S::FetchSpire, S::BuildWorkloadImage, S::LoadWorkloadImage];
        let goals: &[StepId] = &[S::Namespaces, S::Database];
        let wanted = |id: &StepId| goals.contains(id) || (self.install.is_some() && installed.contains(id));
        let mut plan = build::build(lab, Goal::DeployWorkload, None);
        plan.steps.retain(|step| wanted(&step.id) || matches!(step.id, S::Tools | S::Cluster | S::LoadImages));
        for step in &mut plan.steps {
            step.role = if wanted(&step.id) { Role::Goal } else { Role::Need };
        }
        let mut needs: Vec<StepId> = plan.steps.iter().map(|step| step.id).collect();
        for part in RestorePart::ALL {
            let id = StepId::Restore(part);
            plan.steps.push(Step {
                id,
                title: self.title(part, lab),
                role: Role::Goal,
                needs: std::mem::replace(&mut needs, vec![id]),
                timeout_s: timeout(part, lab),
                finding: None,
                explanation: self.explanation(part, lab),
            });
        }
        plan
    }

    fn title(&self, part: RestorePart, lab: &Lab) -> String {
        let manifest = &self.contents.manifest;
        let servers = self.contents.servers.len();
        match part {
            RestorePart::Aside => "take aside what is there: database and keys".into(),
            RestorePart::Stop => "stop the servers".into(),
            RestorePart::Database => format!(
                "put back the database of {:.0}: schema {}, {} entries",
                manifest.taken_at, manifest.migrations.schema, manifest.entries
            ),
            RestorePart::Keys => format!("put back the keys of {servers} servers"),
            RestorePart::Servers if self.install.is_some() => {
                format!("install {} servers at {}", lab.spire.servers, self.version)
            }
            RestorePart::Servers => format!("start {} servers at {}", lab.spire.servers, self.version),
            RestorePart::Agents => "let the agents trust what is back".into(),
            RestorePart::Gate => "gate: the CAs of the backup sign, SVIDs issued".into(),
        }
    }

    fn explanation(&self, part: RestorePart, lab: &Lab) -> Explanation {
        let spire = &lab.spire;
        let (namespace, server) = (&spire.server_namespace, names::server(spire));
        let (user, database) = (&lab.database.username, &lab.database.database);
        let (why, by_hand): (&str, Vec<String>) = match part {
            RestorePart::Aside => (
                "A restore is itself a loss. Until what it brings has passed the gate, what was there is kept.",
                vec![format!(
                    "kubectl -n {namespace} exec spire-db-0 -- pg_dump --clean --if-exists -U {user} -d {database} > aside.sql"
                )],
            ),
            RestorePart::Stop => (
                "What a server writes while the database is exchanged under it would be lost in silence. Workloads keep the SVIDs that they have.",
                vec![format!("kubectl -n {namespace} scale statefulset {server} --replicas 0")],
            ),
            RestorePart::Database => (
                "In one transaction: all of it or nothing.",
                vec![format!(
                    "kubectl -n {namespace} exec -i spire-db-0 -- psql --single-transaction -v ON_ERROR_STOP=1 -U {user} -d {database} < dump.sql"
                )],
            ),
            RestorePart::Keys => (
                "Through a short-lived pod on each claim, for the server's image has no shell. A StatefulSet takes the claims that it finds by name.",
                vec![format!("kubectl -n {namespace} exec -i keys -- sh -c 'cat > /claim/keys.json' < keys.json")],
            ),
            RestorePart::Servers if self.install.is_some() => (
                "A server that finds its key, its journal and its CA in the bundle goes on with that CA; one that misses any of them makes a new one.",
                vec![format!(
                    "helm upgrade --install {} spire --namespace {} --values spire.yaml",
                    spire.release, spire.release_namespace
                )],
            ),
            RestorePart::Servers => (
                "A server that finds its key, its journal and its CA in the bundle goes on with that CA; one that misses any of them makes a new one.",
                vec![format!("kubectl -n {namespace} scale statefulset {server} --replicas {}", spire.servers)],
            ),
            RestorePart::Agents => (
                "An agent that holds another bundle would not believe the servers, and what it handed out would not be believed.",
                vec![format!(
                    "kubectl -n {} rollout restart daemonset {}",
                    spire.system_namespace,
                    names::agent(spire)
                )],
            ),
            RestorePart::Gate => (
                "That servers run says little: they would with new CAs, too. The CAs of the backup have to be the ones in the bundle, and a new SVID has to chain to one of them.",
                vec![format!(
                    "kubectl -n {namespace} exec {server}-0 -c spire-server -- /opt/spire/bin/spire-server bundle show"
                )],
            ),
        };
        Explanation { why: why.into(), by_hand }
    }
}

fn timeout(part: RestorePart, lab: &Lab) -> u64 {
    let timeouts = &lab.timeouts;
    match part {
        RestorePart::Stop => timeouts.removal,
        // One server after the other.
        RestorePart::Servers => timeouts.rollout * lab.spire.servers.max(1),
        RestorePart::Gate => timeouts.rollout + timeouts.identity,
        RestorePart::Aside | RestorePart::Database | RestorePart::Keys | RestorePart::Agents => timeouts.rollout,
    }
    .as_secs()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::backup::dump::Seen;
    use crate::backup::{Manifest, Migrations, Protection};
    use crate::config::embedded;

    fn restoration(install: bool) -> Restoration {
        let version = Version::new(1, 7, 2);
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            coastal: "0.1.0".into(),
            lab: "day-two".into(),
            trust_domain: "example.org".into(),
            taken_at: Timestamp::UNIX_EPOCH,
            one_moment: true,
            changed: Vec::new(),
            incomplete: Vec::new(),
            migrations: Migrations { schema: 22, code_version: version.clone() },
            servers: vec![version.clone()],
            agents: Vec::new(),
            chart: None,
            entries: 20,
            attested_agents: 1,
            authorities: Vec::new(),
            members: Vec::new(),
        };
        let contents = Contents {
            protection: Protection::Plaintext,
            manifest,
            seen: Seen::default(),
            dump: Vec::new(),
            servers: BTreeMap::new(),
            resources: Vec::new(),
            lab: String::new(),
            authorities: Vec::new(),
            problems: Vec::new(),
            remarks: Vec::new(),
        };
        Restoration {
            file: "a.tar".into(),
            id: "abc".into(),
            contents,
            install: install.then(|| (version.clone(), version.clone())),
            version,
            aside: "before.tar".into(),
            seal: Seal::Plaintext,
        }
    }

    #[test]
    fn what_is_there_is_kept_before_anything_is_stopped_and_the_gate_is_last() {
        let lab = embedded().unwrap();
        let goals = |plan: &Plan| -> Vec<String> {
            plan.steps.iter().filter(|step| step.role == Role::Goal).map(|step| step.id.to_string()).collect()
        };
        let parts = [
            "restore-aside",
            "restore-stop",
            "restore-database",
            "restore-keys",
            "restore-servers",
            "restore-agents",
            "restore-gate",
        ];
        let running = restoration(false).plan(&lab);
        assert_eq!(goals(&running), [&["namespaces", "database"][..], &parts].concat());
        let fresh = restoration(true).plan(&lab);
        let first = ["repos", "fetch-spire", "build-workload-image", "load-workload-image", "namespaces", "database"];
        assert_eq!(goals(&fresh).len(), first.len() + parts.len());
        for step in first.iter().chain(&parts) {
            assert!(goals(&fresh).contains(&(*step).to_owned()), "{step}");
        }
        // Each part rests on the one before; the first on everything that is not one.
        for plan in [&running, &fresh] {
            let known: Vec<StepId> = plan.steps.iter().map(|step| step.id).collect();
            for step in &plan.steps {
                assert!(step.needs.iter().all(|need| known.contains(need)), "{}", step.id);
                assert!(!step.title.is_empty() && !step.explanation.why.is_empty(), "{}", step.id);
            }
            let chain: Vec<&Step> = plan.steps.iter().filter(|step| matches!(step.id, StepId::Restore(_))).collect();
            assert!(chain[0].needs.contains(&StepId::Database));
            assert!(chain.windows(2).all(|pair| pair[1].needs == [pair[0].id]));
        }
    }

    #[test]
    fn parts_are_steps_by_name() {
        for part in RestorePart::ALL {
            let text = serde_json::to_string(&BTreeMap::from([(StepId::Restore(part), 1)])).unwrap();
            let back: BTreeMap<StepId, i32> = serde_json::from_str(&text).unwrap();
            assert!(back.contains_key(&StepId::Restore(part)) && text.contains("\"restore-"), "{text}");
        }
        assert_eq!(serde_json::from_str::<StepId>("\"backup\"").unwrap(), StepId::Backup);
    }
}
