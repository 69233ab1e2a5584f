//! The archive as a stream: members with their digests one way, the same digests checked the other way.
//!
//! ```text
//! coastal-backup.json              what it is, of which trust domain, of when: enough to refuse it early
//! database/dump.sql.0000 …         pg_dump in plain text, in parts, for a tar member must know its length beforehand
//! servers/POD/keys.json            private keys
//! servers/POD/journal.pem          until SPIRE 1.9
//! spire/ kubernetes/ helm/ lab.toml
//! manifest.json                    last, for only then are all digests known
//! ```

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::catalog::{Described, Protection};
use super::manifest::{Manifest, Member};
use super::seal::{Seal, Sealed, Unseal};
use crate::error::{Failure, io_failure};
use crate::files;
use crate::spire::hex;

/// The first member.
pub const HEAD: &str = "coastal-backup.json";
/// The last one.
pub const MANIFEST: &str = "manifest.json";
/// The members that are the dump, in order, begin so.
pub const DUMP: &str = "database/dump.sql.";
/// The lab file.
pub const LAB: &str = "lab.toml";
/// A part of the dump is so long.
const PART: usize = 1024 * 1024;
/// No other member is longer.
const LONGEST: u64 = 256 * 1024 * 1024;

/// The first member: what the rest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the format: [`Manifest::SCHEMA`].
    pub coastal_backup: u32,
    /// Whose it is.
    pub trust_domain: String,
    /// When it was begun.
    pub begun_at: Timestamp,
}

/// An archive that is being written, under a temporary name.
pub struct Writer {
    to: PathBuf,
    file: NamedTempFile,
    tar: tar::Builder<Sealed<BufWriter<Digesting<File>>>>,
    protection: Protection,
    members: Vec<Member>,
    /// The part of the dump that is not full yet, and its number.
    part: (Vec<u8>, usize),
    begun_at: Timestamp,
}

impl Writer {
    /// Begins the archive `to`. What an earlier run of this lab left half-written beside it is removed.
    ///
    /// # Errors
    /// There is such a file, or its directory cannot be written to.
    pub fn create(to: &Path, lab: &str, seal: &Seal, head: &Head) -> Result<Self, Failure> {
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        files::private_dir(parent)?;
        if to.exists() {
            return Err(Failure::refused(format!("`{}` is there already", to.display()))
                .next("choose another name, or remove it yourself: a backup is never written over"));
        }
        let prefix = format!(".{lab}-backup-");
        for left in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if left.file_name().to_string_lossy().starts_with(&prefix) {
                files::remove(&left.path())?;
            }
        }
        let failed = |error: io::Error| io_failure("write", to, &error);
        // Readable by its owner only from the start: `tempfile` makes it so.
        let file = tempfile::Builder::new().prefix(&prefix).suffix(".part").tempfile_in(parent).map_err(failed)?;
        let digesting = Digesting { to: file.reopen().map_err(failed)?, digest: Sha256::new(), bytes: 0 };
        let sealed = seal.wrap(BufWriter::with_capacity(128 * 1024, digesting)).map_err(failed)?;
        let mut writer = Writer {
            to: to.to_owned(),
            file,
            tar: tar::Builder::new(sealed),
            protection: seal.protection(),
            members: Vec::new(),
            part: (Vec::new(), 0),
            begun_at: head.begun_at,
        };
        let text = serde_json::to_vec_pretty(head).map_err(|error| Failure::unexpected(error.to_string()))?;
        writer.add(HEAD, &text)?;
        Ok(writer)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.append(path, bytes)?;
        let sha256 = hex(&Sha256::digest(bytes));
        self.members.push(Member { path: path.to_owned(), bytes: bytes.len() as u64, sha256 });
        Ok(())
    }

    /// Adds a piece of the dump.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn dump(&mut self, mut piece: &[u8]) -> Result<(), Failure> {
        while !piece.is_empty() {
            let room = PART - self.part.0.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.part.0.extend_from_slice(now);
            piece = later;
            if self.part.0.len() == PART {
                self.end_part()?;
            }
        }
        Ok(())
    }

    /// The dump has come to its end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end_dump(&mut self) -> Result<(), Failure> {
        if self.part.0.is_empty() { Ok(()) } else { self.end_part() }
    }

    fn end_part(&mut self) -> Result<(), Failure> {
        let mut part = std::mem::take(&mut self.part.0);
        let path = format!("{DUMP}{:04}", self.part.1);
        self.add(&path, &part)?;
        part.clear();
        self.part = (part, self.part.1 + 1);
        Ok(())
    }

    fn append(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        header.set_mtime(u64::try_from(self.begun_at.as_second()).unwrap_or_default());
        let appended = self.tar.append_data(&mut header, path, bytes);
        appended.map_err(|error| io_failure("write", &self.to, &error))
    }

    /// Writes the manifest, and gives the archive its name once it is on the disk.
    ///
    /// # Errors
    /// It cannot be written; then nothing of that name is there.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Described, Failure> {
        manifest.members = std::mem::take(&mut self.members);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Failure::unexpected(error.to_string()))?;
        self.append(MANIFEST, &text)?;
        let to = self.to;
        let failed = |error: io::Error| io_failure("write", &to, &error);
        let sealed = self.tar.into_inner().map_err(failed)?;
        let digesting = sealed.finish().map_err(failed)?.into_inner().map_err(|error| failed(error.into_error()))?;
        digesting.to.sync_all().map_err(failed)?;
        self.file.persist_noclobber(&to).map_err(|error| failed(error.error))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(Described {
            schema: 1,
            file: to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            bytes: digesting.bytes,
            sha256: hex(&digesting.digest.finalize()),
            protection: self.protection,
            manifest,
        })
    }
}

struct Digesting<T> {
    to: T,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What a whole reading of an archive has shown.
pub struct Reading {
    /// How it is closed.
    pub protection: Protection,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Members that are not what the manifest says, in words.
    pub problems: Vec<String>,
}

/// Reads an archive from its beginning to its end, each member in pieces to `take` (path, piece). Every digest is
/// checked, and of an encrypted archive every block; a piece may be of a member that turns out to be damaged.
///
/// # Errors
/// It cannot be opened, is no backup of coastal's, or ends too soon.
pub fn read(path: &Path, unseal: &Unseal, mut take: impl FnMut(&str, &[u8])) -> Result<Reading, Failure> {
    let file = File::open(path).map_err(|error| io_failure("read", path, &error))?;
    let mut file = BufReader::with_capacity(128 * 1024, file);
    let head = file.fill_buf().map_err(|error| io_failure("read", path, &error))?.to_vec();
    let (protection, reader) = unseal.open(path, &head, file)?;
    let mut tar = tar::Archive::new(reader);
    let broken = |error: io::Error| damaged(path, protection, &error);
    let foreign = || {
        Failure::refused(format!("`{}` is no backup of coastal's", path.display()))
            .fact(format!("its first member is not `{HEAD}`"))
            .next("`coastal backup list` shows the backups of this lab")
    };
    let mut members: Vec<Member> = Vec::new();
    let mut manifest: Option<Manifest> = None;
    let mut buffer = vec![0; 64 * 1024];
    for entry in tar.entries().map_err(broken)? {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(_) if members.is_empty() && protection == Protection::Plaintext => return Err(foreign()),
            Err(error) => return Err(broken(error)),
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if members.is_empty() && name != HEAD {
            return Err(foreign());
        }
        if manifest.is_some() || entry.size() > LONGEST || !entry.header().entry_type().is_file() {
            return Err(damaged(path, protection, &io::Error::other(format!("`{name}` does not belong there"))));
        }
        let (mut digest, mut bytes, mut kept) = (Sha256::new(), 0_u64, Vec::new());
        loop {
            let count = entry.read(&mut buffer).map_err(broken)?;
            let piece = buffer.get(..count).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            bytes += count as u64;
            if name == HEAD || name == MANIFEST {
                kept.extend_from_slice(piece);
            }
            if name != MANIFEST {
                digest.update(piece);
                take(&name, piece);
            }
        }
        if bytes < entry.size() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match name.as_str() {
            HEAD => known(path, &kept)?,
            MANIFEST => {
                manifest = Some(serde_json::from_slice(&kept).map_err(|error| {
                    damaged(path, protection, &io::Error::other(format!("its manifest cannot be read: {error}")))
                })?);
                continue;
            }
            _ => {}
        }
        members.push(Member { path: name, bytes, sha256: hex(&digest.finalize()) });
    }
    if members.is_empty() {
        return Err(foreign());
    }
    // The last block of an age file says that it is the last: only now is it known that nothing was cut off.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    let manifest = manifest.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
    let problems = differences(&manifest.members, &members);
    Ok(Reading { protection, manifest, problems })
}

fn known(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let head: Head = serde_json::from_slice(text).map_err(|_| {
        Failure::refused(format!("`{}` is damaged, or no backup of coastal's", path.display()))
            .fact(format!("its first member, `{HEAD}`, cannot be read"))
    })?;
    if head.coastal_backup == Manifest::SCHEMA {
        return Ok(());
    }
    Err(Failure::refused(format!("`{}` is of another format, {}", path.display(), head.coastal_backup))
        .fact(format!("this coastal reads format {}", Manifest::SCHEMA))
        .next("use the coastal that wrote it"))
}

/// What differs between what should be there and what is.
fn differences(wanted: &[Member], found: &[Member]) -> Vec<String> {
    let mut problems = Vec::new();
    for want in wanted {
        match found.iter().find(|member| member.path == want.path) {
            None => problems.push(format!("`{}` is missing", want.path)),
            Some(member) if member != want => problems.push(format!(
                "`{}` is not what it was: {} bytes with digest {}…, and the manifest says {} bytes with {}…",
                want.path,
                member.bytes,
                member.sha256.get(..12).unwrap_or_default(),
                want.bytes,
                want.sha256.get(..12).unwrap_or_default()
            )),
            Some(_) => {}
        }
    }
    let strange = found.iter().filter(|member| !wanted.iter().any(|want| want.path == member.path));
    problems.extend(strange.map(|member| format!("`{}` is not in the manifest", member.path)));
    problems
}

fn damaged(path: &Path, protection: Protection, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "its end is missing".to_owned(),
        _ if protection == Protection::Plaintext => error.to_string(),
        _ => format!("a block does not decrypt, so it was changed, or its end is missing ({error})"),
    };
    Failure::check_failed(format!("`{}` is damaged: {why}", path.display()))
        .next("take another copy of it, or an older backup: `coastal backup list`")
}
