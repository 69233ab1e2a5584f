//! The image's only layer: the executable, its loader, its libraries, `/tmp`. Sorted, without times, owned by root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Failure, io_failure};
use crate::spire::hex;
use crate::workload::libraries::Closure;

/// Where the executable lies in the image.
pub(super) const EXECUTABLE: &str = "/coastal";

/// Writes the layer and returns the directories of the libraries. The programs `beside` lie beside the executable.
///
/// # Errors
/// A file cannot be read, or `out` not be written.
pub(super) fn write_layer(
    executable: &Path,
    closure: &Closure,
    beside: &[PathBuf],
    out: impl Write,
) -> Result<BTreeSet<PathBuf>, Failure> {
    let beside: Vec<(PathBuf, &Path)> =
        beside.iter().filter_map(|file| Some((Path::new("/").join(file.file_name()?), file.as_path()))).collect();
    let mut files: BTreeMap<&Path, &Path> =
        closure.libraries.iter().map(|(place, file)| (place.as_path(), file.as_path())).collect();
    files.extend(beside.iter().map(|(place, file)| (place.as_path(), *file)));
    files.insert(Path::new(EXECUTABLE), executable);
    if let Some(loader) = &closure.program.interpreter {
        files.insert(loader, loader);
    }
    // The directory that the loader searches by itself holds the loader, too.
    let places = closure.libraries.keys().filter_map(|place| place.parent().map(Path::to_owned)).collect();

    let mut directories: BTreeSet<&Path> = files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
    directories.remove(Path::new("/"));
    let mut entries: BTreeMap<&Path, Option<&Path>> = directories.into_iter().map(|path| (path, None)).collect();
    entries.extend(files.into_iter().map(|(place, file)| (place, Some(file))));
    entries.insert(Path::new("/tmp"), None);

    let mut tar = tar::Builder::new(out);
    let relative = |path: &Path| path.display().to_string().trim_start_matches('/').to_owned();
    for (place, file) in entries {
        let wrote = match file {
            None => write_directory(&mut tar, &relative(place)),
            Some(file) => File::open(file).and_then(|source| {
                let size = source.metadata()?.len();
                write_file(&mut tar, &relative(place), 0o755, size, source)
            }),
        };
        wrote.map_err(|error| io_failure("pack", file.unwrap_or(place), &error))?;
    }
    tar.finish().map_err(|error| Failure::unexpected(format!("could not pack the workload's image: {error}")))?;
    Ok(places)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

pub(super) fn write_directory<W: Write>(tar: &mut tar::Builder<W>, path: &str) -> io::Result<()> {
    let mode = if path == "tmp" { 0o1777 } else { 0o755 };
    tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), format!("{path}/"), io::empty())
}

/// Fails rather than pad if `from` is shorter than `size`.
pub(super) fn write_file<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    size: u64,
    from: impl Read,
) -> io::Result<()> {
    // A source that grew or shrank since it was measured must not shift what comes after it.
    let mut from = from.take(size);
    tar.append_data(&mut header(tar::EntryType::Regular, mode, size), path, &mut from)?;
    if from.limit() > 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while it was read"));
    }
    Ok(())
}

/// Passes bytes on and hashes them.
pub(super) struct Hashing<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new(), length: 0 }
    }

    /// How many bytes went through.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// What is behind it, and the digest, `sha256:…`.
    pub(super) fn finish(self) -> (W, String) {
        let digest = format!("sha256:{}", hex(&self.hash.finalize()));
        (self.inner, digest)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
