//! What the checks said, for a person, for code scanning and for CI.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::findings::{self, Case, Ended, Hit, Rule};
use super::style::{Style, count, tame};
use crate::checks::{Answer, Category, Check, Level, Outcome, Report};

/// One line a check, the details of what is wrong below it, and the sum. Without `all` a category in which everything
/// is well takes one line.
#[must_use]
pub(super) fn render(report: &Report, all: bool, style: Style) -> String {
    let mut text = String::new();
    for category in Category::ALL {
        let answers: Vec<&Answer> = report.answers.iter().filter(|answer| answer.category == category).collect();
        if answers.is_empty() {
            continue;
        }
        let of = |outcome| answers.iter().filter(|answer| answer.outcome == outcome).count();
        let (passed, skipped) = (of(Outcome::Passed), of(Outcome::Skipped));
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} do not apply") };
        let _ = writeln!(text, "{} {passed} of {} passed{skipped}", style.strong(category), answers.len());
        for answer in answers {
            let quiet = matches!(answer.outcome, Outcome::Passed | Outcome::Skipped);
            if all || !quiet {
                let _ = write_answer(&mut text, answer, style);
            }
        }
    }
    let counts = report.counts;
    let mut parts = vec![format!("{} passed", counts.passed)];
    for (number, what) in [(counts.errors, "error"), (counts.warnings, "warning"), (counts.notes, "note")] {
        if number > 0 {
            parts.push(count(number, what));
        }
    }
    if counts.unknown > 0 {
        parts.push(format!("{} could not be seen", counts.unknown));
    }
    let parts = parts.join(", ");
    let verdict = match (counts.errors, counts.warnings + counts.unknown) {
        (0, 0) => style.good(parts),
        (0, _) => style.warn(parts),
        _ => style.bad(parts),
    };
    let _ = writeln!(text, "{}: {verdict}", count(report.answers.len(), "check"));
    text
}

fn write_answer(text: &mut String, answer: &Answer, style: Style) -> std::fmt::Result {
    let words = match answer.outcome {
        Outcome::Failed => answer.level.word(),
        other => other.word(),
    };
    let padded = format!("{words:<8}");
    let mark = match (answer.outcome, answer.level) {
        (Outcome::Passed, _) => style.good(padded),
        (Outcome::Failed, Level::Error) => style.bad(padded),
        (Outcome::Failed, Level::Warning) | (Outcome::Unknown, _) => style.warn(padded),
        _ => style.faint(padded),
    };
    writeln!(text, "  {mark} {:<26} {}", answer.id, tame(&answer.message))?;
    // A fact that the message is made of needs no second line.
    for fact in answer.facts.iter().filter(|fact| !answer.message.contains(fact.as_str())) {
        writeln!(text, "             {}", tame(fact))?;
    }
    for next in &answer.next {
        writeln!(text, "             {} {}", style.faint("next:"), tame(next))?;
    }
    for fix in &answer.fixes {
        writeln!(text, "             {} {}", style.faint("--fix:"), tame(fix))?;
    }
    Ok(())
}

/// The list of checks, as rows under `id`, `level`, `title`.
#[must_use]
pub(super) fn rows(checks: &[&Check]) -> Vec<Vec<String>> {
    let marks = |check: &Check| {
        let marks = [("before up", check.before_up), ("fix", check.mend.is_some())];
        marks.iter().filter(|(_, is)| *is).map(|(mark, _)| *mark).collect::<Vec<_>>().join(", ")
    };
    checks
        .iter()
        .map(|check| vec![check.id.to_owned(), check.level.word().to_owned(), marks(check), check.title.to_owned()])
        .collect()
}

/// The list of checks, for a program.
#[must_use]
pub(super) fn list(checks: &[&Check]) -> Value {
    let check = |check: &&Check| {
        json!({
            "id": check.id, "category": check.category, "level": check.level, "before_up": check.before_up,
            "fix": check.mend.is_some(), "title": check.title, "why": check.why, "hint": check.hint, "doc": check.doc(),
        })
    };
    json!({"schema": 1, "checks": checks.iter().map(check).collect::<Vec<_>>()})
}

/// SARIF: what failed, and as notes what could not be seen.
#[must_use]
pub(super) fn sarif(report: &Report, checks: &[&Check], lab: &str) -> Value {
    let rule = |check: &&Check| Rule { id: check.id, title: check.title, help: check.why, level: check.level };
    let rules: Vec<_> = checks.iter().map(rule).collect();
    let hit = |answer: &Answer| Hit {
        rule: answer.id.to_owned(),
        level: if answer.outcome == Outcome::Failed { answer.level } else { Level::Note },
        subject: answer.id.to_owned(),
        message: answer.message.clone(),
        properties: json!(answer),
    };
    let open = report.answers.iter().filter(|answer| matches!(answer.outcome, Outcome::Failed | Outcome::Unknown));
    findings::sarif(report.at, &rules, open.map(hit).collect(), lab)
}

/// JUnit: each check is a test; what could not be seen is skipped, and fails a strict run.
#[must_use]
pub(super) fn junit(report: &Report, strict: bool) -> String {
    let fails = |level: Level| level == Level::Error || (strict && level == Level::Warning);
    let case = |answer: &Answer| {
        let lines = || std::iter::once(answer.message.clone()).chain(answer.facts.clone()).collect();
        let ended = match answer.outcome {
            Outcome::Passed => Ended::Passed,
            Outcome::Failed if fails(answer.level) => Ended::Failed(answer.level, lines()),
            Outcome::Failed => Ended::Said(lines()),
            Outcome::Unknown if strict => Ended::Failed(answer.level, lines()),
            Outcome::Unknown | Outcome::Skipped => Ended::Skipped(answer.message.clone()),
        };
        Case { class: answer.id.to_owned(), name: answer.title.to_owned(), ended }
    };
    findings::junit("coastal check", report.at, &report.answers.iter().map(case).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::checks::Counts;

    const PLAIN: Style = Style { colour: false, unicode: true };

    fn report() -> Report {
        let answer = |id, outcome, message: &str| Answer {
            id,
            category: if id == "host-kind" { Category::Host } else { Category::Spire },
            level: Level::Error,
            title: "it is so",
            outcome,
            message: message.to_owned(),
            facts: Vec::new(),
            next: Vec::new(),
            fixes: Vec::new(),
            doc: format!("docs/checks.md#{id}"),
        };
        Report {
            schema: 1,
            lab: "day-two".into(),
            at: Timestamp::UNIX_EPOCH,
            counts: Counts { passed: 1, errors: 1, unknown: 1, ..Counts::default() },
            answers: vec![
                answer("host-kind", Outcome::Passed, "kind 0.27.0"),
                Answer {
                    facts: vec!["spire-server-2 does not \u{1b}[31manswer".into()],
                    next: vec!["`coastal logs server`".into()],
                    fixes: vec!["kubectl delete pod".into()],
                    ..answer("spire-servers", Outcome::Failed, "2 of 3 servers answer")
                },
                answer("spire-schema", Outcome::Unknown, "no login"),
            ],
        }
    }

    #[test]
    fn for_a_person() {
        insta::assert_snapshot!(render(&report(), false, PLAIN));
        assert!(render(&report(), true, PLAIN).contains("passed   host-kind                  kind 0.27.0"));
    }

    #[test]
    fn for_code_scanning_and_for_ci() {
        let sarif = sarif(&report(), &[], "lab.toml");
        let results = sarif["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        assert_eq!((&results[0]["ruleId"], &results[0]["level"]), (&json!("spire-servers"), &json!("error")));
        assert_eq!(results[1]["level"], "note");
        let text = junit(&report(), false);
        assert!(text.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{text}");
        assert!(junit(&report(), true).contains("failures=\"2\""));
    }
}
