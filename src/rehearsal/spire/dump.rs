//! `pg_dump` and what `psql` makes of its output: the state of a data store as text.
//!
//! The text looks like a dump as far as somebody may want to look into it (the tables' names, the row of `migrations`).
//! What it brings back is in one of its comments.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prost::Message as _;

use super::Database;
use super::authorities::id_of;
use crate::spire::hex;
use crate::spire::rotation::KeyType;

const STATE: &str = "-- Rehearsal: ";
const END: &str = "-- PostgreSQL database dump complete";
/// The schema that brought the table of journals (facts, section 1).
const JOURNALS_SINCE: u32 = 23;

/// The dump of a data store.
pub(in crate::rehearsal) fn write(database: &Database, now: Timestamp) -> String {
    let mut text = String::from(
        "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 16.4\n-- Dumped by pg_dump version 16.4\n\n",
    );
    // The password is the server's own, not the database's.
    let state = Database { password: String::new(), ..database.clone() };
    let state = BASE64.encode(serde_json::to_vec(&state).unwrap_or_default());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{STATE}{state}\n\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n");
    let schema = database.migrations.as_ref().map_or(0, |(schema, _)| *schema);
    let time = now.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string();
    let tables = [
        (
            "migrations (id, created_at, updated_at, version, code_version)",
            database.migrations.iter().map(|(schema, code)| format!("1\t{time}\t{time}\t{schema}\t{code}")).collect(),
            0,
        ),
        (
            "bundles (id, created_at, updated_at, trust_domain, data)",
            database
                .bundle
                .first()
                .map(|authority| {
                    let td = &authority.trust_domain;
                    format!("1\t{time}\t{time}\tspiffe://{td}\t\\\\x{}", hex(&database.bundle_row(td)))
                })
                .into_iter()
                .collect(),
            0,
        ),
        (
            "registered_entries (id, entry_id, spiffe_id, parent_id)",
            (1..)
                .zip(database.entries.values())
                .map(|(id, entry)| format!("{id}\t{}\t{}\t{}", entry.id, entry.path, entry.parent))
                .collect(),
            0,
        ),
        (
            "attested_node_entries (id, spiffe_id)",
            (1..)
                .zip(database.agents.values())
                .map(|(id, agent)| format!("{id}\t{}", agent.path))
                .collect::<Vec<String>>(),
            0,
        ),
        (
            "ca_journals (id, data, active_x509_authority_id)",
            (1..)
                .zip(database.journals.values())
                .map(|(id, journal)| {
                    let active = id_of(KeyType::X509, &journal.active);
                    format!("{id}\t\\\\x{}\t{active}", hex(&journal.record().encode_to_vec()))
                })
                .collect(),
            JOURNALS_SINCE,
        ),
    ];
    let there = || tables.iter().filter(|(.., since)| *since <= schema);
    let name = |table: &str| table.split(' ').next().unwrap_or_default().to_owned();
    for (table, ..) in there() {
        let _ = writeln!(text, "DROP TABLE IF EXISTS public.{};", name(table));
    }
    for (table, rows, _) in there() {
        let _ = writeln!(text, "\nCREATE TABLE public.{};\n\nCOPY public.{table} FROM stdin;", name(table));
        for row in rows {
            let _ = writeln!(text, "{row}");
        }
        let _ = writeln!(text, "\\.");
    }
    let _ = writeln!(text, "\n--\n{END}\n--\n");
    text
}

/// The data store that a dump brings back; in words as psql's if it is none, or was cut off.
pub(in crate::rehearsal) fn read(text: &str) -> Result<Database, String> {
    let state = text.lines().find_map(|line| line.strip_prefix(STATE));
    let state = state.ok_or("ERROR:  syntax error at or near \"this\": the rehearsal reads only dumps that it made")?;
    if !text.lines().any(|line| line == END) {
        return Err("ERROR:  unexpected end of input: the dump is cut off".to_owned());
    }
    let bytes = BASE64.decode(state).map_err(|error| format!("ERROR:  invalid input syntax: {error}"))?;
    let mut database: Database =
        serde_json::from_slice(&bytes).map_err(|error| format!("ERROR:  invalid input syntax: {error}"))?;
    // The row of `migrations` counts as it is written, as a person may have read it.
    let rows = text.split("COPY public.migrations ").nth(1).and_then(|rest| rest.lines().nth(1));
    let columns: Vec<&str> = rows.unwrap_or_default().split('\t').collect();
    database.migrations = match columns.as_slice() {
        [_, _, _, schema, code] => schema.parse().ok().zip(code.parse().ok()),
        _ => None,
    };
    Ok(database)
}

#[cfg(test)]
mod tests {
    use semver::Version;

    use super::*;

    #[test]
    fn what_is_dumped_comes_back() {
        let mut database = Database { password: "sesame".to_owned(), sequence: 7, ..Database::default() };
        let empty = read(&write(&database, Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(empty.migrations, None);
        database.migrations = Some((22, Version::new(1, 7, 2)));
        let text = write(&database, Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("\t22\t1.7.2\n\\.") && !text.contains("sesame") && !text.contains("ca_journals"),
            "{text}"
        );
        let back = read(&text).unwrap();
        assert_eq!((back.migrations, back.sequence, back.password.as_str()), (database.migrations, 7, ""));
        assert_eq!(
            read(&text.replace("\t22\t1.7.2", "\t23\t1.8.0")).unwrap().migrations,
            Some((23, Version::new(1, 8, 0)))
        );
    }

    #[test]
    fn what_is_no_whole_dump_is_refused() {
        let text = write(&Database::default(), Timestamp::UNIX_EPOCH);
        for broken in ["", "drop database spire;", &text[..text.len() / 2], &text.replace(STATE, "-- ")] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }
}
