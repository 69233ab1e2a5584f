//! Reports of runs, made of their events alone: a page for people ([`html()`]) and JUnit's XML for machines ([`junit()`]).
//! A run that is being made and one that is read from a journal give the same report.

mod file;
mod html;
mod junit;
mod svg;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::engine::{Event, Outcome, RunResult, What};
use crate::error::{Failure, Kind};
use crate::plan::{Role, StepId};
use crate::redact::Redactor;
use crate::ui::run::Run;
use crate::ui::style::tame;

pub use file::Reports;
pub use html::render as html;
pub use junit::render as junit;

/// Of one command this many of its last lines are kept, if it failed.
const LINES_OF_FAILED: usize = 400;
/// ... and if it did not.
const LINES_OF_GOOD: usize = 40;
/// Characters of a line that are kept.
const LONGEST: usize = 500;
/// What a step said on its way: that many of its last messages.
const WORDS: usize = 60;

/// One run, as it is reported.
struct Account {
    run: Run,
    coastal: String,
    began: Timestamp,
    ended: Timestamp,
    steps: BTreeMap<StepId, Turn>,
    commands: BTreeMap<u64, CommandRecord>,
    result: Option<RunResult>,
    events: usize,
}

/// What became of a step.
#[derive(Default)]
struct Turn {
    state: State,
    /// The proof, the reason or the failure's sentence.
    words: String,
    took_ms: u64,
    /// When (milliseconds since the run began), and what it said.
    said: Vec<(u64, String)>,
    unsaid: usize,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Waiting,
    Running,
    Done,
    Same,
    Failed,
    Stopped,
    Skipped,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Waiting => "not reached",
            State::Running => "unfinished",
            State::Done => "done",
            State::Same => "already so",
            State::Failed => "failed",
            State::Stopped => "stopped",
            State::Skipped => "not started",
        }
    }
}

/// A command and the end of what it printed.
struct CommandRecord {
    step: StepId,
    line: String,
    started_ms: u64,
    ended: Option<(Option<i32>, u64)>,
    output: Vec<String>,
    dropped: usize,
}

impl CommandRecord {
    fn is_good(&self) -> bool {
        self.ended.is_some_and(|(exit, _)| exit == Some(0))
    }
}

/// The runs that the events tell of, in order; events before the first beginning count as one without a name.
fn accounts(events: &[Event]) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    let redactor = Redactor::default();
    for event in events {
        if accounts.is_empty() || matches!(event.what, What::RunStarted { .. }) {
            accounts.push(Account::begin(event));
        }
        if let Some(account) = accounts.last_mut() {
            account.absorb(event, &redactor);
        }
    }
    for account in &mut accounts {
        for command in account.commands.values_mut().filter(|command| command.is_good()) {
            shorten(&mut command.output, LINES_OF_GOOD, &mut command.dropped);
        }
    }
    accounts
}

impl Account {
    fn begin(event: &Event) -> Self {
        Account {
            run: Run::default(),
            coastal: String::new(),
            began: event.at,
            ended: event.at,
            steps: BTreeMap::new(),
            commands: BTreeMap::new(),
            result: None,
            events: 0,
        }
    }

    fn absorb(&mut self, event: &Event, redactor: &Redactor) {
        self.run.absorb(event);
        self.events += 1;
        self.ended = event.at;
        let now = self.run.elapsed_ms(event);
        let clean = |text: &str| redactor.text(&cut(&tame(text)));
        match &event.what {
            What::RunStarted { coastal, plan, .. } => {
                self.coastal.clone_from(coastal);
                self.steps = plan.steps.iter().map(|step| (step.id, Turn::default())).collect();
            }
            What::StepStarted { step } => self.turn(*step).state = State::Running,
            What::StepRunning { step, because } => self.turn(*step).say(now, clean(because)),
            What::StepProgress { step, message } => self.turn(*step).say(now, clean(message)),
            What::StepRetry { step, attempt, because } => {
                self.turn(*step).say(now, format!("attempt {attempt}, because {}", clean(because)));
            }
            What::StepSkipped { step, because, took_ms } => {
                self.turn(*step).end(State::Same, clean(because), *took_ms);
            }
            What::StepDone { step, proof, took_ms } => self.turn(*step).end(State::Done, clean(proof), *took_ms),
            What::StepFailed { step, failure, took_ms } => {
                let state = if failure.kind == Kind::Interrupted { State::Stopped } else { State::Failed };
                let turn = self.turn(*step);
                turn.end(state, clean(&failure.message), *took_ms);
                turn.failure = Some(Failure {
                    message: clean(&failure.message),
                    facts: failure.facts.iter().map(|fact| clean(fact)).collect(),
                    next: failure.next.iter().map(|next| clean(next)).collect(),
                    ..failure.clone()
                });
            }
            What::StepCancelled { step, because_of } => {
                let why =
                    because_of.map_or_else(|| "the run was stopped".to_owned(), |step| format!("because of {step}"));
                self.turn(*step).end(State::Skipped, why, 0);
            }
            What::CommandStarted { step, command, line } => {
                let record = CommandRecord {
                    step: *step,
                    line: redactor.text(&tame(line)),
                    started_ms: now,
                    ended: None,
                    output: Vec::new(),
                    dropped: 0,
                };
                self.commands.insert(*command, record);
            }
            What::CommandOutput { command, line, .. } => {
                if let Some(record) = self.commands.get_mut(command) {
                    record.output.push(clean(line));
                    // Now and then, so that a chatty command costs no more than it shows.
                    if record.output.len() > 2 * LINES_OF_FAILED {
                        shorten(&mut record.output, LINES_OF_FAILED, &mut record.dropped);
                    }
                }
            }
            What::CommandEnded { command, exit, took_ms } => {
                if let Some(record) = self.commands.get_mut(command) {
                    record.ended = Some((*exit, *took_ms));
                    shorten(&mut record.output, LINES_OF_FAILED, &mut record.dropped);
                }
            }
            What::RunEnded { result } => self.result = Some(result.clone()),
            What::StepVerifying { .. } | What::StepReport { .. } => {}
        }
    }

    fn turn(&mut self, step: StepId) -> &mut Turn {
        self.steps.entry(step).or_default()
    }

    /// `ok`, `failed`, `interrupted`; a journal that ends before its run has none of them.
    fn outcome(&self) -> &'static str {
        match self.result.as_ref().map(|result| result.outcome) {
            Some(Outcome::Ok) => "ok",
            Some(Outcome::Failed) => "failed",
            Some(Outcome::Interrupted) => "interrupted",
            None => "unfinished",
        }
    }

    fn took_ms(&self) -> u64 {
        let seen = || u64::try_from(self.ended.duration_since(self.began).as_millis()).unwrap_or(0);
        self.result.as_ref().map_or_else(seen, |result| result.took_ms)
    }

    /// In the plan's order; a journal without its beginning has no plan, and then in the catalogue's.
    fn in_order(&self) -> Vec<(StepId, &Turn)> {
        let planned: Vec<StepId> = self.run.steps().iter().map(|step| step.id).collect();
        let rest = self.steps.keys().copied().filter(|step| !planned.contains(step));
        planned.iter().copied().chain(rest).filter_map(|step| Some((step, self.steps.get(&step)?))).collect()
    }

    fn is_goal(&self, step: StepId) -> bool {
        self.run.step(step).is_none_or(|step| step.role == Role::Goal)
    }
}

impl Turn {
    /// Whether it took any time at all.
    fn was_begun(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Skipped)
    }

    fn say(&mut self, now: u64, words: String) {
        self.said.push((now, words));
        if self.said.len() > 2 * WORDS {
            self.unsaid += self.said.len() - WORDS;
            self.said.drain(..self.said.len() - WORDS);
        }
    }

    fn end(&mut self, state: State, words: String, took_ms: u64) {
        (self.state, self.words, self.took_ms) = (state, words, took_ms);
        let surplus = self.said.len().saturating_sub(WORDS);
        self.unsaid += surplus;
        self.said.drain(..surplus);
    }
}

fn shorten(lines: &mut Vec<String>, most: usize, dropped: &mut usize) {
    let surplus = lines.len().saturating_sub(most);
    *dropped += surplus;
    lines.drain(..surplus);
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::testing::{failure, success, unmet_need};

    #[test]
    fn what_was_never_begun_tells_no_version_and_no_time() {
        let page = html(&unmet_need());
        assert!(!page.contains("<dt>cluster</dt>") && !page.contains("<dt>tools</dt>"), "{page}");
        assert!(page.contains("not started") && page.contains("<span class=\"time\"></span>"), "{page}");
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_holds_what_failed() {
        let page = html(&failure());
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        for elsewhere in ["http-equiv", "<script", "src=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("<svg"));
        let account = &accounts(&failure())[0];
        let failed: Vec<_> = account.in_order().into_iter().filter(|(_, turn)| turn.state == State::Failed).collect();
        assert!(!failed.is_empty());
        for (step, turn) in failed {
            assert!(page.contains(&format!("id=\"{}-{step}\"", account.run.id)), "{step}");
            assert!(page.contains(&html::marked(&turn.words)), "{step}");
        }
    }

    #[test]
    fn a_run_and_its_journal_give_the_same_page() {
        let events = success();
        let text: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let read: Vec<Event> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(html(&events), html(&read));
        assert_eq!(junit(&events), junit(&read));
    }

    #[test]
    fn a_journal_without_beginning_or_end_is_still_a_page() {
        let events = failure();
        for part in [&events[1..], &events[..events.len() - 1], &events[..0]] {
            assert!(html(part).contains("</html>"));
            assert!(junit(part).contains("</testsuites>"));
        }
    }

    #[test]
    fn what_tools_print_is_neither_markup_nor_a_secret() {
        let mut events = success();
        for event in &mut events {
            if let What::CommandOutput { line, .. } = &mut event.what {
                *line = "<script>alert(1)</script> \u{1b}[31m password=hunter2".into();
            }
        }
        let page = html(&events);
        assert!(!page.contains("<script>") && !page.contains("hunter2") && !page.contains('\u{1b}'));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn ten_thousand_events_are_a_small_page() {
        let mut events = success();
        let end = events.pop().unwrap();
        let spoken = events.iter().find(|event| matches!(event.what, What::CommandStarted { .. })).cloned();
        let Some(What::CommandStarted { command, .. }) = spoken.map(|event| event.what) else { panic!("no command") };
        let last = events.last().cloned().unwrap();
        for number in 0..10_000 {
            let line =
                format!("line {number} of a tool that says much, with <markup> and words to fill the line to its end");
            let what = What::CommandOutput { command, stream: crate::tools::Stream::Stdout, line };
            events.push(Event { what, seq: last.seq + number + 1, ..last.clone() });
        }
        events.push(end);
        let page = html(&events);
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
    }
}
