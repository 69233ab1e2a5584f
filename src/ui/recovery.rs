//! What is broken, on one screen; and how an outage went.

use std::fmt::Write as _;

use serde_json::Value;

use super::style::{Style, duration, tame};
use super::table;
use crate::spire::recovery::{Budget, Condition, Diagnosis, Scorecard};
use crate::workload::meter::{Figure, Verdict};

/// Planes, what follows from what is lost, and the way back.
#[must_use]
pub(super) fn render(diagnosis: &Diagnosis, style: Style, width: Option<u16>) -> String {
    let mut rows = Vec::new();
    for row in &diagnosis.planes {
        rows.push(vec![row.plane.word().to_owned(), row.condition.word().to_owned(), tame(&row.seen)]);
    }
    let mut text = table::render(&["what", "is", "seen"], &rows, width);
    if let Some(current) = &diagnosis.current {
        let chart = current.chart.as_ref().map_or_else(String::new, |chart| format!(", chart {chart}"));
        let _ = writeln!(
            text,
            "\ncurrent: SPIRE {}, agents {}{chart} ({})",
            current.server,
            current.agent,
            current.because()
        );
    }
    if let Some(outlook) = &diagnosis.outlook {
        let _ = writeln!(text, "what follows:");
        for line in outlook.words() {
            let _ = writeln!(text, "  {line}");
        }
    }
    if let Some(budget) = &diagnosis.budget {
        let _ = writeln!(text, "{}", budget_line(budget, style));
    }
    if diagnosis.is_healthy() {
        let _ = writeln!(text, "{}", style.good("nothing is broken"));
        return text;
    }
    let _ = writeln!(text, "the way back:");
    for needed in &diagnosis.way {
        let name = serde_json::to_value(needed.part).ok().and_then(|name| Some(name.as_str()?.to_owned()));
        let _ = writeln!(text, "  {:<18} {}", name.unwrap_or_default(), tame(&needed.because));
    }
    let lost = diagnosis.planes.iter().any(|row| row.condition == Condition::Lost);
    if lost {
        let _ = writeln!(text, "{}", style.warn("what is LOST only a backup brings back; without one, it begins anew"));
    }
    text
}

fn budget_line(budget: &Budget, style: Style) -> String {
    let left = budget.whole_ms - budget.used_ms;
    let line = format!(
        "outage budget: the first SVID expires at {:.0}, in {} of {}",
        budget.first_expiry,
        duration(left),
        duration(budget.whole_ms)
    );
    if budget.is_spent() {
        style.bad(format!("{line}: nothing is left"))
    } else if budget.half_is_gone() {
        style.warn(format!("{line}: more than half is gone"))
    } else {
        line
    }
}

/// A step's report, if it is a scorecard: the lines to print.
#[must_use]
pub(super) fn details(report: &Value, style: Style, width: Option<u16>) -> Vec<String> {
    if report["kind"] != "scorecard" {
        return Vec::new();
    }
    let Ok(card) = serde_json::from_value::<Scorecard>(report.clone()) else { return Vec::new() };
    scorecard(&card, style, width).lines().map(|line| format!("  {line}")).collect()
}

fn scorecard(card: &Scorecard, style: Style, width: Option<u16>) -> String {
    let known = |ms: Option<u64>| ms.map_or_else(|| "not known".to_owned(), span);
    let title = card.drill.as_ref().map_or_else(|| "recovery".to_owned(), |drill| format!("drill {drill}"));
    let total: u64 = card.workloads.iter().map(|pod| pod.no_valid_svid_ms.at_least()).sum();
    let verdict = match card.verdict {
        Verdict::Unbroken => style.good("0 ms without a valid SVID"),
        Verdict::Broken => style.bad(format!("at least {} without a valid SVID, all pods together", span(total))),
        Verdict::Unknown => style.warn("not all of it is known"),
    };
    let new_pods = &card.new_pods;
    let mut rows = vec![
        ("scorecard", title),
        ("time to detect", known(card.detected_ms)),
        ("time to recover", span(card.recovered_ms)),
        ("workloads", verdict),
        (
            "new pods",
            format!(
                "{} started, {} without identity the longest, {} still without",
                new_pods.started,
                figure(&new_pods.longest_without_identity_ms),
                new_pods.still_without_identity
            ),
        ),
        (
            "identities lost",
            if card.identities_lost.is_empty() { "none".to_owned() } else { tame(&card.identities_lost.join(", ")) },
        ),
    ];
    if let Some(current) = &card.current {
        rows.push(("versions", format!("servers {}, agents {}", current.server, current.agent)));
    }
    if let Some(budget) = &card.budget {
        let used = format!("{} of {} used", span(budget.used_ms), span(budget.whole_ms));
        let words = if budget.half_is_gone() { style.warn(format!("{used}: more than half is gone")) } else { used };
        rows.push(("outage budget", words));
    }
    if let Some(cover) = &card.cover {
        rows.push(("backup", tame(cover)));
    }
    let mut text = String::new();
    for (name, words) in rows {
        let _ = writeln!(text, "{name:<16} {words}");
    }
    if card.workloads.iter().any(|pod| pod.no_valid_svid_ms.at_least() + pod.api_silent_ms.at_least() > 0) {
        let rows: Vec<Vec<String>> = card
            .workloads
            .iter()
            .map(|pod| vec![tame(&pod.pod), figure(&pod.no_valid_svid_ms), figure(&pod.api_silent_ms)])
            .collect();
        text.push_str(&table::render(&["pod", "no valid SVID", "API silent"], &rows, width));
    }
    text
}

fn figure(figure: &Figure) -> String {
    match figure {
        Figure::Known(ms) => span(*ms),
        Figure::Unknown { at_least: 0, .. } => "unknown".into(),
        Figure::Unknown { at_least, .. } => format!("at least {}", span(*at_least)),
    }
}

/// Milliseconds as long as those are what counts.
fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        _ => duration(ms),
    }
}
