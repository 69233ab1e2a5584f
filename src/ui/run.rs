//! What is known of a run from the events that have come so far. The renderers share it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::engine::{Event, What};
use crate::error::Failure;
use crate::plan::{Plan, Role, Step, StepId};

/// A run so far.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Its id.
    pub(super) id: String,
    /// The command line after `coastal`.
    pub(super) command: String,
    plan: Option<Plan>,
    began: Option<Timestamp>,
    /// Of each step that was started, in the order in which they were.
    pub(super) spans: Vec<Span>,
    /// Why each failed step failed.
    pub(super) failures: BTreeMap<StepId, Failure>,
    commands: BTreeMap<u64, StepId>,
}

/// When a step ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) step: StepId,
    /// Milliseconds since the run began.
    pub(super) start_ms: u64,
    /// Milliseconds it took; 0 while it runs.
    pub(super) took_ms: u64,
}

impl Run {
    /// Takes in the next event.
    pub(super) fn absorb(&mut self, event: &Event) {
        match &event.what {
            What::RunStarted { run, command, plan, .. } => {
                self.id.clone_from(run);
                self.command.clone_from(command);
                self.plan = Some(plan.clone());
                self.began = Some(event.at);
            }
            What::StepStarted { step } => {
                self.spans.push(Span { step: *step, start_ms: self.elapsed_ms(event), took_ms: 0 });
            }
            What::StepSkipped { step, took_ms, .. }
            | What::StepDone { step, took_ms, .. }
            | What::StepFailed { step, took_ms, .. } => {
                if let Some(span) = self.spans.iter_mut().find(|span| span.step == *step) {
                    span.took_ms = *took_ms;
                }
                if let What::StepFailed { failure, .. } = &event.what {
                    self.failures.insert(*step, failure.clone());
                }
            }
            What::CommandStarted { step, command, .. } => {
                self.commands.insert(*command, *step);
            }
            What::StepRunning { .. }
            | What::StepVerifying { .. }
            | What::StepProgress { .. }
            | What::StepReport { .. }
            | What::StepRetry { .. }
            | What::StepCancelled { .. }
            | What::CommandOutput { .. }
            | What::CommandEnded { .. }
            | What::RunEnded { .. } => {}
        }
    }

    /// The steps of its plan.
    pub(super) fn steps(&self) -> &[Step] {
        self.plan.as_ref().map_or(&[], |plan| &plan.steps)
    }

    pub(super) fn step(&self, id: StepId) -> Option<&Step> {
        self.steps().iter().find(|step| step.id == id)
    }

    /// What the step makes so, in a few words.
    pub(super) fn title(&self, id: StepId) -> String {
        self.step(id).map_or_else(|| id.to_string(), |step| step.title.clone())
    }

    /// Whether the step is only looked at.
    pub(super) fn is_need(&self, id: StepId) -> bool {
        self.step(id).is_some_and(|step| step.role == Role::Need)
    }

    /// The step for which a command runs.
    pub(super) fn step_of(&self, command: u64) -> Option<StepId> {
        self.commands.get(&command).copied()
    }

    /// Milliseconds from the run's beginning to `event`.
    pub(super) fn elapsed_ms(&self, event: &Event) -> u64 {
        let began = self.began.unwrap_or(event.at);
        u64::try_from(event.at.duration_since(began).as_millis()).unwrap_or(0)
    }

    /// The chain of steps, each needing the one before, that took longest; and how many milliseconds it took. No
    /// run of this plan could have ended sooner with steps as slow as these.
    pub(super) fn critical_path(&self) -> (Vec<StepId>, u64) {
        let mut best: BTreeMap<StepId, (u64, Option<StepId>)> = BTreeMap::new();
        for step in self.steps() {
            let Some(span) = self.spans.iter().find(|span| span.step == step.id) else { continue };
            let before = step
                .needs
                .iter()
                .filter_map(|need| best.get(need).map(|(total, _)| (*total, *need)))
                .max_by_key(|(total, _)| *total);
            let total = span.took_ms + before.map_or(0, |(total, _)| total);
            best.insert(step.id, (total, before.map(|(_, need)| need)));
        }
        let Some((last, (total, _))) = best.iter().max_by_key(|(_, (total, _))| *total) else {
            return (Vec::new(), 0);
        };
        let mut path = vec![*last];
        while let Some((_, Some(before))) = path.last().and_then(|step| best.get(step)) {
            path.push(*before);
        }
        path.reverse();
        (path, *total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::testing::{failure, nothing_to_change, success};

    fn path(events: &[Event]) -> (Vec<String>, u64) {
        let mut run = Run::default();
        for event in events {
            run.absorb(event);
        }
        let (path, ms) = run.critical_path();
        (path.iter().map(ToString::to_string).collect(), ms)
    }

    #[test]
    fn the_critical_path_is_the_slowest_chain_of_needs() {
        let steps = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        // Contour took 16.2 s beside the database's 17.8 s.
        let whole = 180 + 45_020 + 17_800 + 60_000;
        assert_eq!(path(&success()), (steps(&["tools", "cluster", "database", "spire"]), whole));
        // Here contour took longer, and SPIRE never started.
        assert_eq!(path(&failure()), (steps(&["tools", "cluster", "contour"]), 180 + 45_020 + 16_300));
        // Side by side, each took 1.23 s from the start; the chain still follows the needs.
        assert_eq!(path(&nothing_to_change()).0, steps(&["tools", "cluster", "database", "spire"]));
        assert_eq!(path(&[]), (Vec::new(), 0));
    }
}
