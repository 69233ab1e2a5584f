//! Snapshots of whole runs, one per way in which a run can end and per renderer.

use std::io;
use std::sync::{Arc, Mutex};

use indicatif::{ProgressDrawTarget, TermLike};

use crate::engine::{Event, Outcome, Sink};
use crate::error::{Failure, Kind};
use crate::plan::{Finding, Role, StepId};
use crate::ui::style::Style;
use crate::ui::testing::{
    Pad, Recording, failure, interrupted, nothing_to_change, piped, plan, shown, success, tests, ui, unmet_need,
};
use crate::ui::tty::Live;
use crate::ui::writer::Writer;
use crate::ui::{Format, Progress, Surroundings, Terminal, Wishes};

const QUIET: Wishes = Wishes { format: Format::Text, verbosity: 0, explain: false };

/// What stays on a terminal when the live lines are gone.
fn kept(wishes: Wishes, events: &[Event]) -> String {
    let terminal = Terminal { progress: Progress::Live, ..piped(wishes) };
    let pad = Pad::default();
    let style = Style { colour: false, unicode: terminal.unicode };
    let live = Live::new(Writer::new(Box::new(pad.clone())), ProgressDrawTarget::hidden(), terminal, style, None);
    for event in events {
        live.take(event);
    }
    pad.text()
}

#[test]
fn lines() {
    let text = |events: &[Event]| {
        let (out, err) = shown(piped(QUIET), events);
        assert_eq!(out, "", "a run has no result on standard output");
        err
    };
    insta::assert_snapshot!("lines_success", text(&success()));
    insta::assert_snapshot!("lines_nothing_to_change", text(&nothing_to_change()));
    insta::assert_snapshot!("lines_failure", text(&failure()));
    insta::assert_snapshot!("lines_unmet_need", text(&unmet_need()));
    insta::assert_snapshot!("lines_interrupted", text(&interrupted()));
    insta::assert_snapshot!("lines_tests_passed", text(&tests(true)));
    insta::assert_snapshot!("lines_tests_failed", text(&tests(false)));
}

#[test]
fn a_long_look_is_a_row_and_the_sum_is_no_less_than_the_chain() {
    let events = Recording::of(plan())
        .start(StepId::Cluster)
        .at(14_000)
        .same(StepId::Cluster, "2 of 2 nodes ready")
        .start(StepId::Database)
        .at(15_000)
        .done(StepId::Database, "accepted a login")
        .start(StepId::Spire)
        .at(17_000)
        .done(StepId::Spire, "revision 1 deployed")
        .ended(Outcome::Ok, &[]);
    let (_, told) = shown(piped(QUIET), &events);
    let rows: Vec<&str> = told.lines().filter(|line| line.contains("  * ")).collect();
    assert_eq!(rows.len(), 4, "{told}");
    assert!(rows[0].contains("cluster") && rows[0].contains("14.0s"), "{told}");
    assert!(rows[3].contains("17.0s of 17.0s; one after the other these steps take 17.0s"), "{told}");
}

#[test]
fn lines_with_everything() {
    let (_, err) = shown(piped(Wishes { verbosity: 2, explain: true, ..QUIET }), &success());
    insta::assert_snapshot!(err);
}

#[test]
fn live() {
    insta::assert_snapshot!("live_success", kept(QUIET, &success()));
    insta::assert_snapshot!("live_nothing_to_change", kept(QUIET, &nothing_to_change()));
    insta::assert_snapshot!("live_failure", kept(QUIET, &failure()));
    insta::assert_snapshot!("live_interrupted", kept(QUIET, &interrupted()));
    insta::assert_snapshot!("live_with_everything", kept(Wishes { verbosity: 2, explain: true, ..QUIET }, &success()));
}

#[test]
fn json_lines() {
    let (out, err) = shown(piped(Wishes { format: Format::Json, ..QUIET }), &failure());
    assert_eq!(err, "", "everything is in the lines");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), failure().len());
    assert!(lines.iter().all(|line| line["type"].is_string() && line["seq"].is_u64() && line["at"].is_string()));
    assert_eq!((&lines[0]["type"], &lines[0]["schema"]), (&"run-started".into(), &1.into()));
    insta::assert_snapshot!("json_step_started", out.lines().nth(1).expect("a line"));
    insta::assert_snapshot!("json_result", out.lines().last().expect("a line"));
}

#[test]
fn without_unicode_nothing_but_ascii_is_written() {
    let terminal = Terminal { unicode: false, ..piped(QUIET) };
    for events in [success(), failure(), interrupted(), nothing_to_change()] {
        assert!(shown(terminal, &events).1.is_ascii());
    }
}

#[test]
fn colour_adds_nothing_that_plain_text_does_not_say() {
    let coloured = Terminal { colour_err: true, ..piped(QUIET) };
    for events in [success(), failure(), interrupted()] {
        let (_, with) = shown(coloured, &events);
        assert!(with.contains('\u{1b}'));
        assert_eq!(console::strip_ansi_codes(&with), shown(piped(QUIET), &events).1);
    }
}

/// A terminal that keeps everything that was ever drawn on it.
#[derive(Debug, Clone, Default)]
struct Narrow(Arc<Mutex<Vec<String>>>);

impl Narrow {
    const COLUMNS: u16 = 24;

    fn push(&self, text: &str) {
        self.0.lock().expect("not poisoned").push(console::strip_ansi_codes(text).into_owned());
    }
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        Self::COLUMNS
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn live_lines_are_cut_to_a_narrow_terminal() {
    let screen = Narrow::default();
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
    let terminal = Terminal { progress: Progress::Live, ..piped(QUIET) };
    let style = Style { colour: false, unicode: true };
    let live = Live::new(Writer::new(Box::new(Pad::default())), target, terminal, style, None);
    // Not to the end: the steps are still under way.
    for event in success().iter().take(7) {
        live.take(event);
    }
    let drawn = screen.0.lock().expect("not poisoned").clone();
    assert!(drawn.iter().any(|line| line.contains("create clus")), "{drawn:?}");
    assert!(drawn.iter().all(|line| console::measure_text_width(line) <= usize::from(Narrow::COLUMNS)), "{drawn:?}");
}

#[test]
fn a_plan_names_the_needs_that_stand_in_the_way() {
    let mut plan = plan();
    for step in &mut plan.steps {
        let (role, satisfied) = match step.id {
            StepId::Tools | StepId::Contour => (Role::Need, false),
            StepId::Cluster => (Role::Need, true),
            _ => (Role::Goal, false),
        };
        step.role = role;
        let seen = step.id.to_string();
        step.finding = Some(if satisfied { Finding::Satisfied(seen) } else { Finding::Missing(seen) });
        if step.id == StepId::Spire {
            step.needs.push(StepId::Contour);
        }
    }
    let (ui, out, _) = ui(piped(QUIET), "");
    ui.plan(&plan);
    // Not the tools: the cluster that rests on them is there.
    insta::assert_snapshot!(out.text());
}

#[test]
fn plans() {
    let (ui, out, _) = ui(piped(QUIET), "");
    ui.plan(&plan());
    insta::assert_snapshot!("plan", out.text());

    let (ui, out, _) = super::testing::ui(piped(Wishes { explain: true, ..QUIET }), "");
    let mut small = plan();
    small.steps.truncate(2);
    ui.plan(&small);
    insta::assert_snapshot!("plan_explained", out.text());

    let (ui, out, _) = super::testing::ui(piped(Wishes { format: Format::Json, ..QUIET }), "");
    ui.plan(&plan());
    let document: serde_json::Value = serde_json::from_str(&out.text()).expect("one document");
    assert_eq!((&document["schema"], &document["lab"]), (&1.into(), &"seed".into()));
    assert_eq!(document["counts"], serde_json::json!({"make": 2, "test": 0, "change": 1, "same": 1, "unknown": 1}));
    assert_eq!(document["steps"].as_array().map(Vec::len), Some(6));
}

#[test]
fn a_failure_without_a_run_is_a_result_too() {
    let cause = Failure::new(Kind::Config, "`lab.toml` has 2 problems");
    let (text, out, err) = ui(piped(QUIET), "");
    text.failure(&cause);
    assert_eq!((out.text().as_str(), err.text().as_str()), ("", "error: `lab.toml` has 2 problems\n"));

    let (json, out, _) = ui(piped(Wishes { format: Format::Json, ..QUIET }), "");
    json.failure(&cause);
    let line: serde_json::Value = serde_json::from_str(&out.text()).expect("one line");
    assert_eq!((&line["type"], &line["exit_code"], &line["outcome"]), (&"result".into(), &3.into(), &"failed".into()));
}

#[test]
fn a_yes_is_asked_for_where_somebody_can_give_it() {
    let seat = Surroundings { stdin_tty: true, stderr_tty: true, ..Surroundings::default() };
    let seat = Terminal::decide(seat, QUIET);
    let ask = |terminal: Terminal, input: &str, yes: bool| {
        let (ui, _, err) = ui(terminal, input);
        let answer = ui.confirm("delete cluster `kind`?", yes).map_err(|failure| failure.message);
        (answer, err.text())
    };
    assert_eq!(ask(seat, "y\n", false), (Ok(()), "delete cluster `kind`? [y/N] ".into()));
    assert_eq!(ask(seat, "\n", false).0, Err("not confirmed; nothing was done".into()));
    assert_eq!(ask(seat, "", false).0, Err("not confirmed; nothing was done".into()));
    assert_eq!(ask(piped(QUIET), "", true), (Ok(()), String::new()));
    assert_eq!(
        ask(piped(QUIET), "y\n", false),
        (Err("this needs a yes, and nobody can be asked here: delete cluster `kind`?".into()), String::new())
    );
}
