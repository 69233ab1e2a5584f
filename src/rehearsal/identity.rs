//! Identifiers that follow from what they identify, so that every rehearsal has the same ones.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// A UUID that follows from `identity`.
#[must_use]
pub fn uid_from(identity: &str) -> String {
    let hex = hex(identity, 16);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// A short name that follows from `identity`, of the letters that Kubernetes uses for generated names.
#[must_use]
pub fn short_hash(identity: &str, length: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    Sha256::digest(identity)
        .iter()
        .take(length)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

fn hex(identity: &str, bytes: usize) -> String {
    Sha256::digest(identity).iter().take(bytes).fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
