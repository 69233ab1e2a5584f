//! Servers and agents bear each other.

use super::seen;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::spire::policy::judge_state;

pub(super) const CHECK: Check = Check {
    id: "spire-skew",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "servers are within one minor version of each other, and no agent is newer than a server or two minors older",
    why: "SPIRE promises to work only within that distance.",
    hint: "`coastal upgrade --plan` shows the legal way out",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let seen = seen(evidence)?;
    let Ok(state) = seen.known(true) else { return Err("a version that is not known runs".to_owned()) };
    let verdict = judge_state(&state);
    let Some(first) = verdict.violations.first() else {
        return passed(format!("servers {}, agents {}", seen.servers.join(", "), seen.agents.join(", ")));
    };
    let facts =
        verdict.violations.iter().flat_map(|broken| broken.facts.iter().map(|fact| format!("{}: {fact}", broken.rule)));
    failed(format!("{}: {}", first.rule, first.facts.join("; "))).facts(facts).next(first.way_out.clone()).verdict()
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
                (
                    &|e| e.live.as_mut().unwrap().agents[0].1 = Some("1.8.0".parse().unwrap()),
                    Expect::Fails("SPIRE-AGENT-NEWER"),
                ),
                (
                    &|e| e.live.as_mut().unwrap().servers[0].1 = Some("1.9.6".parse().unwrap()),
                    Expect::Fails("SPIRE-SKEW-SERVER"),
                ),
                (
                    &|e| e.live.as_mut().unwrap().servers[0].1 = Some("1.7.99".parse().unwrap()),
                    Expect::Unknown("not known"),
                ),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
