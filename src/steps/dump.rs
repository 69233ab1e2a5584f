//! Dumps of the data store: what undoes a hop that the stored schema forbids to undo.
//!
//! A dump is two files in the lab's directory of dumps: the SQL, and beside it a description, written last. Without
//! its description a dump was cut off and does not count.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::engine::StepContext;
use crate::error::{Failure, Kind, io_failure};
use crate::files;
use crate::spire;
use crate::steps::{database, reach};
use crate::tools::kubectl;

/// `--clean --if-exists`: the dump takes away what it finds before it puts back what it holds.
const DUMP: &str = r#"pg_dump --clean --if-exists -U "$POSTGRES_USER" -d "$POSTGRES_DB""#;
/// All of it or nothing.
const RESTORE: &str = r#"psql --quiet --single-transaction -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB""#;
/// The last words of a dump that is whole.
const END: &str = "PostgreSQL database dump complete";

/// The description of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The version of this format.
    pub schema: u32,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The SQL file's name, beside the description.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest, hexadecimal.
    pub sha256: String,
    /// The schema version in it.
    pub migrations: u32,
    /// The newest SPIRE version that had written to it.
    pub code_version: Version,
    /// Versions of the servers that ran when it was taken.
    pub servers: Vec<Version>,
    /// Whose registrations are in it.
    pub trust_domain: String,
}

/// Takes a dump through the database's pod.
///
/// # Errors
/// The database does not answer, what came is not a whole dump, or it cannot be written.
pub async fn take(cx: &StepContext, servers: Vec<Version>) -> Result<Dump, Failure> {
    let (migrations, code_version) = database::migrations(cx).await?;
    let code_version = Version::parse(&code_version)
        .map_err(|error| Failure::tool(format!("the database was written by SPIRE `{code_version}`: {error}")))?;
    let output = cx.run(&command(cx)).await.map_err(|error| trouble(Failure::from(error)))?;
    let sql = output.stdout.into_bytes();
    if !ends_whole(&sql) {
        return Err(Failure::tool("pg_dump ended well, but its output is not whole")
            .fact(format!("{} bytes, and the last lines do not say `{END}`", sql.len()))
            .next("run the same command again"));
    }
    let taken_at = cx.session.world.clock.now();
    let directory = cx.session.paths.dumps();
    let stem = format!("spire-db-{}", taken_at.strftime("%Y%m%dT%H%M%S%3fZ"));
    let dump = Dump {
        schema: 1,
        taken_at,
        file: format!("{stem}.sql"),
        bytes: sql.len() as u64,
        sha256: digest(&sql),
        migrations,
        code_version,
        servers,
        trust_domain: cx.session.lab.spire.trust_domain.clone(),
    };
    files::write_private(&directory.join(&dump.file), &sql)?;
    let text = serde_json::to_vec_pretty(&dump).map_err(|error| Failure::unexpected(error.to_string()))?;
    files::write_private(&directory.join(format!("{stem}.json")), &text)?;
    Ok(dump)
}

/// The command that dumps the database.
#[must_use]
pub fn command(cx: &StepContext) -> crate::tools::Command {
    in_database(cx, DUMP, None).secret_output()
}

/// Why the database could not be dumped, and what to do about it.
#[must_use]
pub fn trouble(failure: Failure) -> Failure {
    let says = |words: &str| failure.message.contains(words) || failure.facts.iter().any(|fact| fact.contains(words));
    if says("server version mismatch") {
        return failure
            .context("the database could not be dumped: pg_dump is older than the server")
            .first("use an image with the server's own pg_dump: `[database] image` in lab.toml");
    }
    if says(&format!("pods \"{}\" not found", database::POD)) {
        return Failure { kind: Kind::Prerequisite, ..failure }
            .context("the database could not be dumped: its pod is not there")
            .first("`coastal recover` brings it back; `coastal status` shows how it is");
    }
    failure.context("the database could not be dumped").next("`coastal status` shows how it is")
}

/// Feeds SQL to the database, all of it or nothing. The servers must be down: what they wrote meanwhile would be lost in
/// silence.
///
/// # Errors
/// The database does not take it; then it is as it was before.
pub async fn feed(cx: &StepContext, sql: Vec<u8>) -> Result<(), Failure> {
    cx.run(&in_database(cx, RESTORE, Some(sql)).secret_output()).await?;
    Ok(())
}

/// The dumps in `directory`, oldest first. What is no description of a whole dump is passed over.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn list(directory: &Path) -> Result<Vec<Dump>, Failure> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_failure("read", directory, &error)),
    };
    let mut dumps: Vec<Dump> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .filter(|dump: &Dump| directory.join(&dump.file).is_file())
        .collect();
    dumps.sort_by_key(|dump| dump.taken_at);
    Ok(dumps)
}

/// Puts a dump back. The servers must be down: what they wrote meanwhile would be lost in silence.
///
/// # Errors
/// The dump is not what its description says, or the database does not take it; then it is as it was before.
pub async fn put_back(cx: &StepContext, dump: &Dump) -> Result<(), Failure> {
    let path: PathBuf = cx.session.paths.dumps().join(&dump.file);
    let sql = std::fs::read(&path).map_err(|error| io_failure("read the dump", &path, &error))?;
    if digest(&sql) != dump.sha256 || !ends_whole(&sql) {
        return Err(Failure::refused(format!("the dump `{}` is not what it was when it was taken", path.display()))
            .fact(format!("sha256 {}, and its description says {}", digest(&sql), dump.sha256)));
    }
    if dump.trust_domain != cx.session.lab.spire.trust_domain {
        return Err(Failure::refused(format!("the dump `{}` is of another trust domain", path.display()))
            .fact(format!("{}, and this lab's is {}", dump.trust_domain, cx.session.lab.spire.trust_domain)));
    }
    let taken = feed(cx, sql).await;
    taken.map_err(|failure| failure.context(format!("the database did not take the dump `{}`", path.display())))
}

fn in_database(cx: &StepContext, script: &str, input: Option<Vec<u8>>) -> crate::tools::Command {
    let namespace = &cx.session.lab.spire.server_namespace;
    let (target, argv) = (reach::target(cx), ["sh", "-c", script]);
    let command = match input {
        None => kubectl::exec(&target, namespace, database::POD, database::CONTAINER, argv),
        Some(input) => kubectl::exec_with_input(&target, namespace, database::POD, database::CONTAINER, argv, input),
    };
    command.timeout(cx.remaining())
}

fn digest(bytes: &[u8]) -> String {
    spire::hex(&Sha256::digest(bytes))
}

fn ends_whole(sql: &[u8]) -> bool {
    let tail = &sql[sql.len().saturating_sub(200)..];
    String::from_utf8_lossy(tail).contains(END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_dumps_count_and_the_oldest_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        assert!(list(&directory.path().join("nowhere")).unwrap().is_empty());
        let write = |stem: &str, second: i64, with_sql: bool| {
            let dump = Dump {
                schema: 1,
                taken_at: Timestamp::from_second(second).unwrap(),
                file: format!("{stem}.sql"),
                bytes: 1,
                sha256: digest(b"x"),
                migrations: 22,
                code_version: Version::new(1, 7, 2),
                servers: vec![Version::new(1, 7, 2)],
                trust_domain: "example.org".into(),
            };
            std::fs::write(directory.path().join(format!("{stem}.json")), serde_json::to_vec(&dump).unwrap()).unwrap();
            if with_sql {
                std::fs::write(directory.path().join(format!("{stem}.sql")), "x").unwrap();
            }
        };
        write("a", 20, true);
        write("b", 10, true);
        write("gone", 5, false);
        std::fs::write(directory.path().join("torn.json"), "{\"schema\":1,").unwrap();
        std::fs::write(directory.path().join("without.sql"), "x").unwrap();
        let found: Vec<String> = list(directory.path()).unwrap().into_iter().map(|dump| dump.file).collect();
        assert_eq!(found, ["b.sql", "a.sql"]);
    }

    #[test]
    fn a_dump_that_was_cut_off_is_seen() {
        assert!(ends_whole(b"COPY ...;\n--\n-- PostgreSQL database dump complete\n--\n\n"));
        assert!(!ends_whole(b"COPY public.bundles (id) FROM stdin;\n"));
        assert!(!ends_whole(b""));
    }
}
