//! Downloads: the manifests of cert-manager and contour, small ones of the right objects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::faults::Fault;
use super::{State, charts};
use crate::error::{Failure, io_failure};
use crate::world::Fetcher;

/// The manifests by a part of their URL, each with the version that a URL without one leads to.
const MANIFESTS: &[(&str, &str, &str)] = &[
    ("cert-manager", "v1.13.0", include_str!("data/cert-manager.yaml")),
    ("contour", "v1.26.0", include_str!("data/contour.yaml")),
];

/// Downloads from a rehearsal world.
pub(super) struct RehearsalFetcher(pub(super) Arc<State>);

#[async_trait]
impl Fetcher for RehearsalFetcher {
    async fn fetch(&self, url: &str, to: &Path, cancel: &CancellationToken) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::interrupted()),
            () = tokio::time::sleep(Duration::from_millis(800)) => {}
        }
        let missing =
            self.0.faults().any(|fault| matches!(fault, Fault::FetchMissing(part) if url.contains(part.as_str())));
        let manifest = MANIFESTS.iter().find(|(part, ..)| {
            url.starts_with("https://")
                && url.contains(part)
                && Path::new(url).extension().is_some_and(|extension| extension == "yaml")
        });
        let Some((_, otherwise, template)) = manifest.filter(|_| !missing) else {
            return Err(Failure::prerequisite(format!("could not download {url}: the server answers 404 Not Found"))
                .next("correct the URL in lab.toml, or name a local file there"));
        };
        let version = version_in(url).unwrap_or_else(|| (*otherwise).to_owned());
        let scope = json!({"version": version, "dashed": version.replace('.', "-")});
        let objects = charts::render(template, &scope).map_err(Failure::unexpected)?;
        let mut text = String::new();
        for object in &objects {
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(object).map_err(|error| Failure::unexpected(error.to_string()))?);
        }
        // Whole or not at all, as the real one does it.
        let beside = to.with_extension("part");
        to.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, to))
            .map_err(|error| io_failure("write", to, &error))
    }
}

/// `v1.13.0` of `…/download/v1.13.0/cert-manager.yaml`, `v1.26.0` of `…/release-1.26/…`.
fn version_in(url: &str) -> Option<String> {
    url.split('/').find_map(|part| {
        let (digits, release) = match part.strip_prefix("release-") {
            Some(digits) => (digits, true),
            None => (part.strip_prefix('v')?, false),
        };
        let numbers = digits.split('.').filter(|number| number.parse::<u32>().is_ok()).count();
        match (numbers, release) {
            (3, _) => Some(format!("v{digits}")),
            (2, true) => Some(format!("v{digits}.0")),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_url() {
        for (url, version) in [
            (
                "https://github.com/cert-manager/cert-manager/releases/download/v1.13.0/cert-manager.yaml",
                Some("v1.13.0"),
            ),
            (
                "https://raw.githubusercontent.com/projectcontour/contour/release-1.26/examples/render/contour.yaml",
                Some("v1.26.0"),
            ),
            ("https://projectcontour.io/quickstart/contour.yaml", None),
            ("https://projectcontour.io/quickstart/v1.26.0/contour.yaml", Some("v1.26.0")),
        ] {
            assert_eq!(version_in(url).as_deref(), version, "{url}");
        }
    }
}
