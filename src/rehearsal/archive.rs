//! Real files of this world: image archives, chart archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use super::charts::Chart;
use super::object::{items, text, texts};

/// Manifests, indices and configurations are smaller than this.
const MANIFEST_MOST: u64 = 64 * 1024;

/// What a node lists of the images in an archive once it is loaded: their names, and as containerd does their ids. The
/// archive is an OCI layout, or what `docker save` writes.
///
/// # Errors
/// The file cannot be read, or is neither; in words as kind's.
pub(super) fn images(path: &Path) -> Result<Vec<String>, String> {
    let file = File::open(path).map_err(|_| format!("stat {}: no such file or directory", path.display()))?;
    let unreadable = |error: &dyn std::fmt::Display| {
        format!(
            "failed to load image: command \"docker exec --privileged -i kind-worker ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter=overlayfs -\" failed with error: exit status 1\nCommand Output: ctr: unrecognized image format: {error}"
        )
    };
    let mut small = BTreeMap::new();
    for entry in tar::Archive::new(file).entries_with_seek().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        if entry.size() <= MANIFEST_MOST {
            let name =
                entry.path().map_err(|error| unreadable(&error))?.to_string_lossy().trim_start_matches("./").to_owned();
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(|error| unreadable(&error))?;
            small.insert(name, text);
        }
    }
    let json =
        |name: &str| small.get(name).and_then(|text| serde_json::from_slice::<Value>(text).ok()).unwrap_or_default();
    let mut found = Vec::new();
    for manifest in items(&json("index.json"), "/manifests") {
        found.extend(
            texts(manifest, "/annotations")
                .filter(|(key, _)| *key == "io.containerd.image.name")
                .map(|(_, name)| name.to_owned()),
        );
        let blob = text(manifest, "/digest").replace(':', "/");
        found.push(text(&json(&format!("blobs/{blob}")), "/config/digest").to_owned());
    }
    for image in items(&json("manifest.json"), "") {
        found.extend(items(image, "/RepoTags").filter_map(Value::as_str).map(str::to_owned));
        let config = text(image, "/Config").trim_start_matches("blobs/sha256/").trim_end_matches(".json");
        found.push(format!("sha256:{config}"));
    }
    found.retain(|name| !name.is_empty());
    if found.iter().all(|name| name.starts_with("sha256:")) {
        Err(unreadable(&"no image of a name in it"))
    } else {
        Ok(found)
    }
}

/// Writes a chart as the archive that `helm pull` leaves.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_chart(chart: &Chart, path: &Path) -> std::io::Result<()> {
    let file = flate2::write::GzEncoder::new(File::create(path)?, flate2::Compression::fast());
    let mut archive = tar::Builder::new(file);
    for (name, content) in chart.files().map_err(std::io::Error::other)? {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, format!("{}/{name}", chart.name), content.as_bytes())?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

/// The `Chart.yaml` of a chart that is an archive or a directory.
///
/// # Errors
/// In words as after helm's `Error: `.
pub(super) fn chart_metadata(path: &Path) -> Result<Value, String> {
    let yaml = if path.is_dir() {
        std::fs::read_to_string(path.join("Chart.yaml")).map_err(|_| "Chart.yaml file is missing".to_owned())?
    } else {
        let file = File::open(path).map_err(|_| format!("path \"{}\" not found", path.display()))?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let not_gzip = |_| {
            format!("file '{}' does not appear to be a gzipped archive; got 'application/octet-stream'", path.display())
        };
        let mut found = None;
        for entry in archive.entries().map_err(not_gzip)? {
            let mut entry = entry.map_err(not_gzip)?;
            // Subcharts have one too, deeper down.
            if entry.path().is_ok_and(|name| name.components().count() == 2 && name.ends_with("Chart.yaml")) {
                let mut yaml = String::new();
                entry.read_to_string(&mut yaml).map_err(not_gzip)?;
                found = Some(yaml);
                break;
            }
        }
        found.ok_or("Chart.yaml file is missing")?
    };
    let metadata: Value = serde_yaml::from_str(&yaml)
        .map_err(|error| format!("cannot load Chart.yaml: error converting YAML to JSON: {error}"))?;
    if text(&metadata, "/name").is_empty() || text(&metadata, "/version").is_empty() {
        return Err("validation: chart.metadata.name is required".to_owned());
    }
    Ok(metadata)
}
