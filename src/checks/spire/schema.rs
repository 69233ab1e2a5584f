//! The servers would start again.

use semver::Version;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::spire::policy::{StartOutcome, server_start};

pub(super) const CHECK: Check = Check {
    id: "spire-schema",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "a server that is started now would open the database",
    why: "A server judges the schema only when it starts: a template of the wrong version serves on until the first restart, and then never again.",
    hint: "`coastal upgrade --plan` shows which versions can open it; never `helm rollback`",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (live, (schema, code)) = (evidence.live.as_ref()?, evidence.row.as_ref()?);
    let stored: Version =
        code.parse().map_err(|_| format!("the database was written by `{code}`, which is no version"))?;
    let template = live.server_template.as_ref().ok_or("the servers' template has no version for a tag")?;
    match server_start(template, Some((*schema, &stored))) {
        StartOutcome::Starts { .. } => passed(format!("schema {schema}, written by {stored}; {template} opens it")),
        StartOutcome::Refuses { message, .. } => {
            let what = format!("SPIRE {template} would not start on schema {schema}, written by {stored}");
            failed(what).facts([format!("it would end with: {message}")]).verdict()
        }
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
                (&|e| e.row = Ok((23, "1.11.3".into())), Expect::Fails("SPIRE 1.7.2 would not start on schema 23")),
                (&|e| e.row = Ok((23, "new".into())), Expect::Unknown("which is no version")),
                (&|e| e.row = Err("no login".into()), Expect::Unknown("no login")),
            ],
        );
    }
}
