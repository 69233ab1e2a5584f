//! Reads what `spire-agent api watch` prints: the workload's stand-in where `coastal` itself cannot run in a pod.
//!
//! The text (`cmd/spire-agent/cli/api/printer.go`, the same file from SPIRE 1.7.2 to 1.15.3):
//! ```text
//! Received 1 svid after 6.6s
//!
//! SPIFFE ID:          spiffe://coastal-containers.example/ns/default/sa/workload
//! SVID Valid After:   2023-10-23 19:20:33 +0000 UTC
//! SVID Valid Until:   2023-10-23 23:20:43 +0000 UTC
//! CA #1 Valid After:  2023-10-23 18:00:00 +0000 UTC
//! CA #1 Valid Until:  2023-10-24 18:00:10 +0000 UTC
//! ```
//! (In truth the values are set apart by tabs.) It has no serial, no key ids, and no time of its own: that comes from `kubectl logs --timestamps`, if asked for.

use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::workload::record::{SCHEMA, Update};

/// The reader: takes line after line, gives an [`Update`] when one is complete.
#[derive(Debug, Default)]
pub struct WatchText {
    sequence: u64,
    received_at: Option<Timestamp>,
    position: usize,
    open: Option<Svid>,
}

#[derive(Debug)]
struct Svid {
    id: String,
    hint: Option<String>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    authorities: usize,
}

impl WatchText {
    /// Takes a line. Lines of any other kind are passed over.
    pub fn line(&mut self, line: &str) -> Option<Update> {
        let (stamp, line) = split_time_stamp(line);
        if is_header(line) {
            let done = self.end();
            self.sequence += 1;
            self.position = 0;
            self.received_at = stamp;
            return done;
        }
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "SPIFFE ID" {
            let done = self.end();
            self.open =
                Some(Svid { id: value.to_owned(), hint: None, not_before: None, not_after: None, authorities: 0 });
            return done;
        }
        if let Some(svid) = &mut self.open {
            match key {
                "Hint" => svid.hint = Some(value.to_owned()),
                "SVID Valid After" => svid.not_before = go_time(value),
                "SVID Valid Until" => svid.not_after = go_time(value),
                // The bundles of federated trust domains read `[domain] CA #1 …` and do not match.
                key if key.starts_with("CA #") && key.ends_with("Valid After") => svid.authorities += 1,
                _ => {}
            }
        }
        None
    }

    /// The text is over: gives what is still open, if it is whole.
    pub fn end(&mut self) -> Option<Update> {
        let svid = self.open.take()?;
        let update = Update {
            schema: SCHEMA,
            sequence: self.sequence,
            svid: self.position,
            received_at: self.received_at,
            spiffe_id: svid.id,
            hint: svid.hint,
            serial: None,
            not_before: svid.not_before?,
            not_after: svid.not_after?,
            issuer_key_id: None,
            anchor_key_id: None,
            bundle_key_ids: Vec::new(),
            authorities: svid.authorities,
            verified: None,
        };
        self.position += 1;
        Some(update)
    }
}

/// `Received 1 svid after 6.6s`, `Received 2 svids after …`.
fn is_header(line: &str) -> bool {
    let mut words = line.split(' ');
    words.next() == Some("Received")
        && words.next().is_some_and(|count| count.parse::<usize>().is_ok())
        && matches!(words.next(), Some("svid" | "svids"))
        && words.next() == Some("after")
}

/// Takes the time stamp off a line of `kubectl logs --timestamps`.
fn split_time_stamp(line: &str) -> (Option<Timestamp>, &str) {
    match line.split_once(' ').map(|(first, rest)| (first.parse(), rest)) {
        Some((Ok(stamp), rest)) => (Some(stamp), rest),
        _ => (None, line),
    }
}

/// Go's default form of a time: `2023-10-23 19:20:33 +0000 UTC`.
fn go_time(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix(" UTC")?;
    strtime::parse("%Y-%m-%d %H:%M:%S%.f %z", text).ok()?.to_timestamp().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::record::updates_in;

    const ONE: &str = "Received 1 svid after 6.600123s\n\n\
        SPIFFE ID:\t\tspiffe://coastal-containers.example/ns/default/sa/workload\n\
        SVID Valid After:\t2023-10-23 19:20:33 +0000 UTC\n\
        SVID Valid Until:\t2023-10-23 23:20:43 +0000 UTC\n\
        CA #1 Valid After:\t2023-10-23 18:00:00 +0000 UTC\n\
        CA #1 Valid Until:\t2023-10-24 18:00:10 +0000 UTC\n\
        CA #2 Valid After:\t2023-10-23 18:00:12 +0000 UTC\n\
        CA #2 Valid Until:\t2023-10-24 18:00:22 +0000 UTC\n\n";

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time stamp")
    }

    #[test]
    fn one_svid() {
        let updates = updates_in(ONE);
        assert_eq!(updates.len(), 1);
        let update = &updates[0];
        assert_eq!(update.spiffe_id, "spiffe://coastal-containers.example/ns/default/sa/workload");
        assert_eq!((update.sequence, update.svid, update.authorities), (1, 0, 2));
        assert_eq!(update.not_before, time("2023-10-23T19:20:33Z"));
        assert_eq!(update.not_after, time("2023-10-23T23:20:43Z"));
        assert_eq!((update.received_at, &update.serial, update.chains_to_bundle()), (None, &None, None));
    }

    #[test]
    fn several_svids_with_hints_intermediates_and_federation() {
        let text = "rpc error: code = PermissionDenied desc = no identity issued\n\
            Received 2 svids after 1m2.5s\n\n\
            SPIFFE ID:\t\tspiffe://a.example/one\nHint:\t\t\tinternal\n\
            SVID Valid After:\t2023-10-23 19:20:33 +0000 UTC\nSVID Valid Until:\t2023-10-23 23:20:43 +0000 UTC\n\
            Intermediate #1 Valid After:\t2023-10-23 18:00:00 +0000 UTC\n\
            Intermediate #1 Valid Until:\t2023-10-24 18:00:00 +0000 UTC\n\
            CA #1 Valid After:\t2023-10-23 18:00:00 +0000 UTC\nCA #1 Valid Until:\t2023-10-24 18:00:10 +0000 UTC\n\
            [b.example] CA #1 Valid After:\t2023-10-23 18:00:00 +0000 UTC\n\
            [b.example] CA #1 Valid Until:\t2023-10-24 18:00:10 +0000 UTC\n\n\
            SPIFFE ID:\t\tspiffe://a.example/two\n\
            SVID Valid After:\t2023-10-23 19:20:34 +0000 UTC\nSVID Valid Until:\t2023-10-23 23:20:44 +0000 UTC\n\n";
        let updates = updates_in(text);
        let seen: Vec<_> = updates
            .iter()
            .map(|u| (u.sequence, u.svid, u.spiffe_id.as_str(), u.hint.as_deref(), u.authorities))
            .collect();
        assert_eq!(
            seen,
            vec![(1, 0, "spiffe://a.example/one", Some("internal"), 1), (1, 1, "spiffe://a.example/two", None, 0)]
        );
    }

    #[test]
    fn time_stamps_of_the_log_say_when() {
        let stamp = "2023-10-23T19:20:43.123456789Z ";
        let stamped = format!("{stamp}{}\n", ONE.trim_end().replace('\n', &format!("\n{stamp}")));
        assert_eq!(updates_in(&stamped)[0].received_at, Some(time("2023-10-23T19:20:43.123456789Z")));
        assert_eq!(updates_in(&stamped.repeat(2)).len(), 2);
    }

    #[test]
    fn a_cut_text_gives_no_half_update() {
        let dates_end = ONE.find("CA #1").expect("there");
        for cut in 0..dates_end - 1 {
            assert_eq!(updates_in(&ONE[..cut]), vec![], "cut at {cut}");
        }
        assert_eq!(updates_in(&ONE[..dates_end]).len(), 1);
        // Cut at the front, as `kubectl logs --tail` does.
        assert_eq!(updates_in(&ONE[ONE.find("SVID Valid Until").expect("there")..]), vec![]);
    }
}
