//! Backups on a schedule, as a plan: one step that applies a few objects.

use crate::config::Lab;
use crate::plan::{Explanation, Plan, Role, Step, StepId, build};

/// Backups that the cluster is to take by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The cron expression, in UTC.
    pub cron: String,
    /// The image, which must have coastal, kubectl and helm in it.
    pub image: String,
    /// Who can open the archives; with none they are not encrypted.
    pub recipients: Vec<String>,
    /// How many are kept.
    pub keep: usize,
}

impl Schedule {
    /// The name of all its objects, or what their names begin with.
    pub const NAME: &'static str = "coastal-backup";

    /// The namespace of the job and its archives: one that is not removed with SPIRE.
    #[must_use]
    pub fn namespace(lab: &Lab) -> &str {
        &lab.spire.release_namespace
    }

    /// The steps.
    #[must_use]
    pub fn plan(&self, lab: &Lab) -> Plan {
        let mut schedule = build::step(StepId::BackupSchedule, vec![StepId::Namespaces], Role::Goal, lab);
        schedule.explanation = self.explanation(lab);
        let steps: Vec<Step> = vec![
            build::step(StepId::Tools, vec![], Role::Need, lab),
            build::step(StepId::Cluster, vec![StepId::Tools], Role::Need, lab),
            // What the account may do it may do there.
            build::step(StepId::Namespaces, vec![StepId::Cluster], Role::Need, lab),
            schedule,
        ];
        Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
    }

    /// What to look at once it is there.
    #[must_use]
    pub fn next(lab: &Lab) -> Vec<String> {
        let (name, namespace) = (Self::NAME, Self::namespace(lab));
        vec![
            format!("kubectl -n {namespace} create job --from cronjob/{name} {name}-now"),
            format!("kubectl -n {namespace} logs --follow job/{name}-now"),
        ]
    }

    fn explanation(&self, lab: &Lab) -> Explanation {
        Explanation {
            why: "A CA lives a day: a backup that somebody has to think of is too old when it is needed. The job has a service account that may do what a backup does and nothing else, and no key that opens what it writes.".into(),
            by_hand: vec![
                format!("coastal backup --schedule \"{}\" > schedule.yaml", self.cron),
                format!("kubectl -n {} apply --server-side -f schedule.yaml", Self::namespace(lab)),
            ],
        }
    }
}
