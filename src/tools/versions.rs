//! Judges the versions of the tools that were found against those that the lab accepts. Pure.

use std::collections::BTreeMap;

use semver::{Op, Version, VersionReq};

use super::{Command, CommandError, Output, Tool, docker, helm, install_hint, kind, kubectl};
use crate::config::ToolRequirements;
use crate::error::{Failure, Kind};

/// The command that asks a tool for its version.
#[must_use]
pub fn ask(tool: Tool) -> Command {
    match tool {
        Tool::Kind => kind::version(),
        Tool::Helm => helm::version(),
        Tool::Kubectl => kubectl::version(),
        Tool::Docker => docker::version(),
    }
}

/// Reads the answer to [`ask`].
///
/// # Errors
/// [`CommandError::Garbage`].
pub fn read(tool: Tool, output: &Output) -> Result<Version, CommandError> {
    match tool {
        Tool::Kind => kind::parse_version(output),
        Tool::Helm => helm::parse_version(output),
        Tool::Kubectl => kubectl::parse_version(output),
        Tool::Docker => docker::parse_version(output),
    }
}

/// Whether all tools in `found` can be used. A tool that is not in it is not needed.
///
/// # Errors
/// One failure that lists every tool that cannot be used: what was found, what is needed, how to get it.
pub fn judge(
    required: &ToolRequirements,
    found: &BTreeMap<Tool, Result<Version, CommandError>>,
) -> Result<(), Failure> {
    if found.values().any(|result| matches!(result, Err(CommandError::Interrupted { .. }))) {
        return Err(Failure::interrupted());
    }
    let problems: Vec<Problem> =
        Tool::ALL.iter().filter_map(|tool| problem(*tool, requirement(required, *tool), found.get(tool)?)).collect();
    if problems.is_empty() {
        return Ok(());
    }
    let clauses = problems.iter().map(|problem| problem.clause.as_str()).collect::<Vec<_>>().join("; ");
    let mut failure = Failure::new(Kind::Prerequisite, clauses);
    for problem in problems {
        failure = failure.fact(problem.fact).next(format!("{}: {}", problem.tool, problem.cure));
    }
    Err(failure)
}

struct Problem {
    tool: Tool,
    /// `helm 3.5.0 is too old`.
    clause: String,
    /// What was found and what is needed.
    fact: String,
    cure: String,
}

fn problem(tool: Tool, need: &VersionReq, found: &Result<Version, CommandError>) -> Option<Problem> {
    let needs = format!("needed: {need}");
    let (clause, fact, cure) = match found {
        Ok(version) if accepts(need, version) => return None,
        Ok(version) if is_below(need, version) => {
            let cure = match tool {
                Tool::Docker => "upgrade the Docker Engine".to_owned(),
                _ => format!("upgrade it; {}", install_hint(tool)),
            };
            (format!("{tool} {version} is too old"), format!("{tool}: found {version}; {needs}"), cure)
        }
        Ok(version) => (
            format!("{tool} {version} is newer than what this lab was tried with"),
            format!("{tool}: found {version}; {needs}"),
            format!("install a version in that range, or widen `[tools] {tool}` in lab.toml"),
        ),
        Err(CommandError::NotFound { .. }) => {
            (format!("{tool} is not installed"), format!("{tool}: not on the path; {needs}"), install_hint(tool))
        }
        Err(error) => return Some(silent(tool, &needs, error)),
    };
    Some(Problem { tool, clause, fact, cure })
}

/// The tool is there, but did not tell its version.
fn silent(tool: Tool, needs: &str, error: &CommandError) -> Problem {
    if let Some(trouble) = docker::daemon_trouble(error) {
        let (clause, words, cure) = match trouble {
            docker::DaemonTrouble::NotAnswering(words) => {
                ("the Docker daemon does not answer", words, docker::start_hint())
            }
            docker::DaemonTrouble::NotAllowed(words) => {
                ("the Docker daemon does not let this user in", words, docker::permission_hint())
            }
        };
        return Problem { tool, clause: clause.into(), fact: format!("{tool}: {words}"), cure };
    }
    let last = error.tail(1).pop();
    let fact = match &last {
        Some(line) => format!("{tool}: {error}: {line}; {needs}"),
        None => format!("{tool}: {error}; {needs}"),
    };
    Problem {
        tool,
        clause: format!("{tool} did not tell its version"),
        fact,
        cure: format!("run `{}` and see; reinstall it if it is broken", ask(tool).line()),
    }
}

/// The lab's requirement for one tool.
#[must_use]
pub fn requirement(required: &ToolRequirements, tool: Tool) -> &VersionReq {
    match tool {
        Tool::Kind => &required.kind,
        Tool::Helm => &required.helm,
        Tool::Kubectl => &required.kubectl,
        Tool::Docker => &required.docker,
    }
}

/// Distributors' suffixes (`1.30.5-gke.1014001`, `27.5.1-1`) are not pre-releases: only the numbers count.
fn accepts(need: &VersionReq, version: &Version) -> bool {
    need.matches(&Version::new(version.major, version.minor, version.patch))
}

/// Whether the version lies below a lower bound of the requirement.
fn is_below(need: &VersionReq, version: &Version) -> bool {
    let found = (version.major, version.minor, version.patch);
    need.comparators.iter().any(|bound| {
        let least = (bound.major, bound.minor.unwrap_or(0), bound.patch.unwrap_or(0));
        match bound.op {
            Op::Exact | Op::GreaterEq | Op::Tilde | Op::Caret | Op::Wildcard => found < least,
            Op::Greater => found <= least,
            _ => false,
        }
    })
}

/// The first `X.Y.Z` in `text`, with or without `v` before and anything after (`20.10.24+dfsg1`, `v3.17.2`,
/// `19.03.8`). What comes after `-` or `+` is kept where semver can say it.
pub(super) fn find_version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        if let Ok(version) = Version::parse(word) {
            return Some(version);
        }
        // Leading zeros and foreign suffixes are no semver; the three numbers are enough to judge by.
        let numbers = word.split(['-', '+', '~']).next()?;
        let mut numbers = numbers.split('.').map(str::parse::<u64>);
        let version = Version::new(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        numbers.next().is_none().then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::testing::{failed, out};
    use std::time::Duration;

    fn required() -> ToolRequirements {
        ToolRequirements {
            kind: ">=0.20.0".parse().unwrap(),
            helm: ">=3.10.0, <4".parse().unwrap(),
            kubectl: ">=1.27".parse().unwrap(),
            docker: ">=20.10".parse().unwrap(),
        }
    }

    fn good() -> BTreeMap<Tool, Result<Version, CommandError>> {
        BTreeMap::from([
            (Tool::Kind, Ok(Version::new(0, 27, 0))),
            (Tool::Helm, Ok(Version::new(3, 17, 2))),
            (Tool::Kubectl, Ok("1.30.5-gke.1014001".parse().unwrap())),
            (Tool::Docker, Ok("20.10.24+dfsg1".parse().unwrap())),
        ])
    }

    fn with(tool: Tool, result: Result<Version, CommandError>) -> Failure {
        let mut found = good();
        found.insert(tool, result);
        judge(&required(), &found).unwrap_err()
    }

    #[test]
    fn good_tools_pass_and_unneeded_ones_are_not_missed() {
        assert_eq!(judge(&required(), &good()), Ok(()));
        assert_eq!(judge(&required(), &BTreeMap::from([(Tool::Helm, Ok(Version::new(3, 10, 0)))])), Ok(()));
    }

    #[test]
    fn each_problem_has_its_sentence() {
        let line = ask(Tool::Kind).line();
        for (tool, result, sentence, fact) in [
            (Tool::Helm, Ok(Version::new(3, 5, 0)), "helm 3.5.0 is too old", "helm: found 3.5.0; needed: >=3.10.0, <4"),
            (
                Tool::Helm,
                Ok(Version::new(4, 0, 0)),
                "helm 4.0.0 is newer than what this lab was tried with",
                "helm: found 4.0.0; needed: >=3.10.0, <4",
            ),
            (
                Tool::Kind,
                Err(CommandError::NotFound { tool: Tool::Kind }),
                "kind is not installed",
                "kind: not on the path; needed: >=0.20.0",
            ),
            (
                Tool::Docker,
                Err(failed("Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?")),
                "the Docker daemon does not answer",
                "docker: Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?",
            ),
            (
                Tool::Kind,
                Err(CommandError::TimedOut { line, after: Duration::from_secs(20), output: Output::default() }),
                "kind did not tell its version",
                "kind: `kind version` did not end within 20 s; needed: >=0.20.0",
            ),
        ] {
            let failure = with(tool, result);
            assert_eq!(failure.kind, Kind::Prerequisite);
            assert_eq!(failure.message, sentence);
            assert_eq!(failure.facts, [fact]);
            assert_eq!(failure.next.len(), 1);
            assert!(failure.next[0].starts_with(&format!("{tool}: ")), "{}", failure.next[0]);
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        let found = BTreeMap::from([
            (Tool::Kind, Ok(Version::new(0, 11, 1))),
            (Tool::Helm, Err(CommandError::NotFound { tool: Tool::Helm })),
            (Tool::Kubectl, kubectl::parse_version(&out("\u{fffd}"))),
            (Tool::Docker, Ok(Version::new(27, 0, 0))),
        ]);
        let failure = judge(&required(), &found).unwrap_err();
        assert_eq!(failure.message, "kind 0.11.1 is too old; helm is not installed; kubectl did not tell its version");
        assert_eq!(failure.facts.len(), 3);
        assert_eq!(failure.next.len(), 3);
    }

    #[test]
    fn an_interruption_is_no_verdict() {
        let interrupted = CommandError::Interrupted { line: "kind version".into() };
        assert_eq!(with(Tool::Kind, Err(interrupted)).kind, Kind::Interrupted);
    }

    #[test]
    fn versions_are_found() {
        for (text, expected) in [
            ("v3.17.2+gcc0bbbd", Some((3, 17, 2))),
            ("20.10.24+dfsg1", Some((20, 10, 24))),
            ("19.03.8", Some((19, 3, 8))),
            ("27.5.1~3-0~deb", Some((27, 5, 1))),
            ("kind v0.27.0 go1.24.4", Some((0, 27, 0))),
            ("1.2", None),
            ("1.2.3.4", None),
            ("vvv", None),
            ("", None),
        ] {
            let found = find_version(text).map(|version| (version.major, version.minor, version.patch));
            assert_eq!(found, expected, "{text}");
        }
    }
}
