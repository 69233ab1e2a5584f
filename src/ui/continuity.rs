//! What the continuity meter found of single pods, as a person reads it.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::style::{duration, tame};
use super::table;
use crate::workload::meter::{Figure, Issuers, PodReport, Report, Total};
use crate::workload::record::State;

/// The most lines of gaps, silences and holes that are shown unless more is asked for.
const MOST: usize = 10;

/// What a step reported, if that is the meter's report: the lines to print beside the step's own, which has the sums
/// (the report's [`Display`](std::fmt::Display)). Pod by pod if one lost its identity, or if it is asked for.
#[must_use]
pub(super) fn details(report: &Value, verbose: bool, width: Option<u16>) -> Vec<String> {
    // Any other report is another step's.
    serde_json::from_value(report.clone()).map(|report| lines(&report, verbose, width)).unwrap_or_default()
}

fn lines(report: &Report, verbose: bool, width: Option<u16>) -> Vec<String> {
    let pods: Vec<&PodReport> = report.pods.iter().filter(|pod| verbose || has_something_to_say(pod)).collect();
    let mut lines: Vec<String> = remarks(&report.total).iter().map(|remark| tame(remark)).collect();
    if pods.is_empty() {
        return lines.into_iter().map(|line| format!("  {line}")).collect();
    }
    let head = ["pod", "no valid SVID", "API silent", "without identity", "renewals", "issuers"];
    let rows: Vec<Vec<String>> = pods.iter().map(|pod| row(pod)).collect();
    lines.extend(table::render(&head, &rows, width.map(|width| width.saturating_sub(2))).lines().map(str::to_owned));
    let events: Vec<String> = pods.iter().flat_map(|pod| events(pod, report.window.start)).collect();
    let shown = if verbose { events.len() } else { MOST.min(events.len()) };
    lines.extend(events.iter().take(shown).map(|event| tame(event)));
    if events.len() > shown {
        lines.push(format!("and {} more; `-v` shows all", events.len() - shown));
    }
    lines.into_iter().map(|line| format!("  {line}")).collect()
}

/// What the sums do not show.
fn remarks(total: &Total) -> Vec<String> {
    let mut remarks = Vec::new();
    for (figure, longest, what) in [
        (&total.no_valid_svid_ms, &total.longest_no_valid_svid_ms, "longest time without a valid SVID"),
        (&total.api_silent_ms, &total.longest_api_silent_ms, "longest silence of the Workload API"),
    ] {
        if figure.at_least() > 0 {
            remarks.push(format!("{what}: {}", self::figure(longest)));
        }
    }
    let new = &total.new_pods;
    for (count, what) in [(new.still_without_identity, "started and got no SVID"), (new.not_started, "did not start")] {
        if count > 0 {
            remarks.push(format!("pods that {what}: {count}"));
        }
    }
    if total.issuers_before != total.issuers_after {
        remarks.push(format!("issuers: {} -> {}", issuers(&total.issuers_before), issuers(&total.issuers_after)));
    }
    remarks
}

/// A silence of the Workload API is what every agent that restarts makes: the sums say it.
fn has_something_to_say(pod: &PodReport) -> bool {
    [&pod.no_valid_svid_ms, &pod.without_identity_ms].iter().any(|figure| **figure != Figure::Known(0))
        || pod.api_silent_ms.known().is_none()
}

fn row(pod: &PodReport) -> Vec<String> {
    let both = if pod.issuers_before == pod.issuers_after {
        issuers(&pod.issuers_after)
    } else {
        format!("{} -> {}", issuers(&pod.issuers_before), issuers(&pod.issuers_after))
    };
    vec![
        tame(&pod.name),
        figure(&pod.no_valid_svid_ms),
        figure(&pod.api_silent_ms),
        figure(&pod.without_identity_ms),
        number(&pod.renewals),
        both,
    ]
}

/// What happened to a pod, one line each, with the time since the window began.
fn events(pod: &PodReport, start: Timestamp) -> Vec<String> {
    let line = |begin: Timestamp, end: Timestamp, what: String| {
        let after = after(begin.duration_since(start));
        let lasted = u64::try_from(end.duration_since(begin).as_millis()).unwrap_or_default();
        (begin, format!("{after}  {}  {} for {}", pod.name, what, span(lasted)))
    };
    let gaps = pod.gaps.iter().map(|gap| line(gap.begin, gap.end, format!("no valid SVID ({})", gap.cause)));
    let silences = pod
        .silences
        .iter()
        .map(|silence| line(silence.begin, silence.end, format!("Workload API silent ({})", state(silence.state))));
    let waits = pod.waits.iter().map(|wait| line(wait.start, wait.end, "started, no SVID yet".into()));
    let unknowns =
        pod.unknowns.iter().map(|unknown| line(unknown.begin, unknown.end, format!("unknown ({})", unknown.why)));
    let mut lines: Vec<_> = gaps.chain(silences).chain(waits).chain(unknowns).collect();
    lines.sort();
    lines.dedup();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn state(state: Option<State>) -> &'static str {
    match state {
        None => "no answer yet",
        Some(State::Following) => "following",
        Some(State::NoIdentity) => "no identity issued",
        Some(State::Unreachable) => "unreachable",
        Some(State::Lost) => "stream lost",
        Some(State::Refused) => "refused",
        Some(State::Unreadable) => "unreadable answer",
        Some(State::Stopped) => "stopped",
    }
}

/// A figure in milliseconds.
fn figure(figure: &Figure) -> String {
    match figure {
        Figure::Known(ms) => span(*ms),
        Figure::Unknown { at_least: 0, .. } => "unknown".into(),
        Figure::Unknown { at_least, .. } => format!("at least {}", span(*at_least)),
    }
}

fn number(figure: &Figure) -> String {
    match figure {
        Figure::Known(number) => number.to_string(),
        Figure::Unknown { at_least: 0, .. } => "unknown".into(),
        Figure::Unknown { at_least, .. } => format!("at least {at_least}"),
    }
}

/// Key ids by their beginnings, as far as anybody compares them by eye.
fn issuers(issuers: &Issuers) -> String {
    let mut ids: Vec<String> = issuers.key_ids.iter().map(|id| id.chars().take(8).collect()).collect();
    if issuers.unknown.is_some() {
        ids.push("unknown".into());
    }
    if ids.is_empty() { "none".into() } else { tame(&ids.join(", ")) }
}

/// Milliseconds as long as those are what counts.
fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        _ => duration(ms),
    }
}

fn after(since: SignedDuration) -> String {
    let ms = u64::try_from(since.as_millis()).unwrap_or_default();
    format!("+{}", duration(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::meter::{Life, Line, Observation, Pod, TOLERANCE, Unread, Update, Window, measure};
    use crate::workload::record::{Connection, SCHEMA};

    fn at(seconds: i64) -> Timestamp {
        "2026-08-21T14:30:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
    }

    fn update(seconds: i64, sequence: u64, lasts: i64, anchor: &str) -> Line {
        Line::Update(Update {
            schema: SCHEMA,
            sequence,
            svid: 0,
            received_at: Some(at(seconds)),
            spiffe_id: "spiffe://td/w".into(),
            hint: None,
            serial: Some(seconds.to_string()),
            not_before: at(seconds - 10),
            not_after: at(seconds + lasts),
            issuer_key_id: Some(anchor.into()),
            anchor_key_id: Some(anchor.into()),
            bundle_key_ids: vec!["581f4445ef32449e".into(), "aa01".into()],
            authorities: 2,
            verified: Some(true),
        })
    }

    fn says(seconds: i64, state: State) -> Line {
        let message = String::new();
        Line::Connection(Connection { schema: SCHEMA, at: at(seconds), state, message, attempts: 1, after_ms: 0 })
    }

    fn pod(name: &str, started: i64, lines: Vec<Line>) -> Pod {
        let life = Life { started_at: at(started), ended_at: None, whole: true, lines, unread: None };
        Pod { name: name.into(), uid: name.into(), created_at: at(started), lives: vec![life] }
    }

    fn steady(name: &str) -> Pod {
        let lines =
            vec![says(-99, State::Following), update(-99, 1, 9000, "aa01"), update(30, 2, 9000, "581f4445ef32449e")];
        pod(name, -100, lines)
    }

    fn shown(pods: Vec<Pod>, verbose: bool) -> String {
        let window = Window { start: at(0), end: at(125) };
        let observation = Observation {
            window,
            spiffe_id: Some("spiffe://td/w".into()),
            pods,
            lost: Vec::new(),
            tolerance: TOLERANCE,
        };
        details(&serde_json::to_value(measure(&observation)).unwrap(), verbose, None).join("\n")
    }

    #[test]
    fn all_is_well() {
        assert_eq!(shown(vec![steady("ship-1"), steady("ship-2")], false), "  issuers: aa01 -> 581f4445");
        insta::assert_snapshot!("continuity_verbose", shown(vec![steady("ship-1"), steady("ship-2")], true));
        assert_eq!(details(&serde_json::json!({"schema": 1}), true, None), Vec::<String>::new());
    }

    #[test]
    fn something_happened() {
        let late = vec![
            says(-99, State::Following),
            update(-99, 1, 119, "aa01"),
            says(10, State::Lost),
            says(11, State::Unreachable),
            says(42, State::Following),
            update(42, 2, 900, "aa01"),
        ];
        let new = vec![says(50, State::NoIdentity), says(57, State::Following), update(57, 1, 900, "aa01")];
        let pods = vec![steady("ship-1"), pod("ship-2", -100, late), pod("ship-3", 50, new)];
        insta::assert_snapshot!("continuity_broken", shown(pods, false));
    }

    #[test]
    fn data_was_lost() {
        let mut gone = steady("ship-2");
        gone.lives[0].unread =
            Some(Unread { since: None, why: "the pod is gone, and its log with it\u{1b}[2J".into() });
        insta::assert_snapshot!("continuity_unknown", shown(vec![steady("ship-1"), gone], false));
    }

    #[test]
    fn a_long_list_is_cut_unless_asked_for() {
        let flapping = (0..30).flat_map(|n| [says(2 * n, State::Lost), says(2 * n + 1, State::Following)]);
        let lines: Vec<Line> =
            [says(-99, State::Following), update(-99, 1, 99, "aa01")].into_iter().chain(flapping).collect();
        let text = shown(vec![pod("ship-1", -100, lines.clone())], false);
        assert!(text.ends_with("more; `-v` shows all"), "{text}");
        assert_eq!(shown(vec![pod("ship-1", -100, lines)], true).matches("stream lost").count(), 30);
    }
}
