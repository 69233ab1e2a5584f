//! Our values on every chart that there is, rendered by the real helm: no cluster, but charts, and so no part of the
//! hermetic suite.
//!
//! `COASTAL_TEST_CHARTS_DIR` holds the charts `spire` as archives (`spire-0.13.0.tgz`) or as directories of their
//! names, in which lies the chart or a checkout's `charts/spire`.

use std::path::{Path, PathBuf};

use coastal::config::{Lab, embedded};
use coastal::spire::names;
use coastal::spire::render::{Rendered, immutable_changes, mismatches};
use coastal::spire::values::known::KnownKeys;
use coastal::spire::values::lines::{HOLDS_AGENTS, Line};
use coastal::spire::values::{Images, Phase, SERVER_PORT, spire_values};
use coastal::steps::chart_files::chart_texts;
use coastal::tools::Target;
use coastal::tools::helm::Helm;
use semver::Version;

use crate::lab::run;

/// All that were published, of those that our values are for.
const CHARTS: &[&str] = &[
    "0.13.0", "0.13.1", "0.13.2", "0.14.0", "0.15.0", "0.15.1", "0.16.0", "0.17.0", "0.17.1", "0.17.2", "0.18.0",
    "0.18.1", "0.18.2", "0.19.0", "0.19.1", "0.19.2", "0.20.0", "0.21.0", "0.21.1", "0.22.0", "0.23.0", "0.24.0",
    "0.24.1", "0.24.2", "0.24.3", "0.24.4", "0.24.5", "0.25.0", "0.26.0", "0.26.1", "0.27.0", "0.27.1", "0.28.0",
    "0.28.1", "0.28.2", "0.28.3", "0.28.4", "0.28.5", "0.29.0", "0.30.0",
];

/// Keys of ours that some chart does not know and that do no harm there.
const IN_VAIN: &[&str] = &[
    // Checked by the charts from 0.14 on; the lab keeps the rule before, too.
    "global.spire.strictMode",
    // Commented out in the chart's own values, and asked for by no template.
    "tornjak-frontend.resources",
];

fn charts() -> Vec<(Version, PathBuf)> {
    let directory = std::env::var_os("COASTAL_TEST_CHARTS_DIR")
        .expect("COASTAL_TEST_CHARTS_DIR: a directory with the charts spire-0.13.0 to spire-0.30.0");
    let find = |chart: &str| {
        let base = Path::new(&directory).join(format!("spire-{chart}"));
        let archive = Path::new(&directory).join(format!("spire-{chart}.tgz"));
        let candidates = [archive, base.join("charts/spire"), base];
        candidates.into_iter().find(|path| path.is_file() || path.join("Chart.yaml").is_file())
    };
    let (found, missing): (Vec<_>, Vec<_>) =
        CHARTS.iter().map(|chart| (*chart, find(chart))).partition(|(_, path)| path.is_some());
    assert!(
        missing.is_empty(),
        "not in COASTAL_TEST_CHARTS_DIR: {:?}",
        missing.iter().map(|(c, _)| c).collect::<Vec<_>>()
    );
    found.into_iter().filter_map(|(chart, path)| Some((chart.parse().ok()?, path?))).collect()
}

fn render(helm: &Helm, lab: &Lab, chart: &Path, version: &Version, images: &Images, phase: Phase) -> Rendered {
    let values = spire_values(lab, version, images, phase).unwrap();
    let command = helm.template(&lab.spire.release, &lab.spire.release_namespace, chart, values.to_string());
    Rendered::read(lab, &run(&command).stdout).unwrap_or_else(|failure| panic!("{version}: {failure}"))
}

#[test]
#[ignore = "needs helm and the charts"]
fn every_chart_renders_as_it_has_to() {
    let home = tempfile::tempdir().unwrap();
    let helm = Helm {
        repositories: home.path().join("repositories.yaml"),
        cache: home.path().join("cache"),
        target: Target { kubeconfig: home.path().join("none"), context: "none".into() },
    };
    let lab = embedded().unwrap();
    let images = Images { server: Version::new(1, 12, 6), agent: Version::new(1, 11, 3) };
    let mut problems = Vec::new();
    let mut before: Option<Rendered> = None;
    println!("{:<8} {:<8} {:<38} {:<45} agents held", "chart", "manager", "bundle", "agent's socket");
    for (version, chart) in charts() {
        let line = Line::from(&version);
        let mut problem = |text: String| problems.push(format!("{version}: {text}"));
        for phase in [Phase::Servers, Phase::Settled] {
            let rendered = render(&helm, &lab, &chart, &version, &images, phase);
            for mismatch in mismatches(&lab, &version, &images, phase, &rendered) {
                problem(format!("{phase:?}: {mismatch}"));
            }
            if phase == Phase::Servers {
                continue;
            }
            let manager = rendered.controller_manager_image.as_deref().unwrap_or("none");
            println!(
                "{version:<8} {:<8} {:<38} {:<45} {}",
                manager.rsplit(':').next().unwrap_or(manager),
                rendered.bundle_read.to_string().replace(" of ConfigMap spire-system/", ", "),
                rendered.agent_socket,
                line >= HOLDS_AGENTS,
            );
            if rendered.service_port != SERVER_PORT {
                problem(format!("the servers' port moves to {}", rendered.service_port));
            }
            if rendered.agent_socket != names::agent_socket(&version) {
                problem(format!("the agent's socket is {}", rendered.agent_socket));
            }
            if let Some(before) = before.replace(rendered.clone()) {
                let mut changes = immutable_changes(&before.stateful_set, &rendered.stateful_set);
                changes.extend(immutable_changes(&before.daemon_set, &rendered.daemon_set));
                // The one that is known: design of the chart's 0.19.0.
                let expected = usize::from(line == Line(0, 19, 0));
                if changes.len() != expected {
                    problem(format!("immutable: {changes:?}"));
                }
            }
        }
        let texts = chart_texts(&chart).unwrap();
        let known = KnownKeys::read(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).unwrap();
        let values = spire_values(&lab, &version, &images, Phase::Settled).unwrap();
        for unknown in known.unknown(&values, line) {
            if !IN_VAIN.contains(&unknown.path.as_str()) {
                problem(format!("a key of ours that the chart does not know: {unknown}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
