//! What runs was published.

use super::seen;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of};

pub(super) const CHECK: Check = Check {
    id: "spire-published",
    category: Category::Spire,
    level: Level::Warning,
    before_up: false,
    title: "servers and agents run published versions",
    why: "Of builds of one's own nobody knows which schema they write and which neighbours they bear: upgrades are refused.",
    hint: "`coastal upgrade --plan` says what is known",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let seen = seen(evidence)?;
    let running = format!("servers {}, agents {}", seen.servers.join(", "), seen.agents.join(", "));
    let facts = match seen.known(true) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.into_iter().flat_map(|violation| violation.facts).collect(),
    };
    none_of(facts, "a version that is not known runs", running)
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
                    &|e| e.live.as_mut().unwrap().servers[0].1 = Some("1.7.99".parse().unwrap()),
                    Expect::Fails("a version that is not known runs"),
                ),
                (&|e| e.live.as_mut().unwrap().servers.clear(), Expect::Unknown("no server tells its version")),
            ],
        );
    }
}
