//! Reports and replays of runs, the program's own documentation, and its behaviour in strange surroundings.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::support::TestLab;

#[test]
fn a_run_is_reported_as_a_page_and_as_junit_and_again_from_its_journal() {
    let lab = TestLab::new();
    lab.rehearse("--report run.html --junit run.xml up").ok();
    let read = |name: &str| std::fs::read_to_string(lab.at("cwd").join(name)).unwrap();
    let (page, junit) = (read("run.html"), read("run.xml"));
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark") && page.contains("spire-servers"));
    assert!(junit.contains("failures=\"0\"") && junit.contains("name=\"spire-servers: "), "{junit}");
    lab.rehearse("debug replay last --report again.html --junit again.xml").ok().says("spire-servers");
    assert_eq!(page, read("again.html"));
    assert_eq!(junit, read("again.xml"));
    let runs: Value = serde_json::from_str(&lab.rehearse("--output json debug runs").ok().out).unwrap();
    assert_eq!(runs["runs"][0]["outcome"], "ok");
}

#[test]
fn a_failed_run_is_reported_with_what_failed() {
    let lab = TestLab::new();
    lab.coastal("rehearse --fault pull-fails=postgres up --report run.html --junit run.xml").ends(5);
    let read = |name: &str| std::fs::read_to_string(lab.at("cwd").join(name)).unwrap();
    assert!(read("run.html").contains("class=\"verdict failed\""));
    assert!(read("run.xml").contains("<failure "));
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_anything_is_done() {
    let lab = TestLab::new();
    let ran = lab.rehearse("up --report no/such/place.html").ends(4).says("could not write the report");
    assert!(!ran.err.contains("done  "), "{ran:?}");
    lab.coastal("rehearse --report r.html status").ok().says("nothing is reported");
}

#[test]
fn a_damaged_journal_shows_what_is_left_of_it() {
    let lab = TestLab::new();
    lab.rehearse("namespaces").ok();
    let runs = lab.at("world.json.state/runs");
    let run = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    let journal = run.join("events.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let middle = text.lines().count() / 2;
    let damaged: String = text
        .lines()
        .enumerate()
        .map(|(n, line)| if n == middle { "\u{0}\u{1}torn\n".into() } else { format!("{line}\n") })
        .collect();
    std::fs::write(&journal, damaged).unwrap();
    lab.rehearse("debug replay").ok().says(&format!("line {} of `", middle + 1)).says("namespaces");
    lab.rehearse("debug runs").ok().says("ok (damaged)");
    // The end is missing: a run that was killed.
    let half: Vec<&str> = text.lines().take(middle).collect();
    let half = half.join("\n") + "\n";
    std::fs::write(&journal, half).unwrap();
    lab.rehearse("debug replay").ok().says("the journal has no end");
    std::fs::write(&journal, "").unwrap();
    lab.rehearse("debug replay").ends(4).says("there is no event in");
    lab.rehearse("debug replay nothing-like-it").ends(2).says("`coastal debug runs` lists them");
    lab.coastal("debug replay").ends(4).says("no run has been journaled");
}

#[test]
fn every_shell_has_completions_and_every_command_a_page() {
    let lab = TestLab::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = lab.coastal(&format!("completions {shell}")).ok().out;
        assert!(script.contains("COASTAL_COMPLETE"), "{shell} does not ask");
        let said = lab.offered(shell, &["coastal", "upgr"]);
        assert!(said.contains("upgrade"), "{shell}: {said}");
    }
    // Versions have the hops from what lab.toml says; fish shows them beside the version.
    let versions = lab.offered("fish", &["coastal", "upgrade", "--to", "1.9"]);
    assert!(versions.contains("1.9.6\t2 hops") && !versions.contains("1.7.2"), "{versions}");
    for (words, one) in [
        (["open", "gra"].as_slice(), "grafana"),
        (&["learn", "check", "data"], "database"),
        (&["check", "spire-ag"], "spire-agents-gone"),
        (&["rotate", "--server", ""], "spire-server-2"),
        (&["debug", "replay", ""], "last"),
    ] {
        let typed: Vec<&str> = std::iter::once("coastal").chain(words.iter().copied()).collect();
        let said = lab.offered("fish", &typed);
        assert!(said.contains(one), "{words:?}: {said}");
    }
    lab.coastal("completions tcsh").ends(2);
    assert!(lab.coastal("man").ok().out.contains(".TH coastal 1"));
    lab.coastal("man --dir pages").ok();
    for page in ["coastal.1", "coastal-upgrade.1", "coastal-debug-replay.1"] {
        assert!(lab.at("cwd/pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn a_mistyped_command_is_answered_with_the_right_one() {
    let lab = TestLab::new();
    for (typed, meant) in [("upgarde", "upgrade"), ("stauts", "status"), ("opne", "open"), ("cluster-uo", "cluster-up")]
    {
        lab.coastal(typed).ends(2).says(meant);
    }
    lab.coastal("open grafanna").ends(2).says("grafana");
    lab.coastal("status --otput json").ends(2).says("--output");
}

#[test]
fn help_teaches_by_examples() {
    let lab = TestLab::new();
    for command in ["open", "metrics", "debug replay", "completions", "man"] {
        let help = lab.coastal(&format!("{command} --help")).ok().out;
        assert!(help.contains("Examples:\n  coastal "), "{command}: {help}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lab = TestLab::new();
    for words in ["completions bash", "rehearse access", "rehearse metrics", "man"] {
        let mut child = lab.start(words, Stdio::piped());
        // Closed at once, as by `head -0`.
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words}: {err}");
        assert!(!err.contains("panicked"), "{words}: {err}");
    }
}

#[test]
fn without_utf8_nothing_but_ascii_is_drawn() {
    // The test's surroundings have no locale at all.
    let lab = TestLab::new();
    for words in ["rehearse metrics", "rehearse access"] {
        let ran = lab.coastal(words).ok();
        assert!(ran.out.is_ascii(), "{}", ran.out);
    }
}
