//! What a loss means: the table of the facts' section 5.

use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Serialize};

/// What became of the data store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Database {
    /// As it was.
    Kept,
    /// From a backup: what was written since is not there.
    Older,
    /// Empty, or begun anew.
    Lost,
}

/// What became of the servers' private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keys {
    /// As they were.
    Kept,
    /// Gone, of one server at least.
    Lost,
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Of the data store.
    pub database: Database,
    /// Of the keys.
    pub keys: Keys,
}

impl Loss {
    /// Nothing.
    pub const NONE: Loss = Loss { database: Database::Kept, keys: Keys::Kept };

    /// Whether nothing is.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Loss::NONE
    }
}

/// Where servers of a version keep the journal that tells which key is which authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalPlace {
    /// `journal.pem` beside the keys: up to 1.8.
    Disk,
    /// Both: 1.9.
    Both,
    /// The table `ca_journals`: from 1.10 on.
    Database,
}

impl JournalPlace {
    /// Of servers of that version.
    #[must_use]
    pub fn of(version: &Version) -> Self {
        match (version.major, version.minor) {
            (0, _) | (1, ..=8) => JournalPlace::Disk,
            (1, 9) => JournalPlace::Both,
            _ => JournalPlace::Database,
        }
    }

    /// What is left of it.
    #[must_use]
    pub fn survives(self, loss: Loss) -> bool {
        match self {
            JournalPlace::Disk => loss.keys == Keys::Kept,
            JournalPlace::Both => loss.keys == Keys::Kept || loss.database == Database::Kept,
            JournalPlace::Database => loss.database != Database::Lost,
        }
    }
}

/// What the servers sign with afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authorities {
    /// The same as before.
    Same,
    /// The same if they were made before the backup, else new ones.
    SameIfOlder,
    /// New ones.
    New,
}

/// The trust bundle afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BundleAfter {
    /// The same.
    Same,
    /// The old one and the new authorities.
    Appended,
    /// That of the backup, and new authorities where one was made since.
    Older,
    /// New authorities only.
    Fresh,
}

/// Whether agents and workloads of before trust what the servers sign with afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustAfter {
    /// Yes.
    Kept,
    /// Only if another server that they still trust, or the published bundle at their start, tells them.
    ByAnother,
    /// No.
    Gone,
}

/// What has to be started again besides what is broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// Servers: their processes still believe in what is gone.
    pub servers: bool,
    /// Agents: all, or those that distrust.
    pub agents: bool,
    /// Workloads that read their bundle once; those that follow the Workload API come by themselves.
    pub workloads: bool,
}

/// What follows from a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// What signs.
    pub authorities: Authorities,
    /// The bundle.
    pub bundle: BundleAfter,
    /// Trust.
    pub trust: TrustAfter,
    /// Whether what is left of the keys has to go before the servers start. A journal on disk names an authority that
    /// an empty data store has no bundle for, and the server does not start (`trust domain bundle is missing`).
    pub clear_keys: bool,
    /// What has to be started again.
    pub restarts: Restarts,
    /// Whether entries made by hand, federation and join tokens are gone; the controller manager makes its own again.
    pub entries_lost: bool,
    /// Authorities that stay trusted until they expire and that nobody can revoke, for nobody holds their keys.
    pub orphans: bool,
}

/// What follows from `loss` for servers of `version`.
#[must_use]
pub fn outlook(loss: Loss, version: &Version) -> Outlook {
    let journal = JournalPlace::of(version);
    let nothing = Outlook {
        authorities: Authorities::Same,
        bundle: BundleAfter::Same,
        trust: TrustAfter::Kept,
        clear_keys: false,
        restarts: Restarts::default(),
        entries_lost: false,
        orphans: false,
    };
    let new = Outlook { authorities: Authorities::New, ..nothing.clone() };
    match (loss.database, loss.keys) {
        (Database::Kept, Keys::Kept) => nothing,
        (Database::Kept, Keys::Lost) => Outlook {
            bundle: BundleAfter::Appended,
            trust: TrustAfter::ByAnother,
            restarts: Restarts { agents: true, ..Restarts::default() },
            orphans: true,
            ..new
        },
        (Database::Older, Keys::Kept) => Outlook {
            authorities: Authorities::SameIfOlder,
            bundle: BundleAfter::Older,
            trust: TrustAfter::ByAnother,
            restarts: Restarts { servers: true, agents: true, workloads: false },
            entries_lost: true,
            ..nothing
        },
        (Database::Older, Keys::Lost) => Outlook {
            bundle: BundleAfter::Older,
            trust: TrustAfter::ByAnother,
            restarts: Restarts { servers: true, agents: true, workloads: true },
            entries_lost: true,
            orphans: true,
            ..new
        },
        (Database::Lost, keys) => Outlook {
            bundle: BundleAfter::Fresh,
            trust: TrustAfter::Gone,
            clear_keys: keys == Keys::Kept && journal != JournalPlace::Database,
            restarts: Restarts { servers: true, agents: true, workloads: true },
            entries_lost: true,
            ..new
        },
    }
}

impl Outlook {
    /// In words, one line each.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let mut lines = vec![match self.authorities {
            Authorities::Same => "servers sign with the authorities that they had",
            Authorities::SameIfOlder => {
                "servers sign with the authorities that they had, if the backup knows them; else with new ones"
            }
            Authorities::New => "every server that lost its own makes a new authority",
        }];
        lines.push(match self.bundle {
            BundleAfter::Same => "the bundle stays",
            BundleAfter::Appended => "the new authorities join the bundle",
            BundleAfter::Older => "the bundle is that of the backup, with what the servers add",
            BundleAfter::Fresh => "the bundle begins anew: nothing of before is trusted",
        });
        if self.clear_keys {
            lines.push("what is left of the keys goes first: its journal would keep the servers from starting");
        }
        if self.entries_lost {
            lines.push("entries made by hand and federation are gone; the controller manager makes the others again");
        }
        if self.orphans {
            lines.push("the old authorities stay trusted until they expire; nobody can revoke them");
        }
        if self.restarts.agents {
            lines.push("agents that do not trust the servers are started again");
        }
        if self.restarts.workloads {
            lines.push("workloads that read their bundle only once have to be started again");
        }
        lines
    }
}

/// What an agent does when it meets a server whose authority it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reaction {
    /// Logs `Synchronize failed` and serves on from what it has, for ever.
    RetriesForEver,
    /// Ends; its next start begins from the published bundle.
    ExitsAndHeals,
    /// Ends, and each next start begins from the bundle that its volume keeps: only a new pod helps.
    ExitsForEver,
    /// Replaces its bundle by the published one after ten minutes.
    Rebootstraps,
}

/// How long an agent bears a server that it does not trust before it replaces its bundle (chart 0.27 and later).
pub const REBOOTSTRAP_DELAY: Duration = Duration::from_secs(600);

/// The reaction of an agent of that version under that chart.
#[must_use]
pub fn reaction(agent: &Version, chart: Option<&Version>) -> Reaction {
    let since = |of: &Version, than: (u64, u64, u64)| (of.major, of.minor, of.patch) >= than;
    let chart_since = |than| chart.is_some_and(|chart| since(chart, than));
    if !since(agent, (1, 8, 7)) {
        Reaction::RetriesForEver
    } else if since(agent, (1, 13, 0)) && chart_since((0, 27, 0)) {
        Reaction::Rebootstraps
    } else if chart_since((0, 23, 0)) {
        Reaction::ExitsForEver
    } else {
        Reaction::ExitsAndHeals
    }
}

impl Reaction {
    /// Whether it never comes back by itself.
    #[must_use]
    pub fn needs_a_new_pod(self) -> bool {
        matches!(self, Reaction::RetriesForEver | Reaction::ExitsForEver)
    }

    /// Why its pod is deleted.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Reaction::RetriesForEver => "it would retry for ever with the bundle that it has",
            Reaction::ExitsAndHeals => "it ends by itself sooner or later; a new pod is quicker",
            Reaction::ExitsForEver => "it would end again and again: its volume keeps the old bundle",
            Reaction::Rebootstraps => "it would wait ten minutes before it takes the published bundle",
        }
    }
}

/// Whether an agent whose record the servers have lost attests again within its process; older ones end, and attest
/// when they are started again.
#[must_use]
pub fn reattests_in_process(agent: &Version) -> bool {
    (agent.major, agent.minor) >= (1, 10)
}
