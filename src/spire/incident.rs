//! The record of a containment: what was found, what was done about it and when, and what remains. It is written
//! before anything is done, so that whatever was done can be undone; and it is the report in the end.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A containment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The version of this format.
    pub schema: u32,
    /// Names its files.
    pub id: String,
    /// What was to be contained: a SPIFFE id or a namespace.
    pub target: String,
    /// The version of `coastal`.
    pub coastal: String,
    /// When it was looked.
    pub started_at: Timestamp,
    /// Registration entries that gave the identity.
    pub entries: Vec<Registered>,
    /// Pods that could present it.
    pub holders: Vec<Holder>,
    /// What stands behind those pods, and what is done to it.
    pub actions: Vec<Action>,
    /// What happened.
    #[serde(default)]
    pub timeline: Vec<Moment>,
    /// Since when there has been no entry.
    #[serde(default)]
    pub entries_gone_at: Option<Timestamp>,
    /// When everything that was issued will have expired, at the latest.
    pub valid_until: Timestamp,
    /// When it was undone.
    #[serde(default)]
    pub undone_at: Option<Timestamp>,
}

/// A registration entry, as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its own id.
    pub id: String,
    /// What it gave.
    pub spiffe_id: String,
    /// Whose it was to give.
    pub parent_id: String,
    /// To whom.
    pub selectors: Vec<String>,
    /// Whether it selected single pods, as what the controller manager makes does: then it goes with them.
    pub by_pod: bool,
}

/// A pod that could present the identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
}

/// What makes pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// E.g. `apps/v1`.
    pub api_version: String,
    /// E.g. `Deployment`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another object of the same name is another one.
    pub uid: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What is done to one owner of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// To whom.
    pub owner: Owner,
    /// What.
    pub how: How,
    /// When.
    #[serde(default)]
    pub done_at: Option<Timestamp>,
}

/// How pods are kept from being there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum How {
    /// Scaled to 0.
    Scale {
        /// From so many.
        replicas: i64,
    },
    /// No node is allowed to it any more: a DaemonSet has no number.
    Unschedule,
    /// Suspended: a job, or what makes jobs.
    Suspend,
    /// A pod that nobody makes again is deleted.
    DeletePod {
        /// To make it again.
        manifest: Value,
    },
    /// Deleted for good.
    Delete,
}

impl How {
    /// Whether it can be undone.
    #[must_use]
    pub fn can_be_undone(&self) -> bool {
        !matches!(self, How::Delete)
    }
}

impl Action {
    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        let owner = &self.owner;
        match &self.how {
            How::Scale { replicas } => format!("scale {owner} from {replicas} to 0"),
            How::Unschedule => format!("allow {owner} no node"),
            How::Suspend => format!("suspend {owner}"),
            How::DeletePod { .. } | How::Delete => format!("delete {owner}"),
        }
    }

    /// As a person would type it.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let Owner { kind, namespace, name, .. } = &self.owner;
        let kind = kind.to_lowercase();
        match &self.how {
            How::Scale { .. } => format!("kubectl -n {namespace} scale {kind}/{name} --replicas 0"),
            How::Unschedule => format!(
                "kubectl -n {namespace} patch {kind}/{name} --type merge -p '{{\"spec\":{{\"template\":{{\"spec\":{{\"nodeSelector\":{{\"{CONTAINED}\":\"true\"}}}}}}}}}}'"
            ),
            How::Suspend => {
                format!(
                    "kubectl -n {namespace} patch {kind}/{name} --type merge -p '{{\"spec\":{{\"suspend\":true}}}}'"
                )
            }
            How::DeletePod { .. } | How::Delete => format!("kubectl -n {namespace} delete {kind}/{name}"),
        }
    }
}

/// The label that no node carries.
pub const CONTAINED: &str = "coastal-containers.example/contained";

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

impl Incident {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;

    /// The SPIFFE ids that were given, without repetition.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.entries.iter().map(|entry| entry.spiffe_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Adds to what happened.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        self.timeline.push(Moment { at, what: what.into() });
    }

    /// The report for people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# Containment of `{}`\n", self.target);
        let _ = writeln!(text, "Incident `{}`, begun {:.0}, coastal {}.\n", self.id, self.started_at, self.coastal);
        let _ = writeln!(text, "## What remains\n");
        match self.entries_gone_at {
            Some(gone) => {
                let _ = writeln!(
                    text,
                    "- No registration entry has given it since {gone:.0}: no SVID of it was issued or renewed from then on."
                );
            }
            None => {
                let _ = writeln!(text, "- **The registration entries were not seen to be gone.**");
            }
        }
        let _ = writeln!(
            text,
            "- What was issued before stays valid until it expires, {:.0} at the latest. SPIRE has no revocation list: whoever has copied a key can use it until then, unless the authority that signed it is revoked.",
            self.valid_until
        );
        let undo = match (self.undone_at, self.actions.iter().all(|action| action.how.can_be_undone())) {
            (Some(at), _) => format!("Undone at {at:.0}."),
            (None, true) => format!("Undo: `coastal contain --undo {}`.", self.id),
            (None, false) => "It cannot be undone: something was deleted for good.".to_owned(),
        };
        let _ = writeln!(text, "- {undo}\n\n## Timeline (UTC)\n\n| when | what |\n|---|---|");
        for moment in &self.timeline {
            let _ = writeln!(text, "| {:.3} | {} |", moment.at, cell(&moment.what));
        }
        let _ = writeln!(
            text,
            "\n## What gave the identity\n\n| entry | SPIFFE id | parent | selectors |\n|---|---|---|---|"
        );
        for entry in &self.entries {
            let selectors = entry.selectors.join(" ");
            let _ = writeln!(
                text,
                "| `{}` | `{}` | `{}` | `{}` |",
                cell(&entry.id),
                cell(&entry.spiffe_id),
                cell(&entry.parent_id),
                cell(&selectors)
            );
        }
        let _ = writeln!(text, "\n## Who could present it\n\n| pod | node | uid |\n|---|---|---|");
        for holder in &self.holders {
            let _ = writeln!(text, "| {}/{} | {} | {} |", holder.namespace, holder.name, holder.node, holder.uid);
        }
        let _ = writeln!(text, "\n## What was done\n\n| what | when |\n|---|---|");
        for action in &self.actions {
            let when = action.done_at.map_or_else(|| "not done".to_owned(), |at| format!("{at:.0}"));
            let _ = writeln!(text, "| {} | {when} |", cell(&action.words()));
        }
        text
    }
}

/// As a cell of a table can hold it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident() -> Incident {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let owner = Owner {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "pirate-coast".into(),
            name: "pirate-ship".into(),
            uid: "u".into(),
        };
        let mut incident = Incident {
            schema: Incident::SCHEMA,
            id: "contain-20231114T221320Z".into(),
            target: "pirate-coast".into(),
            coastal: "0.1.0".into(),
            started_at: at(0),
            entries: vec![Registered {
                id: "e1".into(),
                spiffe_id: "spiffe://td/ns/pirate-coast/sa/pirate-ship".into(),
                parent_id: "spiffe://td/spire/agent/a".into(),
                selectors: vec!["k8s:pod-uid:1".into()],
                by_pod: true,
            }],
            holders: vec![Holder {
                namespace: "pirate-coast".into(),
                name: "p".into(),
                uid: "1".into(),
                node: "w".into(),
            }],
            actions: vec![Action { owner, how: How::Scale { replicas: 2 }, done_at: Some(at(1)) }],
            timeline: Vec::new(),
            entries_gone_at: Some(at(3)),
            valid_until: at(3600),
            undone_at: None,
        };
        incident.note(at(1), "scaled Deployment pirate-coast/pirate-ship from 2 to 0");
        incident
    }

    #[test]
    fn the_report_says_what_remains_first() {
        insta::assert_snapshot!(incident().markdown());
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let text = serde_json::to_string(&incident()).unwrap();
        assert_eq!(serde_json::from_str::<Incident>(&text).unwrap(), incident());
    }

    #[test]
    fn what_was_deleted_for_good_says_so() {
        let mut incident = incident();
        incident.actions[0].how = How::Delete;
        assert!(incident.markdown().contains("cannot be undone"));
        assert_eq!(incident.actions[0].by_hand(), "kubectl -n pirate-coast delete deployment/pirate-ship");
    }
}
