//! Where the trust bundle is held, and what each place holds of it: database, servers, `ConfigMap`, agents, workloads.
//!
//! They are copies of one another, and each lags in its own way: servers by a cache of a second, agents by their sync
//! of five, workloads by their agents; the `ConfigMap` that agents boot from is not told of a taint or a revocation by
//! the notifier of older charts (facts, sections 4 and 9). What cannot be read is unknown, and is never taken for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spire::rotation::{Held, KeyType};

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The row of the data store.
    Database,
    /// What a server answers.
    Server,
    /// What agents boot from.
    ConfigMap,
    /// What the agent of a node hands out.
    Agent,
    /// What a pod was handed last.
    Workload,
}

impl Layer {
    fn word(self) -> &'static str {
        match self {
            Layer::Database => "database",
            Layer::Server => "server",
            Layer::ConfigMap => "configmap",
            Layer::Agent => "agent",
            Layer::Workload => "workload",
        }
    }
}

/// Authorities of one type, by id.
pub type Authorities = BTreeMap<String, Held>;

/// What a plane holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// It was read.
    Read {
        /// CA certificates.
        x509: Authorities,
        /// JWT keys, if this place shows them: a bundle in PEM and the X.509 Workload API do not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jwt: Option<Authorities>,
        /// The authorities that the SVIDs which are held there chain to, if any are.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        svids_of: BTreeSet<String>,
    },
    /// It could not be read; why.
    Unknown(String),
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plane {
    /// Of which kind.
    pub layer: Layer,
    /// Which one: the pod, the node, the object.
    pub of: String,
    /// What it holds.
    pub content: Content,
}

impl Plane {
    /// What it is called where a person has to name it: `agent/kind-worker`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.of.is_empty() { self.layer.word().to_owned() } else { format!("{}/{}", self.layer.word(), self.of) }
    }

    /// The authorities of a type, if it was read and shows them.
    #[must_use]
    pub fn holds(&self, key: KeyType) -> Option<&Authorities> {
        match (&self.content, key) {
            (Content::Read { x509, .. }, KeyType::X509) => Some(x509),
            (Content::Read { jwt, .. }, KeyType::Jwt) => jwt.as_ref(),
            (Content::Unknown(_), _) => None,
        }
    }

    /// Why it is not known, if it is not.
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        match &self.content {
            Content::Unknown(why) => Some(why),
            Content::Read { .. } => None,
        }
    }

    fn svids_of(&self) -> impl Iterator<Item = &String> {
        let ids = match &self.content {
            Content::Read { svids_of, .. } => Some(svids_of),
            Content::Unknown(_) => None,
        };
        ids.into_iter().flatten()
    }
}

/// Every place at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planes {
    /// The version of this format.
    pub schema: u32,
    /// When they were read.
    pub at: Timestamp,
    /// In the order of the layers.
    pub planes: Vec<Plane>,
}

/// What keeps a gate closed: which place, and in what way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The plane's name.
    pub plane: String,
    /// What is wrong with it.
    pub what: Wrong,
}

/// How a plane is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// These are not there yet.
    Lacks(BTreeSet<String>),
    /// These are there still.
    Keeps(BTreeSet<String>),
    /// It holds SVIDs of these.
    SvidsOf(BTreeSet<String>),
    /// It could not be read.
    Unknown(String),
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plane = &self.plane;
        match &self.what {
            Wrong::Lacks(ids) => write!(f, "{plane} lacks {}", short(ids)),
            Wrong::Keeps(ids) => write!(f, "{plane} still has {}", short(ids)),
            Wrong::SvidsOf(ids) => write!(f, "{plane} still holds an SVID of {}", short(ids)),
            Wrong::Unknown(why) => write!(f, "{plane} is unknown ({why})"),
        }
    }
}

/// Ids by their beginnings, as far as anybody tells them apart by eye.
#[must_use]
pub fn short(ids: &BTreeSet<String>) -> String {
    ids.iter().map(|id| brief(id)).collect::<Vec<_>>().join(", ")
}

/// The beginning of an id.
#[must_use]
pub fn brief(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

impl Planes {
    /// The version that this program writes.
    pub const SCHEMA: u32 = 1;

    /// Planes that were read at that moment; sorted here.
    #[must_use]
    pub fn new(at: Timestamp, mut planes: Vec<Plane>) -> Self {
        planes.sort_by(|a, b| (a.layer, &a.of).cmp(&(b.layer, &b.of)));
        Planes { schema: Self::SCHEMA, at, planes }
    }

    /// The bundle as the servers have it: what any of them holds, tainted if any says so.
    #[must_use]
    pub fn bundle(&self, key: KeyType) -> Authorities {
        let mut bundle = Authorities::new();
        let servers = self.planes.iter().filter(|plane| matches!(plane.layer, Layer::Server | Layer::Database));
        for (id, held) in servers.filter_map(|plane| plane.holds(key)).flatten() {
            let entry = bundle.entry(id.clone()).or_insert_with(|| held.clone());
            entry.tainted |= held.tainted;
        }
        bundle
    }

    /// Planes that could not be read, and that nobody has accepted to be unknown.
    pub fn unknown<'a>(&'a self, accepted: &'a BTreeSet<String>) -> impl Iterator<Item = Lag> + 'a {
        let lag = |plane: &Plane| Some(Lag { plane: plane.name(), what: Wrong::Unknown(plane.unknown()?.to_owned()) });
        self.planes.iter().filter_map(lag).filter(|lag| !accepted.contains(&lag.plane))
    }

    /// What keeps authorities from being everywhere.
    #[must_use]
    pub fn lacking(&self, key: KeyType, ids: &BTreeSet<String>, accepted: &BTreeSet<String>) -> Vec<Lag> {
        let lag = |plane: &Plane| {
            let held = plane.holds(key)?;
            let lacks: BTreeSet<String> = ids.iter().filter(|id| !held.contains_key(*id)).cloned().collect();
            (!lacks.is_empty()).then(|| Lag { plane: plane.name(), what: Wrong::Lacks(lacks) })
        };
        self.planes.iter().filter_map(lag).chain(self.unknown(accepted)).collect()
    }

    /// Where something is held that came of these authorities.
    #[must_use]
    pub fn holding(&self, ids: &BTreeSet<String>, accepted: &BTreeSet<String>) -> Vec<Lag> {
        let lag = |plane: &Plane| {
            let of: BTreeSet<String> = plane.svids_of().filter(|id| ids.contains(*id)).cloned().collect();
            (!of.is_empty()).then(|| Lag { plane: plane.name(), what: Wrong::SvidsOf(of) })
        };
        self.planes.iter().filter_map(lag).chain(self.unknown(accepted)).collect()
    }

    /// Where authorities are that should be gone.
    #[must_use]
    pub fn keeping(&self, key: KeyType, ids: &BTreeSet<String>) -> Vec<Lag> {
        let lag = |plane: &Plane| {
            let keeps: BTreeSet<String> = plane.holds(key)?.keys().filter(|id| ids.contains(*id)).cloned().collect();
            (!keeps.is_empty()).then(|| Lag { plane: plane.name(), what: Wrong::Keeps(keeps) })
        };
        self.planes.iter().filter_map(lag).collect()
    }

    /// Where the planes are not of one mind with the servers: what a person has to look into.
    #[must_use]
    pub fn findings(&self, key: KeyType) -> Vec<Lag> {
        let bundle = self.bundle(key);
        let ids: BTreeSet<String> = bundle.keys().cloned().collect();
        let mut findings = Vec::new();
        for plane in &self.planes {
            let Some(held) = plane.holds(key) else { continue };
            let here: BTreeSet<String> = held.keys().cloned().collect();
            let (lacks, keeps): (BTreeSet<_>, BTreeSet<_>) =
                (ids.difference(&here).cloned().collect(), here.difference(&ids).cloned().collect());
            for (ids, wrong) in [(lacks, Wrong::Lacks as fn(_) -> _), (keeps, Wrong::Keeps as fn(_) -> _)] {
                if !ids.is_empty() {
                    findings.push(Lag { plane: plane.name(), what: wrong(ids) });
                }
            }
        }
        findings
    }

    /// A table of one type: a row per authority that is anywhere, a column per plane; workloads that hold the same are
    /// one column. The first row is the heading.
    #[must_use]
    pub fn table(&self, key: KeyType) -> (Vec<String>, Vec<Vec<String>>) {
        let mut columns: Vec<(String, &Plane)> = Vec::new();
        for plane in &self.planes {
            let alike = |(_, other): &(String, &Plane)| {
                plane.layer == Layer::Workload && other.layer == Layer::Workload && other.holds(key) == plane.holds(key)
            };
            if !columns.iter().any(alike) {
                columns.push((plane.name(), plane));
            }
        }
        for (heading, of) in &mut columns {
            let alike = |plane: &&Plane| plane.layer == Layer::Workload && plane.holds(key) == of.holds(key);
            let count = self.planes.iter().filter(alike).count();
            if of.layer == Layer::Workload && count > 1 {
                *heading = format!("{count} workloads");
            }
        }
        let ids: BTreeSet<&String> =
            self.planes.iter().filter_map(|plane| plane.holds(key)).flat_map(BTreeMap::keys).collect();
        let head = std::iter::once(format!("{key} authority")).chain(columns.iter().map(|(name, _)| name.clone()));
        let rows = ids.into_iter().map(|id| {
            let cell = |plane: &Plane| match plane.holds(key) {
                None if plane.unknown().is_some() => "unknown",
                // This place does not show such keys.
                None => "-",
                Some(authorities) => match authorities.get(id) {
                    None => "no",
                    Some(authority) if authority.tainted => "tainted",
                    Some(_) => "yes",
                },
            };
            std::iter::once(brief(id).to_owned())
                .chain(columns.iter().map(|(_, plane)| cell(plane).to_owned()))
                .collect()
        });
        (head.collect(), rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// `!` before an id: tainted. `svids` are those that the plane's SVIDs chain to.
    fn plane(layer: Layer, of: &str, x509: &str, svids: &str) -> Plane {
        let held = |word: &str| {
            (word.trim_start_matches('!').to_owned(), Held { tainted: word.starts_with('!'), expires_at: None })
        };
        let x509: Authorities = x509.split_whitespace().map(held).collect();
        let jwt = (layer != Layer::Workload).then(Authorities::new);
        Plane { layer, of: of.to_owned(), content: Content::Read { x509, jwt, svids_of: ids(svids) } }
    }

    fn unknown(layer: Layer, of: &str) -> Plane {
        Plane { layer, of: of.to_owned(), content: Content::Unknown("no pod shows it".to_owned()) }
    }

    fn planes(planes: Vec<Plane>) -> Planes {
        Planes::new(Timestamp::UNIX_EPOCH, planes)
    }

    fn words(lags: &[Lag]) -> Vec<String> {
        lags.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plane_that_lags_or_is_unknown_is_named() {
        let none = BTreeSet::new();
        let all = planes(vec![
            plane(Layer::Workload, "w-1", "a b", "a"),
            plane(Layer::Server, "s-0", "a !b c", ""),
            plane(Layer::Server, "s-1", "a b c", ""),
            plane(Layer::ConfigMap, "spire-bundle", "a b d", ""),
            unknown(Layer::Agent, "node-2"),
            plane(Layer::Database, "", "a !b c", ""),
        ]);
        assert_eq!(
            words(&all.lacking(KeyType::X509, &ids("c"), &none)),
            ["configmap/spire-bundle lacks c", "workload/w-1 lacks c", "agent/node-2 is unknown (no pod shows it)"]
        );
        assert_eq!(words(&all.holding(&ids("a"), &ids("agent/node-2"))), ["workload/w-1 still holds an SVID of a"]);
        assert_eq!(words(&all.holding(&ids("b"), &none)), ["agent/node-2 is unknown (no pod shows it)"]);
        assert_eq!(words(&all.keeping(KeyType::X509, &ids("d"))), ["configmap/spire-bundle still has d"]);
        assert!(all.bundle(KeyType::X509)["b"].tainted);
        assert_eq!(
            words(&all.findings(KeyType::X509)),
            ["configmap/spire-bundle lacks c", "configmap/spire-bundle still has d", "workload/w-1 lacks c"]
        );
        assert!(
            all.lacking(KeyType::Jwt, &ids("j"), &ids("agent/node-2")).iter().all(|lag| lag.plane != "workload/w-1")
        );
    }

    #[test]
    fn workloads_that_hold_the_same_are_one_column() {
        let (head, rows) = planes(vec![
            plane(Layer::Server, "s-0", "aaaaaaaabbbb !b", ""),
            plane(Layer::Workload, "w-1", "b", ""),
            plane(Layer::Workload, "w-2", "b", ""),
            unknown(Layer::Agent, "n"),
        ])
        .table(KeyType::X509);
        assert_eq!(head, ["X.509 authority", "server/s-0", "agent/n", "2 workloads"]);
        assert_eq!(rows, [["aaaaaaaa", "yes", "unknown", "no"], ["b", "tainted", "unknown", "yes"]]);
    }
}
