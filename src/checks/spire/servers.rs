//! Every server is there and answers.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-servers",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "as many servers answer as lab.toml asks for",
    why: "With none, no SVID is issued or renewed; with fewer than wanted, the next failure is that.",
    hint: "`coastal logs server` shows what they say, `coastal up` brings back what is missing",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (live, wanted) = (evidence.live.as_ref()?, evidence.lab.spire.servers as usize);
    let silent = live.servers.iter().filter(|(_, version)| version.is_none());
    let silent: Vec<String> = silent.map(|(pod, _)| format!("{pod} does not answer")).collect();
    let answering = live.servers.len() - silent.len();
    if answering < wanted {
        return failed(format!("{answering} of {wanted} servers answer")).facts(silent).verdict();
    }
    none_of(silent, "a server does not answer", format!("{} answer", count(answering, "server")))
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
                (&|e| e.live.as_mut().unwrap().servers[2].1 = None, Expect::Fails("2 of 3 servers answer")),
                (&|e| e.live.as_mut().unwrap().servers.clear(), Expect::Fails("0 of 3 servers answer")),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
