//! What is read of a CA certificate.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// A CA certificate's identity and dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The authority's id: the SubjectKeyId in lower-case hex without colons.
    pub id: String,
    /// Since when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// Reads DER; `None` if it is no certificate, or one without a SubjectKeyId or sane dates.
#[must_use]
pub fn facts(der: &[u8]) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(super::hex(id.0)),
        _ => None,
    })?;
    let validity = certificate.validity();
    let not_before = Timestamp::from_second(validity.not_before.timestamp()).ok()?;
    let not_after = Timestamp::from_second(validity.not_after.timestamp()).ok()?;
    Some(Facts { id, not_before, not_after })
}
