//! One server may fail.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, count, failed, passed};

pub(super) const CHECK: Check = Check {
    id: "spire-high-availability",
    category: Category::Spire,
    level: Level::Note,
    before_up: false,
    title: "there are at least two servers",
    why: "While a single server restarts, or its node does, nobody gets or renews an SVID.",
    hint: "set `servers = 3` in `[spire]` of lab.toml, then `coastal up`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let servers = evidence.live.as_ref()?.servers.len();
    if servers < 2 { failed(count(servers, "server")).verdict() } else { passed(count(servers, "server")) }
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
                (&|e| e.live.as_mut().unwrap().servers.truncate(1), Expect::Fails("1 server")),
                (&|e| e.live = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
