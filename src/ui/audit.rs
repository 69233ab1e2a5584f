//! What an audit found, for a person, for code scanning (SARIF) and for CI (JUnit).

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::findings::{self, Case, Ended, Hit};
use super::style::{Style, count, tame};
use super::table;
use crate::spire::audit::{Audit, Finding, Level, Rule};

/// The findings as a table, what stands behind each, and the sum.
#[must_use]
pub(super) fn render(audit: &Audit, style: Style, width: Option<u16>) -> String {
    let mut text = String::new();
    if !audit.findings.is_empty() {
        let rows: Vec<Vec<String>> = audit.findings.iter().map(row).collect();
        text.push_str(&table::render(&["level", "rule", "subject", "until"], &rows, width));
        text.push('\n');
    }
    for finding in &audit.findings {
        let _ = writeln!(text, "{}", mark(finding, style));
        let _ = writeln!(text, "  {}", tame(&finding.message));
        if !finding.holders.is_empty() {
            let _ = writeln!(text, "  who can present it: {}", tame(&finding.holders.join("; ")));
        }
        if let Some(until) = finding.until.filter(|_| finding.rule == Rule::UnrecognisedId) {
            let _ =
                writeln!(text, "  until {until:.0} at the latest: what was issued stays valid, SPIRE revokes no SVID");
        }
        if let Some(next) = &finding.next {
            let _ = writeln!(text, "  next: `{}`", tame(next));
        }
    }
    for unknown in &audit.unknown {
        let _ = writeln!(text, "{} {}", style.faint("not looked at:"), tame(unknown));
    }
    let seen = audit.seen;
    let looked = [
        if seen.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", seen.entries) },
        count(seen.pods, "pod"),
        count(seen.agents, "agent"),
        if seen.authorities == 1 { "1 authority".to_owned() } else { format!("{} authorities", seen.authorities) },
    ];
    let verdict = match (audit.count(Level::Error), audit.count(Level::Warning)) {
        (0, 0) => style.good("everything is recognised"),
        (0, warnings) => style.warn(format!("everything is recognised, {}", count(warnings, "warning"))),
        (errors, warnings) => style.bad(format!("{errors} not recognised, {}", count(warnings, "warning"))),
    };
    let _ = writeln!(text, "{}: {verdict}", looked.join(", "));
    text
}

fn row(finding: &Finding) -> Vec<String> {
    let until = finding.until.map(|until| format!("{until:.0}")).unwrap_or_default();
    vec![finding.level.word().to_owned(), finding.rule.id().to_owned(), tame(&finding.subject), until]
}

fn mark(finding: &Finding, style: Style) -> String {
    let words = format!("{} {}", finding.level.word(), finding.rule.id());
    let words = match finding.level {
        Level::Error => style.bad(words),
        Level::Warning => style.warn(words),
        Level::Note => style.faint(words),
    };
    format!("{words}  {}", tame(&finding.subject))
}

/// SARIF. The file is that of the allow-list.
#[must_use]
pub(super) fn sarif(audit: &Audit, lab: &str) -> Value {
    let rule =
        |rule: &Rule| findings::Rule { id: rule.id(), title: rule.title(), help: rule.help(), level: rule.level() };
    let rules: Vec<_> = Rule::ALL.iter().map(rule).collect();
    let hits = audit.findings.iter().map(|finding| Hit {
        rule: finding.rule.id().to_owned(),
        level: finding.level,
        subject: finding.subject.clone(),
        message: finding.message.clone(),
        properties: json!(finding),
    });
    findings::sarif(audit.at, &rules, hits.collect(), lab)
}

/// JUnit: each rule is a test, which fails with its findings if they are errors (`strict`: or warnings).
#[must_use]
pub(super) fn junit(audit: &Audit, strict: bool) -> String {
    let fails = |level: Level| level == Level::Error || (strict && level == Level::Warning);
    let case = |rule: &Rule| {
        let found = audit.findings.iter().filter(|finding| finding.rule == *rule);
        let lines: Vec<String> = found.map(|finding| format!("{}: {}", finding.subject, finding.message)).collect();
        let ended = match (lines.is_empty(), fails(rule.level())) {
            (true, _) => Ended::Passed,
            (false, true) => Ended::Failed(rule.level(), lines),
            (false, false) => Ended::Said(lines),
        };
        Case { class: rule.id().to_owned(), name: format!("no case of: {}", rule.title()), ended }
    };
    findings::junit("coastal audit", audit.at, &Rule::ALL.iter().map(case).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::spire::audit::Seen;

    fn audit() -> Audit {
        let finding = |rule: Rule, subject: &str, message: &str| Finding {
            rule,
            level: rule.level(),
            subject: subject.into(),
            message: message.into(),
            entries: vec!["e1".into()],
            entry_count: 1,
            holders: vec!["pirate-coast/pirate-ship-1 on kind-worker".into()],
            until: Timestamp::from_second(1_700_003_600).ok(),
            next: Some(format!("coastal contain {subject}")),
        };
        Audit {
            schema: 1,
            at: Timestamp::from_second(1_700_000_000).unwrap(),
            trust_domain: "td".into(),
            seen: Seen { entries: 21, pods: 22, agents: 1, authorities: 6 },
            findings: vec![
                finding(
                    Rule::UnrecognisedId,
                    "spiffe://td/ns/pirate-coast/sa/\u{1b}[31mship",
                    "an entry gives <it> & \"more\"",
                ),
                Finding {
                    next: None,
                    ..finding(Rule::Admin, "spiffe://td/x", "an entry makes whoever holds it mighty")
                },
            ],
            unknown: vec!["which authorities are spire-server-0's own: SPIRE 1.7.2 cannot tell, 1.11 can".into()],
        }
    }

    const PLAIN: Style = Style { colour: false, unicode: true };

    #[test]
    fn for_a_person() {
        insta::assert_snapshot!(render(&audit(), PLAIN, None));
        let clean = Audit { findings: Vec::new(), unknown: Vec::new(), ..audit() };
        assert_eq!(
            render(&clean, PLAIN, None),
            "21 entries, 22 pods, 1 agent, 6 authorities: everything is recognised\n"
        );
    }

    #[test]
    fn for_code_scanning() {
        let sarif = sarif(&audit(), "lab.toml");
        let run = &sarif["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), Rule::ALL.len());
        assert_eq!(run["results"][0]["ruleId"], "AUDIT-UNRECOGNISED-ID");
        assert_eq!(run["results"][1]["level"], "warning");
        assert_eq!(run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "lab.toml");
    }

    #[test]
    fn for_ci() {
        let text = junit(&audit(), false);
        assert!(text.contains("tests=\"14\" failures=\"1\""), "{text}");
        assert!(text.contains("an entry gives &lt;it&gt; &amp; &quot;more&quot;"), "{text}");
        assert!(!text.contains('\u{1b}'), "what XML cannot hold is not in it");
        assert!(text.contains("<system-out>spiffe://td/x: an entry makes"), "{text}");
        assert!(junit(&audit(), true).contains("failures=\"2\""));
    }
}
