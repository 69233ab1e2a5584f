//! X.509: what a log line says about an SVID and its bundle, and the SVID's certificates in PEM.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use crate::spire::hex;

/// What the certificates say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// See [`crate::workload::Update::serial`].
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// See [`crate::workload::Update::issuer_key_id`].
    pub issuer_key_id: Option<String>,
    /// See [`crate::workload::Update::anchor_key_id`].
    pub anchor_key_id: Option<String>,
    /// See [`crate::workload::Update::bundle_key_ids`].
    pub bundle_key_ids: Vec<String>,
    /// See [`crate::workload::Update::verified`].
    pub verified: bool,
}

/// Certificates that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No SVID at all.
    #[error("the SVID has no certificate")]
    Empty,
    /// Not X.509.
    #[error("{which} is not an X.509 certificate: {why}")]
    NotX509 {
        /// `certificate 1 of the SVID`, `authority 2 of the bundle`.
        which: String,
        /// The parser's words.
        why: String,
    },
    /// Its dates are beyond what a time stamp can hold.
    #[error("the SVID's dates are out of range")]
    Dates,
}

/// Reads an SVID (`chain`: leaf first, intermediates if any) and the trust domain's bundle, each certificate in DER.
///
/// # Errors
/// Something is not a certificate.
pub fn read(chain: &[&[u8]], bundle: &[&[u8]]) -> Result<Facts, Unreadable> {
    let chain = parse(chain, "certificate", "SVID")?;
    let authorities = parse(bundle, "authority", "bundle")?;
    let (Some(leaf), Some(top)) = (chain.first(), chain.last()) else { return Err(Unreadable::Empty) };
    Ok(Facts {
        serial: serial(leaf),
        not_before: timestamp(leaf.validity().not_before)?,
        not_after: timestamp(leaf.validity().not_after)?,
        issuer_key_id: authority_key_id(leaf),
        anchor_key_id: authority_key_id(top),
        bundle_key_ids: authorities.iter().filter_map(subject_key_id).collect(),
        verified: verify(&chain, top, &authorities),
    })
}

fn parse<'a>(certificates: &[&'a [u8]], what: &str, of: &str) -> Result<Vec<X509Certificate<'a>>, Unreadable> {
    let read = |(index, der): (usize, &&'a [u8])| match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => {
            Err(Unreadable::NotX509 { which: format!("{what} {} of the {of}", index + 1), why: error.to_string() })
        }
    };
    certificates.iter().enumerate().map(read).collect()
}

/// Each certificate is signed by the next, the last one by an authority. SPIRE's authorities all bear the same
/// subject, so keys are tried, not names.
fn verify(chain: &[X509Certificate<'_>], top: &X509Certificate<'_>, authorities: &[X509Certificate<'_>]) -> bool {
    let signed =
        |by: &X509Certificate<'_>, what: &X509Certificate<'_>| what.verify_signature(Some(by.public_key())).is_ok();
    chain.iter().zip(chain.iter().skip(1)).all(|(lower, upper)| signed(upper, lower))
        && authorities.iter().any(|authority| signed(authority, top))
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    // DER puts a zero before a number whose first bit is set.
    match certificate.raw_serial() {
        [0, rest @ ..] if !rest.is_empty() => hex(rest),
        bytes => hex(bytes),
    }
}

fn timestamp(time: ASN1Time) -> Result<Timestamp, Unreadable> {
    Timestamp::from_second(time.timestamp()).map_err(|_| Unreadable::Dates)
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| hex(id.0)),
        _ => None,
    })
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
        _ => None,
    })
}

/// Certificates in PEM, one after the other.
#[must_use]
pub fn pem(chain: &[&[u8]]) -> String {
    let mut text = String::new();
    for der in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            // Base64 is ASCII, so that any index is a boundary.
            let (line, after) = rest.split_at(rest.len().min(64));
            let _ = writeln!(text, "{line}");
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workload::fake_agent::{Authority, Identity};

    fn slices(ders: &[Vec<u8>]) -> Vec<&[u8]> {
        ders.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn an_svid_of_one_authority() {
        let (one, two) = (Authority::new(1), Authority::new(2));
        let svid = two.issue("spiffe://coastal-containers.example/ns/default/sa/workload", 0x00ff_1234);
        let facts = read(&slices(&svid.chain), &[&one.der, &two.der]).expect("readable");
        assert_eq!(facts.serial, "ff1234");
        assert_eq!(facts.not_before.to_string(), "2023-10-23T19:20:33Z");
        assert_eq!(facts.not_after.to_string(), "2123-10-24T23:20:43Z");
        assert_eq!(facts.bundle_key_ids, vec![one.key_id(), two.key_id()]);
        assert_eq!(facts.issuer_key_id, Some(two.key_id()));
        assert_eq!(facts.anchor_key_id, facts.issuer_key_id);
        assert!(facts.verified);
    }

    #[test]
    fn an_svid_whose_authority_left_the_bundle() {
        let (one, two) = (Authority::new(1), Authority::new(2));
        let svid = two.issue("spiffe://a.example/w", 7);
        let facts = read(&slices(&svid.chain), &[&one.der]).expect("readable");
        assert_eq!(facts.issuer_key_id, Some(two.key_id()));
        assert!(!facts.verified);
    }

    #[test]
    fn an_svid_below_an_upstream_authority() {
        let root = Authority::new(1);
        let intermediate = root.subordinate(2);
        let svid = intermediate.issue("spiffe://a.example/w", 7);
        assert_eq!(svid.chain.len(), 2);
        let facts = read(&slices(&svid.chain), &[&root.der]).expect("readable");
        assert_eq!(facts.issuer_key_id, Some(intermediate.key_id()));
        assert_eq!(facts.anchor_key_id, Some(root.key_id()));
        assert!(facts.verified);
        let without: &[u8] = &svid.chain[0];
        assert!(!read(&[without], &[&root.der]).expect("readable").verified, "the chain has a hole");
    }

    #[test]
    fn pem_is_read_back_and_holds_no_key() {
        let Identity { chain, .. } = Authority::new(1).subordinate(2).issue("spiffe://a.example/w", 7);
        let text = pem(&slices(&chain));
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(!text.contains("PRIVATE"));
        let read: Vec<Vec<u8>> =
            x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).map(|pem| pem.expect("pem").contents).collect();
        assert_eq!(read, chain);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&[&bytes], &[]).is_err());
        }
    }
}
