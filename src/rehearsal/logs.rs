//! What the containers of a cluster wrote.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::store::Key;

/// Lines with the time at which they were written.
pub type Lines = Vec<(Timestamp, String)>;

/// The logs of all containers.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Logs(#[serde(with = "as_list")] BTreeMap<(String, String, String), Lives>);

/// What a container wrote: in this life, and in the one before its last restart.
#[derive(Default, Clone, Serialize, Deserialize)]
struct Lives {
    current: Lines,
    previous: Option<Lines>,
}

impl Logs {
    fn entry(&mut self, pod: &Key, container: &str) -> &mut Lives {
        self.0.entry((pod.namespace().to_owned(), pod.name.clone(), container.to_owned())).or_default()
    }

    /// A container writes a line.
    pub fn append(&mut self, pod: &Key, container: &str, at: Timestamp, line: &str) {
        self.entry(pod, container).current.push((at, line.to_owned()));
    }

    /// A container starts again: what it wrote until now is what its previous life wrote.
    pub fn restart(&mut self, pod: &Key, container: &str) {
        let lives = self.entry(pod, container);
        lives.previous = Some(std::mem::take(&mut lives.current));
    }

    /// What a container wrote, in this life or the previous one. Nothing if there was no previous one.
    #[must_use]
    pub fn of(&self, pod: &Key, container: &str, previous: bool) -> Option<Lines> {
        let lives = self.0.get(&(pod.namespace().to_owned(), pod.name.clone(), container.to_owned()));
        if previous {
            lives.and_then(|l| l.previous.clone())
        } else {
            Some(lives.map(|l| l.current.clone()).unwrap_or_default())
        }
    }

    /// The pod is gone, and its logs with it.
    pub fn forget(&mut self, pod: &Key) {
        self.0.retain(|(namespace, name, _), _| namespace != pod.namespace() || *name != pod.name);
    }
}

/// JSON has no maps with such keys.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    type Map = BTreeMap<(String, String, String), super::Lives>;

    pub(super) fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}
