//! The incident report, for the people who were not there: Markdown. The same as data is the incident itself.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Authority, Incident, KeyType, Outcome, Rekey};
use crate::spire::planes::Planes;

impl Incident {
    /// The report.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# Key rotation {}\n\n", self.id);
        let keys: Vec<String> = self.keys.keys().map(ToString::to_string).collect();
        let server = self.keys.values().find_map(|record| record.server.as_deref());
        let scope = server.map_or_else(|| "every server".to_owned(), |pod| format!("server {pod} alone"));
        let outcome = match (self.outcome, self.rekey) {
            (Outcome::Open, None) => "NOT ENDED: `coastal rotate --yes` goes on with it".to_owned(),
            (Outcome::Open, Some(way)) => format!("NOT ENDED: `coastal rotate --rekey {way} --yes` goes on with it"),
            (Outcome::Complete, _) => "complete: new keys sign, the old ones are gone from every plane".to_owned(),
            (Outcome::Partial, Some(Rekey::NewKeys)) => {
                "new keys sign; the old ones STAY TRUSTED until they expire (see below)".to_owned()
            }
            (Outcome::Partial, _) => {
                "PARTIAL: new keys sign, but not all of the old ones could be revoked (see below)".to_owned()
            }
        };
        let mut row = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "- **{name}**: {value}");
        };
        row("outcome", outcome);
        if let Some(way) = self.rekey {
            row("way", format!("`rotate --rekey {way}`: the servers' keys are taken away, and they make new ones"));
        }
        row("scope", format!("{} keys of {scope}", keys.join(" and ")));
        row("opened", self.opened_at.strftime("%F %T UTC").to_string());
        if let Some(closed) = self.closed_at {
            let seconds = closed.duration_since(self.opened_at).as_secs();
            row("closed", format!("{} (after {seconds} s)", closed.strftime("%F %T UTC")));
        }
        let downtime = self.downtime_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms"));
        row("time without a valid SVID", format!("{downtime}, all workload pods together"));
        if let Some(split) = self.split_ms {
            row(
                "divided",
                format!(
                    "{split} ms from the first workload pod with an SVID of a new authority to the last: meanwhile those that had one and those that had not rejected each other"
                ),
            );
        }
        if let Some(until) = self.last_svid_until.filter(|_| self.keys.contains_key(&KeyType::X509)) {
            let then = match self.rekey {
                Some(Rekey::NewKeys) => "Everybody accepts them until then",
                _ => "Who has the new bundle rejects them; who keeps an old copy of it accepts them until then",
            };
            row(
                "issued before",
                format!(
                    "SVIDs of the old authorities may be within their dates until {} at the latest. {then}",
                    until.strftime("%F %T UTC")
                ),
            );
        }
        if self.keys.contains_key(&KeyType::Jwt) {
            row(
                "JWT-SVIDs",
                "tokens that were issued before are accepted by whoever keeps the old keys, until they expire".into(),
            );
        }
        self.authorities(&mut text);
        self.left_over(&mut text);
        self.reissued(&mut text);
        for (title, planes) in [("Planes before", &self.planes_before), ("Planes after", &self.planes_after)] {
            if let Some(planes) = planes {
                let _ = write!(text, "\n## {title}\n");
                self.keys.keys().for_each(|key| plane_table(&mut text, planes, *key));
            }
        }
        let _ = writeln!(text, "\n## Timeline\n");
        for note in &self.timeline {
            let _ = writeln!(text, "- {} {}", note.at.strftime("%T%.3f"), note.what);
        }
        text
    }

    fn authorities(&self, text: &mut String) {
        // Servers before 1.11 do not tell which is whose: then the planes show them all.
        if self.changes.is_empty() {
            return;
        }
        let _ = writeln!(text, "\n## Authorities\n\n| server | type | before | after |\n|---|---|---|---|");
        let id = |authority: &Option<Authority>| match authority {
            Some(Authority { id, upstream: Some(upstream), .. }) => format!("`{id}` (of upstream `{upstream}`)"),
            Some(Authority { id, .. }) => format!("`{id}`"),
            None => "unknown".to_owned(),
        };
        for change in &self.changes {
            let _ =
                writeln!(text, "| {} | {} | {} | {} |", change.pod, change.key, id(&change.before), id(&change.after));
        }
    }

    fn left_over(&self, text: &mut String) {
        if self.orphans.values().all(Vec::is_empty) {
            return;
        }
        let _ = writeln!(
            text,
            "\n## Still trusted\n\nNo server has these in a slot any more, so nothing can revoke them. They are trusted until they expire, and leave the bundle up to a day later.\n"
        );
        for (key, orphans) in &self.orphans {
            for orphan in orphans {
                let until = orphan.expires_at.map_or_else(|| "unknown".to_owned(), in_words);
                let tainted = if orphan.tainted { ", tainted" } else { "" };
                let _ = writeln!(text, "- {key} `{}` until {until}{tainted}", orphan.id);
            }
        }
    }

    fn reissued(&self, text: &mut String) {
        if self.workloads.is_empty() {
            return;
        }
        let _ =
            writeln!(text, "\n## SVIDs\n\n| pod | renewed | authority now | without a valid SVID |\n|---|---|---|---|");
        for workload in &self.workloads {
            let gap = workload.no_valid_svid_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms"));
            let authority = workload.authority.as_ref().map_or_else(|| "unknown".to_owned(), |id| format!("`{id}`"));
            let _ = writeln!(text, "| {} | {} | {authority} | {gap} |", workload.pod, workload.renewals);
        }
    }
}

fn in_words(time: Timestamp) -> String {
    time.strftime("%F %T UTC").to_string()
}

fn plane_table(text: &mut String, planes: &Planes, key: KeyType) {
    let (head, rows) = planes.table(key);
    let _ = writeln!(text, "\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Orphan, Record, Reissued, Slots, View};
    use super::*;

    #[test]
    fn a_report_says_what_was_and_what_remains() {
        let at = |seconds: i64| Timestamp::from_second(1_770_000_000 + seconds).unwrap();
        let mut incident = Incident::open(at(0), BTreeMap::from([(KeyType::X509, Record::default())]));
        for id in ["aa01", "bb02"] {
            let active = Authority { id: id.into(), expires_at: None, upstream: None };
            let slots = Slots { active, next: super::super::Next::Empty };
            incident.saw(KeyType::X509, &View { servers: [("s-0".into(), Ok(slots))].into(), ..View::default() });
        }
        incident.note(at(3), "s-0: X.509 prepare -> bb02");
        incident
            .orphans
            .insert(KeyType::X509, vec![Orphan { id: "cc03".into(), tainted: false, expires_at: Some(at(86_400)) }]);
        incident.workloads.push(Reissued {
            pod: "w-1".into(),
            renewals: 1,
            authority: Some("bb02".into()),
            no_valid_svid_ms: Some(0),
        });
        (incident.closed_at, incident.outcome, incident.downtime_ms) = (Some(at(40)), Outcome::Partial, Some(0));
        insta::assert_snapshot!(incident.markdown());
    }
}
