//! Backups: what is in an archive, what it is worth, and until when.
//!
//! An archive is a tar file, through age unless it is to be plain. It is written and read as a stream: neither needs
//! more memory than a part of it. This room knows files, not clusters; [`crate::steps::backup`] fetches what goes in.

pub mod archive;
pub mod authorities;
pub mod catalog;
pub mod contents;
pub mod cover;
pub mod cron;
pub mod dump;
pub mod keys;
pub mod manifest;
pub mod seal;
#[cfg(test)]
mod tests;

pub use archive::Writer;
pub use catalog::{Described, Protection};
pub use contents::Contents;
pub use cover::Cover;
pub use manifest::{Authority, Manifest, Member, Migrations, Slot};
pub use seal::{Seal, Unseal};
