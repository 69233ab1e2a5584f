//! Where the charts, manifests and images are: from the environment, complete or not at all.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the environment says.
#[derive(Debug)]
pub struct Settings {
    /// A chart directory or archive.
    pub spire_chart: PathBuf,
    /// A chart directory or archive.
    pub prometheus_chart: PathBuf,
    /// A file.
    pub cert_manager_manifest: PathBuf,
    /// A file.
    pub contour_manifest: PathBuf,
    /// Loaded into the nodes; may be none.
    pub images: Vec<PathBuf>,
    /// kind's own choice if absent.
    pub node_image: Option<String>,
}

impl Settings {
    /// From the environment.
    ///
    /// # Panics
    /// Something is missing; the message lists all of it. To be told to run and not to be able to is a failure.
    pub fn read() -> Settings {
        Settings::from(|name| std::env::var_os(name)).unwrap_or_else(|missing| {
            panic!("the real suite cannot run, the environment lacks:\n  {}", missing.join("\n  "))
        })
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, Vec<String>> {
        let mut missing = Vec::new();
        let mut exists = |name: &str, path: PathBuf| {
            if !path.exists() {
                missing.push(format!("{name}: there is no {}", path.display()));
            }
            path
        };
        let images = if let Some(list) = variable("COASTAL_TEST_IMAGES") {
            std::env::split_paths(&list)
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| exists("COASTAL_TEST_IMAGES", path))
                .collect()
        } else {
            missing.push("COASTAL_TEST_IMAGES: image archives with colons between, or the empty text".to_owned());
            Vec::new()
        };
        let mut file = |name: &str, what: &str| {
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
                missing.push(format!("{name}: {what}"));
                return PathBuf::new();
            };
            let path = PathBuf::from(value);
            if !path.exists() {
                missing.push(format!("{name}: there is no {}", path.display()));
            }
            path
        };
        let settings = Settings {
            spire_chart: file("COASTAL_TEST_SPIRE_CHART", "chart spire 0.13.0, directory or archive"),
            prometheus_chart: file(
                "COASTAL_TEST_PROMETHEUS_CHART",
                "chart kube-prometheus-stack 51.9.2, directory or archive",
            ),
            cert_manager_manifest: file("COASTAL_TEST_CERT_MANAGER_MANIFEST", "cert-manager.yaml"),
            contour_manifest: file("COASTAL_TEST_CONTOUR_MANIFEST", "contour.yaml"),
            images,
            node_image: variable("COASTAL_TEST_NODE_IMAGE")
                .and_then(|image| image.into_string().ok())
                .filter(|image| !image.is_empty()),
        };
        if missing.is_empty() { Ok(settings) } else { Err(missing) }
    }
}

#[test]
fn all_that_is_missing_is_named() {
    let missing = Settings::from(|_| None).unwrap_err().join("\n");
    for name in ["SPIRE_CHART", "PROMETHEUS_CHART", "CERT_MANAGER_MANIFEST", "CONTOUR_MANIFEST", "IMAGES"] {
        assert!(missing.contains(&format!("COASTAL_TEST_{name}:")), "{missing}");
    }
    assert!(!missing.contains("NODE_IMAGE"), "{missing}");
}

#[test]
fn files_must_be_there() {
    let here = env!("CARGO_MANIFEST_DIR");
    let all = |name: &str| Some(if name.ends_with("IMAGES") { "/no/such.tar" } else { here }.into());
    assert_eq!(Settings::from(all).unwrap_err(), ["COASTAL_TEST_IMAGES: there is no /no/such.tar"]);
    let none = |name: &str| Some(if name.ends_with("IMAGES") { "" } else { here }.into());
    assert!(Settings::from(none).unwrap().images.is_empty());
}
