//! What holds for all checks together.

use std::collections::BTreeSet;
use std::path::Path;

use super::testing::healthy;
use super::{Category, Evidence, Outcome, Report, There, all, markdown, select};

#[test]
fn the_page_is_in_step_with_the_list() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/checks.md");
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(written == markdown(), "coastal check --list --format markdown > docs/checks.md");
}

#[test]
fn every_file_is_in_the_list_and_proves_both_answers() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checks");
    let mut files = 0;
    let listed: BTreeSet<&str> = all().iter().map(|check| check.id).collect();
    for category in Category::ALL {
        for file in std::fs::read_dir(room.join(category.word())).unwrap() {
            let file = file.unwrap().path();
            if file.ends_with("mod.rs") {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&file).unwrap();
            let id = text.split("id: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            assert!(listed.contains(id), "{id} of {} is not in the list of its room", file.display());
            assert!(id.starts_with(&format!("{category}-")), "{id} of {}", file.display());
            assert!(text.contains("cases("), "{} has no table of cases", file.display());
        }
    }
    assert_eq!(files, listed.len());
    assert!(listed.len() >= 40, "{}", listed.len());
}

#[test]
fn ids_are_unique_and_words_are_whole() {
    let mut seen = BTreeSet::new();
    for check in all() {
        assert!(seen.insert(check.id), "{} is there twice", check.id);
        let id = check.id.replace('-', "");
        assert!(id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{}", check.id);
        assert!(check.why.ends_with('.'), "{}: why is a sentence", check.id);
        assert!(!check.hint.is_empty() && !check.hint.ends_with('.'), "{}: the hint goes on", check.id);
        assert!(!check.title.ends_with('.'), "{}: the title is no sentence of its own", check.id);
        assert!(!check.before_up || check.category == Category::Host, "{}: only the host is there before", check.id);
    }
}

#[test]
fn a_healthy_lab_has_no_failure_and_nothing_unknown() {
    let report = Report::of(&all(), &healthy());
    let open = |outcome| report.answers.iter().filter(move |answer| answer.outcome == outcome);
    assert_eq!(open(Outcome::Failed).collect::<Vec<_>>(), Vec::<&super::Answer>::new());
    assert_eq!(open(Outcome::Unknown).collect::<Vec<_>>(), Vec::<&super::Answer>::new());
    assert!(!report.is_failed(true));
}

#[test]
fn what_was_not_seen_never_passes() {
    let healthy = healthy();
    let blind = Evidence::without_cluster(healthy.lab, healthy.now, Err("the API server is silent".into()), "silent");
    let report = Report::of(&all(), &blind);
    for answer in &report.answers {
        assert_ne!(answer.outcome, Outcome::Passed, "{}: {}", answer.id, answer.message);
        assert!(!answer.message.is_empty(), "{} does not say why", answer.id);
    }
    // That nobody answers is itself an answer.
    assert_eq!((report.counts.errors, report.counts.warnings), (1, 0));
    assert!(report.is_failed(false));
    assert!(report.counts.unknown > 40);
}

#[test]
fn what_is_not_known_fails_only_a_strict_check() {
    let mut evidence = healthy();
    evidence.leftovers = Err("forbidden".into());
    let report = Report::of(&all(), &evidence);
    assert_eq!((report.counts.unknown, report.is_failed(false), report.is_failed(true)), (1, false, true));
    evidence.there = Ok(There::Absent);
    assert!(Report::of(&all(), &evidence).is_failed(false));
}

#[test]
fn checks_are_chosen_by_id_and_by_category() {
    let ids = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        select(&names).map(|checks| checks.iter().map(|check| check.id).collect::<Vec<_>>())
    };
    assert_eq!(ids(&[]).unwrap().len(), all().len());
    assert_eq!(ids(&["spire-skew", "host-kind"]).unwrap(), ["host-kind", "spire-skew"]);
    assert!(ids(&["cluster"]).unwrap().iter().all(|id| id.starts_with("cluster-")));
    let failure = ids(&["spire-skiw"]).unwrap_err();
    assert_eq!(failure.facts, ["`spire-skew` comes nearest"]);
}
