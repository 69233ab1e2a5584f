//! Builds plans: which steps a command asks for, what they rest on, and in which order they go.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{ChartRef, Lab};
use crate::plan::{Observed, Plan, RECONCILE_S, Role, SYNC_S, Step, StepId, explain};

use StepId as S;

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The whole lab.
    Up,
    /// Nothing of the lab; for kind that is the cluster, which takes all with it.
    Down,
    /// Nothing of the lab inside the cluster, which stays.
    DownKeepCluster,
    /// The cluster with its add-ons.
    ClusterUp,
    /// No cluster.
    ClusterDown,
    /// The helm repositories.
    AddRepos,
    /// The monitoring stack.
    PrometheusInstall,
    /// No monitoring stack.
    PrometheusUninstall,
    /// SPIRE's namespaces.
    Namespaces,
    /// The data store.
    DeployDatabase,
    /// SPIRE.
    SpireInstall,
    /// No SPIRE; takes the lab's workload first.
    SpireUninstall,
    /// The chart's tests and ours.
    Test,
    /// The workload's image on the nodes.
    BuildLoadImage,
    /// The workload.
    DeployWorkload,
    /// No workload.
    DeleteWorkload,
    /// The pirate ship: a workload that nobody expects.
    DeployMalicious,
    /// No pirate ship.
    DeleteMalicious,
    /// SPIRE's PodMonitors.
    PatchMonitors,
    /// Neither workload, pirate ship nor database.
    TearDown,
}

/// Everything that `up` makes so, in an order in which it could be done one after the other.
const UP: &[StepId] = &[
    S::Tools,
    S::Repos,
    S::FetchCertManager,
    S::FetchContour,
    S::FetchPrometheus,
    S::FetchSpire,
    S::BuildWorkloadImage,
    S::Cluster,
    S::LoadImages,
    S::LoadWorkloadImage,
    S::CertManager,
    S::ClusterIssuer,
    S::Contour,
    S::Prometheus,
    S::Namespaces,
    S::Database,
    S::Spire,
    S::SpireServers,
    S::SpireAgents,
    S::Tornjak,
    S::Monitors,
    S::Workload,
];

const DOWN: &[StepId] = &[
    S::RemoveWorkload,
    S::RemoveMalicious,
    S::RemoveMonitors,
    S::RemoveSpire,
    S::RemovePrometheus,
    S::RemoveDatabase,
    S::RemoveNamespaces,
    S::RemoveContour,
    S::RemoveCertManager,
    S::RemoveCluster,
];

impl Goal {
    /// What is asked before something is destroyed; nothing for goals that destroy nothing.
    #[must_use]
    pub fn question(self, lab: &Lab) -> Option<String> {
        let context = lab.cluster.context();
        match self {
            Goal::Down | Goal::ClusterDown if lab.is_kind() => {
                Some(format!("delete cluster `{context}` and everything in it?"))
            }
            Goal::Down | Goal::DownKeepCluster => {
                Some(format!("remove the lab from cluster `{context}`, its data and CA keys too?"))
            }
            Goal::SpireUninstall => Some(format!("uninstall SPIRE from `{context}`? the servers' CA keys go with it")),
            Goal::TearDown => {
                Some(format!("remove the workload and the database from `{context}`? the data goes with it"))
            }
            _ => None,
        }
    }

    /// The next useful commands once it is reached.
    #[must_use]
    pub fn next(self, lab: &Lab) -> Vec<String> {
        let next: &[&str] = match self {
            Goal::Up => &["coastal status", "coastal test", "coastal logs workload"],
            Goal::ClusterUp => &["coastal add-repos", "coastal up"],
            Goal::AddRepos => &["coastal prometheus-install"],
            Goal::PrometheusInstall => &["coastal namespaces"],
            Goal::Namespaces => &["coastal deploy-database"],
            Goal::DeployDatabase => &["coastal spire-install"],
            Goal::SpireInstall => &["coastal build-load-image", "coastal test"],
            Goal::BuildLoadImage => &["coastal deploy-workload"],
            Goal::DeployWorkload => &["coastal logs workload", "coastal test"],
            Goal::DeployMalicious => &["coastal entries --namespace pirate-coast", "coastal delete-malicious"],
            Goal::Test | Goal::PatchMonitors | Goal::DeleteMalicious => &["coastal status"],
            Goal::SpireUninstall => &["coastal prometheus-uninstall", "coastal tear-down"],
            Goal::DeleteWorkload => &["coastal deploy-workload", "coastal spire-uninstall"],
            Goal::PrometheusUninstall => &["coastal tear-down"],
            Goal::TearDown | Goal::DownKeepCluster if lab.is_kind() => &["coastal cluster-down"],
            Goal::TearDown | Goal::DownKeepCluster | Goal::Down | Goal::ClusterDown => &["coastal up"],
        };
        next.iter().map(|command| (*command).to_owned()).collect()
    }

    fn goals(self, lab: &Lab) -> Vec<StepId> {
        match self {
            Goal::Up => UP.to_vec(),
            Goal::Down if lab.is_kind() => vec![S::RemoveCluster],
            Goal::Down | Goal::DownKeepCluster => {
                DOWN.iter().copied().filter(|step| *step != S::RemoveCluster).collect()
            }
            Goal::ClusterUp => vec![
                S::Tools,
                S::FetchCertManager,
                S::FetchContour,
                S::Cluster,
                S::LoadImages,
                S::CertManager,
                S::ClusterIssuer,
                S::Contour,
            ],
            Goal::ClusterDown => vec![S::RemoveCluster],
            Goal::AddRepos => vec![S::Repos],
            Goal::PrometheusInstall => vec![S::Repos, S::FetchPrometheus, S::Prometheus],
            Goal::PrometheusUninstall => vec![S::RemoveMonitors, S::RemovePrometheus],
            Goal::Namespaces => vec![S::Namespaces],
            Goal::DeployDatabase => vec![S::Database],
            Goal::SpireInstall => {
                vec![S::Repos, S::FetchSpire, S::Spire, S::SpireServers, S::SpireAgents, S::Tornjak]
            }
            Goal::SpireUninstall => vec![S::RemoveWorkload, S::RemoveMalicious, S::RemoveSpire],
            Goal::Test => vec![S::ChartTests, S::IdentityTest],
            Goal::BuildLoadImage => vec![S::BuildWorkloadImage, S::LoadWorkloadImage],
            Goal::DeployWorkload => vec![S::Workload],
            Goal::DeleteWorkload => vec![S::RemoveWorkload],
            Goal::DeployMalicious => vec![S::Malicious],
            Goal::DeleteMalicious => vec![S::RemoveMalicious],
            Goal::PatchMonitors => vec![S::Monitors],
            Goal::TearDown => vec![S::RemoveWorkload, S::RemoveMalicious, S::RemoveDatabase],
        }
    }
}

/// Whether this lab has the step at all.
fn applies(step: StepId, lab: &Lab) -> bool {
    match step {
        S::Repos => !lab.chart_repositories().is_empty(),
        S::FetchCertManager | S::CertManager | S::ClusterIssuer | S::RemoveCertManager => lab.cert_manager.is_some(),
        S::FetchContour | S::Contour | S::RemoveContour => lab.contour.is_some(),
        S::FetchPrometheus | S::Prometheus | S::Monitors | S::RemoveMonitors | S::RemovePrometheus => {
            lab.monitoring.is_some()
        }
        S::LoadImages => lab.is_kind() && !lab.images.archives.is_empty(),
        S::BuildWorkloadImage | S::LoadWorkloadImage | S::RemoveCluster => lab.is_kind(),
        S::Tornjak => lab.spire.tornjak,
        _ => true,
    }
}

/// What a step rests on: if one of these is not so, it cannot be done.
fn rests_on(step: StepId) -> &'static [StepId] {
    match step {
        S::Tools | S::FetchCertManager | S::FetchContour | S::BuildWorkloadImage => &[],
        S::FetchPrometheus | S::FetchSpire => &[S::Repos],
        S::LoadImages | S::Namespaces => &[S::Cluster],
        S::LoadWorkloadImage => &[S::Cluster, S::BuildWorkloadImage],
        S::CertManager => &[S::Cluster, S::LoadImages, S::FetchCertManager],
        S::ClusterIssuer => &[S::CertManager],
        S::Contour => &[S::Cluster, S::LoadImages, S::FetchContour],
        S::Prometheus => &[S::Cluster, S::LoadImages, S::FetchPrometheus],
        S::Database => &[S::LoadImages, S::Namespaces],
        S::Spire => &[S::Database, S::FetchSpire],
        S::SpireServers | S::SpireAgents | S::Tornjak => &[S::Spire],
        S::Monitors => &[S::Prometheus, S::Namespaces],
        // Not on SpireServers: the first server is enough for an SVID, and the agents prove that it is there.
        S::Workload => &[S::SpireAgents, S::LoadWorkloadImage],
        S::Malicious => &[S::SpireAgents],
        S::ChartTests => &[S::SpireServers, S::Tornjak],
        // Not on Workload: the chart's tests are to run before there is one, and the test itself says what is missing.
        S::IdentityTest => &[S::SpireAgents],
        // A change of versions and a rotation order their own steps: see `change` and `rotate`.
        // So does a recovery.
        S::Hop(_) | S::Rotate(_) | S::Rekey(_) | S::Continuity | S::Recover(_) | S::Drill(_) => &[],
        // So does a containment.
        S::CutOff | S::EntriesGone | S::AgentsSynced | S::IncidentReport | S::UndoContainment => &[],
        // And a backup, and what brings it back.
        S::Backup | S::BackupSchedule | S::Restore(_) => &[],
        S::Repos
        | S::Cluster
        | S::RemoveWorkload
        | S::RemoveMalicious
        | S::RemoveSpire
        | S::RemoveMonitors
        | S::RemovePrometheus
        | S::RemoveNamespaces
        | S::RemoveContour
        | S::RemoveCertManager
        | S::RemoveCluster => &[S::Tools],
        // Without its data store every server would stop: nothing is taken away while SPIRE is there.
        S::RemoveDatabase => &[S::Tools, S::RemoveSpire],
    }
}

/// Steps that go first if they are in the same plan, without the later one resting on them.
fn goes_after(step: StepId) -> &'static [StepId] {
    match step {
        S::RemoveSpire => &[S::RemoveWorkload, S::RemoveMalicious],
        S::RemovePrometheus => &[S::RemoveMonitors],
        S::RemoveDatabase => &[S::RemoveWorkload],
        S::RemoveNamespaces => &[S::RemoveSpire, S::RemoveDatabase, S::RemoveMonitors],
        _ => &[],
    }
}

/// The nearest steps of the lab that `step` rests on: those that do not apply are looked through.
fn needs(step: StepId, lab: &Lab) -> BTreeSet<StepId> {
    let mut found = BTreeSet::new();
    for &need in rests_on(step) {
        if applies(need, lab) {
            found.insert(need);
        } else {
            found.extend(needs(need, lab));
        }
    }
    found
}

/// The plan for `goal`. What was observed, if anything, is written into it.
#[must_use]
pub fn build(lab: &Lab, goal: Goal, observed: Option<&Observed>) -> Plan {
    let goals: Vec<StepId> = goal.goals(lab).into_iter().filter(|step| applies(*step, lab)).collect();
    let mut all: BTreeSet<StepId> = goals.iter().copied().collect();
    let mut open = goals.clone();
    while let Some(step) = open.pop() {
        for need in needs(step, lab) {
            if all.insert(need) {
                open.push(need);
            }
        }
    }
    let order = |step: &StepId| {
        UP.iter().chain(DOWN).chain(&[S::Malicious, S::ChartTests, S::IdentityTest]).position(|s| s == step)
    };
    let mut ordered: Vec<StepId> = all.iter().copied().collect();
    ordered.sort_by_key(order);
    let steps = ordered
        .into_iter()
        .map(|id| {
            let role = if goals.contains(&id) { Role::Goal } else { Role::Need };
            let mut needs: Vec<StepId> = needs(id, lab).into_iter().collect();
            // What is only looked at waits for nothing to be made.
            if role == Role::Goal {
                needs.extend(goes_after(id).iter().filter(|before| all.contains(before)));
            }
            needs.sort_by_key(order);
            let finding = observed.and_then(|observed| observed.findings.get(&id).cloned());
            Step { finding, ..step(id, needs, role, lab) }
        })
        .collect();
    Plan { schema: Plan::SCHEMA, lab: lab.name.clone(), steps }
}

/// A step as every plan begins with it: not looked at.
pub(super) fn step(id: StepId, needs: Vec<StepId>, role: Role, lab: &Lab) -> Step {
    let (title, timeout_s, explanation) = (title(id, lab), timeout(id, lab), explain(id, lab));
    Step { id, title, role, needs, timeout_s, finding: None, explanation }
}

/// The plan that makes so whatever `goal` rests on, and not the goal itself.
#[must_use]
pub fn needs_of(lab: &Lab, goal: Goal) -> Plan {
    let goals = goal.goals(lab);
    let mut plan = build(lab, goal, None);
    plan.steps.retain(|step| !goals.contains(&step.id));
    let kept: BTreeSet<StepId> = plan.steps.iter().map(|step| step.id).collect();
    for step in &mut plan.steps {
        step.role = Role::Goal;
        step.needs.retain(|need| kept.contains(need));
    }
    plan
}

/// Whether a step's object is inside the cluster, so that without a cluster nothing need be asked.
#[must_use]
pub fn is_inside_cluster(step: StepId) -> bool {
    !matches!(
        step,
        S::Tools
            | S::Repos
            | S::FetchCertManager
            | S::FetchContour
            | S::FetchPrometheus
            | S::FetchSpire
            | S::BuildWorkloadImage
            | S::Cluster
            | S::RemoveCluster
    ) && !DOWN.contains(&step)
}

/// The command that makes a step so.
#[must_use]
pub fn command_for(step: StepId) -> &'static str {
    match step {
        S::Tools => "coastal plan",
        S::Repos => "coastal add-repos",
        S::FetchCertManager
        | S::FetchContour
        | S::Cluster
        | S::LoadImages
        | S::CertManager
        | S::ClusterIssuer
        | S::Contour => "coastal cluster-up",
        S::FetchPrometheus | S::Prometheus => "coastal prometheus-install",
        S::FetchSpire | S::Spire | S::SpireServers | S::SpireAgents | S::Tornjak => "coastal spire-install",
        S::BuildWorkloadImage | S::LoadWorkloadImage => "coastal build-load-image",
        S::Namespaces => "coastal namespaces",
        S::Database => "coastal deploy-database",
        S::Monitors => "coastal patch-monitors",
        S::Workload => "coastal deploy-workload",
        S::Malicious => "coastal deploy-malicious",
        S::RemoveWorkload => "coastal delete-workload",
        S::RemoveMalicious => "coastal delete-malicious",
        S::RemoveSpire => "coastal spire-uninstall",
        S::RemoveMonitors | S::RemovePrometheus => "coastal prometheus-uninstall",
        S::RemoveDatabase => "coastal tear-down",
        S::RemoveNamespaces | S::RemoveContour | S::RemoveCertManager => "coastal down --keep-cluster",
        S::RemoveCluster => "coastal cluster-down",
        S::ChartTests | S::IdentityTest => "coastal test",
        S::Hop(_) | S::Continuity => "coastal upgrade",
        S::Recover(_) => "coastal recover",
        S::Drill(_) => "coastal drill",
        S::CutOff | S::EntriesGone | S::AgentsSynced | S::IncidentReport => "coastal contain",
        S::UndoContainment => "coastal contain --undo",
        S::Rotate(_) => "coastal rotate",
        S::Rekey(_) => "coastal rotate --rekey",
        S::Backup | S::BackupSchedule => "coastal backup",
        S::Restore(_) => "coastal restore",
    }
}

pub(super) fn timeout(step: StepId, lab: &Lab) -> u64 {
    let timeouts = &lab.timeouts;
    let time = match step {
        S::Repos | S::FetchCertManager | S::FetchContour | S::FetchPrometheus | S::FetchSpire => timeouts.download,
        S::BuildWorkloadImage | S::LoadWorkloadImage => timeouts.image,
        S::LoadImages => timeouts.image * u32::try_from(lab.images.archives.len().max(1)).unwrap_or(u32::MAX),
        S::Cluster => timeouts.cluster,
        S::CertManager
        | S::Contour
        | S::Prometheus
        | S::Database
        | S::Spire
        | S::SpireAgents
        | S::Tornjak
        | S::ChartTests
        | S::UndoContainment
        | S::Backup
        | S::BackupSchedule
        | S::Restore(_)
        | S::Recover(_)
        | S::Drill(_)
        | S::Hop(_)
        | S::Rotate(_)
        | S::Rekey(_) => timeouts.rollout,
        // Two rounds of the controller manager are watched beside.
        S::EntriesGone => timeouts.identity + Duration::from_secs(2 * RECONCILE_S),
        S::AgentsSynced => Duration::from_secs(6 * SYNC_S),
        // One after the other.
        S::SpireServers => timeouts.rollout * lab.spire.servers.max(1),
        S::Workload | S::Malicious | S::IdentityTest | S::Continuity => timeouts.rollout + timeouts.identity,
        // The first five take moments; any of the limits would do.
        S::Tools
        | S::Namespaces
        | S::ClusterIssuer
        | S::Monitors
        | S::IncidentReport
        | S::CutOff
        | S::RemoveMonitors
        | S::RemoveWorkload
        | S::RemoveMalicious
        | S::RemoveSpire
        | S::RemovePrometheus
        | S::RemoveDatabase
        | S::RemoveNamespaces
        | S::RemoveContour
        | S::RemoveCertManager
        | S::RemoveCluster => timeouts.removal,
    };
    time.as_secs()
}

fn version(chart: &ChartRef) -> String {
    match chart {
        ChartRef::Repo { chart, version, .. } => format!("{chart} {version}"),
        ChartRef::Path(path) => path.display().to_string(),
    }
}

pub(super) fn title(step: StepId, lab: &Lab) -> String {
    let spire = &lab.spire;
    let monitoring = || lab.monitoring.as_ref().map_or_else(String::new, |m| version(&m.chart));
    match step {
        S::Tools => "check the tools".into(),
        S::Repos => "add the helm repositories".into(),
        S::FetchCertManager => "fetch the cert-manager manifest".into(),
        S::FetchContour => "fetch the contour manifest".into(),
        S::FetchPrometheus => format!("fetch chart {}", monitoring()),
        S::FetchSpire => format!("fetch chart {}", version(&spire.chart)),
        S::BuildWorkloadImage => "build the workload image".into(),
        S::Cluster if lab.is_kind() => format!("create cluster {}", lab.cluster.context()),
        S::Cluster => format!("reach cluster {}", lab.cluster.context()),
        S::LoadImages => format!("load {} image archives", lab.images.archives.len()),
        S::LoadWorkloadImage => format!("load {}", lab.workload.image),
        S::CertManager => "install cert-manager".into(),
        S::ClusterIssuer => "create the self-signed ClusterIssuer".into(),
        S::Contour => "install contour".into(),
        S::Prometheus => format!("install {}", monitoring()),
        S::Namespaces => format!("create namespaces {} and {}", spire.server_namespace, spire.system_namespace),
        S::Database => format!("deploy the data store ({})", lab.database.image),
        S::Spire => format!("install SPIRE {} (chart {})", spire.server_version, version(&spire.chart)),
        S::SpireServers => format!("start {} SPIRE servers", spire.servers),
        S::SpireAgents => "start the SPIRE agents".into(),
        S::Tornjak => "start Tornjak".into(),
        S::Monitors => "monitor SPIRE".into(),
        S::Workload => format!("deploy {} workload pods", lab.workload.replicas),
        S::Malicious => "deploy the pirate ship".into(),
        S::RemoveWorkload => "remove the workload".into(),
        S::RemoveMalicious => "remove the pirate ship".into(),
        S::RemoveSpire => "uninstall SPIRE".into(),
        S::RemoveMonitors => "remove SPIRE's monitors".into(),
        S::RemovePrometheus => "uninstall the monitoring stack".into(),
        S::RemoveDatabase => "remove the data store".into(),
        S::RemoveNamespaces => format!("remove namespaces {} and {}", spire.server_namespace, spire.system_namespace),
        S::RemoveContour => "remove contour".into(),
        S::RemoveCertManager => "remove cert-manager".into(),
        S::RemoveCluster => format!("delete cluster {}", lab.cluster.context()),
        S::ChartTests => "run the chart's tests".into(),
        S::IdentityTest => "test the workload's identity".into(),
        S::Continuity => "add up how long a workload had no valid SVID".into(),
        S::CutOff => "take away what can present it".into(),
        S::EntriesGone => "see its registration entries go, and stay gone".into(),
        S::AgentsSynced => "wait until the agents know".into(),
        S::IncidentReport => "write the incident report".into(),
        S::UndoContainment => "undo a containment".into(),
        S::Recover(_) | S::Drill(_) | S::Rekey(_) => step.to_string(),
        S::Hop(hop) => hop.to_string(),
        S::Rotate(step) => step.to_string(),
        S::Backup => "back up the database, the servers' keys, and what is around them".into(),
        S::BackupSchedule => "let the cluster take backups".into(),
        S::Restore(_) => step.to_string(),
    }
}
