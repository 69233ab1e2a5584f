//! Every agent answers.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, none_of};
use crate::spire::names;

pub(super) const CHECK: Check = Check {
    id: "spire-agents",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "an agent answers on every node that should have one",
    why: "Workloads get their SVIDs from the agent of their node and from no other.",
    hint: "`coastal logs agent` shows what it says; an agent is Ready up to a minute after it serves",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (live, sets) = (evidence.live.as_ref()?, evidence.daemon_sets.as_ref()?);
    let name = names::agent(&evidence.lab.spire);
    let set = sets.iter().find(|set| set.metadata.name.as_ref() == Some(&name));
    let Some(set) = set else { return failed(format!("there is no DaemonSet {name}")).verdict() };
    let wanted = set.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
    let wanted = usize::try_from(wanted).unwrap_or_default();
    let silent = live.agents.iter().filter(|(_, version)| version.is_none());
    let silent: Vec<String> = silent.map(|(pod, _)| format!("{pod} does not answer")).collect();
    let answering = live.agents.len() - silent.len();
    if wanted == 0 || answering < wanted {
        return failed(format!("{answering} of {} answer", count(wanted, "agent"))).facts(silent).verdict();
    }
    none_of(silent, "an agent does not answer", format!("{} answer", count(answering, "agent")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| e.live.as_mut().unwrap().agents[0].1 = None, Expect::Fails("0 of 1 agent answer")),
                (&|e| e.daemon_sets.as_mut().unwrap().clear(), Expect::Fails("there is no DaemonSet spire-agent")),
                (&|e| e.daemon_sets = Err("forbidden".into()), Expect::Unknown("forbidden")),
            ],
        );
    }
}
