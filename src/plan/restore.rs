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
        let goal = if self.install.is_some() { Goal::SpireInstall } else { Goal::DeployDatabase };
        let wanted = [StepId::Repos, StepId::FetchSpire, StepId::Namespaces, StepId::Database];
        let mut plan = build::build(lab, goal, None);
        plan.steps.retain(|step| step.role == Role::Need || wanted.contains(&step.id));
        for step in &mut plan.steps {
            if wanted.contains(&step.id) {
                step.role = Role::Goal;
            }
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
