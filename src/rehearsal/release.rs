//! Helm's memory of a release: one Secret per revision, as helm 3 writes them.

use std::io::{Read as _, Write as _};

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
            version: chart.version.to_owned(),
            app_version: chart.app_version.to_owned(),
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

/// Every revision in a namespace, oldest first.
pub(super) fn all(store: &Store, namespace: &str) -> Vec<Release> {
    let secrets = store.list_shared("v1", "Secret", Some(namespace));
    let mut releases: Vec<Release> = secrets
        .iter()
        .filter(|s| text(s, "/type") == "helm.sh/release.v1")
        .filter_map(|s| Release::decode(s))
        .collect();
    releases.sort_by_key(|release| release.version);
    releases
}

/// The revisions of a release, oldest first.
pub(super) fn history(store: &Store, namespace: &str, name: &str) -> Vec<Release> {
    all(store, namespace).into_iter().filter(|release| release.name == name).collect()
}
