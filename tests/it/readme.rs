//! The README says what the program does: its commands parse, its tables are the program's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::cargo::cargo_bin_cmd;
use coastal::config;
use coastal::error::ExitCode;

const README: &str = include_str!("../../README.md");

/// The lines of the section under this heading.
fn section(heading: &str) -> Vec<&'static str> {
    let lines = README.lines().skip_while(|line| line.strip_prefix("## ") != Some(heading)).skip(1);
    let found: Vec<&str> = lines.take_while(|line| !line.starts_with("## ")).collect();
    assert!(!found.is_empty(), "README has no section `{heading}`");
    found
}

/// The cells of a section's table, without its head.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows: Vec<Vec<&str>> = section(heading)
        .into_iter()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('|').trim()).collect())
        .collect();
    assert!(!rows.is_empty(), "section `{heading}` has no table");
    rows
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every command of `coastal` that the README shows, without the program's name and what follows a `#`.
fn commands() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut block = false;
    for line in README.lines() {
        if line.starts_with("```") {
            block = !block;
            continue;
        }
        let shown: Vec<&str> = if block { vec![line.trim_start_matches("$ ")] } else { code(line).collect() };
        for shown in shown {
            let shown = shown.split('#').next().unwrap_or_default().trim();
            let shown = shown.strip_prefix("eval \"$(").and_then(|rest| rest.strip_suffix(")\"")).unwrap_or(shown);
            let arguments = shown.strip_prefix("coastal ").or_else(|| shown.strip_prefix("cargo run --release -- "));
            found.extend(arguments.map(str::to_owned));
        }
    }
    assert!(found.contains("rehearse") && found.contains("up") && found.contains("env"), "{found:?}");
    found
}

fn coastal(arguments: &[&str]) -> Output {
    cargo_bin_cmd!("coastal").args(arguments).output().expect("the program starts")
}

fn help() -> String {
    let output = coastal(&["--help"]);
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

/// Names and visible aliases of the commands, as `--help` lists them.
fn listed() -> (BTreeSet<String>, BTreeSet<String>) {
    let help = help();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let (mut names, mut aliases) = (BTreeSet::new(), BTreeSet::new());
    for line in commands {
        // A description that goes on in the next line stands further right.
        if let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            names.extend(name.split_whitespace().next().map(str::to_owned));
        }
        if let Some((_, rest)) = line.split_once("[alias: ").or_else(|| line.split_once("[aliases: ")) {
            aliases.extend(rest.trim_end_matches(']').split(", ").map(str::to_owned));
        }
    }
    assert!(names.contains("up") && aliases.contains("spire-helm-install"), "{names:?} {aliases:?}");
    (names, aliases)
}

#[test]
fn every_command_that_is_shown_parses() {
    for command in commands() {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = coastal(&arguments);
        assert!(output.status.success(), "coastal {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_command_is_shown() {
    let shown: BTreeSet<String> =
        commands().iter().filter_map(|command| command.split_whitespace().next().map(str::to_owned)).collect();
    let (mut names, _) = listed();
    names.remove("help");
    assert_eq!(names.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_alias_is_in_the_table() {
    let (names, aliases) = listed();
    let rows = table("From the Makefile");
    let column = |index: usize| -> BTreeSet<String> {
        rows.iter().filter_map(|row| row.get(index)).flat_map(|cell| code(cell)).map(str::to_owned).collect()
    };
    assert_eq!(column(2), aliases);
    for command in column(1) {
        let name = command.strip_prefix("coastal ").and_then(|rest| rest.split_whitespace().next());
        assert!(name.is_some_and(|name| names.contains(name)), "{command}");
    }
    // `make X` is `coastal X`.
    for target in column(0).iter().filter_map(|cell| cell.strip_prefix("make ")) {
        let name = target.split_whitespace().next().unwrap_or_default();
        assert!(names.contains(name) || aliases.contains(name), "{target}");
    }
}

#[test]
fn the_exit_codes_are_the_programs() {
    let written: Vec<(u8, String)> =
        table("Exit codes").iter().map(|row| (row[0].parse().expect("a number"), row[1].to_owned())).collect();
    let real: Vec<(u8, String)> =
        ExitCode::TABLE.iter().map(|(code, words)| (*code as u8, (*words).to_owned())).collect();
    assert_eq!(written, real);
    for (code, words) in real {
        assert!(help().contains(&format!("{code:>3}  {words}")), "--help lacks exit code {code}");
    }
}

#[test]
fn the_versions_of_the_tools_are_the_labs() {
    let tools = config::embedded().expect("the lab that ships is right").tools;
    let real = [("docker", &tools.docker), ("kind", &tools.kind), ("helm", &tools.helm), ("kubectl", &tools.kubectl)];
    let real: Vec<_> = real.iter().map(|(tool, version)| ((*tool).to_owned(), format!("`{version}`"))).collect();
    let written: Vec<_> =
        table("On a real machine").iter().map(|row| (row[0].to_lowercase(), row[1].to_owned())).collect();
    assert_eq!(written, real);
}

/// The keys of the lab file that ships, those that are commented out too, as `table.key`.
fn keys() -> BTreeSet<String> {
    let mut table = String::new();
    let mut found = BTreeSet::new();
    for line in config::DEFAULT.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            name.clone_into(&mut table);
            continue;
        }
        let Some((key, _)) = line.trim_start_matches(['#', ' ']).split_once(" = ") else { continue };
        if key.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            found.insert(format!("{table}.{key}"));
        }
    }
    found
}

#[test]
fn the_keys_are_the_labs() {
    let mut written = BTreeSet::new();
    for row in table("lab.toml") {
        let mut tables: Vec<&str> = code(row[0]).map(|name| name.trim_matches(['[', ']'])).collect();
        if tables.is_empty() {
            tables.push("");
        }
        for table in tables {
            written.extend(code(row[1]).map(|key| format!("{table}.{key}")));
        }
    }
    assert_eq!(written, keys());
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_messages_are_the_programs() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).expect("a source file")).collect();
    for row in table("When something goes wrong") {
        for message in code(row[0]) {
            assert!(texts.iter().any(|text| text.contains(message)), "no message of the program says `{message}`");
        }
    }
}

#[test]
fn it_stays_readable() {
    assert!(README.lines().count() <= 320);
    for line in README.lines() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let there = link.contains("://") || Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists();
            assert!(there, "README links to `{link}`, which is not there");
        }
    }
}
