//! What a step does: one file per subject. Each body looks, makes it so, and proves it.
//!
//! Steps use the adapters of [`crate::tools`] and the cluster of [`crate::kube`] through a
//! [`StepContext`](crate::engine::StepContext); they print nothing and do not know which world they are in.

pub mod access;
mod addons;
pub mod adopt;
pub mod audit;
pub mod backup;
pub mod bundle;
pub mod capacity;
pub mod chart_files;
mod cluster;
pub mod components;
pub mod contain;
pub mod continuity;
pub mod database;
pub mod drill;
pub mod dump;
mod fetch;
pub mod identity;
mod images;
pub mod inspect;
pub mod live;
mod malicious;
pub mod manifests;
mod mark;
pub mod metrics;
pub mod monitoring;
mod namespaces;
pub mod planes;
pub mod probe;
pub mod reach;
pub mod recover;
pub mod registrations;
pub mod rekey;
pub mod release;
pub mod restore;
pub mod rotate;
mod servers;
pub mod spire;
#[cfg(test)]
mod testing;
mod tools;
pub mod unfinished;
pub mod upgrade;
pub mod values;
pub mod workload;

pub use images::tools_for_image;

use crate::engine::Body;
use crate::plan::StepId;

/// The body of a step.
#[must_use]
pub fn body(step: StepId) -> Box<dyn Body> {
    use StepId as S;
    match step {
        S::Tools => Box::new(tools::Tools),
        S::Repos => Box::new(fetch::Repos),
        S::FetchCertManager => Box::new(fetch::Manifest(fetch::Which::CertManager)),
        S::FetchContour => Box::new(fetch::Manifest(fetch::Which::Contour)),
        S::FetchPrometheus => Box::new(fetch::Chart(fetch::WhichChart::Prometheus)),
        S::FetchSpire => Box::new(fetch::Chart(fetch::WhichChart::Spire)),
        S::BuildWorkloadImage => Box::new(images::Build),
        S::Cluster => Box::new(cluster::Up),
        S::LoadImages => Box::new(images::Archives),
        S::LoadWorkloadImage => Box::new(images::Workload),
        S::CertManager => Box::new(addons::CertManager),
        S::ClusterIssuer => Box::new(addons::ClusterIssuer),
        S::Contour => Box::new(addons::Contour),
        S::Prometheus => Box::new(monitoring::Prometheus),
        S::Namespaces => Box::new(namespaces::Up),
        S::Database => Box::new(database::Up),
        S::Spire => Box::new(spire::Install),
        S::SpireServers => Box::new(spire::Servers),
        S::SpireAgents => Box::new(spire::Agents),
        S::Tornjak => Box::new(spire::Tornjak),
        S::Monitors => Box::new(monitoring::Monitors),
        S::Workload => Box::new(workload::Up),
        S::Malicious => Box::new(malicious::Up),
        S::RemoveWorkload => Box::new(workload::Down),
        S::RemoveMalicious => Box::new(malicious::Down),
        S::RemoveSpire => Box::new(spire::Uninstall),
        S::RemoveMonitors => Box::new(monitoring::RemoveMonitors),
        S::RemovePrometheus => Box::new(monitoring::Uninstall),
        S::RemoveDatabase => Box::new(database::Down),
        S::RemoveNamespaces => Box::new(namespaces::Down),
        S::RemoveContour => Box::new(addons::RemoveContour),
        S::RemoveCertManager => Box::new(addons::RemoveCertManager),
        S::RemoveCluster => Box::new(cluster::Down),
        S::ChartTests => Box::new(spire::ChartTests),
        S::IdentityTest => Box::new(identity::Test),
        S::Continuity => Box::new(continuity::Continuity),
        S::CutOff => Box::new(contain::CutOff),
        S::EntriesGone => Box::new(contain::EntriesGone),
        S::AgentsSynced => Box::new(contain::AgentsSynced),
        S::IncidentReport => Box::new(contain::Report),
        S::UndoContainment => Box::new(contain::Undo),
        S::Hop(step) => upgrade::body(step),
        S::Backup => Box::new(backup::Take),
        S::BackupSchedule => Box::new(backup::schedule::Apply),
        S::Restore(part) => restore::body(part),
        S::Recover(part) => recover::body(part),
        S::Drill(drill) => Box::new(drill::Inject(drill)),
        S::Rotate(step) => rotate::body(step),
        S::Rekey(part) => rekey::body(part),
    }
}
