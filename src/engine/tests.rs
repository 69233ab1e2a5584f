//! The executor, on scripted bodies and a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::engine::testing::{Act, Part, TIMEOUT_S, goal, need, run};
use crate::engine::{Event, Outcome, RunResult, What};
use crate::error::{Failure, Kind};
use crate::plan::{Role, StepId};

const IDS: [StepId; 10] = [
    StepId::Repos,
    StepId::FetchSpire,
    StepId::LoadImages,
    StepId::CertManager,
    StepId::Contour,
    StepId::Prometheus,
    StepId::Namespaces,
    StepId::Database,
    StepId::Spire,
    StepId::Workload,
];

/// A step's first and last event, in milliseconds since the run began.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: i64,
    end: i64,
    well: bool,
}

/// Checks the grammar of a run's events and returns the span of each step that started.
fn spans(events: &[Event]) -> BTreeMap<StepId, Span> {
    assert!(matches!(events.first().map(|event| &event.what), Some(What::RunStarted { .. })), "begins with RunStarted");
    assert!(matches!(events.last().map(|event| &event.what), Some(What::RunEnded { .. })), "ends with RunEnded");
    let mut open: BTreeMap<StepId, i64> = BTreeMap::new();
    let mut spans = BTreeMap::new();
    for (seq, event) in events.iter().enumerate() {
        assert_eq!(event.seq, seq as u64, "numbered without gaps");
        let at = event.at.as_millisecond();
        match &event.what {
            What::StepStarted { step } => {
                assert!(!spans.contains_key(step) && open.insert(*step, at).is_none(), "{step} starts once");
            }
            What::StepRunning { step, .. }
            | What::StepVerifying { step }
            | What::StepProgress { step, .. }
            | What::StepReport { step, .. }
            | What::StepRetry { step, .. }
            | What::CommandStarted { step, .. } => assert!(open.contains_key(step), "{step} is under way"),
            What::StepSkipped { step, took_ms, .. }
            | What::StepDone { step, took_ms, .. }
            | What::StepFailed { step, took_ms, .. } => {
                let start = open.remove(step).expect("ends once, after its start");
                assert_eq!(at - start, i64::try_from(*took_ms).expect("short"));
                let well = !matches!(event.what, What::StepFailed { .. });
                spans.insert(*step, Span { start, end: at, well });
            }
            What::StepCancelled { step, .. } => assert!(!open.contains_key(step) && !spans.contains_key(step)),
            What::CommandOutput { .. } | What::CommandEnded { .. } => {}
            What::RunStarted { .. } => assert_eq!(seq, 0),
            What::RunEnded { .. } => assert_eq!(seq + 1, events.len()),
        }
    }
    assert!(open.is_empty(), "every started step ends: {open:?}");
    spans
}

/// Every goal is in exactly one list, and the lists agree with the events.
fn assert_partition(parts: &[Part], result: &RunResult, spans: &BTreeMap<StepId, Span>) {
    let lists = [&result.changed, &result.unchanged, &result.passed, &result.failed, &result.cancelled];
    let all: Vec<StepId> = lists.into_iter().flatten().copied().collect();
    let unique: BTreeSet<StepId> = all.iter().copied().collect();
    assert_eq!(all.len(), unique.len(), "no step is in two lists: {result:?}");
    for part in parts.iter().filter(|part| part.role == Role::Goal) {
        assert!(unique.contains(&part.id), "{} is in a list", part.id);
    }
    assert_eq!(result.steps_ms.keys().collect::<Vec<_>>(), spans.keys().collect::<Vec<_>>());
    for step in result.changed.iter().chain(&result.unchanged).chain(&result.passed) {
        assert!(spans[step].well);
    }
    for step in &result.failed {
        assert!(!spans[step].well);
    }
    for step in &result.cancelled {
        assert!(!spans.contains_key(step));
    }
    assert_eq!(result.outcome == Outcome::Ok, result.failure.is_none());
    assert_eq!(result.exit_code == 0, result.failure.is_none());
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Satisfied),
        8 => (0..10_000_u64).prop_map(Act::Takes),
        1 => Just(Act::CheckFails(Failure::tool("cannot tell"))),
        1 => (0..10_000_u64).prop_map(Act::RunFails),
    ]
}

/// Goals in an order in which they could run; each needs some of the ones before it.
fn graphs(act: impl Strategy<Value = Act>) -> impl Strategy<Value = Vec<Part>> {
    proptest::collection::vec((act, any::<u16>()), 1..=IDS.len()).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(|(n, (act, mask))| {
                let needs: Vec<StepId> = (0..n).filter(|m| mask & (1 << m) != 0).map(|m| IDS[m]).collect();
                goal(IDS[n], &needs, act)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_step_starts_the_moment_its_needs_have_ended(
        parts in graphs(prop_oneof![Just(Act::Satisfied), (0..10_000_u64).prop_map(Act::Takes)])
    ) {
        let (result, events) = run(&parts, None);
        let spans = spans(&events);
        assert_partition(&parts, &result, &spans);
        prop_assert_eq!(result.outcome, Outcome::Ok);
        for part in &parts {
            let ready = part.needs.iter().map(|need| spans[need].end).max().unwrap_or(0);
            prop_assert_eq!(spans[&part.id].start, ready, "no idling, no running ahead: {}", part.id);
        }
        let last = spans.values().map(|span| span.end).max().unwrap_or(0);
        prop_assert_eq!(i64::try_from(result.took_ms).expect("short"), last);
    }

    #[test]
    fn after_a_failure_nothing_starts_and_what_runs_is_let_finish(parts in graphs(acts())) {
        let (result, events) = run(&parts, None);
        let spans = spans(&events);
        assert_partition(&parts, &result, &spans);
        for part in &parts {
            if let Some(span) = spans.get(&part.id) {
                for need in &part.needs {
                    prop_assert!(spans[need].well && spans[need].end <= span.start);
                }
            }
        }
        let failed = events.iter().position(|event| matches!(event.what, What::StepFailed { .. }));
        if let Some(failed) = failed {
            prop_assert_eq!(result.outcome, Outcome::Failed);
            let started_later = events[failed..].iter().any(|event| matches!(event.what, What::StepStarted { .. }));
            prop_assert!(!started_later);
        } else {
            prop_assert_eq!(result.outcome, Outcome::Ok);
        }
        // Whatever was under way at the failure ended by its own script, not early.
        for part in &parts {
            if let (Act::Takes(ms), Some(span)) = (&part.act, spans.get(&part.id)) {
                prop_assert!(span.well);
                prop_assert_eq!(span.end - span.start, i64::try_from(*ms).expect("short"));
            }
        }
    }

    #[test]
    fn a_cancelled_run_ends_soon_and_truly(parts in graphs(acts()), after in 0..20_000_u64) {
        let (result, events) = run(&parts, Some(Duration::from_millis(after)));
        let spans = spans(&events);
        assert_partition(&parts, &result, &spans);
        prop_assert!(result.took_ms <= after.max(1), "scripted bodies stop at once: {}", result.took_ms);
        prop_assert!(spans.values().all(|span| span.start <= i64::try_from(after).expect("short")));
        if result.outcome == Outcome::Interrupted {
            prop_assert_eq!(result.exit_code, 130);
            prop_assert_eq!(result.failure.map(|failure| failure.kind), Some(Kind::Interrupted));
        }
    }
}

#[test]
fn cancelled_steps_name_the_failed_step_they_rest_on() {
    let (result, events) = run(
        &[
            goal(StepId::Repos, &[], Act::RunFails(5)),
            goal(StepId::Cluster, &[], Act::RunFails(9)),
            goal(StepId::Namespaces, &[StepId::Cluster], Act::Satisfied),
            goal(StepId::Database, &[StepId::Namespaces], Act::Satisfied),
            goal(StepId::FetchSpire, &[StepId::Repos], Act::Satisfied),
        ],
        None,
    );
    let reasons: BTreeMap<StepId, Option<StepId>> = events
        .iter()
        .filter_map(|event| match event.what {
            What::StepCancelled { step, because_of } => Some((step, because_of)),
            _ => None,
        })
        .collect();
    assert_eq!(reasons[&StepId::FetchSpire], Some(StepId::Repos));
    assert_eq!(reasons[&StepId::Namespaces], Some(StepId::Cluster));
    assert_eq!(reasons[&StepId::Database], Some(StepId::Cluster));
    assert_eq!(result.failed, [StepId::Repos, StepId::Cluster]);
    let failure = result.failure.expect("failed");
    assert_eq!((failure.kind, result.exit_code), (Kind::Tool, 5));
    assert_eq!(failure.next, ["`mend it`"]);
    assert_eq!(result.next, ["coastal up"], "the way to go on");
}

#[test]
fn a_step_that_says_itself_that_it_is_late_is_believed() {
    let (result, _) = run(&[goal(StepId::Spire, &[], Act::NeverProven)], None);
    let failure = result.failure.expect("failed");
    assert_eq!(failure.message, "it never became so");
    assert_eq!(result.took_ms, TIMEOUT_S * 1000);
}

#[test]
fn a_step_that_overstays_is_stopped_and_its_last_words_are_kept() {
    let (result, events) = run(&[goal(StepId::Spire, &[], Act::Hangs)], None);
    spans(&events);
    let failure = result.failure.expect("failed");
    assert_eq!((failure.kind, result.exit_code), (Kind::Timeout, 6));
    assert_eq!(failure.message, "`spire` did not end within 60 s");
    assert_eq!(failure.facts, ["it was last seen: waiting for nothing"]);
    assert_eq!(result.took_ms, (TIMEOUT_S + 5) * 1000);
}

#[test]
fn a_deaf_step_is_dropped() {
    let (result, events) = run(&[goal(StepId::Spire, &[], Act::Deaf)], None);
    spans(&events);
    assert_eq!(result.took_ms, (TIMEOUT_S + 5 + 20) * 1000);
    assert_eq!(result.failure.map(|failure| failure.kind), Some(Kind::Timeout));

    let (result, _) = run(&[goal(StepId::Spire, &[], Act::Deaf)], Some(Duration::from_secs(1)));
    assert_eq!((result.outcome, result.took_ms), (Outcome::Interrupted, 21_000));
    let facts = result.failure.map(|failure| failure.facts).unwrap_or_default();
    assert!(facts.iter().any(|fact| fact.contains("may still be running")), "{facts:?}");
}

#[test]
fn an_interruption_is_not_blamed_on_the_step_that_it_ended() {
    let parts = [goal(StepId::Cluster, &[], Act::Hangs), goal(StepId::Namespaces, &[StepId::Cluster], Act::Satisfied)];
    let (result, events) = run(&parts, Some(Duration::from_secs(3)));
    assert_eq!((result.outcome, result.exit_code), (Outcome::Interrupted, 130));
    assert_eq!(result.failed, [StepId::Cluster]);
    assert!(
        events.iter().any(|event| event.what == What::StepCancelled { step: StepId::Namespaces, because_of: None })
    );
    assert_eq!(result.next, ["coastal up"]);
}

#[test]
fn what_is_finished_despite_the_wish_to_stop_counts() {
    let last = goal(StepId::Cluster, &[], Act::Finishes(5));
    let (result, _) = run(std::slice::from_ref(&last), Some(Duration::from_millis(1)));
    assert_eq!((result.outcome, result.exit_code), (Outcome::Ok, 0), "nothing was left to do");
    assert_eq!(result.next, ["coastal status"]);

    let (result, _) =
        run(&[last, goal(StepId::Namespaces, &[StepId::Cluster], Act::Satisfied)], Some(Duration::from_millis(1)));
    assert_eq!((result.outcome, result.exit_code), (Outcome::Interrupted, 130));
    assert_eq!((result.changed, result.cancelled), (vec![StepId::Cluster], vec![StepId::Namespaces]));
}

#[test]
fn a_test_that_passes_has_changed_nothing() {
    let parts = [
        goal(StepId::ChartTests, &[], Act::RunFails(10)),
        goal(StepId::IdentityTest, &[], Act::Takes(5)),
        goal(StepId::Workload, &[], Act::Takes(5)),
    ];
    let (result, events) = run(&parts, None);
    assert_partition(&parts, &result, &spans(&events));
    assert_eq!((result.passed, result.failed), (vec![StepId::IdentityTest], vec![StepId::ChartTests]));
    assert_eq!(result.changed, [StepId::Workload]);
}

#[test]
fn a_result_of_a_time_without_tests_is_read() {
    let (result, _) = run(&[goal(StepId::Cluster, &[], Act::Takes(1))], None);
    let mut old = serde_json::to_value(&result).expect("serialises");
    old.as_object_mut().expect("an object").remove("passed").expect("is written");
    assert_eq!(serde_json::from_value::<RunResult>(old).expect("is read"), result);
}

#[test]
fn a_panic_is_a_failure_of_its_step_only() {
    let parts = [goal(StepId::Cluster, &[], Act::Panics), goal(StepId::Repos, &[], Act::Takes(50))];
    let (result, events) = run(&parts, None);
    spans(&events);
    assert_eq!(result.changed, [StepId::Repos]);
    let failure = result.failure.expect("failed");
    assert_eq!((failure.kind, result.exit_code), (Kind::Unexpected, 1));
    assert_eq!(failure.message, "`cluster` broke off: surprise in cluster");
    assert!(result.next.is_empty(), "running it again would not help");
}

#[test]
fn unmet_needs_are_reported_together_and_nothing_runs() {
    let parts = [
        need(StepId::Tools, &[], Act::Satisfied),
        need(StepId::Cluster, &[StepId::Tools], Act::Satisfied),
        need(StepId::FetchSpire, &[StepId::Tools], Act::Takes(0)),
        need(StepId::Namespaces, &[StepId::Cluster], Act::Takes(0)),
        need(StepId::Database, &[StepId::Namespaces], Act::Takes(0)),
        need(StepId::Spire, &[StepId::Database, StepId::FetchSpire], Act::Takes(0)),
        need(StepId::SpireAgents, &[StepId::Spire], Act::Takes(0)),
        goal(StepId::Workload, &[StepId::SpireAgents], Act::Takes(0)),
    ];
    let (result, events) = run(&parts, None);
    let spans = spans(&events);
    assert_partition(&parts, &result, &spans);
    assert_eq!(result.unchanged, [StepId::Tools, StepId::Cluster]);
    assert_eq!(
        result.failed,
        [StepId::FetchSpire, StepId::Namespaces, StepId::Database, StepId::Spire, StepId::SpireAgents]
    );
    assert_eq!(result.cancelled, [StepId::Workload]);
    let failure = result.failure.expect("failed");
    assert_eq!((failure.kind, result.exit_code), (Kind::Prerequisite, 4));
    assert_eq!(failure.message, "5 steps must be done first");
    assert_eq!(failure.facts[0], "`fetch-spire`: not there");
    // In the order in which they work, each once: what fetches the chart installs SPIRE as well, at the end.
    assert_eq!(failure.next, ["`coastal namespaces`", "`coastal deploy-database`", "`coastal spire-install`"]);
}

#[test]
fn without_the_ground_only_the_ground_is_reported() {
    let parts = |tools: Act, cluster: Act| {
        [
            need(StepId::Tools, &[], tools),
            need(StepId::Cluster, &[StepId::Tools], cluster),
            need(StepId::SpireAgents, &[StepId::Cluster], Act::Takes(0)),
            goal(StepId::Workload, &[StepId::SpireAgents], Act::Takes(0)),
        ]
    };
    let (result, _) = run(&parts(Act::Satisfied, Act::Takes(0)), None);
    assert_eq!(result.failed, [StepId::Cluster]);
    let failure = result.failure.expect("failed");
    assert_eq!(failure.message, "step `cluster` must be done first: not there");
    assert_eq!(failure.next, ["`coastal cluster-up`"]);

    let missing = Failure::prerequisite("`kind` is not installed").next("install it");
    let (result, _) = run(&parts(Act::CheckFails(missing.clone()), Act::Satisfied), None);
    assert_eq!(result.failed, [StepId::Tools]);
    assert_eq!(result.failure, Some(missing));
}

#[test]
fn a_need_behind_one_that_is_so_is_not_asked_about() {
    let parts = [
        need(StepId::FetchSpire, &[], Act::Takes(0)),
        need(StepId::Spire, &[StepId::FetchSpire], Act::Satisfied),
        goal(StepId::SpireServers, &[StepId::Spire], Act::Takes(7)),
    ];
    let (result, events) = run(&parts, None);
    let spans = spans(&events);
    assert_partition(&parts, &result, &spans);
    assert_eq!(
        (result.outcome, result.unchanged, result.changed),
        (Outcome::Ok, vec![StepId::Spire], vec![StepId::SpireServers])
    );
    assert!(!spans.contains_key(&StepId::FetchSpire));
}

#[test]
fn a_refusal_while_looking_stays_a_refusal() {
    let foreign = Failure::refused("cluster `kind` does not carry the lab's marker");
    let parts = [
        need(StepId::Cluster, &[], Act::CheckFails(foreign.clone())),
        goal(StepId::Namespaces, &[StepId::Cluster], Act::Takes(0)),
    ];
    let (result, _) = run(&parts, None);
    assert_eq!((result.exit_code, result.failure), (7, Some(foreign)));
    assert!(result.next.is_empty());
}

#[test]
fn a_plan_that_cannot_be_carried_out_ends_in_a_sentence() {
    let cases: [(&[Part], &str); 4] = [
        (
            &[
                goal(StepId::Spire, &[StepId::Workload], Act::Satisfied),
                goal(StepId::Workload, &[StepId::Spire], Act::Satisfied),
            ],
            "steps wait for each other in a circle: `spire`, `workload`",
        ),
        (
            &[goal(StepId::Spire, &[StepId::Database], Act::Satisfied)],
            "step `spire` needs `database`, which is not in the plan",
        ),
        (
            &[goal(StepId::Spire, &[], Act::Satisfied), goal(StepId::Spire, &[], Act::Satisfied)],
            "step `spire` is in the plan twice",
        ),
        (
            &[goal(StepId::Database, &[], Act::Satisfied), need(StepId::Spire, &[StepId::Database], Act::Satisfied)],
            "step `spire` is only looked at, but needs `database`, which is still to be done",
        ),
    ];
    for (parts, sentence) in cases {
        let (result, events) = run(parts, None);
        assert!(spans(&events).is_empty(), "nothing started");
        assert_eq!(result.exit_code, 1);
        assert_eq!(result.failure.map(|failure| failure.message).as_deref(), Some(sentence));
    }
}

#[test]
fn an_empty_plan_is_a_good_run() {
    let (result, events) = run(&[], None);
    assert_eq!((result.outcome, events.len()), (Outcome::Ok, 2));
}
