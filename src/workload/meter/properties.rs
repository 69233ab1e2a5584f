//! What holds for any observation, and a second meter that looks at every second by itself.

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::testing::{ID, at, changed, observation, pod, says, update};
use super::*;
use crate::workload::record::State as Said;

const KEYS: [&str; 3] = ["A", "B", "C"];
const LONGEST: i64 = 260;

/// A line so many seconds after the one before.
#[derive(Debug, Clone)]
enum Step {
    Update { after: i64, lasts: i64, early: i64, anchor: usize, bundle: Vec<bool>, odd: Odd },
    Connection { after: i64, state: Said },
}

/// What is odd about an update.
#[derive(Debug, Clone, PartialEq)]
enum Odd {
    Nothing,
    /// An authority of its bundle has no key id.
    Nameless,
    /// The signatures do not hold.
    Broken,
    /// The update before it is missing.
    Hole,
}

fn step(holes: bool) -> impl Strategy<Value = Step> {
    let states = [Said::NoIdentity, Said::Unreachable, Said::Lost, Said::Refused, Said::Unreadable];
    let odd = prop_oneof![20 => Just(Odd::Nothing), 1 => Just(Odd::Nameless), 1 => Just(Odd::Broken), u32::from(holes) => Just(Odd::Hole)];
    let update = (1..40i64, 1..120i64, -10..15i64, 0..3usize, vec(any::<bool>(), 3), odd);
    prop_oneof![
        3 => update.prop_map(|(after, lasts, early, anchor, bundle, odd)| Step::Update { after, lasts, early, anchor, bundle, odd }),
        1 => (1..40i64, prop::sample::select(states.to_vec())).prop_map(|(after, state)| Step::Connection { after, state }),
    ]
}

/// A life that says what a real one could: `Following` before the first update after anything else.
fn a_life(holes: bool) -> impl Strategy<Value = (i64, Life)> {
    let ends = option::of(0..60i64);
    let unread = option::weighted(0.1, option::of(0..80i64));
    (1..60i64, vec(step(holes), 0..9), ends, prop::bool::weighted(0.9), unread).prop_map(
        |(pause, said, ends, whole, unread)| {
            let (mut lines, mut now, mut sequence, mut follows) = (Vec::new(), 0, 0, false);
            for said in said {
                match said {
                    Step::Connection { after, state } => {
                        // Only changes are logged, and only what had worked is lost.
                        let state = if state == Said::Lost && !follows { Said::Unreachable } else { state };
                        now += after;
                        follows = false;
                        lines.push(says(now, state));
                    }
                    Step::Update { after, lasts, early, anchor, bundle, odd } => {
                        now += after;
                        if !follows {
                            lines.push(says(now, Said::Following));
                            now += 1;
                        }
                        (follows, sequence) = (true, sequence + if odd == Odd::Hole { 2 } else { 1 });
                        let bundle: Vec<&str> =
                            KEYS.iter().zip(bundle).filter(|(_, has)| *has).map(|(id, _)| *id).collect();
                        lines.push(changed(update(now, sequence, lasts, KEYS[anchor], &bundle), |update| {
                            update.not_before = at(now - early);
                            update.authorities += usize::from(odd == Odd::Nameless);
                            update.verified = Some(odd != Odd::Broken);
                        }));
                    }
                }
            }
            let ended_at = ends.map(|ends| at(now + ends));
            let unread = unread.map(|since| Unread { since: since.map(at), why: "it was not read".into() });
            (pause, Life { started_at: at(0), ended_at, whole, lines, unread })
        },
    )
}

/// One life after the other; those of a pod start at different times.
fn a_pod(holes: bool) -> impl Strategy<Value = Vec<Life>> {
    vec(a_life(holes), 1..3).prop_map(|drawn| {
        let (mut now, mut lives) = (0, Vec::new());
        for (pause, life) in drawn {
            now += pause;
            let life = moved(life, now);
            let last = life.lines.iter().map(time_of).chain(life.ended_at).chain([life.started_at]).max();
            now = last.map_or(now, |last| last.duration_since(at(0)).as_secs());
            lives.push(life);
        }
        lives
    })
}

fn moved(mut life: Life, by: i64) -> Life {
    let by = SignedDuration::from_secs(by);
    life.started_at += by;
    life.ended_at = life.ended_at.map(|ended| ended + by);
    if let Some(unread) = &mut life.unread {
        unread.since = unread.since.map(|since| since + by);
    }
    for line in &mut life.lines {
        match line {
            Line::Connection(connection) => connection.at += by,
            Line::Update(update) => {
                update.received_at = update.received_at.map(|at| at + by);
                (update.not_before, update.not_after) = (update.not_before + by, update.not_after + by);
                update.serial = Some(format!("{}/{}", update.sequence, update.not_before));
            }
        }
    }
    life
}

fn an_observation(holes: bool) -> impl Strategy<Value = Observation> {
    (vec(a_pod(holes), 1..5), 0..120i64, 1..140i64, 0..12i64).prop_map(|(pods, start, lasts, tolerance)| {
        let names = ["a", "b", "c", "d", "e"];
        let pods = pods.into_iter().zip(names).map(|(lives, name)| pod(name, lives)).collect();
        let tolerance = SignedDuration::from_secs(tolerance);
        Observation { tolerance, ..observation(start, start + lasts, pods) }
    })
}

fn time_of(line: &Line) -> Timestamp {
    match line {
        Line::Update(update) => update.received_at.unwrap(),
        Line::Connection(connection) => connection.at,
    }
}

/// What the second meter sees of a pod in a second.
#[derive(Debug, Clone, PartialEq)]
enum Seen<'a> {
    Absent,
    Nothing(Timestamp),
    Svid(&'a Update),
    Unknown,
}

fn lives_at(pod: &Pod, now: Timestamp) -> Option<(usize, &Life)> {
    let (index, life) = pod.lives.iter().enumerate().rfind(|(_, life)| life.started_at <= now)?;
    life.ended_at.is_none_or(|ended| ended > now).then_some((index, life))
}

fn ignores_log(life: &Life, end: Timestamp) -> bool {
    let since = life.unread.as_ref().map(|unread| unread.since);
    let until = life.ended_at.into_iter().chain(since.flatten()).chain([end]).min().unwrap();
    let silent = life.lines.is_empty() && until.duration_since(life.started_at) >= SignedDuration::from_secs(5);
    since == Some(None) || silent && life.whole
}

fn is_cut(life: &Life) -> bool {
    let first =
        life.lines.iter().find_map(|line| if let Line::Update(update) = line { Some(update.sequence) } else { None });
    !life.whole || first.is_some_and(|first| first != 1)
}

/// Between two updates whose numbers do not follow each other.
fn in_a_hole(life: &Life, now: Timestamp) -> bool {
    let updates: Vec<(u64, Timestamp)> = life
        .lines
        .iter()
        .filter_map(|line| if let Line::Update(update) = line { Some((update.sequence, time_of(line))) } else { None })
        .collect();
    updates.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0 && pair[0].1 <= now && now < pair[1].1)
}

fn unread_at(life: &Life, now: Timestamp) -> bool {
    let last = life.lines.iter().map(time_of).max().unwrap_or(life.started_at);
    life.unread.as_ref().and_then(|unread| unread.since).is_some_and(|since| now >= since.max(last))
}

fn seen(pod: &Pod, now: Timestamp, end: Timestamp) -> Seen<'_> {
    let Some((_, life)) = lives_at(pod, now) else { return Seen::Absent };
    if ignores_log(life, end) || unread_at(life, now) || in_a_hole(life, now) {
        return Seen::Unknown;
    }
    let last = life.lines.iter().rev().find_map(|line| match line {
        Line::Update(update) if time_of(line) <= now => Some(update),
        _ => None,
    });
    match last {
        Some(update) => Seen::Svid(update),
        None if is_cut(life) => Seen::Unknown,
        None => Seen::Nothing(life.started_at),
    }
}

/// Good, bad or not known.
fn is_good(observation: &Observation, update: &Update, now: Timestamp) -> Option<bool> {
    let end = observation.window.end;
    if now < update.not_before || now >= update.not_after {
        return Some(false);
    }
    let anchor = update.anchor_key_id.as_ref().unwrap();
    if update.verified == Some(false) && update.bundle_key_ids.contains(anchor) {
        return Some(false);
    }
    let mut answers = Vec::new();
    for peer in &observation.pods {
        match seen(peer, now, end) {
            Seen::Absent | Seen::Nothing(_) => {}
            Seen::Unknown => answers.push(None),
            Seen::Svid(_) => {
                let tolerance = observation.tolerance.as_secs();
                let near: Vec<Option<bool>> = (-tolerance..=tolerance)
                    .filter_map(|shift| match seen(peer, now + SignedDuration::from_secs(shift), end) {
                        Seen::Absent | Seen::Nothing(_) => None,
                        Seen::Unknown => Some(None),
                        Seen::Svid(held) if held.bundle_key_ids.contains(anchor) => Some(Some(true)),
                        Seen::Svid(held) => Some((held.authorities <= held.bundle_key_ids.len()).then_some(false)),
                    })
                    .collect();
                answers.push(if near.contains(&Some(true)) {
                    Some(true)
                } else if near.contains(&None) {
                    None
                } else {
                    Some(false)
                });
            }
        }
    }
    if answers.contains(&Some(false)) {
        Some(false)
    } else if answers.contains(&None) {
        None
    } else {
        Some(true)
    }
}

/// Per pod: seconds without a valid SVID, not known, silent, connection not known, waiting.
fn by_hand(observation: &Observation, pod: &Pod) -> [u64; 5] {
    let Window { start, end } = observation.window;
    let mut sums = [0; 5];
    let mut now = start;
    while now < end {
        let waits = match seen(pod, now, end) {
            Seen::Absent => true,
            Seen::Nothing(since) if since >= start => {
                sums[4] += 1;
                true
            }
            Seen::Nothing(_) => {
                sums[0] += 1;
                false
            }
            Seen::Unknown => {
                sums[1] += 1;
                false
            }
            Seen::Svid(update) => {
                match is_good(observation, update, now) {
                    Some(true) => {}
                    Some(false) => sums[0] += 1,
                    None => sums[1] += 1,
                }
                false
            }
        };
        if !waits && let Some((_, life)) = lives_at(pod, now) {
            let before = life.lines.iter().rev().find(|line| time_of(line) <= now);
            let known = !(ignores_log(life, end) || unread_at(life, now) || in_a_hole(life, now))
                && (before.is_some() || !is_cut(life));
            match before {
                _ if !known => sums[3] += 1,
                Some(Line::Update(_)) => {}
                Some(Line::Connection(connection)) if connection.state == Said::Following => {}
                _ => sums[2] += 1,
            }
        }
        now += SignedDuration::from_secs(1);
    }
    sums
}

fn figures(report: &Report) -> [Figure; 4] {
    let total = report.total.clone();
    [total.no_valid_svid_ms, total.api_silent_ms, total.new_pods.without_identity_ms, total.renewals]
}

/// The same, or it says that it does not know.
fn no_surer(less: &Report, more: &Report) -> Result<(), TestCaseError> {
    for (less, more) in figures(less).into_iter().zip(figures(more)) {
        prop_assert!(less.known().is_none() || less == more, "{less:?} of {more:?}");
    }
    if less.verdict == Verdict::Unbroken {
        prop_assert_eq!(more.verdict, Verdict::Unbroken);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn looking_at_every_second_says_the_same(observation in an_observation(true)) {
        let report = measure(&observation);
        for pod in &observation.pods {
            let by_hand = by_hand(&observation, pod);
            let Some(found) = report.pods.iter().find(|found| found.uid == pod.uid) else {
                prop_assert_eq!(by_hand, [0; 5], "{} is not in the report", pod.name);
                continue;
            };
            let connection = found.unknowns.iter().filter(|unknown| unknown.of == report::Lost::Connection);
            let connection: i64 = connection.map(|unknown| unknown.end.duration_since(unknown.begin).as_secs()).sum();
            let by_meter = [
                found.no_valid_svid_ms.at_least() / 1000,
                found.unknown_ms / 1000,
                found.api_silent_ms.at_least() / 1000,
                u64::try_from(connection).unwrap(),
                found.without_identity_ms.at_least() / 1000,
            ];
            prop_assert_eq!(by_meter, by_hand, "{}: {:#?}", pod.name, found);
            prop_assert_eq!(found.no_valid_svid_ms.known().is_none(), by_hand[1] > 0);
            prop_assert_eq!(found.api_silent_ms.known().is_none(), by_hand[3] > 0);
        }
    }

    #[test]
    fn the_parts_of_a_window_add_up(observation in an_observation(true), cut in 1..140i64) {
        let Window { start, end } = observation.window;
        let middle = start + SignedDuration::from_secs(cut);
        prop_assume!(middle < end);
        // Whether a silent life has only just begun depends on when one looks.
        prop_assume!(observation.pods.iter().all(|pod| pod.lives.iter().all(|life| !life.lines.is_empty())));
        let part = |start, end| measure(&Observation { window: Window { start, end }, ..observation.clone() });
        let (whole, first, second) = (part(start, end), part(start, middle), part(middle, end));
        let sum = |of: &dyn Fn(&Report) -> u64| (of(&whole), of(&first) + of(&second));
        // A wait that goes on into the second part is no longer that of something new there.
        let (all, parts) = sum(&|report| figures(report)[0].at_least() + figures(report)[2].at_least());
        prop_assert_eq!(all, parts);
        let (all, parts) = sum(&|report| report.total.unknown_ms);
        prop_assert_eq!(all, parts);
        let (all, parts) = sum(&|report| figures(report)[3].at_least());
        prop_assert_eq!(all, parts);
        if whole.pods.iter().flat_map(|pod| &pod.waits).all(|wait| wait.end <= middle || wait.start >= middle) {
            for index in 0..3 {
                let (all, parts) = sum(&|report| figures(report)[index].at_least());
                prop_assert_eq!(all, parts, "figure {}", index);
            }
        }
    }

    #[test]
    fn the_order_of_the_pods_does_not_matter(observation in an_observation(true), turn in 0..5usize) {
        let report = measure(&observation);
        let mut pods = observation.pods.clone();
        let turn = turn % pods.len();
        pods.rotate_left(turn);
        prop_assert_eq!(&measure(&Observation { pods: pods.clone(), ..observation.clone() }), &report);
        pods.reverse();
        prop_assert_eq!(&measure(&Observation { pods, ..observation }), &report);
    }

    #[test]
    fn an_update_that_is_missing_makes_nothing_surer(
        observation in an_observation(false), pod in any::<prop::sample::Index>(), line in any::<prop::sample::Index>(),
    ) {
        let more = measure(&observation);
        let mut holed = observation;
        let pod = pod.index(holed.pods.len());
        let life = &mut holed.pods[pod].lives[0];
        let mut updates: Vec<usize> = (0..life.lines.len()).filter(|index| matches!(life.lines[*index], Line::Update(_))).collect();
        // What is missing at the end is for the reader of the log to say.
        updates.pop();
        prop_assume!(!updates.is_empty());
        life.lines.remove(updates[line.index(updates.len())]);
        no_surer(&measure(&holed), &more)?;
    }

    #[test]
    fn a_log_that_breaks_off_makes_nothing_surer(
        observation in an_observation(false), pod in any::<prop::sample::Index>(), since in 0..LONGEST, none in any::<bool>(),
    ) {
        let more = measure(&observation);
        let mut broken = observation;
        let pod = pod.index(broken.pods.len());
        let life = broken.pods[pod].lives.last_mut().unwrap();
        prop_assume!(life.unread.is_none());
        life.unread = Some(Unread { since: (!none).then(|| at(since)), why: "it broke off".into() });
        life.lines.retain(|line| !none && time_of(line) <= at(since));
        no_surer(&measure(&broken), &more)?;
    }

    #[test]
    fn a_beginning_that_is_missing_makes_nothing_surer(
        observation in an_observation(false), pod in any::<prop::sample::Index>(), gone in 1..9usize,
    ) {
        let more = measure(&observation);
        let mut cut = observation;
        let pod = pod.index(cut.pods.len());
        let life = &mut cut.pods[pod].lives[0];
        let gone = gone.min(life.lines.len());
        life.lines.drain(..gone);
        life.whole = false;
        no_surer(&measure(&cut), &more)?;
    }

    #[test]
    fn any_lines_can_be_measured(mut observation in an_observation(true), scramble in vec((0..4usize, any::<i32>(), any::<u64>()), 0..12)) {
        for (pod, time, number) in scramble {
            let Some(pod) = observation.pods.get_mut(pod) else { continue };
            for life in &mut pod.lives {
                let Some(line) = life.lines.last_mut() else { continue };
                match line {
                    Line::Update(update) => {
                        update.sequence = number;
                        update.received_at = (time % 7 != 0).then(|| at(i64::from(time)));
                        (update.not_before, update.not_after) = (update.not_after, update.not_before);
                    }
                    Line::Connection(connection) => (connection.at, connection.after_ms) = (at(i64::from(time)), number),
                }
                life.lines.rotate_right(1);
            }
            pod.lives.reverse();
        }
        let report = measure(&observation);
        let lasts = observation.window.end.duration_since(observation.window.start).as_millis();
        let pods = i128::try_from(report.pods.len()).unwrap();
        let spent = report.total.judged_ms + report.total.unknown_ms + figures(&report)[2].at_least();
        prop_assert!(i128::from(spent) <= lasts * pods, "{report:#?}");
        prop_assert_eq!(report.spiffe_id.as_deref(), Some(ID));
    }
}
