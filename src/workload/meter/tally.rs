//! The moments added up.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::judge::{Judge, Moment, State};
use super::report::{
    Cause, Figure, Gap, Issuers, Lost, NewPods, PodReport, Report, SCHEMA, Silence, Total, Unknown, Verdict,
};
use super::timeline::{Hold, Link, Timeline};
use super::{Observation, Update, Window};

/// Measures the window.
#[must_use]
pub fn measure(observation: &Observation) -> Report {
    let window = observation.window;
    let mut pods: Vec<_> = observation.pods.iter().filter(|pod| pod.created_at < window.end).collect();
    // Not in the order in which the API server listed them: the same facts give the same report.
    pods.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    let timelines: Vec<Timeline<'_>> = pods.into_iter().map(|pod| Timeline::of(pod, window.end)).collect();
    let tolerance = observation.tolerance.max(SignedDuration::ZERO);
    let judge = Judge { pods: &timelines, spiffe_id: observation.spiffe_id.as_deref(), tolerance };
    let there = timelines.iter().filter(|timeline| timeline.lives.is_empty() || lives_in(timeline, window));
    let mut tallies: Vec<Tally<'_, '_>> = there.map(|timeline| Tally::of(&judge, timeline, window)).collect();
    let moments = moments(&judge, window);
    for (begin, end) in moments.iter().zip(moments.iter().skip(1)) {
        let mut moment = judge.at(*begin);
        for tally in &mut tallies {
            tally.span(&mut moment, *begin, *end);
        }
    }
    let pods: Vec<PodReport> = tallies.into_iter().map(Tally::report).collect();
    let total = total(observation, &judge, &pods);
    let verdict = match &total.no_valid_svid_ms {
        figure if figure.at_least() > 0 => Verdict::Broken,
        Figure::Known(_) => Verdict::Unbroken,
        Figure::Unknown { .. } => Verdict::Unknown,
    };
    Report {
        schema: SCHEMA,
        window,
        spiffe_id: observation.spiffe_id.clone(),
        tolerance_ms: milliseconds(tolerance),
        verdict,
        total,
        pods,
    }
}

fn lives_in(timeline: &Timeline<'_>, window: Window) -> bool {
    timeline.lives.iter().any(|(began, ended)| *began < window.end && ended.is_none_or(|ended| ended > window.start))
}

/// The moments of the window from which on something may be different for any pod, the window's own ends included.
fn moments(judge: &Judge<'_>, window: Window) -> Vec<Timestamp> {
    let mut moments = vec![window.start, window.end];
    for timeline in judge.pods {
        moments.extend(timeline.links.iter().map(|(from, _)| *from));
        for (from, hold) in &timeline.holds {
            let shifted = [from.checked_sub(judge.tolerance), from.checked_add(judge.tolerance)];
            moments.extend(shifted.into_iter().flatten().chain([*from]));
            if let Hold::Svids(svids) = hold {
                moments.extend(svids.iter().flat_map(|svid| [svid.not_before, svid.not_after]));
            }
        }
    }
    moments.retain(|at| (window.start..=window.end).contains(at));
    moments.sort_unstable();
    moments.dedup();
    moments
}

/// One pod's sums.
struct Tally<'j, 'a> {
    judge: &'j Judge<'a>,
    timeline: &'j Timeline<'a>,
    window: Window,
    judged: SignedDuration,
    gaps: Vec<Gap>,
    silences: Vec<Silence>,
    waits: Vec<Window>,
    unknowns: Vec<Unknown>,
    /// Why it is not known how long it waited.
    wait_unknown: Option<String>,
}

impl<'j, 'a> Tally<'j, 'a> {
    fn of(judge: &'j Judge<'a>, timeline: &'j Timeline<'a>, window: Window) -> Self {
        Tally {
            judge,
            timeline,
            window,
            judged: SignedDuration::ZERO,
            gaps: Vec::new(),
            silences: Vec::new(),
            waits: Vec::new(),
            unknowns: Vec::new(),
            wait_unknown: None,
        }
    }

    /// A span in which nothing changes.
    fn span(&mut self, moment: &mut Moment<'_, 'a>, begin: Timestamp, end: Timestamp) {
        match moment.state(self.timeline) {
            State::Absent => return,
            // What starts in the window has its own figure for this.
            State::Waiting { since } if since >= self.window.start => return self.wait(begin, end),
            State::Waiting { .. } => self.gap(begin, end, Cause::NeverReceived),
            State::Valid => self.judged += end.duration_since(begin),
            State::Invalid(cause) => self.gap(begin, end, cause),
            State::Unknown { why, waiting } => {
                if waiting.is_some_and(|since| since >= self.window.start) {
                    self.wait_unknown.get_or_insert_with(|| why.clone().into_owned());
                }
                self.unknown(begin, end, Lost::Svid, &why);
            }
        }
        match self.timeline.link(begin) {
            Link::Absent | Link::Following => {}
            Link::Silent(state) => {
                let state = *state;
                match self.silences.last_mut() {
                    Some(last) if last.end == begin && last.state == state => last.end = end,
                    _ => self.silences.push(Silence { begin, end, state }),
                }
            }
            Link::Unknown(why) => {
                let why = why.clone();
                self.unknown(begin, end, Lost::Connection, &why);
            }
        }
    }

    fn wait(&mut self, begin: Timestamp, end: Timestamp) {
        match self.waits.last_mut() {
            Some(last) if last.end == begin => last.end = end,
            _ => self.waits.push(Window { start: begin, end }),
        }
    }

    fn gap(&mut self, begin: Timestamp, end: Timestamp, cause: Cause) {
        self.judged += end.duration_since(begin);
        match self.gaps.last_mut() {
            Some(last) if last.end == begin && last.cause == cause => last.end = end,
            _ => self.gaps.push(Gap { begin, end, cause }),
        }
    }

    fn unknown(&mut self, begin: Timestamp, end: Timestamp, of: Lost, why: &str) {
        let last = self.unknowns.iter_mut().rev().find(|unknown| unknown.of == of);
        match last {
            Some(last) if last.end == begin && last.why == why => last.end = end,
            _ => self.unknowns.push(Unknown { begin, end, of, why: why.to_owned() }),
        }
    }

    fn report(self) -> PodReport {
        let why = |of| self.unknowns.iter().find(|unknown| unknown.of == of).map(|unknown| unknown.why.clone());
        let of_svid = |spans: &[Unknown]| {
            sum(spans.iter().filter(|unknown| unknown.of == Lost::Svid).map(|unknown| (unknown.begin, unknown.end)))
        };
        let started = |began: &Timestamp| (self.window.start..self.window.end).contains(began);
        let lives = &self.timeline.lives;
        let ended = lives.last().and_then(|(_, ended)| *ended).filter(|ended| *ended < self.window.end);
        PodReport {
            name: self.timeline.pod.name.clone(),
            uid: self.timeline.pod.uid.clone(),
            started_at: lives.first().map(|(began, _)| *began),
            ended_at: ended,
            judged_ms: milliseconds(self.judged),
            unknown_ms: of_svid(&self.unknowns),
            no_valid_svid_ms: Figure::new(sum(self.gaps.iter().map(|gap| (gap.begin, gap.end))), why(Lost::Svid)),
            api_silent_ms: Figure::new(
                sum(self.silences.iter().map(|silence| (silence.begin, silence.end))),
                why(Lost::Connection),
            ),
            starts: count(lives.iter().filter(|(began, _)| started(began))),
            without_identity_ms: Figure::new(
                sum(self.waits.iter().map(|wait| (wait.start, wait.end))),
                self.wait_unknown.clone(),
            ),
            renewals: self.renewals(),
            issuers_before: self.issuers(self.timeline.hold(self.window.start)),
            issuers_after: self.issuers(self.timeline.hold(just_before(self.window.end))),
            gaps: self.gaps,
            silences: self.silences,
            waits: self.waits,
            unknowns: self.unknowns,
        }
    }

    /// How often one SVID followed another.
    fn renewals(&self) -> Figure {
        let (mut seen, mut unknown) = (0, None);
        let mut held: Option<&Update> = None;
        for (index, (from, hold)) in self.timeline.holds.iter().enumerate() {
            if *from >= self.window.end {
                break;
            }
            let within = *from >= self.window.start;
            match hold {
                Hold::Absent | Hold::Nothing { .. } => held = None,
                Hold::Unknown { why, .. } => {
                    let reaches =
                        self.timeline.holds.get(index + 1).is_none_or(|(until, _)| *until >= self.window.start);
                    if within || reaches {
                        unknown.get_or_insert_with(|| why.clone().into_owned());
                    }
                    held = None;
                }
                Hold::Svids(svids) => {
                    let svid = self.judge.candidates(svids).next();
                    if within && let (Some(held), Some(svid)) = (held, svid) {
                        seen += u64::from(is_another(held, svid));
                    }
                    held = svid;
                }
            }
        }
        Figure::new(seen, unknown)
    }

    fn issuers(&self, hold: &Hold<'a>) -> Issuers {
        match hold {
            Hold::Absent | Hold::Nothing { .. } => Issuers::default(),
            Hold::Unknown { why, .. } => Issuers { key_ids: Vec::new(), unknown: Some(why.clone().into_owned()) },
            Hold::Svids(svids) => {
                let mut issuers = Issuers::default();
                for svid in self.judge.candidates(svids) {
                    match &svid.issuer_key_id {
                        Some(id) => issuers.key_ids.push(id.clone()),
                        None => issuers.unknown = Some("its program does not log who issued its SVID".into()),
                    }
                }
                issuers.key_ids.sort();
                issuers.key_ids.dedup();
                issuers
            }
        }
    }
}

fn is_another(before: &Update, after: &Update) -> bool {
    match (&before.serial, &after.serial) {
        (Some(before), Some(after)) => before != after,
        // `spire-agent api watch` does not print serials.
        _ => (before.not_before, before.not_after) != (after.not_before, after.not_after),
    }
}

fn total(observation: &Observation, judge: &Judge<'_>, pods: &[PodReport]) -> Total {
    let Window { start, end } = observation.window;
    let lived = pods.iter().filter(|pod| pod.started_at.is_some()).count();
    let lost = if end <= start {
        Some("the window has no duration".to_owned())
    } else if let Some(lost) = observation.lost.first() {
        Some(lost.clone())
    } else {
        (lived == 0).then(|| "no pod of the workload ran in this window".to_owned())
    };
    let why = |figure: &dyn Fn(&PodReport) -> Figure| {
        let of = |pod: &PodReport| figure(pod).why_unknown().map(|why| format!("{}: {why}", pod.name));
        lost.clone().or_else(|| pods.iter().find_map(of))
    };
    let add = |figure: &dyn Fn(&PodReport) -> Figure| {
        Figure::new(pods.iter().map(|pod| figure(pod).at_least()).sum(), why(figure))
    };
    let most = |figure: &dyn Fn(&PodReport) -> Figure, spans: &dyn Fn(&PodReport) -> Vec<(Timestamp, Timestamp)>| {
        Figure::new(pods.iter().map(|pod| longest(&spans(pod))).max().unwrap_or_default(), why(figure))
    };
    let issuers = |of: &dyn Fn(&PodReport) -> &Issuers| {
        let key_ids: BTreeSet<&String> = pods.iter().flat_map(|pod| &of(pod).key_ids).collect();
        let unknown = |pod: &PodReport| of(pod).unknown.as_ref().map(|why| format!("{}: {why}", pod.name));
        Issuers {
            key_ids: key_ids.into_iter().cloned().collect(),
            unknown: lost.clone().or_else(|| pods.iter().find_map(unknown)),
        }
    };
    let no_valid_svid = |pod: &PodReport| pod.no_valid_svid_ms.clone();
    let api_silent = |pod: &PodReport| pod.api_silent_ms.clone();
    let without_identity = |pod: &PodReport| pod.without_identity_ms.clone();
    Total {
        pods: lived,
        judged_ms: pods.iter().map(|pod| pod.judged_ms).sum(),
        unknown_ms: pods.iter().map(|pod| pod.unknown_ms).sum(),
        no_valid_svid_ms: add(&no_valid_svid),
        longest_no_valid_svid_ms: most(&no_valid_svid, &|pod| {
            pod.gaps.iter().map(|gap| (gap.begin, gap.end)).collect()
        }),
        api_silent_ms: add(&api_silent),
        longest_api_silent_ms: most(&api_silent, &|pod| {
            pod.silences.iter().map(|silence| (silence.begin, silence.end)).collect()
        }),
        new_pods: NewPods {
            started: pods.iter().map(|pod| pod.starts).sum(),
            without_identity_ms: add(&without_identity),
            longest_without_identity_ms: most(&without_identity, &|pod| {
                pod.waits.iter().map(|wait| (wait.start, wait.end)).collect()
            }),
            still_without_identity: still_waiting(judge, observation.window),
            not_started: count(pods.iter().filter(|pod| pod.started_at.is_none())),
        },
        renewals: add(&|pod| pod.renewals.clone()),
        issuers_before: issuers(&|pod| &pod.issuers_before),
        issuers_after: issuers(&|pod| &pod.issuers_after),
    }
}

/// How many starts of the window led to no SVID before the life or the window ended.
fn still_waiting(judge: &Judge<'_>, window: Window) -> u64 {
    count(judge.pods.iter().flat_map(|timeline| timeline.lives.iter().map(move |life| (timeline, life))).filter(
        |(timeline, (began, ended))| {
            let last = just_before(ended.unwrap_or(window.end).min(window.end));
            (window.start..window.end).contains(began) && matches!(timeline.hold(last), Hold::Nothing { .. })
        },
    ))
}

/// The longest stretch without a pause. The spans are in order.
fn longest(spans: &[(Timestamp, Timestamp)]) -> u64 {
    let mut longest = SignedDuration::ZERO;
    let mut current: Option<(Timestamp, Timestamp)> = None;
    for &(begin, end) in spans {
        let stretch = match current {
            Some((first, last)) if last == begin => (first, end),
            _ => (begin, end),
        };
        longest = longest.max(stretch.1.duration_since(stretch.0));
        current = Some(stretch);
    }
    milliseconds(longest)
}

fn sum(spans: impl Iterator<Item = (Timestamp, Timestamp)>) -> u64 {
    milliseconds(spans.map(|(begin, end)| end.duration_since(begin)).fold(SignedDuration::ZERO, |sum, span| sum + span))
}

/// Rounded up.
fn milliseconds(duration: SignedDuration) -> u64 {
    let nanoseconds = u128::try_from(duration.as_nanos()).unwrap_or_default();
    u64::try_from(nanoseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn just_before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(at)
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}
