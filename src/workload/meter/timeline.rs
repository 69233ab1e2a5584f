//! What a pod held, and how it stood with its agent, from moment to moment, as its log tells.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use super::{Life, Pod, Unread};
use crate::workload::record::{Connection, Line, State, Update};

/// A life that has logged nothing is one whose log means nothing to us, unless it has only just begun.
const JUST_STARTED: SignedDuration = SignedDuration::from_secs(5);

/// No program takes so long from its container's start to its own.
const SLOWEST_START: SignedDuration = SignedDuration::from_secs(60);

/// Why something is not known, as a user reads it.
pub(super) type Why<'a> = Cow<'a, str>;

/// What a pod's process held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold<'a> {
    /// There was no process.
    Absent,
    /// The process has run since then and received no SVID.
    Nothing { since: Timestamp },
    /// The SVIDs of one update.
    Svids(Vec<&'a Update>),
    /// Nobody knows. If the process may still have been waiting for its first SVID: since when it ran.
    Unknown { why: Why<'a>, waiting: Option<Timestamp> },
}

/// How a pod's process stood with the Workload API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link<'a> {
    /// There was no process.
    Absent,
    /// Updates came as they happened.
    Following,
    /// No updates could come. What the process said of it, if anything yet.
    Silent(Option<State>),
    /// Nobody knows.
    Unknown(Why<'a>),
}

/// A pod's course.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) pod: &'a Pod,
    /// From then on; in order of time. Of several at one moment the last one counts.
    pub(super) holds: Vec<(Timestamp, Hold<'a>)>,
    /// Likewise.
    pub(super) links: Vec<(Timestamp, Link<'a>)>,
    /// When its container started, and when it ended, if it did.
    pub(super) lives: Vec<(Timestamp, Option<Timestamp>)>,
}

impl<'a> Timeline<'a> {
    /// Reads the pod's lives. `end` is the end of the window: what lives on lives until then.
    pub(super) fn of(pod: &'a Pod, end: Timestamp) -> Self {
        let mut timeline = Timeline { pod, holds: Vec::new(), links: Vec::new(), lives: Vec::new() };
        let mut earliest = Timestamp::MIN;
        for (index, life) in pod.lives.iter().enumerate() {
            let next = pod.lives.get(index + 1).map(|next| next.started_at);
            let mut reader = Reader::new(life, earliest);
            reader.read(life, end);
            // A life whose end nobody saw ended at the latest when the next one began.
            let ended = reader.stopped.into_iter().chain(life.ended_at).chain(next).min();
            if let Some(ended) = ended {
                reader.cut_off(ended.max(reader.began));
            }
            earliest = reader.now;
            timeline.lives.push((reader.began, ended.map(|ended| ended.max(reader.began))));
            timeline.holds.append(&mut reader.holds);
            timeline.links.append(&mut reader.links);
        }
        timeline
    }

    /// What it held at that moment.
    pub(super) fn hold(&self, at: Timestamp) -> &Hold<'a> {
        let index = self.holds.partition_point(|(from, _)| *from <= at);
        index.checked_sub(1).and_then(|index| self.holds.get(index)).map_or(&Hold::Absent, |(_, hold)| hold)
    }

    /// What it held at any time from `from` to `to`, both included.
    pub(super) fn holds_within(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = &Hold<'a>> {
        let first = self.holds.partition_point(|(begin, _)| *begin <= from).saturating_sub(1);
        let last = self.holds.partition_point(|(begin, _)| *begin <= to).max(first);
        let next = self.holds.iter().skip(first + 1).map(|(begin, _)| Some(*begin)).chain([None]);
        let within = self.holds.get(first..last).unwrap_or_default().iter().zip(next);
        // Of several at one moment only the last one was held for any time.
        within.filter(|((begin, _), next)| *next != Some(*begin)).map(|((_, hold), _)| hold)
    }

    /// How it stood with the Workload API at that moment.
    pub(super) fn link(&self, at: Timestamp) -> &Link<'a> {
        let index = self.links.partition_point(|(from, _)| *from <= at);
        index.checked_sub(1).and_then(|index| self.links.get(index)).map_or(&Link::Absent, |(_, link)| link)
    }
}

/// Reads one life.
struct Reader<'a> {
    holds: Vec<(Timestamp, Hold<'a>)>,
    links: Vec<(Timestamp, Link<'a>)>,
    began: Timestamp,
    /// The time of the line that was read last. A clock that was set back stands still until it has caught up.
    now: Timestamp,
    /// The number of the last update.
    sequence: Option<u64>,
    /// When that came; before the first one, when the life began.
    updated: Timestamp,
    /// The process said that it was asked to end.
    stopped: Option<Timestamp>,
}

impl<'a> Reader<'a> {
    fn new(life: &'a Life, earliest: Timestamp) -> Self {
        let mut began = life.started_at;
        // Kubernetes tells the start to the second; the first line says it better.
        if life.whole
            && let Some(Line::Connection(first)) = life.lines.first()
            && let Some(told) = started_by(first)
            && told > began
            && told.duration_since(began) < SignedDuration::from_secs(1)
        {
            began = told;
        }
        let began = began.max(earliest);
        Reader {
            holds: Vec::new(),
            links: Vec::new(),
            began,
            now: began,
            sequence: None,
            updated: began,
            stopped: None,
        }
    }

    fn read(&mut self, life: &'a Life, end: Timestamp) {
        let known_until = match &life.unread {
            Some(Unread { since: None, why }) => return self.know_nothing(why.as_str().into()),
            Some(Unread { since: Some(since), .. }) => (*since).min(end),
            None => end,
        };
        let until = life.ended_at.map_or(known_until, |ended| ended.min(known_until));
        if life.lines.is_empty() && life.whole && until.duration_since(self.began) >= JUST_STARTED {
            return self.know_nothing("its log has no line that the meter can read".into());
        }
        let first =
            life.lines.iter().find_map(|line| if let Line::Update(update) = line { Some(update) } else { None });
        let cut = match first {
            Some(update) if update.sequence != 1 => Some("the beginning of its log is gone"),
            _ if life.lines.first().is_some_and(|line| is_later(line, life.started_at)) => {
                Some("the beginning of its log is gone")
            }
            _ if !life.whole => Some("the beginning of its log was not read"),
            _ => None,
        };
        if let Some(why) = cut {
            self.know_nothing(why.into());
        } else {
            self.holds.push((self.began, Hold::Nothing { since: self.began }));
            self.links.push((self.began, Link::Silent(None)));
        }
        for line in &life.lines {
            match line {
                Line::Update(update) => self.update(update),
                Line::Connection(connection) => self.connection(connection),
            }
        }
        // `spire-agent api watch` logs what it receives, and nothing of its connection.
        if first.is_some_and(|update| update.serial.is_none()) {
            self.links = vec![(self.began, Link::Unknown("its program does not log its connection".into()))];
        }
        if let Some(Unread { since: Some(since), why }) = &life.unread {
            self.now = self.now.max(*since);
            self.lose(self.now, why);
            self.links.push((self.now, Link::Unknown(why.as_str().into())));
        }
    }

    fn know_nothing(&mut self, why: Why<'a>) {
        self.holds.push((self.began, Hold::Unknown { why: why.clone(), waiting: Some(self.began) }));
        self.links.push((self.began, Link::Unknown(why)));
    }

    fn lose(&mut self, at: Timestamp, why: &'a str) {
        let waiting = self.sequence.is_none().then_some(self.began);
        self.holds.push((at, Hold::Unknown { why: why.into(), waiting }));
    }

    fn update(&mut self, update: &'a Update) {
        let before = self.now;
        let Some(at) = update.received_at else {
            return self.lose(before, "its log does not say when an SVID arrived");
        };
        if self.sequence == Some(update.sequence)
            && let Some((_, Hold::Svids(svids))) = self.holds.last_mut()
        {
            svids.push(update);
            return;
        }
        self.now = before.max(at);
        if self.sequence.is_some_and(|sequence| sequence.checked_add(1) != Some(update.sequence)) {
            // Whatever was said since the last update may have been said before or after what is missing.
            let why = "lines are missing in its log";
            self.lose(self.updated, why);
            self.links.retain(|(from, _)| *from <= self.updated);
            self.links.push((self.updated, Link::Unknown(why.into())));
        }
        (self.sequence, self.updated) = (Some(update.sequence), self.now);
        self.holds.push((self.now, Hold::Svids(vec![update])));
        if !matches!(self.links.last(), Some((_, Link::Following))) {
            self.links.push((self.now, Link::Following));
        }
    }

    fn connection(&mut self, connection: &'a Connection) {
        let before = self.now;
        self.now = before.max(connection.at);
        let follows = matches!(self.links.last(), Some((_, Link::Following)));
        let silent = matches!(self.links.last(), Some((_, Link::Silent(_))));
        let link = match connection.state {
            State::Stopped => {
                self.stopped = Some(self.now);
                return;
            }
            State::Following => Link::Following,
            state => Link::Silent(Some(state)),
        };
        // Only changes are logged, and only a stream that had worked is lost.
        let hole = match connection.state {
            State::Following => follows,
            State::Lost => silent,
            _ => false,
        };
        if hole {
            self.links.push((before, Link::Unknown("lines are missing in its log".into())));
        }
        self.links.push((self.now, link));
    }

    /// Nothing is from `end` on.
    fn cut_off(&mut self, end: Timestamp) {
        self.holds.retain(|(from, _)| *from < end || *from == self.began);
        self.links.retain(|(from, _)| *from < end || *from == self.began);
        self.holds.push((end, Hold::Absent));
        self.links.push((end, Link::Absent));
        self.now = end;
    }
}

/// Whether a line cannot be the first of the life that started then.
fn is_later(line: &Line, started: Timestamp) -> bool {
    let Line::Connection(connection) = line else { return false };
    connection.state == State::Lost
        || started_by(connection).is_some_and(|told| told.duration_since(started) > SLOWEST_START)
}

/// When the process started, by its first line.
fn started_by(first: &Connection) -> Option<Timestamp> {
    let after = SignedDuration::from_millis(i64::try_from(first.after_ms).ok()?);
    first.at.checked_sub(after).ok()
}
