//! What several commands find, for code scanning (SARIF) and for CI (JUnit).

use super::xml::escaped;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::spire::audit::Level;

/// What is looked for.
pub(super) struct Rule<'a> {
    /// Its public id.
    pub(super) id: &'a str,
    /// What it says, in a few words.
    pub(super) title: &'a str,
    /// Why that matters.
    pub(super) help: &'a str,
    /// How bad a finding of it is.
    pub(super) level: Level,
}

/// One finding.
pub(super) struct Hit {
    /// The rule's id.
    pub(super) rule: String,
    /// How bad.
    pub(super) level: Level,
    /// What it is about.
    pub(super) subject: String,
    /// In words.
    pub(super) message: String,
    /// All of it.
    pub(super) properties: Value,
}

/// SARIF 2.1.0. Code scanning shows only what is about a file: that is the lab's, `lab`.
#[must_use]
pub(super) fn sarif(at: Timestamp, rules: &[Rule<'_>], hits: Vec<Hit>, lab: &str) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id, "shortDescription": {"text": rule.title}, "help": {"text": rule.help},
                "defaultConfiguration": {"level": rule.level.word()},
            })
        })
        .collect();
    let results: Vec<Value> = hits
        .into_iter()
        .map(|hit| {
            json!({
                "ruleId": hit.rule, "level": hit.level.word(),
                "message": {"text": format!("{}: {}", hit.subject, hit.message)},
                "partialFingerprints": {"coastal/v1": format!("{}|{}", hit.rule, hit.subject)},
                "locations": [{
                    "physicalLocation": {"artifactLocation": {"uri": lab}, "region": {"startLine": 1}},
                    "logicalLocations": [{"fullyQualifiedName": hit.subject, "kind": "resource"}],
                }],
                "properties": hit.properties,
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "coastal", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "invocations": [{"executionSuccessful": true, "endTimeUtc": format!("{at:.0}")}],
            "results": results,
        }],
    })
}

/// How a test of a JUnit report ended.
pub(super) enum Ended {
    /// Well.
    Passed,
    /// Not well: how bad, and what was found, one line each.
    Failed(Level, Vec<String>),
    /// Well enough, and yet there is something to say.
    Said(Vec<String>),
    /// Not at all, and why.
    Skipped(String),
}

/// A test of a JUnit report.
pub(super) struct Case {
    /// What it is of: the rule's id.
    pub(super) class: String,
    /// What is so when it ends well.
    pub(super) name: String,
    /// How it ended.
    pub(super) ended: Ended,
}

/// JUnit.
#[must_use]
pub(super) fn junit(suite: &str, at: Timestamp, cases: &[Case]) -> String {
    let of = |is: fn(&Ended) -> bool| cases.iter().filter(|case| is(&case.ended)).count();
    let (tests, failed) = (cases.len(), of(|ended| matches!(ended, Ended::Failed(..))));
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let skipped = match of(|ended| matches!(ended, Ended::Skipped(_))) {
        0 => String::new(),
        skipped => format!(" skipped=\"{skipped}\""),
    };
    let _ = writeln!(
        text,
        "<testsuites><testsuite name=\"{}\" timestamp=\"{at:.0}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\"{skipped}>",
        escaped(suite)
    );
    for case in cases {
        let _ = write!(text, "<testcase classname=\"{}\" name=\"{}\"", escaped(&case.class), escaped(&case.name));
        let _ = match &case.ended {
            Ended::Passed => writeln!(text, "/>"),
            Ended::Failed(level, lines) => writeln!(
                text,
                "><failure type=\"{}\" message=\"{}\">{}</failure></testcase>",
                level.word(),
                escaped(lines.first().map(String::as_str).unwrap_or_default()),
                escaped(&lines.join("\n"))
            ),
            Ended::Said(lines) => {
                writeln!(text, "><system-out>{}</system-out></testcase>", escaped(&lines.join("\n")))
            }
            Ended::Skipped(why) => writeln!(text, "><skipped message=\"{}\"/></testcase>", escaped(why)),
        };
    }
    text.push_str("</testsuite></testsuites>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_not_in_it() {
        let case = |ended| Case { class: "a<b".into(), name: "\u{1}\"".into(), ended };
        let cases = [case(Ended::Passed), case(Ended::Skipped("x&y".into()))];
        let text = junit("s", Timestamp::UNIX_EPOCH, &cases);
        assert!(text.contains("tests=\"2\" failures=\"0\" errors=\"0\" skipped=\"1\""), "{text}");
        assert!(text.contains("classname=\"a&lt;b\" name=\"\u{fffd}&quot;\""), "{text}");
        assert!(text.contains("<skipped message=\"x&amp;y\"/>"), "{text}");
    }
}
