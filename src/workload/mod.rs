//! The program inside the workload's pods, and its image.
//!
//! | file | purpose |
//! |---|---|
//! | [`mod@follow`] | follows the Workload API for ever; what `coastal workload` runs; `log` writes what came |
//! | [`record`] | the JSON lines it logs, and how our steps find them again in a pod's log |
//! | [`svid`] | X.509: what a line says about an SVID and its bundle |
//! | [`watch_text`] | the same out of `spire-agent api watch`, which stands in where `coastal` cannot run in a pod |
//! | [`meter`] | the lines of all pods -> how long they were without a valid identity |
//! | [`image`] | the OCI archive that holds the running executable, its layer in `layer` |
//! | [`libraries`] | the shared libraries that go with it |
//! | [`elf`] | what an ELF file says about itself |
//!
//! Nothing here knows of steps, of Kubernetes or of the lab.

pub mod elf;
#[cfg(test)]
mod fake_agent;
pub mod follow;
pub mod image;
mod layer;
pub mod libraries;
mod log;
pub mod meter;
pub mod programs;
pub mod record;
pub mod svid;
pub mod watch_text;

pub use follow::follow;
pub use image::{ImageArchive, build_archive, can_run_in_linux_container, identity, is_current, read_archive};
pub use record::{Connection, Line, Update, lines_in, parse_line, updates_in};
