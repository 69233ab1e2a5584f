//! Helm's memory of a release: one Secret per revision, as helm 3 writes them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::charts::Chart;
use super::object::text;
use super::store::{Key, Propagation, Store};

/// A revision of a release. Its statuses are helm's words: `deployed`, `failed`, `pending-install`,
/// `pending-upgrade`, `superseded`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Release {
    pub(super) name: String,
    pub(super) namespace: String,
    /// The revision.
    pub(super) version: u32,
    pub(super) info: Info,
    pub(super) chart: ReleaseChart,
    /// The values that were given.
    pub(super) config: Value,
    /// The objects, without hooks and CRDs.
    pub(super) manifest: Vec<Value>,
    pub(super) hooks: Vec<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Info {
    pub(super) first_deployed: Timestamp,
    pub(super) last_deployed: Timestamp,
    pub(super) description: String,
    pub(super) status: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReleaseChart {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(rename = "appVersion")]
    pub(super) app_version: String,
}

impl From<&Chart> for ReleaseChart {
    fn from(chart: &Chart) -> Self {
        ReleaseChart {
            name: chart.name.to_owned(),
            version: chart.version.to_string(),
            app_version: chart.app_version.clone(),
        }
    }
}

impl Release {
    fn key(&self) -> Key {
        Key::new("v1", "Secret", &self.namespace, &format!("sh.helm.release.v1.{}.v{}", self.name, self.version))
    }

    /// Keeps it.
    pub(super) fn save(&self, store: &Store) {
        let key = self.key();
        store.upsert(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": {"name": key.name, "namespace": key.namespace, "labels": {
                "modifiedAt": store.now().as_second().to_string(), "name": self.name, "owner": "helm",
                "status": self.info.status, "version": self.version.to_string(),
            }},
            "data": {"release": self.encode()},
        }));
    }

    /// Keeps it with another status.
    pub(super) fn save_as(&mut self, store: &Store, status: &str, description: &str) {
        status.clone_into(&mut self.info.status);
        description.clone_into(&mut self.info.description);
        self.save(store);
    }

    /// Forgets it.
    pub(super) fn forget(&self, store: &Store) {
        store.delete(&self.key(), Propagation::Background);
    }

    /// JSON, gzip, base64; and base64 once more, because it is a Secret.
    fn encode(&self) -> String {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        // Neither serialising to memory nor compressing in memory can fail.
        let _ = gzip.write_all(&serde_json::to_vec(self).unwrap_or_default());
        BASE64.encode(BASE64.encode(gzip.finish().unwrap_or_default()))
    }

    fn decode(secret: &Value) -> Option<Self> {
        let gzip = BASE64.decode(BASE64.decode(text(secret, "/data/release")).ok()?).ok()?;
        let mut json = Vec::new();
        GzDecoder::new(gzip.as_slice()).read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Whether helm refuses to work on it.
    pub(super) fn is_pending(&self) -> bool {
        self.info.status.starts_with("pending-")
    }
}

/// helm keeps so many revisions of a release.
const KEPT: usize = 10;

/// The Secrets of a namespace's revisions, with name and number.
fn secrets(store: &Store, namespace: &str) -> Vec<(String, u32, Arc<Value>)> {
    let all = store.list_shared("v1", "Secret", Some(namespace)).into_iter();
    let of_helm = all.filter(|secret| text(secret, "/type") == "helm.sh/release.v1");
    let marked = of_helm.filter_map(|secret| {
        let label = |key: &str| text(&secret, &format!("/metadata/labels/{key}")).to_owned();
        Some((label("name"), label("version").parse().ok()?, secret))
    });
    let mut found: Vec<_> = marked.collect();
    found.sort_by_key(|(_, version, _)| *version);
    found
}

/// The newest revision of each release in a namespace.
pub(super) fn newest(store: &Store, namespace: &str) -> Vec<Release> {
    let by_name: BTreeMap<String, Arc<Value>> =
        secrets(store, namespace).into_iter().map(|(name, _, secret)| (name, secret)).collect();
    by_name.values().filter_map(|secret| Release::decode(secret)).collect()
}

/// The revisions of a release that are kept, oldest first.
pub(super) fn history(store: &Store, namespace: &str, name: &str) -> Vec<Release> {
    let own = secrets(store, namespace).into_iter().filter(|(other, ..)| other == name);
    own.filter_map(|(.., secret)| Release::decode(&secret)).collect()
}

/// Makes room for one more revision. What is deployed stays.
pub(super) fn prune(store: &Store, past: &[Release]) {
    let surplus = &past[..(past.len() + 1).saturating_sub(KEPT)];
    for old in surplus.iter().filter(|old| old.info.status != "deployed") {
        old.forget(store);
    }
}
