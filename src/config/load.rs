//! Finds the lab file, reads it, and returns the lab or every problem with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use crate::config::Lab;
use crate::config::file::LabFile;
use crate::config::problems::{Place, Problem, Source, failure};
use crate::config::reader::Table;
use crate::config::resolve::{Base, absolute, resolve};
use crate::error::{Failure, Kind};

/// The lab file that ships. What a lab file leaves out is as here: this is the one place of all defaults.
pub const DEFAULT: &str = include_str!("../../lab.toml");

/// The lab file that is read if none is named.
pub const FILE_NAME: &str = "lab.toml";

/// The lab of the file `path`, else of `./lab.toml`, else the one that ships.
///
/// # Errors
/// The file cannot be read, or it has problems; then every one of them is a fact of the failure.
pub fn load(path: Option<&Path>) -> Result<Lab, Failure> {
    let found = match path {
        Some(path) => path,
        None if Path::new(FILE_NAME).exists() => Path::new(FILE_NAME),
        None => return embedded(),
    };
    let name = found.display().to_string();
    let unreadable = |why: String| {
        Failure::new(Kind::Config, format!("could not read the lab file `{name}`: {why}"))
            .next("`coastal init` writes a lab.toml; `--lab FILE` names another one")
    };
    let bytes = std::fs::read(found).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        unreadable(format!("it is not text (UTF-8) from byte {} on", error.utf8_error().valid_up_to()))
    })?;
    let file = absolute(found);
    let directory = file.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    parse(&name, &text, Some(file), directory).map_err(|problems| failure(&name, &problems))
}

/// The lab that ships.
///
/// # Errors
/// None, unless the program was built around a lab file that is wrong.
pub fn embedded() -> Result<Lab, Failure> {
    let name = "the embedded lab.toml";
    parse(name, DEFAULT, None, absolute(Path::new("."))).map_err(|problems| failure(name, &problems))
}

/// The lab that `text` describes. `name` is what problems call the file; relative paths start in `directory`.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn parse(name: &str, text: &str, file: Option<PathBuf>, directory: PathBuf) -> Result<Lab, Vec<Problem>> {
    let source = Source::new(name, text);
    let base = Base { directory, home: std::env::home_dir() };
    let lab = read(&source, file, &base);
    let mut problems = source.into_problems();
    match lab {
        Some(lab) if problems.is_empty() => Ok(lab),
        None if problems.is_empty() => {
            // Only a default that is missing from the embedded file gets here; a test keeps it complete.
            let message = String::from("the embedded lab.toml lacks a default");
            problems.push(Problem { file: name.into(), place: None, key: String::new(), message, allowed: Vec::new() });
            Err(problems)
        }
        _ => Err(problems),
    }
}

fn read(source: &Source, file: Option<PathBuf>, base: &Base) -> Option<Lab> {
    let (user, errors) = DeTable::parse_recoverable(source.text());
    if !errors.is_empty() {
        let (mut told, mut yaml) = (BTreeSet::new(), false);
        for error in errors {
            let place: Option<Place> = error.span().map(|span| source.place(&span));
            let line = place.and_then(|place| source.text().lines().nth(place.line - 1)).unwrap_or_default();
            // What follows on the same line is about the parser's guesses, and YAML is told once.
            if place.is_some_and(|place| !told.insert(place.line)) || (yaml && looks_like_yaml(line)) {
                continue;
            }
            yaml |= looks_like_yaml(line);
            let words = error.message();
            let meant = likely(line).filter(|_| !words.contains("duplicate"));
            source.problem(place, "", format!("not TOML: {}", meant.unwrap_or_else(|| words.replace('\n', "; "))));
        }
        // What could be recovered is a guess; problems found in it would be about the guess.
        return None;
    }
    let defaults: Spanned<DeTable<'_>> = DeTable::parse(DEFAULT).ok()?;
    let file_as_written = LabFile::read(Table::root(source, user.get_ref(), defaults.get_ref()))?;
    resolve(file_as_written, file, base, source)
}

/// What a line that is no TOML was probably meant to be.
fn likely(line: &str) -> Option<String> {
    if looks_like_yaml(line) {
        return Some("this looks like YAML: TOML has `key = value` below `[table]`".to_owned());
    }
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    let is_bare = value.starts_with(|first: char| first.is_alphanumeric() || "./~>^<".contains(first))
        && !value.contains(['"', '\'', '[', '{']);
    let is_text = value.contains(|c: char| c.is_alphabetic()) || value.matches('.').count() > 1;
    let is_other = ["true", "false", "nan", "inf"].contains(&value.to_lowercase().as_str());
    (is_key && is_bare && is_text && !is_other).then(|| format!("text stands in quotes: `{key} = \"{value}\"`"))
}

fn looks_like_yaml(line: &str) -> bool {
    let line = line.trim().trim_start_matches("- ");
    let key = line.split(':').next().unwrap_or_default();
    let rest = &line[key.len()..];
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
    line == "---" || (is_key && !line.contains('\\') && (rest == ":" || rest.starts_with(": ")))
}
