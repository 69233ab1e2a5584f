//! No password stands in the values.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, none_of, skipped};

pub(super) const CHECK: Check = Check {
    id: "lab-plain-password",
    category: Category::Lab,
    level: Level::Warning,
    before_up: false,
    title: "no password stands in plain text in the release's values",
    why: "helm keeps the values of ten revisions; whoever may read Secrets of the namespace, or the values file, has the password.",
    hint: "let the chart take it from a Secret: `dataStore.sql.externalSecret`, as the lab's own values do",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(values) = evidence.values.as_ref()? else { return skipped("there is no release spire") };
    let message = format!("a password in plain text at {}", values.passwords.join(", "));
    none_of(values.passwords.clone(), message, "none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        let path = "spire-server.dataStore.sql.password";
        cases(
            &CHECK,
            &[
                (&|e| e.values.as_mut().unwrap().as_mut().unwrap().passwords = vec![path.into()], Expect::Fails(path)),
                (&|e| e.values = Ok(None), Expect::Skips),
                (&|e| e.values = Err("helm is silent".into()), Expect::Unknown("silent")),
            ],
        );
    }
}
