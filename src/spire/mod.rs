//! What SPIRE is: its releases and charts, the rules and paths of its upgrades, the names of its objects, the values of
//! its chart and what the chart makes of them, the types of its JSON output.
//! Pure: no I/O.

pub mod audit;
pub mod bundles;
pub mod certificate;
pub mod charts;
pub mod cli;
pub mod entries;
pub mod id;
pub mod incident;
pub mod metrics;
pub mod monitors;
pub mod names;
pub mod path;
pub mod planes;
pub mod policy;
pub mod records;
pub mod recovery;
pub mod releases;
pub mod render;
pub mod rotation;
pub mod values;

use std::fmt::Write as _;

/// Lower-case hexadecimal digits without separators, as SPIRE writes authority ids.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
