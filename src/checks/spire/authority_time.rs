//! Every server has an authority with a third of its life before it.

use super::audited;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict};
use crate::spire::audit::Rule;

pub(super) const CHECK: Check = Check {
    id: "spire-authority-time",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "every server has an authority with a third of its life before it",
    why: "When the last authority expires every SVID does. Servers prepare the next one half-way; if that fails nobody else says so.",
    hint: "`coastal logs server` says why the rotation fails; `coastal bundle` shows the times",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    audited(
        evidence,
        &[Rule::AuthorityExpires],
        "an authority is about to expire and nothing follows",
        "every server has an authority with time before it",
    )
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
                (
                    &|e| find(e, Rule::AuthorityExpires, "it"),
                    Expect::Fails("an authority is about to expire and nothing follows: it"),
                ),
                (&|e| e.audited = Err("no server answers".into()), Expect::Unknown("no server answers")),
            ],
        );
    }
}
