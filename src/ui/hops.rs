//! The answer to `upgrade --plan`, as a person reads it: the hops, what stands in the way, and what to know before.

use std::fmt::Write as _;

use semver::Version;

use crate::spire::path::{Answer, Hop, Order, Outcome};
use crate::spire::policy::Violation;
use crate::ui::style::{Style, count, duration, tame};
use crate::ui::table;

/// The text of `outcome`; the table fits `width`.
pub(super) fn render(outcome: &Outcome, width: Option<u16>, style: Style) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", headline(outcome, style));
    match outcome.verdict {
        Answer::Refused => violations(&mut text, &outcome.violations, style),
        Answer::NothingToDo => {}
        Answer::Allowed => {
            text.push('\n');
            text.push_str(&table::render(
                &["hop", "from", "to", "chart", "order", "can be undone", "time"],
                &rows(outcome),
                width,
            ));
            if !outcome.violations.is_empty() {
                text.push_str("\nat once it would break:\n");
                violations(&mut text, &outcome.violations, style);
            }
            on_the_way(&mut text, outcome, style);
        }
    }
    remarks(&mut text, &outcome.warnings, &style.warn("warning:"));
    remarks(&mut text, &outcome.risks, &style.warn("risk:"));
    text
}

fn headline(outcome: &Outcome, style: Style) -> String {
    let to = tame(&outcome.to.spire);
    let from = outcome.from.as_ref().map(|state| {
        let versions: Vec<String> = state.servers().iter().map(ToString::to_string).collect();
        format!("SPIRE {} to ", versions.join(" and "))
    });
    let way = format!("{}{to}", from.unwrap_or_else(|| "SPIRE to ".to_owned()));
    match outcome.verdict {
        Answer::Allowed => {
            let time = duration(outcome.expected_s * 1000);
            format!("{way}: {}, about {time}", count(outcome.hops.len(), "hop"))
        }
        Answer::Refused => format!("{} {way}", style.bad("refused:")),
        Answer::NothingToDo => format!("{way}: nothing to do"),
    }
}

fn rows(outcome: &Outcome) -> Vec<Vec<String>> {
    let row = |(n, hop): (usize, &Hop)| {
        vec![
            (n + 1).to_string(),
            hop.from.to_string(),
            hop.to.to_string(),
            chart(hop),
            hop.order.to_string(),
            undo(hop),
            duration(hop.expected_s * 1000),
        ]
    };
    outcome.hops.iter().enumerate().map(row).collect()
}

fn chart(hop: &Hop) -> String {
    match (&hop.chart_from, &hop.chart) {
        (Some(from), Some(to)) if from != to => format!("{from} -> {to}"),
        (_, Some(chart)) => chart.to_string(),
        (_, None) => "?".to_owned(),
    }
}

fn undo(hop: &Hop) -> String {
    match (hop.order, hop.closes.as_slice()) {
        (Order::Restore, _) => "no".to_owned(),
        (_, []) => "yes".to_owned(),
        (_, [first]) => format!("not to {first} without a backup"),
        (_, [first, .., last]) => format!("not to {first} .. {last} without a backup"),
    }
}

fn violations(text: &mut String, violations: &[Violation], style: Style) {
    for violation in violations {
        let _ = writeln!(text, "  {}  {}", style.strong(violation.rule), violation.rule.says());
        for fact in &violation.facts {
            let _ = writeln!(text, "    {}", tame(fact));
        }
        let _ = writeln!(text, "    way out: {}", tame(&violation.way_out));
        if let Some(flag) = &violation.skip_with {
            let _ = writeln!(text, "    or, knowing better: `{flag}`");
        }
    }
}

fn on_the_way(text: &mut String, outcome: &Outcome, style: Style) {
    let mut lines = Vec::new();
    for (n, hop) in outcome.hops.iter().enumerate() {
        let mut say = |what: String| lines.push(format!("  hop {}: {}", n + 1, tame(&what)));
        if let Some(restore) = &hop.restore {
            let name = if restore.backup.name.is_empty() { "the backup" } else { &restore.backup.name };
            let (schema, code) = (restore.backup.schema, &restore.backup.code_version);
            say(format!("restores {name} of {:.0} (schema {schema}, SPIRE {code})", restore.backup.taken_at));
            restore.lost.iter().for_each(|lost| say(format!("lost: {lost}")));
        }
        if let Some(crds) = &hop.crds {
            say(format!("chart spire-crds {crds} goes first"));
        }
        for note in outcome.traps.iter().filter(|note| hop.traps.contains(&note.id)) {
            say(format!("{}; {}", note.what, note.handling));
        }
        hop.notes.iter().for_each(|note| say(note.clone()));
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{}", style.strong("on the way:"));
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
}

fn remarks(text: &mut String, remarks: &[String], label: &str) {
    for (n, remark) in remarks.iter().enumerate() {
        text.push_str(if n == 0 { "\n" } else { "" });
        let _ = writeln!(text, "{label} {}", tame(remark));
    }
}

/// The command that carries the plan out, for the line of next commands.
pub(super) fn next(outcome: &Outcome) -> Vec<String> {
    let moved = |from: &Option<Version>, to: &Option<Version>| from.is_some() && from != to;
    match outcome.verdict {
        Answer::Allowed => {
            let charts = outcome.hops.iter().any(|hop| moved(&hop.chart_from, &hop.chart));
            let chart = if charts { format!(" --chart {}", outcome.chart_choice) } else { String::new() };
            vec![format!("coastal upgrade --to {}{chart}", tame(&outcome.to.spire))]
        }
        Answer::Refused | Answer::NothingToDo => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spire::path::{Options, what_if};
    use crate::spire::policy::{Seen, Target};

    const STYLE: Style = Style { colour: false, unicode: true };

    fn rendered(spire: &serde_json::Value, to: &str, choice: &str, backups: &[serde_json::Value]) -> String {
        let seen = Seen::from_json(&json!({ "spire": spire })).unwrap();
        let backups = backups.iter().map(|backup| serde_json::from_value(backup.clone()).unwrap()).collect();
        let options = Options { backups, ..Options::default() };
        let outcome = what_if(&seen, &Target::parse(to).unwrap(), to, &choice.parse().unwrap(), &options);
        render(&outcome, None, STYLE)
    }

    #[test]
    fn a_chain() {
        let spire = json!({"servers": ["1.13.6"], "agents": ["1.12.6"], "schema": 23, "code_version": "1.13.6", "chart": "0.27.1"});
        insta::assert_snapshot!(rendered(&spire, "1.15.3", "keep", &[]));
    }

    #[test]
    fn a_chain_with_charts() {
        let spire = json!({"servers": ["1.12.6"], "agents": ["1.12.6"], "schema": 23, "code_version": "1.12.6", "chart": "0.26.1"});
        insta::assert_snapshot!(rendered(&spire, "1.13.6", "follow", &[]));
    }

    #[test]
    fn a_way_down_over_a_backup() {
        let spire = json!({"servers": ["1.14.7"], "agents": ["1.14.7"], "schema": 25, "code_version": "1.15.3"});
        let backup =
            json!({"name": "spire-db.sql", "schema": 24, "code_version": "1.14.7", "taken_at": "2026-08-20T10:00:00Z"});
        insta::assert_snapshot!(rendered(&spire, "1.13.6", "keep", &[backup]));
    }

    #[test]
    fn a_refusal() {
        let spire = json!({"servers": ["1.15.3"], "agents": ["1.15.3"], "schema": 25, "code_version": "1.15.3", "chart": "0.18.2"});
        insta::assert_snapshot!(rendered(&spire, "1.15.3", "follow", &[]));
        let spire = json!({"servers": ["latest\u{1b}[2J"]});
        insta::assert_snapshot!(rendered(&spire, "1.15.4", "keep", &[]));
    }

    #[test]
    fn nothing_to_do() {
        let spire = json!({"servers": ["1.15.3"], "agents": ["1.15.3"]});
        assert_eq!(rendered(&spire, "1.15.3", "keep", &[]), "SPIRE 1.15.3 to 1.15.3: nothing to do\n");
    }
}
