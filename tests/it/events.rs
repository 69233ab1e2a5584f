//! The JSON stream of a run: its form, and that steps ran in the order that the plan promises.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::TestLab;

/// When a step began and ended, in the order of the stream.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: usize,
    ended: usize,
}

fn overlap(a: Span, b: Span) -> bool {
    a.began < b.ended && b.began < a.ended
}

fn spans(events: &[Value]) -> BTreeMap<String, Span> {
    let mut spans = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let Some(step) = event["step"].as_str() else { continue };
        match event["type"].as_str() {
            Some("step-started") => {
                let open = Span { began: index, ended: usize::MAX };
                assert!(spans.insert(step.to_owned(), open).is_none(), "{step} started twice");
            }
            Some("step-done" | "step-skipped" | "step-failed") => {
                let span = spans.get_mut(step).unwrap_or_else(|| panic!("{step} ended and never started"));
                assert_eq!(span.ended, usize::MAX, "{step} ended twice");
                span.ended = index;
            }
            _ => {}
        }
    }
    spans
}

#[test]
fn a_run_is_a_stream_of_events_in_the_order_of_the_plan() {
    let ran = TestLab::new().coastal("rehearse --output json up").ok();
    let events = ran.lines();
    assert_eq!(events.first().unwrap()["type"], "run-started");
    assert_eq!(events.first().unwrap()["schema"], 1);
    assert_eq!(events.iter().filter(|event| event["type"] == "result").count(), 1);
    assert_eq!(ran.result()["outcome"], "ok");
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index, "events are numbered without gaps");
    }
    let times: Vec<&str> = events.iter().map(|event| event["at"].as_str().unwrap()).collect();
    let times: Vec<jiff::Timestamp> = times.into_iter().map(|time| time.parse().unwrap()).collect();
    assert!(times.is_sorted(), "time goes on");

    let spans = spans(&events);
    let steps = events[0]["plan"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), spans.len());
    for step in steps {
        let id = step["id"].as_str().unwrap();
        for need in step["needs"].as_array().unwrap() {
            let need = need.as_str().unwrap();
            assert!(spans[need].ended < spans[id].began, "{id} began before {need} had ended");
        }
    }

    for (a, b) in [
        ("cluster", "fetch-cert-manager"),
        ("cluster", "fetch-contour"),
        ("cluster", "fetch-prometheus"),
        ("cluster", "fetch-spire"),
        ("cert-manager", "contour"),
        ("cert-manager", "prometheus"),
        ("cert-manager", "database"),
        ("contour", "database"),
        ("prometheus", "database"),
    ] {
        assert!(overlap(spans[a], spans[b]), "{a} and {b} do not run side by side");
    }
}

#[test]
fn what_goes_down_goes_in_an_order_that_leaves_nothing_terminating() {
    let events = TestLab::new().coastal("rehearse --output json down --keep-cluster").ok().lines();
    let spans = spans(&events);
    for (first, then) in [
        ("remove-workload", "remove-spire"),
        ("remove-spire", "remove-database"),
        ("remove-monitors", "remove-prometheus"),
        ("remove-database", "remove-namespaces"),
    ] {
        assert!(spans[first].ended < spans[then].began, "{then} began before {first} had ended");
    }
}

#[test]
fn a_failed_run_is_a_whole_stream_too() {
    let ran = TestLab::new().coastal("rehearse --fault tool-missing=helm --output json up").ends(4);
    let result = ran.result();
    assert_eq!(result["outcome"], "failed");
    assert_eq!(result["exit_code"], 4);
    assert_eq!(result["failure"]["message"], "helm is not installed");
    assert_eq!(result["failed"], serde_json::json!(["tools"]));
    let cancelled = ran.lines().into_iter().filter(|event| event["type"] == "step-cancelled").count();
    assert_eq!(result["cancelled"].as_array().unwrap().len(), cancelled);
}

/// Two runs of the same story differ in nothing: what is virtual is virtual throughout.
#[test]
fn two_rehearsals_are_alike() {
    let lab = TestLab::new();
    let proofs = |ran: crate::support::Ran| {
        let steps = ran.lines().into_iter().filter(|event| event["type"] == "step-done");
        steps.map(|event| (event["step"].clone(), event["took_ms"].clone())).collect::<Vec<_>>()
    };
    let first = proofs(lab.coastal("rehearse --output json up").ok());
    assert_eq!(first, proofs(lab.coastal("rehearse --output json up").ok()));
}
