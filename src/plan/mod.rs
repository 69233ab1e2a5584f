//! The plan: a graph of steps as data, and the pure functions that build it.
//!
//! A plan is computed from the lab and from what was observed, printed by `coastal plan` and `--dry-run`,
//! carried in the first event of a run, and executed by [`crate::engine`]. Nothing here does I/O.

mod backup;
mod build;
mod catalog;
mod change;
mod containment;
mod hop;
mod recover;
mod rekey;
mod restore;
mod rotate;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spire::recovery::{Drill, Part};

pub use backup::Backing;
pub use build::{Goal, build, command_for, is_inside_cluster, needs_of};
pub use catalog::{Explanation, explain};
pub use change::Change;
pub use containment::{Containment, RECONCILE_S, SYNC_S};
pub use hop::{HopPart, HopStep};
pub use recover::{Notes, Recovery};
pub use rekey::{PRUNED_AFTER, RekeyPart, Rekeying, command as rekey_command};
pub use restore::{Restoration, RestorePart};
pub use rotate::{RotatePart, RotateStep, Rotation};
pub use schedule::Schedule;

/// What a step does, and its stable identity. The kebab-case form is the id in events, plans and journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepId {
    /// The tools are there and new enough; Docker answers; the host ports are free.
    Tools,
    /// The helm repositories are known in the lab's own helm home.
    Repos,
    /// The cert-manager manifest is in the lab's cache.
    FetchCertManager,
    /// The contour manifest is in the lab's cache.
    FetchContour,
    /// The monitoring chart is in the lab's cache.
    FetchPrometheus,
    /// The spire charts are in the lab's cache.
    FetchSpire,
    /// The workload's image exists as an archive.
    BuildWorkloadImage,
    /// The cluster exists, is the lab's, and its nodes are ready.
    Cluster,
    /// The images from local archives are on the nodes.
    LoadImages,
    /// The workload's image is on the nodes.
    LoadWorkloadImage,
    /// cert-manager runs and its webhook answers.
    CertManager,
    /// The self-signed ClusterIssuer exists and is ready.
    ClusterIssuer,
    /// Contour and Envoy run.
    Contour,
    /// The kube-prometheus-stack release is deployed and Prometheus answers.
    Prometheus,
    /// SPIRE's namespaces exist with their Pod Security labels.
    Namespaces,
    /// PostgreSQL runs and accepts a login.
    Database,
    /// The spire release is deployed (its objects exist).
    Spire,
    /// Every SPIRE server is healthy.
    SpireServers,
    /// Every agent serves the Workload API.
    SpireAgents,
    /// Tornjak's front end and back end answer.
    Tornjak,
    /// The PodMonitors for servers and agents exist.
    Monitors,
    /// The workload runs and every pod logged a fresh SVID.
    Workload,
    /// The pirate ship runs, and SPIRE has given it an identity.
    Malicious,
    /// The workload's objects are gone, and so are its pods.
    RemoveWorkload,
    /// The pirate ship and its namespace are gone.
    RemoveMalicious,
    /// The spire release, its claims and its cluster-wide objects are gone.
    RemoveSpire,
    /// The PodMonitors are gone.
    RemoveMonitors,
    /// The monitoring release is gone, with the CRDs that it brought.
    RemovePrometheus,
    /// The database and its claim are gone.
    RemoveDatabase,
    /// SPIRE's namespaces are gone.
    RemoveNamespaces,
    /// Contour is gone.
    RemoveContour,
    /// The ClusterIssuer and cert-manager are gone.
    RemoveCertManager,
    /// The kind cluster is gone.
    RemoveCluster,
    /// The chart's own tests pass.
    ChartTests,
    /// Every workload pod holds a valid SVID of the trust domain, chained to the bundle.
    IdentityTest,
    /// No workload pod was without a valid SVID since the change began.
    Continuity,
    /// No pod that could present the contained identity is left.
    CutOff,
    /// No registration entry gives it, and none comes back.
    EntriesGone,
    /// Every agent has asked for its entries since.
    AgentsSynced,
    /// The record of the incident is written.
    IncidentReport,
    /// What a containment stopped runs again.
    UndoContainment,
    /// A backup is taken.
    Backup,
    /// The cluster takes backups by itself.
    BackupSchedule,
    /// A part of one hop of a change of versions.
    #[serde(untagged)]
    Hop(HopStep),
    /// A part of a restore.
    #[serde(untagged)]
    Restore(RestorePart),
    /// A part of the way back from a disaster.
    #[serde(untagged)]
    Recover(Part),
    /// A disaster on purpose.
    #[serde(untagged)]
    Drill(Drill),
    /// A step of a key rotation.
    #[serde(untagged)]
    Rotate(RotateStep),
    /// A part of new keys without a rotation.
    #[serde(untagged)]
    Rekey(RekeyPart),
}

impl StepId {
    /// The id as text, e.g. `spire-servers`.
    #[must_use]
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            _ => format!("{self:?}"),
        }
    }

    /// Whether it asks a question and makes nothing so: then it is asked each time, and its yes is no change.
    #[must_use]
    pub fn is_test(self) -> bool {
        matches!(self, StepId::ChartTests | StepId::IdentityTest)
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_str())
    }
}

/// What a look at the present said about one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "detail", rename_all = "kebab-case")]
pub enum Finding {
    /// It is already so; the detail says what was seen.
    Satisfied(String),
    /// It is not there; the detail says what is missing.
    Missing(String),
    /// It is there, but not as the lab wants it; the detail says what differs.
    Differs(String),
}

impl Finding {
    /// Already so.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        matches!(self, Finding::Satisfied(_))
    }

    /// What was seen.
    #[must_use]
    pub fn detail(&self) -> &str {
        let (Finding::Satisfied(detail) | Finding::Missing(detail) | Finding::Differs(detail)) = self;
        detail
    }
}

/// What was seen of every step that a plan may need. Read live, never stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Per step.
    pub findings: BTreeMap<StepId, Finding>,
}

/// Why a step is in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The command asks for it: made so if it is not.
    Goal,
    /// The goal rests on it: looked at, never made. If it is not so, the run stops before its first write and
    /// names the command that makes it so.
    Need,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub id: StepId,
    /// What becomes so, in a few words: `install SPIRE 1.7.2 (chart spire 0.13.0)`.
    pub title: String,
    /// Made so, or only looked at.
    pub role: Role,
    /// Steps of this plan that end before this one starts.
    pub needs: Vec<StepId>,
    /// Seconds after which the step fails.
    pub timeout_s: u64,
    /// What was seen when the plan was made, where anything was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// Why, and the commands that a person would type.
    pub explanation: Explanation,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this format.
    pub schema: u32,
    /// The lab's name.
    pub lab: String,
    /// In an order in which they could run one after the other.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;

    /// The goals that were seen not to be so.
    pub fn pending(&self) -> impl Iterator<Item = &Step> {
        self.steps
            .iter()
            .filter(|step| step.role == Role::Goal && !step.finding.as_ref().is_some_and(Finding::is_satisfied))
    }

    /// The step of that id.
    #[must_use]
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }
}
