//! One rule each, by table.

use jiff::SignedDuration;

use super::testing::{ID, at, changed, life, observation, pod, says, update};
use super::*;
use crate::workload::record::State as Said;

/// A pod that has held an SVID of `A` since second 1 and follows.
fn steady(name: &str) -> Pod {
    pod(name, vec![life(0, vec![says(1, Said::Following), update(1, 1, 10_000, "A", &["A", "B"])])])
}

fn lives(name: &str, lines: Vec<Line>) -> Pod {
    pod(name, vec![life(0, lines)])
}

/// Seconds without a valid SVID, with causes; seconds of silence; seconds of waiting. `?` where it is not known.
fn told(report: &Report) -> String {
    let figure = |figure: &Figure| match figure {
        Figure::Known(ms) => format!("{}", ms / 1000),
        Figure::Unknown { at_least, .. } => format!("{}?", at_least / 1000),
    };
    let total = &report.total;
    let mut causes: Vec<String> =
        report.pods.iter().flat_map(|pod| pod.gaps.iter().map(|gap| format!("{} {}", pod.name, gap.cause))).collect();
    causes.dedup();
    format!(
        "{:?} svid {} api {} new {} [{}]",
        report.verdict,
        figure(&total.no_valid_svid_ms),
        figure(&total.api_silent_ms),
        figure(&total.new_pods.without_identity_ms),
        causes.join(", ")
    )
}

/// Measured from second 100 to second 200.
fn check(cases: Vec<(&str, Vec<Pod>, &str)>) {
    for (name, pods, expected) in cases {
        assert_eq!(told(&measure(&observation(100, 200, pods))), expected, "{name}");
    }
}

const AB: &[&str] = &["A", "B"];

fn following() -> Line {
    says(1, Said::Following)
}

#[test]
fn what_is_held() {
    check(vec![
        ("two that follow", vec![steady("a"), steady("b")], "Unbroken svid 0 api 0 new 0 []"),
        (
            "renewed in time",
            vec![lives("a", vec![following(), update(1, 1, 149, "A", AB), update(120, 2, 300, "B", AB)])],
            "Unbroken svid 0 api 0 new 0 []",
        ),
        (
            "renewed 20 s late",
            vec![lives("a", vec![following(), update(1, 1, 119, "A", AB), update(140, 2, 300, "A", AB)])],
            "Broken svid 20 api 0 new 0 [a expired]",
        ),
        (
            "expired before the window, never renewed",
            vec![lives("a", vec![following(), update(1, 1, 50, "A", AB)]), steady("b")],
            "Broken svid 100 api 0 new 0 [a expired]",
        ),
        (
            "there before the window, never anything received",
            vec![lives("a", vec![says(1, Said::NoIdentity)])],
            "Broken svid 100 api 100 new 0 [a never received]",
        ),
        (
            "the agent is away for 30 s",
            vec![lives(
                "a",
                vec![
                    following(),
                    update(1, 1, 10_000, "A", AB),
                    says(110, Said::Lost),
                    says(111, Said::Unreachable),
                    says(140, Said::Following),
                    changed(update(140, 2, 10_000, "A", AB), |update| update.serial = Some("1".into())),
                ],
            )],
            "Unbroken svid 0 api 30 new 0 []",
        ),
        (
            "another identity for 40 s",
            vec![lives(
                "a",
                vec![
                    following(),
                    update(1, 1, 900, "A", AB),
                    changed(update(120, 2, 900, "A", AB), |update| update.spiffe_id = "spiffe://x/y".into()),
                    update(160, 3, 900, "A", AB),
                ],
            )],
            "Broken svid 40 api 0 new 0 [a other identity spiffe://x/y]",
        ),
        (
            "not yet valid, by the pod's clock",
            vec![lives(
                "a",
                vec![following(), changed(update(1, 1, 900, "A", AB), |update| update.not_before = at(103))],
            )],
            "Broken svid 3 api 0 new 0 [a not yet valid]",
        ),
    ]);
}

#[test]
fn who_is_trusted() {
    check(vec![
        (
            "the other's bundle lost the authority for 25 s",
            vec![
                steady("a"),
                lives(
                    "b",
                    vec![
                        following(),
                        update(1, 1, 10_000, "B", AB),
                        update(120, 2, 10_000, "B", &["B"]),
                        update(145, 3, 10_000, "B", AB),
                    ],
                ),
            ],
            "Broken svid 25 api 0 new 0 [a not trusted by b]",
        ),
        (
            "an authority that the other heard of 5 s later",
            vec![
                lives("a", vec![following(), update(1, 1, 500, "A", &["A"]), update(150, 2, 500, "B", AB)]),
                lives("b", vec![following(), update(1, 1, 500, "A", &["A"]), update(155, 2, 500, "A", AB)]),
            ],
            "Broken svid 5 api 0 new 0 [a not trusted by b]",
        ),
        (
            "a single pod whose own bundle lost the authority",
            vec![lives(
                "a",
                vec![
                    following(),
                    update(1, 1, 900, "A", AB),
                    changed(update(190, 2, 900, "A", &["B"]), |update| update.verified = Some(false)),
                ],
            )],
            "Broken svid 10 api 0 new 0 [a not trusted by a]",
        ),
        (
            "signatures that do not hold",
            vec![lives(
                "a",
                vec![
                    following(),
                    changed(update(1, 1, 900, "A", AB), |update| update.verified = Some(false)),
                    update(110, 2, 900, "A", AB),
                ],
            )],
            "Broken svid 10 api 0 new 0 [a bad signature]",
        ),
        (
            "an authority without a key id",
            vec![
                steady("a"),
                lives("b", vec![following(), changed(update(1, 1, 900, "B", &["B"]), |update| update.authorities = 2)]),
            ],
            "Unknown svid 0? api 0 new 0 []",
        ),
    ]);
}

#[test]
fn what_starts_and_ends() {
    check(vec![
        (
            "a new pod",
            vec![
                steady("a"),
                pod(
                    "b",
                    vec![life(
                        150,
                        vec![says(150, Said::NoIdentity), says(157, Said::Following), update(157, 1, 900, "A", AB)],
                    )],
                ),
            ],
            "Unbroken svid 0 api 0 new 7 []",
        ),
        (
            "a new pod that gets none",
            vec![steady("a"), pod("b", vec![life(150, vec![says(150, Said::NoIdentity)])])],
            "Unbroken svid 0 api 0 new 50 []",
        ),
        (
            "a pod that was asked to end and did",
            vec![
                steady("a"),
                lives(
                    "b",
                    vec![following(), update(1, 1, 130, "A", AB), says(120, Said::Lost), says(125, Said::Stopped)],
                ),
            ],
            "Unbroken svid 0 api 5 new 0 []",
        ),
        (
            "a container that was started again",
            vec![pod(
                "a",
                vec![
                    Life { ended_at: Some(at(110)), ..life(0, vec![following(), update(1, 1, 900, "A", AB)]) },
                    life(
                        115,
                        vec![says(117, Said::NoIdentity), says(121, Said::Following), update(121, 1, 9, "A", AB)],
                    ),
                ],
            )],
            "Broken svid 70 api 0 new 6 [a expired]",
        ),
        (
            "one that began just now",
            vec![steady("a"), pod("b", vec![life(197, vec![])])],
            "Unbroken svid 0 api 0 new 3 []",
        ),
        ("nobody", vec![], "Unknown svid 0? api 0? new 0? []"),
        ("one that never started", vec![pod("a", vec![])], "Unknown svid 0? api 0? new 0? []"),
    ]);
}

#[test]
fn what_is_lost() {
    check(vec![
        (
            "a container that was started again, and the log before is gone",
            vec![pod(
                "a",
                vec![
                    Life {
                        ended_at: Some(at(110)),
                        unread: Some(Unread { since: None, why: "the previous log is gone".into() }),
                        ..life(0, vec![])
                    },
                    life(115, vec![says(115, Said::Following), update(115, 1, 900, "A", AB)]),
                ],
            )],
            "Unknown svid 0? api 0? new 0 []",
        ),
        ("a log that is not ours", vec![lives("a", vec![])], "Unknown svid 0? api 0? new 0 []"),
        (
            "one that began and says nothing",
            vec![steady("a"), pod("b", vec![life(150, vec![])])],
            "Unknown svid 0? api 0? new 0? []",
        ),
        (
            "a log whose beginning is gone, and does not matter",
            vec![lives("a", vec![update(90, 7, 900, "A", AB)])],
            "Unbroken svid 0 api 0 new 0 []",
        ),
        (
            "a log whose beginning is gone, and matters",
            vec![lives("a", vec![update(130, 7, 900, "A", AB), update(180, 8, 10, "A", AB)])],
            "Broken svid 10? api 0? new 0 [a expired]",
        ),
        (
            "a hole before the window",
            vec![lives("a", vec![following(), update(1, 1, 900, "A", AB), update(60, 3, 900, "A", AB)])],
            "Unbroken svid 0 api 0 new 0 []",
        ),
        (
            "a hole in the window makes others unknown as well, where it could matter",
            vec![steady("a"), lives("b", vec![following(), update(1, 1, 900, "A", AB), update(150, 3, 900, "A", AB)])],
            "Unknown svid 0? api 0? new 0 []",
        ),
        (
            "a log that broke off",
            vec![pod(
                "a",
                vec![Life {
                    unread: Some(Unread { since: Some(at(150)), why: "the node went away".into() }),
                    ..life(0, vec![following(), update(1, 1, 900, "A", AB)])
                }],
            )],
            "Unknown svid 0? api 0? new 0 []",
        ),
        (
            "`spire-agent api watch`",
            vec![lives(
                "a",
                vec![changed(update(1, 1, 110, "A", AB), |update| {
                    (update.serial, update.issuer_key_id, update.anchor_key_id) = (None, None, None);
                    (update.verified, update.bundle_key_ids) = (None, Vec::new());
                })],
            )],
            "Broken svid 89? api 0? new 0 [a expired]",
        ),
    ]);
}

#[test]
fn what_nobody_remembers_is_unknown() {
    let lost = vec!["pods that came and went".to_owned()];
    let report = measure(&Observation { lost, ..observation(100, 200, vec![steady("a")]) });
    assert_eq!(report.verdict, Verdict::Unknown);
    assert_eq!(report.total.no_valid_svid_ms.why_unknown(), Some("pods that came and went"));
    assert_eq!(report.pods[0].no_valid_svid_ms, Figure::Known(0));
}

#[test]
fn a_window_without_duration_says_nothing() {
    for (start, end) in [(100, 100), (200, 100)] {
        let report = measure(&observation(start, end, vec![steady("a")]));
        assert_eq!(report.verdict, Verdict::Unknown, "{start} {end}");
    }
}

#[test]
fn clocks_and_streams_may_differ_by_the_tolerance() {
    // b hears 5 s later than a of the authority that a's new SVID is of.
    let lines = |heard: i64, anchor: &str| {
        vec![says(1, Said::Following), update(1, 1, 900, "A", &["A"]), update(heard, 2, 900, anchor, &["A", "B"])]
    };
    for (tolerance, ms) in [(0, 5000), (2000, 3000), (4999, 1), (5000, 0), (60_000, 0)] {
        let pods = vec![lives("a", lines(150, "B")), lives("b", lines(155, "A"))];
        let tolerance = SignedDuration::from_millis(tolerance);
        let report = measure(&Observation { tolerance, ..observation(100, 200, pods) });
        assert_eq!(report.total.no_valid_svid_ms, Figure::Known(ms), "{tolerance:?}");
    }
}

#[test]
fn parts_of_a_millisecond_are_rounded_up() {
    let lines = vec![
        says(1, Said::Following),
        changed(update(1, 1, 149, "A", &["A"]), |update| {
            update.not_after = at(150) - SignedDuration::from_nanos(1);
        }),
        update(150, 2, 900, "A", &["A"]),
    ];
    let report = measure(&observation(100, 200, vec![lives("a", lines)]));
    assert_eq!(report.total.no_valid_svid_ms, Figure::Known(1));
    assert_eq!(report.verdict, Verdict::Broken);
}

#[test]
fn renewals_and_issuers() {
    let again = |line: Line, serial: &str| changed(line, |update| update.serial = Some(serial.into()));
    let a = lives(
        "a",
        vec![
            says(1, Said::Following),
            update(1, 1, 900, "A", AB),
            // Before the window.
            update(90, 2, 900, "A", AB),
            // The bundle changed, or the agent restarted.
            again(update(110, 3, 900, "A", AB), "5a"),
            update(130, 4, 900, "A", AB),
            update(150, 5, 900, "B", AB),
            update(210, 6, 900, "B", AB),
        ],
    );
    let report = measure(&observation(100, 200, vec![a.clone(), steady("b")]));
    assert_eq!(report.total.renewals, Figure::Known(2));
    let ids = |issuers: &Issuers| (issuers.key_ids.join(" "), issuers.unknown.clone());
    assert_eq!(ids(&report.total.issuers_before), ("A".into(), None));
    assert_eq!(ids(&report.total.issuers_after), ("A B".into(), None));
    assert_eq!(ids(&report.pods[0].issuers_after), ("B".into(), None));
    let holed =
        lives("a", a.lives[0].lines.iter().enumerate().filter(|(i, _)| *i != 4).map(|(_, l)| l.clone()).collect());
    let report = measure(&observation(100, 200, vec![holed]));
    assert_eq!(report.total.renewals.at_least(), 0);
    assert!(report.total.renewals.why_unknown().is_some_and(|why| why == "a: lines are missing in its log"));
}

#[test]
fn starts_and_the_longest_of_each() {
    let fresh = |name: &str, start: i64, after: i64| {
        let line = update(start + after, 1, 900, "A", AB);
        pod(name, vec![life(start, vec![says(start, Said::NoIdentity), says(start + after, Said::Following), line])])
    };
    let waiting = pod("d", vec![life(180, vec![says(180, Said::NoIdentity)])]);
    let gaps = lives(
        "e",
        vec![
            says(1, Said::Following),
            // Expired and then not trusted: one stretch of 15 s, with two causes.
            update(1, 1, 109, "A", AB),
            update(120, 2, 900, "C", AB),
            update(125, 3, 900, "A", AB),
            update(160, 4, 3, "A", AB),
            update(170, 5, 900, "A", AB),
        ],
    );
    let pods = vec![steady("a"), fresh("b", 110, 7), fresh("c", 150, 12), waiting, gaps, pod("f", vec![])];
    let total = measure(&observation(100, 200, pods)).total;
    assert_eq!((total.pods, total.new_pods.started, total.new_pods.not_started), (5, 3, 1));
    assert_eq!(total.new_pods.still_without_identity, 1);
    assert_eq!(total.new_pods.without_identity_ms, Figure::Known(39_000));
    assert_eq!(total.new_pods.longest_without_identity_ms, Figure::Known(20_000));
    assert_eq!(total.no_valid_svid_ms, Figure::Known(22_000));
    assert_eq!(total.longest_no_valid_svid_ms, Figure::Known(15_000));
    assert_eq!((total.unknown_ms, total.judged_ms), (0, 100_000 + 83_000 + 38_000 + 100_000));
}

#[test]
fn the_start_is_as_the_first_line_tells_it() {
    let began = at(150) + SignedDuration::from_millis(640);
    let mut lines = vec![says(151, Said::NoIdentity), says(157, Said::Following), update(157, 1, 900, "A", &["A"])];
    for (after_ms, expected) in [(360, began), (5_000, at(150)), (0, at(150))] {
        if let Line::Connection(first) = &mut lines[0] {
            first.after_ms = after_ms;
        }
        let report = measure(&observation(100, 200, vec![pod("a", vec![life(150, lines.clone())])]));
        assert_eq!(report.pods[0].started_at, Some(expected), "{after_ms}");
    }
}

/// The kubelet begins a new file when one is full, and gives only the newest.
#[test]
fn a_log_that_does_not_begin_with_the_life_is_cut() {
    let first = |state, after_ms| {
        let Line::Connection(mut first) = says(160, state) else { unreachable!() };
        first.after_ms = after_ms;
        vec![steady("a"), lives("b", vec![Line::Connection(first)])]
    };
    let begun = "Broken svid 100 api 100 new 0 [b never received]";
    let cut = "Unknown svid 0? api 40? new 0 []";
    for (state, after_ms, expected) in [
        (Said::NoIdentity, 160_000, begun),
        (Said::NoIdentity, 101_000, begun),
        (Said::NoIdentity, 99_000, cut),
        (Said::Lost, 160_000, cut),
    ] {
        let report = measure(&observation(100, 200, first(state, after_ms)));
        assert_eq!(told(&report), expected, "{state:?} {after_ms}");
    }
}

#[test]
fn a_clock_that_was_set_back_stands_still() {
    let lines = vec![says(1, Said::Following), update(150, 1, 10, "A", &["A"]), update(120, 2, 900, "A", &["A"])];
    let report = measure(&observation(100, 200, vec![lives("a", lines)]));
    assert_eq!(told(&report), "Broken svid 50 api 0 new 0 [a never received]");
}

#[test]
fn several_svids_of_one_update() {
    let second = |line: Line, id: &str| {
        changed(line, |update| (update.svid, update.spiffe_id, update.serial) = (1, id.to_owned(), Some("2".into())))
    };
    for (id, lasts, expected) in [
        // The default identity is another one, the expected one comes second.
        (ID, 900, "Unbroken svid 0 api 0 new 0 []"),
        (ID, 149, "Broken svid 50 api 0 new 0 [a expired]"),
        ("spiffe://x/z", 900, "Broken svid 100 api 0 new 0 [a other identity spiffe://x/y]"),
    ] {
        let first = changed(update(1, 1, 900, "A", &["A"]), |update| update.spiffe_id = "spiffe://x/y".into());
        let lines = vec![says(1, Said::Following), first, second(update(1, 1, lasts, "A", &["A"]), id)];
        assert_eq!(told(&measure(&observation(100, 200, vec![lives("a", lines)]))), expected, "{id} {lasts}");
    }
}

#[test]
fn json_has_numbers_or_reasons() {
    let pods = vec![
        lives("a", vec![says(1, Said::Following), update(1, 1, 149, "A", &["A"]), update(160, 2, 900, "A", &["A"])]),
        lives("b", vec![]),
    ];
    let report = measure(&observation(100, 200, pods));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["verdict"], "broken");
    assert_eq!(json["pods"][0]["api_silent_ms"], 0);
    assert_eq!(json["pods"][1]["no_valid_svid_ms"]["at_least"], 0);
    assert_eq!(json["pods"][1]["no_valid_svid_ms"]["unknown"], "its log has no line that the meter can read");
    let gap = &json["pods"][0]["gaps"][0];
    assert_eq!(gap["cause"], "expired");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}
