//! The database is not ahead of the servers.

use semver::Version;

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed};
use crate::spire::releases;

pub(super) const CHECK: Check = Check {
    id: "spire-schema-ahead",
    category: Category::Spire,
    level: Level::Note,
    before_up: false,
    title: "the database has the schema of the servers that run",
    why: "After a downgrade the schema stays where the newer server put it: one minor version down is borne, a second is not.",
    hint: "go up again (`coastal upgrade`), or know that there is no further way down without a backup",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let (live, (schema, code)) = (evidence.live.as_ref()?, evidence.row.as_ref()?);
    let versions = live.server_versions();
    let oldest: &Version = versions.first().ok_or("no server tells its version")?;
    let own = releases::schema(oldest).ok_or_else(|| format!("SPIRE {oldest} is not a published version"))?;
    if *schema > own.latest {
        let latest = own.latest;
        failed(format!("schema {schema}, written by {code}, is ahead of SPIRE {oldest}, which writes {latest}"))
            .verdict()
    } else {
        passed(format!("schema {schema}"))
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
                (
                    &|e| e.row = Ok((99, "1.8.0".into())),
                    Expect::Fails("schema 99, written by 1.8.0, is ahead of SPIRE 1.7.2"),
                ),
                (&|e| e.live.as_mut().unwrap().servers.clear(), Expect::Unknown("no server tells")),
                (&|e| e.row = Err("no login".into()), Expect::Unknown("no login")),
            ],
        );
    }
}
