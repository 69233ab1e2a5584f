//! The database's password is not in a ConfigMap.

use crate::checks::{Category, Check, Evidence, Known, Level, Verdict, failed, passed, skipped};

pub(super) const CHECK: Check = Check {
    id: "spire-conf-password",
    category: Category::Spire,
    level: Level::Error,
    before_up: false,
    title: "the servers' configuration does not hold the database's password",
    why: "ConfigMaps are read by many who may not read Secrets, and whoever can write to the database can give himself any identity.",
    hint: "let the chart take it from a Secret (`dataStore.sql.externalSecret`), and change the password",
    judge,
    mend: None,
};

/// The connection string. It is not shown: it may hold the password.
pub(super) fn connection(evidence: &Evidence) -> Known<Option<&str>> {
    let stores = &evidence.server_conf.as_ref()?["plugins"]["DataStore"];
    // A list of tables with one key each, or one such table.
    let sql = stores[0].get("sql").or_else(|| stores.get("sql"));
    Ok(sql.and_then(|sql| sql["plugin_data"]["connection_string"].as_str()))
}

fn judge(evidence: &Evidence) -> Known<Verdict> {
    let Some(connection) = connection(evidence)? else { return skipped("there is no connection string") };
    let written = connection.split_whitespace().filter_map(|word| word.strip_prefix("password="));
    let in_url =
        connection.contains("://") && connection.split('@').next().is_some_and(|user| user.matches(':').count() > 1);
    let plain = written.into_iter().any(|word| !word.is_empty() && !word.contains("${"))
        || (in_url && !connection.contains("${"));
    if plain {
        failed("the connection string in the servers' ConfigMap holds the password").verdict()
    } else {
        passed("it is taken from the environment")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::testing::{Expect, cases};

    fn connect(evidence: &mut Evidence, to: &str) {
        let sql = json!({"sql": {"plugin_data": {"connection_string": to}}});
        evidence.server_conf = Ok(json!({"plugins": {"DataStore": [sql]}}));
    }

    #[test]
    fn judged() {
        cases(
            &CHECK,
            &[
                (&|e| connect(e, "dbname=spire password=hunter2 host=db"), Expect::Fails("holds the password")),
                (&|e| connect(e, "postgres://spire:hunter2@db/spire"), Expect::Fails("holds the password")),
                (&|e| connect(e, "dbname=spire password=${DBPW} host=db"), Expect::Passes),
                (&|e| connect(e, "postgres://spire@db/spire"), Expect::Passes),
                (&|e| e.server_conf = Ok(json!({})), Expect::Skips),
                (&|e| e.server_conf = Err("no such ConfigMap".into()), Expect::Unknown("no such ConfigMap")),
            ],
        );
    }
}
