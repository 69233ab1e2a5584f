//! The texts in a chart, from a directory or an archive, without asking helm.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind, io_failure};

/// No text of a chart is near as long; what is longer is none of ours to read.
const LONGEST: u64 = 4 << 20;

/// Path inside the chart (`charts/spire-server/values.yaml`) and text of everything that says what values a chart
/// takes: `Chart.yaml`, `values.yaml` and templates, those of subcharts included. Sorted by path.
///
/// # Errors
/// Not readable, or not a chart.
pub fn chart_texts(chart: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = if chart.is_dir() { from_directory(chart)? } else { from_archive(chart)? };
    if !texts.iter().any(|(name, _)| name == "Chart.yaml") {
        let message = format!("`{}` is not a helm chart: it holds no Chart.yaml", chart.display());
        return Err(Failure::new(Kind::Prerequisite, message));
    }
    texts.sort();
    Ok(texts)
}

fn wanted(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    matches!(file, "Chart.yaml" | "values.yaml")
        || (format!("/{name}").contains("/templates/") && Path::new(file).extension().is_some())
}

fn from_directory(chart: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(inside) = directories.pop() {
        let directory = chart.join(&inside);
        let failed = |error: std::io::Error| io_failure("read the chart's directory", &directory, &error);
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let inside = inside.join(entry.file_name());
            let name = inside.to_string_lossy().into_owned();
            // Links are not followed: they may lead in circles.
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                directories.push(inside);
            } else if kind.is_file() && wanted(&name) {
                let path = entry.path();
                let file = std::fs::File::open(&path).map_err(|error| io_failure("read", &path, &error))?;
                texts.push((name, read(file, &path)?));
            }
        }
    }
    Ok(texts)
}

fn from_archive(chart: &Path) -> Result<Vec<(String, String)>, Failure> {
    let failed = |error: std::io::Error| io_failure("read the chart", chart, &error);
    let file = std::fs::File::open(chart).map_err(failed)?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut texts = Vec::new();
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        // Everything lies in a directory of the chart's name.
        let name = path.iter().skip(1).collect::<PathBuf>().to_string_lossy().into_owned();
        if entry.header().entry_type().is_file() && wanted(&name) {
            texts.push((name, read(entry, chart)?));
        }
    }
    Ok(texts)
}

fn read(from: impl Read, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(LONGEST).read_to_end(&mut bytes).map_err(|error| io_failure("read the chart", path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[(&str, &str)] = &[
        ("Chart.yaml", "name: spire"),
        ("README.md", "no"),
        ("charts/a/templates/tests/t.yaml", "{{ .Values.t }}"),
        ("charts/a/values.yaml", "a: 1"),
        ("templates/_x.tpl", "{{ .Values.x }}"),
        ("templates/NOTES", "no"),
        ("values.yaml", "b: 1"),
    ];

    fn kept() -> Vec<(String, String)> {
        FILES
            .iter()
            .filter(|(_, text)| *text != "no")
            .map(|(name, text)| (name.to_string(), text.to_string()))
            .collect()
    }

    #[test]
    fn a_directory_and_an_archive_say_the_same() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in FILES {
            let path = directory.path().join("spire").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("..", directory.path().join("spire/templates/up")).unwrap();
        assert_eq!(chart_texts(&directory.path().join("spire")).unwrap(), kept());

        let archive = directory.path().join("spire.tgz");
        let encoder =
            flate2::write::GzEncoder::new(std::fs::File::create(&archive).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(encoder);
        for (name, text) in FILES {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("spire/{name}"), text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        assert_eq!(chart_texts(&archive).unwrap(), kept());
    }

    #[test]
    fn what_is_no_chart_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert!(chart_texts(directory.path()).unwrap_err().message.contains("is not a helm chart"));
        assert_eq!(chart_texts(&directory.path().join("none")).unwrap_err().kind, Kind::Prerequisite);
        let file = directory.path().join("x.tgz");
        std::fs::write(&file, "not an archive").unwrap();
        assert!(chart_texts(&file).is_err());
    }
}
