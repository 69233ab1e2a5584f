//! The values that a release gets: ours ([`crate::spire::values`]), and over them those of the user's file.

use std::path::Path;

use semver::Version;
use serde_json::Value;

use crate::config::{ChartRef, Lab};
use crate::error::{Failure, Kind, io_failure};
use crate::spire::values::lines::{Line, named_for};
use crate::spire::values::{self, Images, Phase, merge, parse_file};
use crate::steps::fetch::read_chart;

/// For the chart `spire` of version `chart`.
///
/// # Errors
/// The chart is not supported, or the user's values file cannot be read.
pub fn spire_values(lab: &Lab, chart: &Version, images: &Images, phase: Phase) -> Result<Value, Failure> {
    let ours = values::spire_values(lab, chart, images, phase)?;
    Ok(match user_spire_values(lab)? {
        Some(users) => merge(ours, named_for(users, Line::from(chart))),
        None => ours,
    })
}

/// What the user's own file for the chart `spire` says, as it stands there.
///
/// # Errors
/// It cannot be read.
pub fn user_spire_values(lab: &Lab) -> Result<Option<Value>, Failure> {
    lab.spire.values.as_deref().map(read).transpose()
}

/// For the chart `kube-prometheus-stack`.
///
/// # Errors
/// The user's values file cannot be read.
pub fn prometheus_values(lab: &Lab) -> Result<Value, Failure> {
    let ours = values::prometheus_values(lab)?;
    let file = lab.monitoring.as_ref().and_then(|monitoring| monitoring.values.as_deref());
    Ok(match file {
        Some(file) => merge(ours, read(file)?),
        None => ours,
    })
}

fn read(file: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        io_failure("read the values file", file, &error).next("set `values` in lab.toml to a file, or leave it out")
    })?;
    parse_file(&file.display().to_string(), &text)
}

/// The version of the lab's chart `spire`: as lab.toml names it, or as the chart at hand says.
///
/// # Errors
/// A local chart cannot be read, or its version is none.
pub fn spire_chart_version(lab: &Lab) -> Result<Version, Failure> {
    match &lab.spire.chart {
        ChartRef::Repo { version, .. } => Ok(version.clone()),
        ChartRef::Path(path) => {
            let chart = read_chart(path)?;
            chart.version.parse().map_err(|error| {
                Failure::new(
                    Kind::Prerequisite,
                    format!("chart `{}` has no readable version, but `{}`: {error}", path.display(), chart.version),
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::embedded;

    fn settled(lab: &Lab, chart: &str) -> Result<Value, Failure> {
        spire_values(lab, &chart.parse().unwrap(), &Images::of(lab), Phase::Settled)
    }

    #[test]
    fn the_users_file_has_the_last_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "spire-server: {logLevel: debug, replicaCount: 5}\ngrafana: {enabled: false}\n")
            .unwrap();
        let mut lab = embedded().unwrap();
        let chart = Version::new(0, 13, 0);
        let ours = values::spire_values(&lab, &chart, &Images::of(&lab), Phase::Settled).unwrap();
        assert_eq!(settled(&lab, "0.13.0").unwrap(), ours);
        lab.spire.values = Some(file.path().to_owned());
        lab.monitoring.as_mut().unwrap().values = Some(file.path().to_owned());
        let server = &settled(&lab, "0.13.0").unwrap()["spire-server"];
        assert_eq!((&server["logLevel"], &server["replicaCount"]), (&json!("debug"), &json!(5)));
        assert_eq!(server["image"]["tag"], json!("1.7.2"));
        assert_eq!(prometheus_values(&lab).unwrap()["grafana"]["enabled"], json!(false));

        lab.spire.values = Some("/nowhere/values.yaml".into());
        assert!(settled(&lab, "0.13.0").unwrap_err().message.contains("/nowhere/values.yaml"));
    }

    #[test]
    fn the_users_file_may_have_any_charts_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "spire-server: {ca_subject: {country: FR}}\n").unwrap();
        let mut lab = embedded().unwrap();
        lab.spire.values = Some(file.path().to_owned());
        let server = settled(&lab, "0.30.0").unwrap()["spire-server"].take();
        assert_eq!(server["caSubject"]["country"], json!("FR"));
        assert_eq!(server["caSubject"]["organization"], json!("Coastal Containers Ltd."));
        assert_eq!(server.get("ca_subject"), None);
    }

    #[test]
    fn the_charts_version_is_the_labs_or_the_charts_own() {
        let mut lab = embedded().unwrap();
        assert_eq!(spire_chart_version(&lab).unwrap(), Version::new(0, 13, 0));
        let directory = tempfile::tempdir().unwrap();
        lab.spire.chart = ChartRef::Path(directory.path().to_owned());
        assert!(spire_chart_version(&lab).is_err());
        for (version, read) in [("0.27.1", Some(Version::new(0, 27, 1))), ("new", None)] {
            std::fs::write(directory.path().join("Chart.yaml"), format!("name: spire\nversion: {version}\n")).unwrap();
            assert_eq!(spire_chart_version(&lab).ok(), read);
        }
    }
}
