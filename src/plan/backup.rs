//! Taking a backup, as a plan: one step, that changes nothing in the cluster for good.

use std::path::PathBuf;

use crate::backup::Seal;
use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, Step, StepId, build, explain};
use crate::spire::names;

/// A backup that is to be taken.
pub struct Backing {
    /// The archive.
    pub to: PathBuf,
    /// How it is closed.
    pub seal: Seal,
    /// Whether it lies in the lab's own directory of backups, where old ones are removed.
    pub is_ours: bool,
}

impl Backing {
    /// The steps.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let need = |id: StepId, needs: Vec<StepId>| Step { role: Role::Need, ..step(id, needs, lab) };
        let mut backup = step(StepId::Backup, vec![StepId::Cluster], lab);
        backup.explanation = explanation(lab);
        backup.timeout_s = lab.timeouts.rollout.as_secs();
        let steps = vec![need(StepId::Tools, vec![]), need(StepId::Cluster, vec![StepId::Tools]), backup];
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }
}

fn step(id: StepId, needs: Vec<StepId>, lab: &Lab) -> Step {
    Step {
        id,
        title: build::title(id, lab),
        role: Role::Goal,
        needs,
        timeout_s: build::timeout(id, lab),
        finding: None,
        explanation: explain(id, lab),
    }
}

fn explanation(lab: &Lab) -> Explanation {
    let (namespace, server) = (&lab.spire.server_namespace, names::server(&lab.spire));
    let (user, database) = (&lab.database.username, &lab.database.database);
    Explanation {
        why: "A CA is a key on a server's claim, and a row in the database that trusts it: one without the other is worth nothing, so both are taken at one moment. The server's image has no shell, hence a short-lived pod on each claim.".into(),
        by_hand: vec![
            format!("kubectl -n {namespace} exec spire-db-0 -- pg_dump --clean --if-exists -U {user} -d {database} > dump.sql"),
            format!("kubectl -n {namespace} run keys --image {} --overrides '(the claim spire-data-{server}-0)' -- sleep 600", lab.database.image),
            format!("kubectl -n {namespace} exec keys -- cat /claim/keys.json > keys.json"),
            format!("helm -n {} get values {} > values.yaml", lab.spire.release_namespace, lab.spire.release),
            "tar c dump.sql keys.json values.yaml | age -r RECIPIENT > backup.tar.age".into(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedded;

    #[test]
    fn it_rests_on_the_cluster_and_makes_nothing_else() {
        let plan = Backing { to: "a.tar".into(), seal: Seal::Plaintext, is_ours: true }.plan(&embedded().unwrap());
        let goals: Vec<String> =
            plan.steps.iter().filter(|step| step.role == Role::Goal).map(|step| step.id.to_string()).collect();
        assert_eq!(goals, ["backup"]);
        assert!(!plan.steps[2].title.is_empty() && plan.steps[2].explanation.by_hand.len() == 5);
    }
}
