//! What `audit` looks for. The ids are public and stable: reports are compared by them.

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Not on the allow-list: the audit fails.
    Error,
    /// To be looked at; fails a strict audit.
    Warning,
    /// Good to know.
    Note,
}

impl Level {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }
}

macro_rules! rules {
    ($($rule:ident = $id:literal, $level:ident, $title:literal, $help:literal;)*) => {
        /// A rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $title] $rule,)*
        }

        impl Rule {
            /// All of them, the worst first.
            pub const ALL: &'static [Rule] = &[$(Rule::$rule),*];

            /// Its public id.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $(Rule::$rule => $id),* }
            }

            /// How bad a finding of it is.
            #[must_use]
            pub fn level(self) -> Level {
                match self { $(Rule::$rule => Level::$level),* }
            }

            /// What it finds, in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Rule::$rule => $title),* }
            }

            /// Why that matters.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Rule::$rule => $help),* }
            }
        }
    };
}

rules! {
    UnrecognisedId = "AUDIT-UNRECOGNISED-ID", Error, "a registration entry gives an identity that is not on the allow-list",
        "Somebody can get an SVID of this name. If that is meant, it belongs into `[identities] allow` of lab.toml.";
    UnrecognisedPod = "AUDIT-UNRECOGNISED-POD", Error, "a pod runs in a namespace or under a service account that is not on the allow-list",
        "The default ClusterSPIFFEID gives an identity to every pod. If it is meant to run, its namespace belongs into `[identities] namespaces`, its account into `service-accounts`.";
    UnrecognisedAgent = "AUDIT-UNRECOGNISED-AGENT", Error, "an agent has attested that is not on the allow-list",
        "An agent can get the SVID of every entry below it. If it is meant, it belongs into `[identities] agents`.";
    UnrecognisedAuthority = "AUDIT-UNRECOGNISED-AUTHORITY", Error, "the bundle trusts an authority that no server holds",
        "Whoever holds its key makes SVIDs that everybody accepts, and no server can taint or revoke it. Servers that lost their keys or journals leave such authorities too.";
    Admin = "AUDIT-ADMIN", Warning, "a registration entry makes administrators",
        "Whoever holds this SVID may create entries, and with them any identity.";
    Downstream = "AUDIT-DOWNSTREAM", Warning, "a registration entry makes downstream servers",
        "Whoever holds this SVID may have an intermediate CA of this trust domain signed.";
    Wildcard = "AUDIT-WILDCARD", Warning, "a registration entry matches more than one kind of workload",
        "Its selectors name neither a pod nor a service account: everything that meets them gets this identity.";
    EntryWithoutPod = "AUDIT-ENTRY-WITHOUT-POD", Warning, "a registration entry matches no pod",
        "Nobody needs it now, and whoever comes to match it gets its identity.";
    PodWithoutEntry = "AUDIT-POD-WITHOUT-ENTRY", Warning, "a pod mounts the Workload API and has no identity",
        "No ClusterSPIFFEID selects it, or the controller manager does not do its work.";
    AgentWithoutNode = "AUDIT-AGENT-WITHOUT-NODE", Warning, "an agent has attested from a node that is not there",
        "Its SVID may be held by whoever has the disk of that node. `coastal agents evict` forgets it.";
    TaintedAuthority = "AUDIT-TAINTED-AUTHORITY", Warning, "the bundle holds a tainted authority",
        "A rotation was begun and not brought to its end: the authority is trusted until it is revoked.";
    AuthorityExpires = "AUDIT-AUTHORITY-EXPIRES", Warning, "an authority is about to expire and no other follows",
        "Servers prepare the next authority when half of the life of the present one has gone; here that has not happened.";
    BundlesDiffer = "AUDIT-BUNDLES-DIFFER", Warning, "the servers do not agree about the bundle",
        "Agents and workloads trust what their server tells them. Servers that share a data store differ for about a second.";
    BannedAgent = "AUDIT-BANNED-AGENT", Note, "an agent is banned",
        "It gets nothing from the servers, and cannot attest again before it is evicted.";
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}
