//! Whole lab files: those under `tests/data/labs` and whatever bytes come along.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use semver::Version;

use super::load::{load, parse};
use super::problems::Problem;
use super::*;

fn labs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/labs")
}

fn read(text: &str) -> Result<Lab, Vec<Problem>> {
    parse("lab.toml", text, None, PathBuf::from("/labs"))
}

fn valid(name: &str) -> Lab {
    let text = std::fs::read_to_string(labs().join(format!("valid-{name}.toml"))).unwrap();
    read(&text).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

/// `COASTAL_BLESS=1 cargo test every_invalid_file` writes what was found; read the difference before you keep it.
#[test]
fn every_invalid_file_has_exactly_the_problems_beside_it() {
    let bless = std::env::var_os("COASTAL_BLESS").is_some();
    let mut files = 0;
    for entry in std::fs::read_dir(labs()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("invalid-") || path.extension() != Some("toml".as_ref()) {
            continue;
        }
        files += 1;
        let problems = read(&std::fs::read_to_string(&path).unwrap()).expect_err(&name);
        let mut told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        told.push('\n');
        if bless {
            std::fs::write(path.with_extension("problems"), &told).unwrap();
        }
        let expected = std::fs::read_to_string(path.with_extension("problems")).unwrap_or_default();
        assert_eq!(told, expected, "\n{name} has these problems:\n{told}");
    }
    assert!(files >= 9, "only {files} invalid files were found");
}

#[test]
fn the_file_that_ships_is_the_default() {
    let embedded = embedded().unwrap();
    let minimal = parse("lab.toml", "schema = 1", None, PathBuf::from("/labs")).unwrap();
    assert_eq!(embedded, minimal);
    assert_eq!(embedded, parse("lab.toml", DEFAULT, None, PathBuf::from("/labs")).unwrap());
}

/// The figures of the lab that its students read, and our own where that one cannot work.
#[test]
fn the_default_is_the_lab_of_the_students() {
    let lab = embedded().unwrap();
    let (spire, workload) = (&lab.spire, &lab.workload);
    assert_eq!(
        lab.cluster.provider,
        Provider::Kind { name: "kind".into(), node_image: None, http_port: 8080, https_port: 8443 }
    );
    assert_eq!((spire.trust_domain.as_str(), spire.cluster_name.as_str()), ("coastal-containers.example", "kind-kind"));
    assert_eq!((&spire.server_version, &spire.agent_version), (&Version::new(1, 7, 2), &Version::new(1, 7, 2)));
    assert_eq!((spire.servers, workload.replicas), (3, 5));
    // Another coastal is another image: nodes that have the old one must not take it for the new.
    assert_eq!(workload.image, format!("coastal-workload:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(spire.ca_subject.common_name, "coastal-containers.example");
    assert_eq!(
        lab.chart_repositories(),
        [
            ("prometheus-community".into(), "https://prometheus-community.github.io/helm-charts".into()),
            ("spiffe".into(), "https://spiffe.github.io/helm-charts/".into())
        ]
    );
    assert!(lab.cert_manager.is_some() && lab.contour.is_some() && lab.monitoring.is_some());
    assert_eq!(lab.images.pull, PullPolicy::IfNotPresent);
    assert!(lab.identities.allow.contains(&"spiffe://coastal-containers.example/ns/default/sa/*".into()));
    assert_eq!(lab.timeouts.rollout, Duration::from_secs(300));
}

#[test]
fn the_default_speaks_of_every_key() {
    // A key that is no default has to be explained all the same, as a comment.
    for key in [
        "node-image",
        "kubeconfig",
        "context",
        "enabled",
        "path",
        "values",
        "agent-version",
        "crds-chart",
        "common-name",
        "dir",
        "max-age",
    ] {
        let commented = DEFAULT.lines().any(|line| line.trim_start().starts_with('#') && line.contains(key));
        assert!(commented, "lab.toml does not mention `{key}`");
    }
}

#[test]
fn an_existing_cluster_gets_nothing_that_was_not_asked_for() {
    let lab = valid("existing");
    assert!(!lab.is_kind());
    assert_eq!(lab.cluster.context(), "arn:aws:eks:eu-west-1:1:cluster/staging");
    assert!(lab.cert_manager.is_none() && lab.contour.is_none());
    assert_eq!(lab.monitoring.unwrap().namespace, "monitoring");
    let Provider::Existing { kubeconfig, .. } = lab.cluster.provider else { panic!("not existing") };
    assert!(kubeconfig.ends_with(".kube/config") && !kubeconfig.starts_with("/labs"));
}

#[test]
fn paths_start_at_the_file() {
    let lab = valid("offline");
    assert_eq!(lab.cert_manager, Some(ManifestRef::File("/labs/manifests/cert-manager.yaml".into())));
    assert_eq!(lab.contour, None);
    let monitoring = lab.monitoring.unwrap();
    assert_eq!(monitoring.chart, ChartRef::Path("/labs/charts/kube-prometheus-stack-51.9.2.tgz".into()));
    assert_eq!(lab.spire.chart, ChartRef::Path("/labs/../spire".into()));
    assert_eq!(lab.spire.values, Some("/etc/lab/spire.yaml".into()));
    assert_eq!(lab.database.manifest, Some("/labs/database.yaml".into()));
    assert_eq!(lab.images.archives.len(), 2);
    assert_eq!(embedded().unwrap().chart_repositories().len(), 2);
}

#[test]
fn what_is_left_out_follows_what_is_written() {
    let lab = valid("upgrade");
    let ChartRef::Repo { repo_name, url, chart, version } = lab.spire.chart else { panic!("no repository") };
    assert_eq!((repo_name.as_str(), chart.as_str(), version), ("spiffe", "spire", Version::new(0, 13, 2)));
    assert!(url.ends_with("hardened/"));
    assert_eq!(lab.spire.ca_subject.common_name, "harbour.example");
    assert_eq!(lab.spire.agent_version, Version::new(1, 7, 6));
    assert_eq!(lab.identities.allow, ["spiffe://harbour.example/ns/*/sa/*", "spiffe://other.example/**"]);
    assert_eq!(lab.timeouts.rollout, Duration::from_secs(5400));
    assert_eq!(lab.timeouts.cluster, embedded().unwrap().timeouts.cluster);
}

#[test]
fn a_file_is_found_named_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("my.toml");
    std::fs::write(&file, "schema = 1\n[spire]\nvalues = 'a.yaml'\n").unwrap();
    let lab = load(Some(&file)).unwrap();
    assert_eq!(lab.file.as_deref(), Some(file.as_path()));
    assert_eq!(lab.spire.values, Some(directory.path().join("a.yaml")));

    std::fs::write(&file, "schema = 1\n[spire]\nservers = 0\nseverity = 1\n").unwrap();
    let failure = load(Some(&file)).unwrap_err();
    assert_eq!(failure.kind, crate::error::Kind::Config);
    assert_eq!(failure.message, format!("{} has 2 problems", file.display()));
    assert_eq!(failure.facts.len(), 2);

    for (content, words) in [(Some(&b"schema = \xff"[..]), "not text (UTF-8) from byte 9 on"), (None, "No such file")] {
        std::fs::remove_file(&file).unwrap_or_default();
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let failure = load(Some(&file)).unwrap_err();
        assert!(failure.message.contains(words), "{}", failure.message);
        assert_eq!(failure.kind, crate::error::Kind::Config);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).*") {
        let _ = read(&text);
    }

    /// Pieces of a lab file in any order are nearer to the mark than random text.
    #[test]
    fn no_shuffled_lab_panics(order in proptest::collection::vec(0usize..DEFAULT.lines().count(), 0..40), cut in 0usize..4000) {
        let lines: Vec<&str> = DEFAULT.lines().collect();
        let mut text = order.iter().map(|&line| lines[line].trim_start_matches("# ")).collect::<Vec<_>>().join("\n");
        let end = (0..=cut.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.is_empty());
            let lines = text.lines().count() + 1;
            prop_assert!(problems.iter().filter_map(|p| p.place).all(|place| place.line <= lines));
        }
    }
}
