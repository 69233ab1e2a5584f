//! The data store accepts SPIRE's login.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};

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
    match evidence.login.as_ref()? {
        Ok(()) => passed("accepts SPIRE's login"),
        Err(why) => failed(why.clone()).verdict(),
    }
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
                (&|e| e.login = Ok(Err("the login is refused".into())), Expect::Fails("the login is refused")),
                (&|e| e.login = Err("there is no cluster".into()), Expect::Unknown("there is no cluster")),
            ],
        );
    }
}
