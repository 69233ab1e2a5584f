//! The JSON lines that the workload logs, and how they are found again in a pod's log.
//!
//! A log holds other things too: the certificates in PEM, lines of a container runtime, a last line that was cut
//! off. Whatever is not one of our lines is passed over in silence; that is the contract, not an error.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::workload::watch_text::WatchText;

/// The version of the lines that this program writes. Readers ignore keys that they do not know.
pub const SCHEMA: u32 = 1;

/// One JSON line of the workload's log. Its key `type` comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Line {
    /// An SVID was received.
    #[serde(rename = "svid-update")]
    Update(Update),
    /// The connection to the Workload API changed.
    #[serde(rename = "workload-api")]
    Connection(Connection),
}

/// An SVID that was received, with the bundle that came with it.
///
/// An update of the Workload API can bring several SVIDs; each has its own line, with the same `sequence`.
/// Fields that are optional are absent where the workload is `spire-agent api watch`, which does not print them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Numbers the updates since the workload started, from 1. An agent that restarts sends its SVID again: the
    /// number grows, the serial stays.
    pub sequence: u64,
    /// Position among the SVIDs of this update; 0 is the default identity.
    pub svid: usize,
    /// When the workload had it in its hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_at: Option<Timestamp>,
    /// E.g. `spiffe://coastal-containers.example/ns/default/sa/workload`.
    pub spiffe_id: String,
    /// The registration entry's hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Serial number, hexadecimal. SPIRE's own logs print it in decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Valid from; SPIRE sets it 10 s before the moment of issue.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// The key that signed the SVID (`AuthorityKeyIdentifier`), in the spelling of SPIRE's authority ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_key_id: Option<String>,
    /// The key that signed the top of the chain that came with the SVID: what has to be in the bundle. The same
    /// as `issuer_key_id` unless SPIRE has an upstream authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_key_id: Option<String>,
    /// `SubjectKeyIdentifier` of each authority of the trust domain's bundle that has one, in the bundle's order.
    #[serde(default)]
    pub bundle_key_ids: Vec<String>,
    /// How many authorities the bundle holds.
    pub authorities: usize,
    /// Whether the signatures hold, from the SVID up to an authority of the bundle. Dates are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
}

impl Update {
    /// Whether the SVID is within its dates.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is in the last quarter of its life. Agents renew at half: this one was not renewed.
    #[must_use]
    pub fn is_overdue_at(&self, now: Timestamp) -> bool {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after.duration_since(now) < life / 4
    }

    /// Whether the authority that the chain leads to is in the bundle, by key id; nothing if the log does not
    /// say. [`Update::verified`] is the stronger word.
    #[must_use]
    pub fn is_anchored(&self) -> Option<bool> {
        self.anchor_key_id.as_ref().map(|anchor| self.bundle_key_ids.contains(anchor))
    }

    /// Whether the SVID is proven to chain to its bundle: signatures if the log has them, else key ids, else
    /// nothing is known.
    #[must_use]
    pub fn chains_to_bundle(&self) -> Option<bool> {
        self.verified.or_else(|| self.is_anchored())
    }
}

/// How the workload stands with the Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// An update arrived; more will as they happen.
    Following,
    /// The agent answers, but has no identity for this workload (`PermissionDenied`): normal for the first
    /// seconds of a pod, until its entry has travelled from the controller manager to the agent.
    NoIdentity,
    /// The socket is missing, or nobody answers on it.
    Unreachable,
    /// The stream ended after it had worked: the agent stopped.
    Lost,
    /// The agent answered with an error.
    Refused,
    /// The agent sent what cannot be read.
    Unreadable,
    /// The workload was asked to end.
    Stopped,
}

/// The connection to the Workload API changed. Logged once per change, not per attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When.
    pub at: Timestamp,
    /// What it is now.
    pub state: State,
    /// In words: the error with its causes, or how long it took.
    pub message: String,
    /// Attempts since the last update, this one included.
    pub attempts: u64,
    /// Milliseconds since the last update (at first: since the start).
    pub after_ms: u64,
}

impl Line {
    /// Writes the line and flushes: a log that is read from outside must not wait for a buffer.
    ///
    /// # Errors
    /// As `out` fails.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        out.write_all(&text)?;
        out.flush()
    }
}

/// Our line in a line of a log, if it is one. A time stamp before it (`kubectl logs --timestamps`) or another
/// prefix is passed over.
#[must_use]
pub fn parse_line(line: &str) -> Option<Line> {
    let start = line.find('{')?;
    serde_json::from_str(line[start..].trim_end()).ok()
}

/// Everything that a log tells of, oldest first: our own lines, or what `spire-agent api watch` printed.
#[must_use]
pub fn lines_in(log: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut text = WatchText::default();
    for line in log.lines() {
        match parse_line(line) {
            Some(ours) => lines.push(ours),
            None => lines.extend(text.line(line).map(Line::Update)),
        }
    }
    lines.extend(text.end().map(Line::Update));
    lines
}

/// Every SVID that a log tells of, oldest first.
#[must_use]
pub fn updates_in(log: &str) -> Vec<Update> {
    let update = |line| match line {
        Line::Update(update) => Some(update),
        Line::Connection(_) => None,
    };
    lines_in(log).into_iter().filter_map(update).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time stamp")
    }

    fn update() -> Update {
        Update {
            schema: SCHEMA,
            sequence: 3,
            svid: 0,
            received_at: Some(time("2023-10-23T19:20:43.5Z")),
            spiffe_id: "spiffe://coastal-containers.example/ns/default/sa/workload".into(),
            hint: None,
            serial: Some("0a1b".into()),
            not_before: time("2023-10-23T19:20:33Z"),
            not_after: time("2023-10-23T23:20:43Z"),
            issuer_key_id: Some("aa01".into()),
            anchor_key_id: Some("aa01".into()),
            bundle_key_ids: vec!["bb02".into(), "aa01".into()],
            authorities: 2,
            verified: Some(true),
        }
    }

    fn written(line: &Line) -> String {
        let mut out = Vec::new();
        line.write(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_line_is_what_the_readme_says() {
        assert_eq!(
            written(&Line::Update(update())),
            concat!(
                r#"{"type":"svid-update","schema":1,"sequence":3,"svid":0,"received_at":"2023-10-23T19:20:43.5Z","#,
                r#""spiffe_id":"spiffe://coastal-containers.example/ns/default/sa/workload","serial":"0a1b","#,
                r#""not_before":"2023-10-23T19:20:33Z","not_after":"2023-10-23T23:20:43Z","issuer_key_id":"aa01","#,
                r#""anchor_key_id":"aa01","bundle_key_ids":["bb02","aa01"],"authorities":2,"verified":true}"#,
                "\n"
            )
        );
    }

    #[test]
    fn lines_are_found_among_everything_else() {
        let ours = written(&Line::Update(update()));
        let connection = written(&Line::Connection(Connection {
            schema: SCHEMA,
            at: time("2023-10-23T19:20:40Z"),
            state: State::NoIdentity,
            message: "no identity issued".into(),
            attempts: 1,
            after_ms: 12,
        }));
        let log = format!(
            "2023/10/23 19:20:43 SVID updated for \"spiffe://x/y\":\n-----BEGIN CERTIFICATE-----\nMIIB{{\n\
             -----END CERTIFICATE-----\n\n{ours}{connection}{{\"type\":\"other\",\"schema\":1}}\n\
             2023-10-23T19:20:44.1Z {ours}[pod/workload-1/workload] {ours}{}",
            &ours[..ours.len() / 2]
        );
        assert_eq!(updates_in(&log), vec![update(), update(), update()]);
    }

    #[test]
    fn keys_of_later_versions_are_ignored() {
        let line = written(&Line::Update(update())).replace(r#""schema":1,"#, r#""schema":7,"news":{"a":[1]},"#);
        assert_eq!(parse_line(&line), Some(Line::Update(Update { schema: 7, ..update() })));
    }

    #[test]
    fn dates_are_inclusive() {
        for (now, valid) in [
            ("2023-10-23T19:20:32.999Z", false),
            ("2023-10-23T19:20:33Z", true),
            ("2023-10-23T23:20:43Z", true),
            ("2023-10-23T23:20:43.001Z", false),
        ] {
            assert_eq!(update().is_valid_at(time(now)), valid, "{now}");
        }
    }

    #[test]
    fn signatures_win_over_key_ids() {
        let cases = [
            (Some(true), Some("aa01"), Some(true)),
            (Some(false), Some("aa01"), Some(false)),
            (None, Some("aa01"), Some(true)),
            (None, Some("cc03"), Some(false)),
            (None, None, None),
        ];
        for (verified, anchor, expected) in cases {
            let update = Update { verified, anchor_key_id: anchor.map(str::to_owned), ..update() };
            assert_eq!(update.chains_to_bundle(), expected, "{verified:?} {anchor:?}");
        }
    }

    proptest! {
        #[test]
        fn every_update_comes_back(
            sequence: u64,
            id in "spiffe://[a-z.]{1,20}/[ -~]{0,40}",
            serial in proptest::option::of("[0-9a-f]{2,40}"),
            keys in proptest::collection::vec("[0-9a-f]{40}", 0..6),
            seconds in 0i64..4_000_000_000,
            hint in proptest::option::of("\\PC*"),
        ) {
            let update = Update {
                sequence, spiffe_id: id, serial, hint,
                received_at: Timestamp::from_second(seconds).ok(),
                anchor_key_id: keys.first().cloned(), authorities: keys.len(), bundle_key_ids: keys,
                ..update()
            };
            prop_assert_eq!(updates_in(&written(&Line::Update(update.clone()))), vec![update]);
        }

        #[test]
        fn any_text_can_be_a_log(log in "(\\PC|\n|\\{|\"|SPIFFE ID:\t)*") {
            prop_assert!(updates_in(&log).len() <= log.lines().count());
        }

        #[test]
        fn a_log_cut_anywhere_yields_whole_updates_only(cut in 0usize..2000) {
            let log = written(&Line::Update(update())).repeat(3);
            let cut = cut.min(log.len());
            let whole = log[..cut].matches('}').count();
            prop_assert_eq!(updates_in(&log[..cut]), vec![update(); whole]);
        }
    }
}
