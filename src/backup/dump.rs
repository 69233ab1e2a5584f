//! What a plain-text dump of SPIRE's database (`pg_dump`) holds, read line by line as it goes by: the row of
//! `migrations`, the bundle, the journals, and how many rows each table has.

use super::manifest::Migrations;
use crate::spire::records::{Bundle, Journal};
use prost::Message as _;

/// The last words of a dump that is whole.
const END: &[u8] = b"-- PostgreSQL database dump complete";
/// No row of SPIRE's is longer: a bundle or a journal has a few kilobytes for each authority.
const LONGEST: usize = 32 * 1024 * 1024;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The row of `migrations`.
    pub migrations: Option<Migrations>,
    /// Rows of `bundles`: the trust domain's own, and those it federates with.
    pub bundles: Vec<Bundle>,
    /// Rows of `ca_journals`.
    pub journals: Vec<Journal>,
    /// Rows of `registered_entries`.
    pub entries: u64,
    /// Rows of `attested_node_entries`.
    pub agents: u64,
    /// The server's version, as the dump's head says it.
    pub server: Option<String>,
    /// `pg_dump`'s.
    pub program: Option<String>,
    /// Whether its last words were seen.
    pub whole: bool,
    /// What is wrong, the first few things only.
    pub problems: Vec<String>,
}

impl Seen {
    /// The bundle of that trust domain (without `spiffe://`).
    #[must_use]
    pub fn bundle(&self, trust_domain: &str) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.trust_domain.strip_prefix("spiffe://") == Some(trust_domain))
    }
}

/// Reads a dump in pieces, cut anywhere.
#[derive(Debug, Default)]
pub struct Scanner {
    seen: Seen,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// The rest of a line that is too long goes by unread.
    skipping: bool,
    copying: Option<Copying>,
    line: u64,
}

#[derive(Debug)]
struct Copying {
    table: Table,
    name: String,
    columns: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Migrations,
    Bundles,
    Entries,
    Agents,
    Journals,
    Other,
}

impl Scanner {
    /// Takes the next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = piece.split_at(end);
            if self.skipping {
                self.skipping = false;
            } else if self.partial.is_empty() {
                self.take(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.take(&whole);
                // Its room is used again.
                whole.clear();
                self.partial = whole;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
        if self.skipping {
            return;
        }
        self.partial.extend_from_slice(piece);
        if self.partial.len() > LONGEST {
            self.partial = Vec::new();
            self.skipping = true;
            self.problem(format!("line {} is longer than {} MiB", self.line + 1, LONGEST >> 20));
        }
    }

    /// What was seen in all.
    #[must_use]
    pub fn finish(mut self) -> Seen {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.take(&line);
        }
        if !self.seen.whole {
            self.problem("the dump is cut off: its last words are missing".to_owned());
        }
        if self.seen.whole && self.seen.migrations.is_none() {
            self.problem("it has no row in `migrations`: it is no dump of SPIRE's database".to_owned());
        }
        self.seen
    }

    fn problem(&mut self, words: String) {
        if self.seen.problems.len() < 20 {
            self.seen.problems.push(words);
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.line += 1;
        match self.copying.take() {
            None => self.statement(line),
            Some(_) if line == b"\\." => {}
            Some(copying) => {
                self.row(&copying, line);
                self.copying = Some(copying);
            }
        }
    }

    fn statement(&mut self, line: &[u8]) {
        if line == END {
            self.seen.whole = true;
        } else if line.starts_with(b"COPY ") {
            let text = String::from_utf8_lossy(line);
            self.copying = copy_head(&text);
            if self.copying.is_none() {
                self.problem(format!("line {} is no COPY that pg_dump writes", self.line));
            }
        } else if let Some(version) = line.strip_prefix(b"-- Dumped from database version ") {
            self.seen.server = Some(String::from_utf8_lossy(version).into_owned());
        } else if let Some(version) = line.strip_prefix(b"-- Dumped by pg_dump version ") {
            self.seen.program = Some(String::from_utf8_lossy(version).into_owned());
        }
    }

    fn row(&mut self, copying: &Copying, line: &[u8]) {
        let columns = line.split(|byte| *byte == b'\t').count();
        if columns != copying.columns.len() {
            self.problem(format!(
                "line {}: a row of `{}` has {columns} columns, and its table {}",
                self.line,
                copying.name,
                copying.columns.len()
            ));
            return;
        }
        let column = |name: &str| {
            let index = copying.columns.iter().position(|column| column == name)?;
            line.split(|byte| *byte == b'\t').nth(index)
        };
        let text = |name: &str| column(name).and_then(|value| std::str::from_utf8(value).ok());
        let wrong = match copying.table {
            Table::Migrations => {
                let row = text("version").and_then(|schema| schema.parse().ok());
                let code = text("code_version").and_then(|code| code.parse().ok());
                self.seen.migrations = row.zip(code).map(|(schema, code_version)| Migrations { schema, code_version });
                self.seen.migrations.is_none().then(|| "no version and code version".to_owned())
            }
            Table::Bundles => match column("data").and_then(bytea).map(|bytes| Bundle::decode(bytes.as_slice())) {
                Some(Ok(mut bundle)) => {
                    if let Some(td) = text("trust_domain") {
                        td.clone_into(&mut bundle.trust_domain);
                    }
                    self.seen.bundles.push(bundle);
                    None
                }
                Some(Err(error)) => Some(error.to_string()),
                None => Some("no data".to_owned()),
            },
            Table::Journals => match column("data").and_then(bytea).map(|bytes| Journal::decode(bytes.as_slice())) {
                Some(Ok(journal)) => {
                    self.seen.journals.push(journal);
                    None
                }
                Some(Err(error)) => Some(error.to_string()),
                None => Some("no data".to_owned()),
            },
            Table::Entries => {
                self.seen.entries += 1;
                text("spiffe_id").is_none_or(str::is_empty).then(|| "no SPIFFE id".to_owned())
            }
            Table::Agents => {
                self.seen.agents += 1;
                None
            }
            Table::Other => None,
        };
        if let Some(why) = wrong {
            self.problem(format!("line {}: a row of `{}` cannot be read: {why}", self.line, copying.name));
        }
    }
}

/// `COPY public.bundles (id, created_at) FROM stdin;`
fn copy_head(line: &str) -> Option<Copying> {
    let (name, rest) = line.strip_prefix("COPY ")?.split_once(" (")?;
    let columns = rest.strip_suffix(") FROM stdin;")?;
    let name = name.rsplit('.').next()?.trim_matches('"').to_owned();
    let table = match name.as_str() {
        "migrations" => Table::Migrations,
        "bundles" => Table::Bundles,
        "registered_entries" => Table::Entries,
        "attested_node_entries" => Table::Agents,
        "ca_journals" => Table::Journals,
        _ => Table::Other,
    };
    Some(Copying { table, name, columns: columns.split(", ").map(|name| name.trim_matches('"').to_owned()).collect() })
}

/// A `bytea` as COPY writes it: `\\x` and hex digits.
fn bytea(value: &[u8]) -> Option<Vec<u8>> {
    let digits = value.strip_prefix(b"\\\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spire::hex;
    use crate::spire::records::{Certificate, Entry, Status};

    fn sample() -> String {
        let bundle = Bundle {
            trust_domain: "spiffe://example.org".into(),
            certificates: vec![Certificate { der: vec![7; 40], tainted: false }],
            jwt_keys: Vec::new(),
        };
        let journal = Journal { authorities: vec![Entry::new(vec![7; 40], Status::Active)] };
        format!(
            "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 16.4\n-- Dumped by pg_dump version 16.4\n\n\
             COPY public.bundles (id, created_at, trust_domain, data) FROM stdin;\n1\tnow\tspiffe://example.org\t\\\\x{}\n\\.\n\n\
             COPY public.ca_journals (id, data, active_x509_authority_id) FROM stdin;\n1\t\\\\x{}\tab\n\\.\n\
             COPY public.registered_entries (id, entry_id, spiffe_id) FROM stdin;\n1\ta\tspiffe://example.org/x\n2\tb\tspiffe://example.org/y\n\\.\n\
             COPY public.attested_node_entries (id, spiffe_id) FROM stdin;\n1\tspiffe://example.org/agent\n\\.\n\
             COPY public.selectors (id) FROM stdin;\n\\.\n\
             COPY public.migrations (id, version, code_version) FROM stdin;\n1\t23\t1.8.0\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n",
            hex(&bundle.encode_to_vec()),
            hex(&journal.encode_to_vec()),
        )
    }

    fn scan(text: &str, step: usize) -> Seen {
        let mut scanner = Scanner::default();
        text.as_bytes().chunks(step.max(1)).for_each(|piece| scanner.push(piece));
        scanner.finish()
    }

    #[test]
    fn a_dump_is_read_however_it_is_cut() {
        let seen = scan(&sample(), usize::MAX);
        assert_eq!(seen.problems, Vec::<String>::new());
        assert_eq!((seen.entries, seen.agents, seen.journals.len()), (2, 1, 1));
        assert_eq!(seen.bundle("example.org").unwrap().certificates.len(), 1);
        assert_eq!(seen.bundle("other.org"), None);
        assert_eq!(seen.server.as_deref(), Some("16.4"));
        assert_eq!(
            seen.migrations.as_ref().map(|row| (row.schema, row.code_version.to_string())),
            Some((23, "1.8.0".into()))
        );
        for step in [1, 2, 7, 64, 1000] {
            assert_eq!(scan(&sample(), step), seen, "pieces of {step}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = sample();
        let cut = &text[..text.len() / 2];
        for (text, words) in [
            (cut.to_owned(), "cut off"),
            (String::new(), "cut off"),
            ("-- PostgreSQL database dump complete\n".to_owned(), "no dump of SPIRE's"),
            (text.replace("1\t23\t1.8.0", "1\t23\t1.8"), "`migrations` cannot be read"),
            (text.replace("2\tb\tspiffe", "2\tspiffe"), "has 2 columns, and its table 3"),
            (text.replace("\\\\x0a", "\\\\x0b"), "`bundles` cannot be read"),
            (text.replace("\\\\x0a", "\\\\xzz"), "no data"),
            (text.replace("COPY public.selectors (id)", "COPY public.selectors"), "no COPY"),
        ] {
            let seen = scan(&text, 100);
            assert!(seen.problems.iter().any(|problem| problem.contains(words)), "{words}: {:?}", seen.problems);
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut scanner = Scanner::default();
        let piece = vec![b'x'; 8 << 20];
        for _ in 0..6 {
            scanner.push(&piece);
        }
        assert!(scanner.partial.capacity() == 0 && scanner.skipping);
        scanner.push(b"\n");
        scanner.push(sample().as_bytes());
        let seen = scanner.finish();
        assert!(seen.problems.len() == 1 && seen.problems[0].contains("longer than"), "{:?}", seen.problems);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(COPY |public|\\.|\t|\n|bundles|migrations| \\(data\\) FROM stdin;|\\\\x|0a){0,60}", step in 1_usize..40) {
            scan(&text, step);
        }
    }
}
