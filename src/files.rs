//! Writing the lab's own files: whole or not at all, readable by their owner only.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use crate::error::{Failure, io_failure};

/// Makes a directory (and those above it) that only its owner can enter.
///
/// # Errors
/// It cannot be made.
pub fn private_dir(path: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_failure("create the directory", path, &error))
}

/// Replaces a file by `bytes`, mode 0600, through a temporary file beside it: a reader, or a crash, sees the old
/// one or the new one.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(Path::new("."));
    private_dir(parent)?;
    let failed = |error: std::io::Error| io_failure("write", path, &error);
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Replaces a file that is the user's by `bytes`, through a temporary file beside it; its mode stays.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| io_failure("write", path, &error);
    // Behind a link lies the file that is meant.
    let real = path.canonicalize().map_err(failed)?;
    let permissions = std::fs::metadata(&real).map_err(failed)?.permissions();
    let mut file = tempfile::NamedTempFile::new_in(real.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    file.as_file().set_permissions(permissions).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(&real).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// It is there and stays.
pub fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_failure("remove", path, &error)),
    }
}
