//! Servers and database talk in private.

use super::conf_password::connection;
use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};

pub(super) const CHECK: Check = Check {
    id: "spire-database-tls",
    category: Category::Spire,
    level: Level::Note,
    before_up: false,
    title: "servers do not give up TLS towards the database",
    why: "With `sslmode=disable`, as the seed lab has it, whoever is on the network between them can read and change entries.",
    hint: "give PostgreSQL a certificate and set `sslmode: verify-full` under `dataStore.sql.options` of the values file",
    judge,
    mend: None,
};

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(connection) = connection(evidence)? else { return skipped("there is no connection string") };
    if connection.contains("sslmode=disable") { failed("sslmode=disable").verdict() } else { passed("not given up") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    #[test]
    fn judged() {
        let connect = |options: &str| {
            Ok(json!({"plugins": {"DataStore": {"sql": {"plugin_data": {"connection_string": options}}}}}))
        };
        cases(
            &CHECK,
            &[
                (&|e| e.server_conf = connect("host=db sslmode=disable"), Expect::Fails("sslmode=disable")),
                (&|e| e.server_conf = connect("host=db sslmode=verify-full"), Expect::Passes),
                (&|e| e.server_conf = Err("no such ConfigMap".into()), Expect::Unknown("no such ConfigMap")),
            ],
        );
    }
}
