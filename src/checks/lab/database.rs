//! The data store accepts SPIRE's login.

use super::step;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::plan::{Finding, StepId};

pub(super) const CHECK: Check = Check {
    id: "lab-database",
    category: Category::Lab,
    level: Level::Error,
    before_up: false,
    title: "PostgreSQL accepts SPIRE's login",
    why: "Servers that cannot reach it issue nothing: workloads live on what their agents have, half an SVID's life.",
    hint: "`coastal deploy-database` mends what is missing, `coastal logs database` shows what PostgreSQL says",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    match step(evidence, StepId::Database)? {
        Finding::Satisfied(proof) => passed(proof.clone()),
        other => failed(other.detail()).verdict(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases, set_step};

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (
                    &|e| set_step(e, StepId::Database, Finding::Differs("the login is refused".into())),
                    Expect::Fails("the login is refused"),
                ),
                (&|e| e.drift = Ok(Vec::new()), Expect::Unknown("database was not looked at")),
            ],
        );
    }
}
