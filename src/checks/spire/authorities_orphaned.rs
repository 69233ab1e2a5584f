//! Every trusted authority is some server's.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-authorities-orphaned",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "every authority of the bundle is held by a server",
    why: "Whoever holds the key of any other makes SVIDs that everybody accepts; no API taints or revokes it. Servers that lost their keys, or jumped over SPIRE 1.9, leave such authorities.",
    hint: "`coastal bundle` shows which; if its key cannot be accounted for, treat it as stolen, and end the old trust with `coastal rotate --rekey revoke`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    if !evidence.audited.as_ref()?.holders_known {
        return Err("these servers do not tell which authorities are their own; they can from SPIRE 1.11 on".to_owned());
    }
    audited(evidence, &[Rule::UnrecognisedAuthority], "no server holds", "each is held by a server")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, find};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| find(e, Rule::UnrecognisedAuthority, "ab01"), Expect::Fails("no server holds: ab01")),
                (&|e| e.audited.as_mut().unwrap().holders_known = false, Expect::Unknown("from SPIRE 1.11 on")),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
