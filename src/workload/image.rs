//! The workload's image, made without a Dockerfile and without a registry: an OCI archive that holds an executable
//! of ours and the shared libraries it needs.
//!
//! Each library lies in the directory in which this machine's loader found it, the loader at the path that the
//! executable asks for: so the same loader finds the same libraries. `LD_LIBRARY_PATH` names the directories again,
//! for those that came from `ld.so.conf` or `DT_RPATH`. Equal input gives equal bytes.
//!
//! The archive is an OCI image layout with containerd's annotations (what `kind load image-archive` needs), and has
//! Docker's `manifest.json` beside it, so that `docker load` takes it too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::{Failure, io_failure};
use crate::spire::hex;
use crate::workload::elf::{Architecture, Elf, Reason};
use crate::workload::layer::{EXECUTABLE, Hashing, write_directory, write_file, write_layer};
use crate::workload::libraries::{Closure, Search, closure};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Ends the name of an archive that is being written.
const PARTIAL: &str = ".partial";
/// The user that the image runs as.
const USER: u32 = 1000;

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArchive {
    /// The archive.
    pub path: PathBuf,
    /// The image's full name, e.g. `docker.io/library/coastal-workload:1`.
    pub name: String,
    /// The image's id on a node (digest of its configuration), `sha256:…`.
    pub id: String,
    /// Digest of its manifest, `sha256:…`. After `kind load image-archive` a node lists the image (`status.images`)
    /// with this name among others: `docker.io/library/import-DATE@sha256:…`.
    pub manifest: String,
    /// Digest of its only layer, `sha256:…`: the same as [`identity`] of what it was built from.
    pub layer: String,
    /// The machine it runs on.
    pub architecture: Architecture,
}

/// Whether `executable` and all its libraries can be put into a Linux container, and for which machine that is.
/// Whether the nodes are such machines is for the caller to compare.
///
/// # Errors
/// Why not. The caller then falls back to the SPIRE agent's image with `api watch`, and says so.
pub fn can_run_in_linux_container(executable: &Path) -> Result<Architecture, Reason> {
    Ok(closure_of(executable)?.program.architecture)
}

/// What an image of `executable` would hold, as a digest: unchanged as long as neither the executable nor a
/// library of it changed, nor one of the programs `beside` it.
///
/// # Errors
/// It cannot run in a Linux container, or a file cannot be read.
pub fn identity(executable: &Path, beside: &[PathBuf]) -> Result<String, Failure> {
    let mut sink = Hashing::new(io::sink());
    write_layer(executable, &closure_of(executable).map_err(|why| cannot_run(executable, &why))?, beside, &mut sink)?;
    Ok(sink.finish().1)
}

/// Whether the archive at `archive` is one of `image` that [`build_archive`] would make of `executable` now. An
/// archive that is not there or cannot be read is not.
///
/// # Errors
/// As [`identity`] and [`full_name`].
pub fn is_current(archive: &Path, executable: &Path, beside: &[PathBuf], image: &str) -> Result<bool, Failure> {
    let name = full_name(image)?;
    match read_archive(archive) {
        Ok(found) if found.name == name => Ok(found.layer == identity(executable, beside)?),
        _ => Ok(false),
    }
}

/// Builds the archive of an image called `image` that runs `executable workload`, with the programs `beside` it in `/`.
/// Written beside `to`, then renamed: `to` is whole or not there.
///
/// # Errors
/// The name is not one, the executable cannot run in a Linux container, or a file cannot be read or written.
pub fn build_archive(executable: &Path, beside: &[PathBuf], image: &str, to: &Path) -> Result<ImageArchive, Failure> {
    let name = full_name(image)?;
    let closure = closure_of(executable).map_err(|why| cannot_run(executable, &why))?;
    let architecture = closure.program.architecture;
    let unwritten = |error: &io::Error| io_failure("write", to, error);
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(|error| io_failure("make", directory, &error))?;

    let layer = tempfile::tempfile_in(directory).map_err(|error| unwritten(&error))?;
    let mut layer = Hashing::new(layer);
    let places = write_layer(executable, &closure, beside, &mut layer)?;
    let size = layer.length();
    let (mut layer, digest) = layer.finish();
    layer.rewind().map_err(|error| unwritten(&error))?;

    let config = config(architecture, &digest, &places);
    let config_digest = digest_of(&config);
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": LAYER, "digest": digest, "size": size}],
    }));
    let small = small_files(&name, architecture, &manifest, config, &digest);

    let mut out = partial(directory, to).map_err(|error| unwritten(&error))?;
    let mut tar = tar::Builder::new(io::BufWriter::new(&mut out));
    let mut wrote = write_directory(&mut tar, "blobs").and_then(|()| write_directory(&mut tar, "blobs/sha256"));
    let layer_path = blob(&digest);
    let mut files: BTreeMap<&str, Option<&[u8]>> =
        small.iter().map(|(path, bytes)| (&**path, Some(&**bytes))).collect();
    files.insert(&layer_path, None);
    for (path, bytes) in files {
        wrote = wrote.and_then(|()| match bytes {
            Some(bytes) => write_file(&mut tar, path, 0o644, bytes.len() as u64, bytes),
            None => write_file(&mut tar, path, 0o644, size, &mut layer),
        });
    }
    wrote
        .and_then(|()| tar.into_inner()?.flush())
        .and_then(|()| out.as_file().sync_all())
        .map_err(|error| unwritten(&error))?;
    out.persist(to).map_err(|error| unwritten(&error.error))?;
    Ok(ImageArchive {
        path: to.to_owned(),
        name,
        id: config_digest,
        manifest: digest_of(&manifest),
        layer: digest,
        architecture,
    })
}

/// A new file beside `to`, once those are gone that an interrupted build left.
fn partial(directory: &Path, to: &Path) -> io::Result<tempfile::NamedTempFile> {
    let prefix = format!(".{}.", to.file_name().unwrap_or_default().to_string_lossy());
    for entry in std::fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(PARTIAL) {
            std::fs::remove_file(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(&prefix).suffix(PARTIAL).tempfile_in(directory)
}

/// Everything in the archive but the layer, by path.
fn small_files(
    name: &str,
    architecture: Architecture,
    manifest: &[u8],
    config: Vec<u8>,
    layer: &str,
) -> BTreeMap<String, Vec<u8>> {
    let digest = digest_of(manifest);
    let config_path = blob(&digest_of(&config));
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST,
            "digest": digest,
            "size": manifest.len(),
            "platform": {"architecture": architecture.as_str(), "os": "linux"},
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }],
    });
    // Docker's own format wants the short name.
    let short = repository.strip_prefix("docker.io/library/").or_else(|| repository.strip_prefix("docker.io/"));
    let docker = json!([{
        "Config": config_path,
        "RepoTags": [format!("{}:{tag}", short.unwrap_or(repository))],
        "Layers": [blob(layer)],
    }]);
    BTreeMap::from([
        ("oci-layout".to_owned(), to_bytes(&json!({"imageLayoutVersion": "1.0.0"}))),
        ("index.json".to_owned(), to_bytes(&index)),
        ("manifest.json".to_owned(), to_bytes(&docker)),
        (blob(&digest), manifest.to_vec()),
        (config_path, config),
    ])
}

fn config(architecture: Architecture, layer: &str, places: &BTreeSet<PathBuf>) -> Vec<u8> {
    let mut env = vec!["PATH=/".to_owned()];
    if !places.is_empty() {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        env.push(format!("LD_LIBRARY_PATH={}", places.join(":")));
    }
    let mut config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture.as_str(),
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": env,
            "Entrypoint": [EXECUTABLE, "workload"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "coastal build-load-image"}],
    });
    if architecture == Architecture::Arm {
        config["variant"] = json!("v7");
    }
    to_bytes(&config)
}

/// Reads what an archive that [`build_archive`] made holds.
///
/// # Errors
/// It cannot be read, or is none of ours.
pub fn read_archive(path: &Path) -> Result<ImageArchive, Failure> {
    let unread = |error: &io::Error| io_failure("read", path, error);
    let mut small = BTreeMap::new();
    let file = File::open(path).map_err(|error| unread(&error))?;
    let mut tar = tar::Archive::new(file);
    for entry in tar.entries_with_seek().map_err(|error| unread(&error))? {
        let mut entry = entry.map_err(|error| unread(&error))?;
        // The layer is passed over by its size; everything else is a few hundred bytes.
        if entry.size() < 64 * 1024 {
            let name = entry.path().map_err(|error| unread(&error))?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|error| unread(&error))?;
            small.insert(name, bytes);
        }
    }
    let json = |path: &str| small.get(path).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let found = (|| {
        let index = json("index.json")?;
        let manifest = &index["manifests"][0];
        let name = manifest["annotations"]["io.containerd.image.name"].as_str()?.to_owned();
        let manifest = manifest["digest"].as_str()?.to_owned();
        let id = json(&blob(&manifest))?["config"]["digest"].as_str()?.to_owned();
        let config = json(&blob(&id))?;
        let architecture = Architecture::named(config["architecture"].as_str()?)?;
        let layer = config["rootfs"]["diff_ids"][0].as_str()?.to_owned();
        Some(ImageArchive { path: path.to_owned(), name, id, manifest, layer, architecture })
    })();
    found.ok_or_else(|| {
        Failure::prerequisite(format!("`{}` is not an image archive of `coastal build-load-image`", path.display()))
    })
}

/// An image's full name, as containerd stores it: `coastal-workload:1` -> `docker.io/library/coastal-workload:1`.
///
/// # Errors
/// It is not the name of an image, or it has a digest, which cannot be chosen.
pub fn full_name(image: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("`{image}` cannot be the name of the workload's image: {why}"))
            .next("use a name like `coastal-workload:1`")
    };
    if image.contains('@') {
        return Err(wrong("a digest cannot be chosen"));
    }
    let (repository, tag) = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    };
    let (host, path) = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
        Some(_) => ("docker.io", repository.to_owned()),
        None => ("docker.io", format!("library/{repository}")),
    };
    let is_tag = |tag: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
    };
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || "._-".contains(c))
    };
    if !is_tag(tag) {
        return Err(wrong("its tag has other characters than letters, digits, `_`, `.` and `-`"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    let is_host =
        host.starts_with(plain) && host.ends_with(plain) && host.chars().all(|c| plain(c) || ".:-".contains(c));
    if !is_host || !path.split('/').all(is_part) {
        return Err(wrong("it has other characters than lower-case letters, digits, `.`, `_`, `-` and `/`"));
    }
    Ok(format!("{host}/{path}:{tag}"))
}

fn closure_of(executable: &Path) -> Result<Closure, Reason> {
    let architecture = Elf::open(executable)?.architecture;
    closure(executable, &Search::on_this_machine(executable, architecture))
}

fn cannot_run(executable: &Path, why: &Reason) -> Failure {
    Failure::prerequisite(format!("`{}` cannot run in a Linux container: {why}", executable.display()))
        .fact("where that is so, the workload is the SPIRE agent's image with `spire-agent api watch`")
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap_or(digest))
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn this_program() -> PathBuf {
        std::env::current_exe().expect("a path")
    }

    /// Every entry of an archive: path -> (mode, bytes).
    fn entries(from: impl io::Read) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(from);
        let mut found = BTreeMap::new();
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let header = entry.header();
            let [time, user, group] =
                [header.mtime(), header.uid(), header.gid()].map(|number| number.expect("a number"));
            assert_eq!((time, user, group), (0, 0, 0));
            let mode = header.mode().expect("a mode");
            let path = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("bytes");
            assert_eq!(found.insert(path, (mode, bytes)), None, "no entry comes twice");
        }
        found
    }

    #[test]
    fn the_archive_is_a_whole_oci_layout_and_the_same_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("images/workload.tar");
        fs::create_dir(to.parent().expect("a parent")).expect("made");
        fs::write(to.with_file_name(".workload.tar.x1.partial"), "left by a build that was killed").expect("written");
        let built = build_archive(&this_program(), &[], "coastal-workload:1", &to).expect("built");
        assert_eq!(built.name, "docker.io/library/coastal-workload:1");
        assert_eq!(read_archive(&to), Ok(built.clone()));
        assert_eq!(identity(&this_program(), &[]), Ok(built.layer.clone()));
        let first = fs::read(&to).expect("bytes");
        build_archive(&this_program(), &[], "coastal-workload:1", &to).expect("built again");
        assert!(first == fs::read(&to).expect("bytes"), "equal input gives equal bytes");
        assert_eq!(
            fs::read_dir(to.parent().expect("a parent")).expect("listed").count(),
            1,
            "nothing is left beside it"
        );

        let archive = entries(first.as_slice());
        for (path, (_, bytes)) in &archive {
            if let Some(name) = path.strip_prefix("blobs/sha256/").filter(|name| !name.is_empty()) {
                assert_eq!(digest_of(bytes), format!("sha256:{name}"), "a blob is named after what it holds");
            }
        }
        let json = |path: &str| serde_json::from_slice::<Value>(&archive[path].1).expect("JSON");
        let index = json("index.json");
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/coastal-workload:1");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
        assert_eq!(index["manifests"][0]["digest"], built.manifest);
        assert_eq!(json("manifest.json")[0]["RepoTags"][0], "coastal-workload:1");
        let config = json(&blob(&built.id));
        assert_eq!(config["config"]["Entrypoint"], json!(["/coastal", "workload"]));
        assert_eq!(config["config"]["User"], "1000:1000");

        let layer = entries(archive[&blob(&built.layer)].1.as_slice());
        assert!(layer["coastal"].1 == fs::read(this_program()).expect("bytes"));
        assert_eq!((layer["coastal"].0, layer["tmp/"].0), (0o755, 0o1777));
        let closure = closure_of(&this_program()).expect("complete");
        let needed = closure.libraries.keys().chain(closure.program.interpreter.as_ref());
        for place in needed {
            let place = place.display().to_string();
            assert!(layer.contains_key(place.trim_start_matches('/')), "{place}");
        }
    }

    /// The real loader, told to look at nothing but the unpacked layer, starts the program.
    #[test]
    #[cfg(target_os = "linux")]
    #[expect(clippy::disallowed_methods, reason = "the unpacked program is run to see that it is whole")]
    fn the_unpacked_layer_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("workload.tar");
        let built = build_archive(&this_program(), &[], "coastal-workload:1", &to).expect("built");
        let archive = entries(File::open(&to).expect("opened"));
        let root = dir.path().join("root");
        tar::Archive::new(archive[&blob(&built.layer)].1.as_slice()).unpack(&root).expect("unpacked");
        let inside = |path: &Path| root.join(path.strip_prefix("/").expect("absolute"));
        let closure = closure_of(&this_program()).expect("complete");
        let program = inside(Path::new(EXECUTABLE));
        assert_eq!(fs::metadata(&program).expect("there").permissions().mode() & 0o777, 0o755);
        let mut command = match &closure.program.interpreter {
            Some(loader) => {
                let mut command = std::process::Command::new(inside(loader));
                let places: BTreeSet<PathBuf> =
                    closure.libraries.keys().filter_map(|place| place.parent().map(inside)).collect();
                command.arg("--inhibit-cache").arg("--library-path").arg(std::env::join_paths(places).expect("paths"));
                command.arg("--list").arg(&program);
                command
            }
            None => std::process::Command::new(&program),
        };
        let output = command.output().expect("started");
        let listed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for library in closure.libraries.keys() {
            let inside = inside(library).display().to_string();
            assert!(listed.contains(&inside), "{inside} is not what the loader took:\n{listed}");
        }
    }

    #[test]
    fn an_archive_is_current_until_the_program_or_the_name_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, to) = (dir.path().join("coastal"), dir.path().join("workload.tar"));
        fs::copy(this_program(), &program).expect("copied");
        assert_eq!(is_current(&to, &program, &[], "w:1"), Ok(false), "not there");
        build_archive(&program, &[], "w:1", &to).expect("built");
        assert_eq!(is_current(&to, &program, &[], "w:1"), Ok(true));
        assert_eq!(is_current(&to, &program, &[], "w:2"), Ok(false));
        assert_eq!(is_current(&to, &program, std::slice::from_ref(&to), "w:1"), Ok(false), "nothing is beside it");
        let mut changed = fs::OpenOptions::new().append(true).open(&program).expect("opened");
        changed.write_all(b"more").expect("written");
        assert_eq!(is_current(&to, &program, &[], "w:1"), Ok(false));
        fs::write(&to, b"not an archive").expect("written");
        assert_eq!(is_current(&to, &program, &[], "w:1"), Ok(false));
    }

    #[test]
    fn programs_lie_beside_the_executable_where_the_path_finds_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let (helm, to) = (dir.path().join("helm"), dir.path().join("workload.tar"));
        fs::write(&helm, "helm").expect("written");
        let beside = [helm];
        let built = build_archive(&this_program(), &beside, "w:1", &to).expect("built");
        assert_eq!(is_current(&to, &this_program(), &beside, "w:1"), Ok(true));
        let archive = entries(File::open(&to).expect("opened"));
        let layer = entries(archive[&blob(&built.layer)].1.as_slice());
        assert_eq!(layer["helm"], (0o755, b"helm".to_vec()));
        let config: Value = serde_json::from_slice(&archive[&blob(&built.id)].1).expect("JSON");
        assert_eq!(config["config"]["Env"][0], "PATH=/");
    }

    #[test]
    fn what_cannot_be_built_leaves_nothing_and_says_why() {
        let dir = tempfile::tempdir().expect("a directory");
        let (script, to) = (dir.path().join("script"), dir.path().join("workload.tar"));
        fs::write(&script, "#!/bin/sh\n").expect("written");
        let failure = build_archive(&script, &[], "w:1", &to).expect_err("a script");
        assert!(failure.message.ends_with("cannot run in a Linux container: it is a script, not an ELF file"));
        assert!(failure.facts[0].contains("api watch"));
        assert!(can_run_in_linux_container(&script).is_err());
        let failure = build_archive(&dir.path().join("gone"), &[], "w:1", &to).expect_err("nothing there");
        assert!(failure.message.contains("it cannot be read"), "{failure}");
        let blocked = script.join("workload.tar");
        let failure = build_archive(&this_program(), &[], "w:1", &blocked).expect_err("no such directory can be");
        assert!(failure.message.contains(&script.display().to_string()), "{failure}");
        assert!(!to.exists());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "only the script");
    }

    #[test]
    fn names_are_made_full() {
        for (short, full) in [
            ("coastal-workload:1", "docker.io/library/coastal-workload:1"),
            ("coastal-workload", "docker.io/library/coastal-workload:latest"),
            ("me/coastal-workload:v1.2_3", "docker.io/me/coastal-workload:v1.2_3"),
            ("ghcr.io/me/w:1", "ghcr.io/me/w:1"),
            ("localhost:5000/w:1", "localhost:5000/w:1"),
            ("localhost/w", "localhost/w:latest"),
        ] {
            assert_eq!(full_name(short).as_deref(), Ok(full));
            assert_eq!(full_name(full).as_deref(), Ok(full), "a full name stays");
        }
        for wrong in ["", "UPPER:1", "w:", "w:a b", "w@sha256:00", "a//b:1", "../w:1", "w:-x", "docker.io/:1"] {
            assert!(full_name(wrong).is_err(), "{wrong}");
        }
    }
}
