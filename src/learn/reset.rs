//! How a lab is brought to where a step begins: what that step and later ones made goes, what earlier ones made is there.

use super::Lesson;
use crate::plan::{Goal, StepId};

/// One run on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Makes this so.
    To(Goal),
    /// Of what this goal asks for only the one step.
    Only(Goal, StepId),
}

impl Move {
    /// The command that does it, or the step of which it is a part.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Move::To(goal) => format!("coastal {}", command(goal)),
            Move::Only(_, step) => step.to_string(),
        }
    }
}

fn command(goal: Goal) -> &'static str {
    match goal {
        Goal::Up => "up",
        Goal::Down => "down",
        Goal::DownKeepCluster => "down --keep-cluster",
        Goal::ClusterUp => "cluster-up",
        Goal::ClusterDown => "cluster-down",
        Goal::AddRepos => "add-repos",
        Goal::PrometheusInstall => "prometheus-install",
        Goal::PrometheusUninstall => "prometheus-uninstall",
        Goal::Namespaces => "namespaces",
        Goal::DeployDatabase => "deploy-database",
        Goal::SpireInstall => "spire-install",
        Goal::SpireUninstall => "spire-uninstall",
        Goal::Test => "test",
        Goal::BuildLoadImage => "build-load-image",
        Goal::DeployWorkload => "deploy-workload",
        Goal::DeleteWorkload => "delete-workload",
        Goal::DeployMalicious => "deploy-malicious",
        Goal::DeleteMalicious => "delete-malicious",
        Goal::PatchMonitors => "patch-monitors",
        Goal::TearDown => "tear-down",
    }
}

/// What each lesson makes, in their order.
const MADE: &[(&str, Goal)] = &[
    ("cluster", Goal::ClusterUp),
    ("repos", Goal::AddRepos),
    ("prometheus", Goal::PrometheusInstall),
    ("namespaces", Goal::Namespaces),
    ("database", Goal::DeployDatabase),
    ("spire", Goal::SpireInstall),
    ("monitors", Goal::PatchMonitors),
    ("workload", Goal::BuildLoadImage),
    ("workload", Goal::DeployWorkload),
];

/// The runs that bring the lab to where `lesson` begins. With `monitoring` off nothing of that is made or removed.
#[must_use]
pub fn reset(lesson: &Lesson, monitoring: bool) -> Vec<Move> {
    let position = |id: &str| super::ALL.iter().position(|lesson| lesson.id == id).unwrap_or(usize::MAX);
    let begins = position(lesson.id);
    let no_monitors = Move::Only(Goal::PrometheusUninstall, StepId::RemoveMonitors);
    let mut moves = match lesson.id {
        "cluster" => vec![Move::To(Goal::Down)],
        // Helm repositories stay: they are on this machine and in nobody's way.
        "repos" | "prometheus" | "namespaces" => vec![Move::To(Goal::DownKeepCluster)],
        // Entries and bundle of the SPIRE that goes would meet the next one in the database.
        "database" | "spire" => vec![no_monitors, Move::To(Goal::SpireUninstall), Move::To(Goal::TearDown)],
        "grafana" | "monitors" => {
            vec![Move::To(Goal::DeleteWorkload), Move::To(Goal::DeleteMalicious), no_monitors]
        }
        "workload" => vec![Move::To(Goal::DeleteWorkload), Move::To(Goal::DeleteMalicious)],
        _ => vec![Move::To(Goal::DeleteMalicious)],
    };
    let before = MADE.iter().filter(|(id, _)| position(id) < begins);
    moves.extend(before.map(|(_, goal)| Move::To(*goal)));
    let of_monitoring =
        |step: &Move| matches!(step, Move::Only(..) | Move::To(Goal::PrometheusInstall | Goal::PatchMonitors));
    moves.retain(|step| monitoring || !of_monitoring(step));
    moves
}

/// The goals that make what `lesson` is about; none if it makes nothing.
pub fn made_by(lesson: &Lesson) -> impl Iterator<Item = Goal> + use<> {
    let id = lesson.id;
    MADE.iter().filter(move |(made, _)| *made == id).map(|(_, goal)| *goal)
}
