//! Backups: what is in an archive, what it is worth, and until when.
//!
//! An archive is a tar file, through age unless it is to be plain. It is written and read as a stream: neither needs
//! more memory than a part of it. This room knows files, not clusters.

pub mod catalog;
pub mod cover;
pub mod manifest;

pub use catalog::{Described, Protection};
pub use cover::Cover;
pub use manifest::{Authority, Manifest, Member, Migrations, Slot};
