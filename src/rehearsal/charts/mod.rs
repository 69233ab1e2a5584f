//! The charts that helm finds in this world, and the objects that they make.
//!
//! A chart is an embedded YAML file of templates (see [`template`]) with another one of default values. The charts
//! `spire` and `spire-crds` are one such pair each for every version that was published since 0.13.0.

mod spire;
mod template;

use semver::Version;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use self::template::{documents, expand, merge};
use super::object::{set, text};
use super::store::Store;

#[cfg(test)]
pub(super) use self::template::merge as template_merge;
pub use self::template::{hooks_of, is_hook_for, render};

/// The repository of the hardened charts, which serves the archived one's versions as well (facts, section 2).
const HARDENED: &str = "https://spiffe.github.io/helm-charts-hardened";

/// A chart in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: Version,
    /// Its `appVersion`.
    pub app_version: String,
    /// The SPIRE that it deploys unless told otherwise; empty for other charts.
    pub image: String,
    /// URL of the repository that has it first.
    repository: &'static str,
    templates: &'static str,
    values: &'static str,
}

fn prometheus() -> Chart {
    Chart {
        name: "kube-prometheus-stack",
        version: Version::new(51, 9, 2),
        app_version: "v0.68.0".to_owned(),
        image: String::new(),
        repository: "https://prometheus-community.github.io/helm-charts",
        templates: include_str!("../data/prometheus.yaml"),
        values: include_str!("../data/prometheus-values.yaml"),
    }
}

impl Chart {
    /// Every chart of this world. A version that is not among them is one that no repository has.
    pub fn all() -> impl Iterator<Item = Chart> {
        spire::charts().chain([prometheus()])
    }

    /// The chart of that name and version.
    #[must_use]
    pub fn find(name: &str, version: &str) -> Option<Chart> {
        let version = Version::parse(version).ok()?;
        Chart::all().find(|chart| chart.name == name && chart.version == version)
    }

    /// The version of `spire-crds` that goes with it, if its CRDs are a chart of their own.
    #[must_use]
    pub fn crds(&self) -> Option<String> {
        let row = (self.name == "spire").then(|| crate::spire::charts::find(&self.version))??;
        row.crds().map(Version::to_string)
    }

    /// The charts of a repository.
    pub fn of_repository(url: &str) -> impl Iterator<Item = Chart> {
        let url = url.trim_end_matches('/').to_owned();
        Chart::all().filter(move |chart| chart.repository == url || url == HARDENED && chart.name.starts_with("spire"))
    }

    fn is_since(&self, version: &str) -> bool {
        Version::parse(version).is_ok_and(|version| self.version >= version)
    }

    /// The files of its archive that somebody reads: path within the chart's directory, and text.
    ///
    /// # Errors
    /// The embedded values are wrong.
    pub fn files(&self) -> Result<Vec<(String, String)>, String> {
        let metadata = |name: &str, version: &str, app_version: &str| {
            format!("apiVersion: v2\nname: {name}\nversion: {version}\nappVersion: {app_version}\ntype: application\n")
        };
        let values = serde_yaml::to_string(&self.defaults()?).map_err(|error| error.to_string())?;
        let mut files = vec![
            ("Chart.yaml".to_owned(), metadata(self.name, &self.version.to_string(), &self.app_version)),
            ("values.yaml".to_owned(), values),
        ];
        if !self.image.is_empty() {
            files.extend(
                ["spire-server", "spire-agent"]
                    .map(|part| (format!("charts/{part}/Chart.yaml"), metadata(part, "0.1.0", &self.image))),
            );
        }
        Ok(files)
    }

    fn scope(&self) -> Value {
        json!({"chart": {"name": self.name, "version": self.version.to_string(), "app": self.image}})
    }

    fn defaults(&self) -> Result<Value, String> {
        let values = documents(self.values)?.pop().unwrap_or_default();
        Ok(expand(&values, &self.scope())?.unwrap_or_else(|| json!({})))
    }

    /// The objects of a release with these values over the chart's own: hooks and CRDs included, in the file's order.
    /// Hooks may look into the cluster, if there is one.
    ///
    /// # Errors
    /// The values cannot be used; in words as after helm's `Error: `.
    pub fn render(
        &self,
        release: &str,
        namespace: &str,
        values: &Value,
        cluster: Option<&Store>,
    ) -> Result<Vec<Value>, String> {
        let mut scope = self.defaults()?;
        merge(&mut scope, values);
        merge(&mut scope, &self.scope());
        set_names(&mut scope, release, namespace);
        if self.name == "spire" {
            spire::set_derived(self, &mut scope, release, namespace);
            spire::refuse(self, &scope)?;
            spire::set_found(self, &mut scope, cluster);
        }
        let mut objects = render(self.templates, &scope)?;
        sum_up(&mut objects);
        Ok(objects)
    }
}

/// Names that depend on the release's (facts, section 2 "Objects"; kube-prometheus-stack cuts its own at 26 characters).
fn set_names(scope: &mut Value, release: &str, namespace: &str) {
    let unless_named =
        |part: &str| if release.contains(part) { release.to_owned() } else { format!("{release}-{part}") };
    let stack = unless_named("kube-prometheus-stack");
    let names = json!({
        "release": release, "server": unless_named("server"), "agent": format!("{release}-agent"),
        "csi": format!("{release}-spiffe-csi-driver"), "frontend": format!("{release}-tornjak-frontend"),
        "stack": stack.get(..26).unwrap_or(&stack).trim_end_matches('-'), "grafana": unless_named("grafana"),
    });
    set(scope, "/name", names);
    set(scope, "/release", json!({"name": release, "namespace": namespace}));
}

/// Puts the sum of a `ConfigMap`'s data where an annotation `checksum/…` of a pod's template names it: so pods are
/// made anew when their configuration changes.
fn sum_up(objects: &mut [Value]) {
    let sums: Map<String, Value> = objects
        .iter()
        .filter(|object| text(object, "/kind") == "ConfigMap")
        .map(|map| {
            let sum = crate::spire::hex(&Sha256::digest(map["data"].to_string()));
            (text(map, "/metadata/name").to_owned(), sum.into())
        })
        .collect();
    for object in objects {
        let annotations = object.pointer_mut("/spec/template/metadata/annotations").and_then(Value::as_object_mut);
        for (_, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with("checksum/")) {
            if let Some(sum) = value.as_str().and_then(|name| sums.get(name)) {
                *value = sum.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests;
