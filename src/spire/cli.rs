//! What `spire-server` prints with `-output json`: proto field names, 64-bit numbers as strings, absent members
//! dropped (SPIRE 1.6.0 and later). Only what is read here is declared.

use base64::Engine;
use semver::Version;
use serde::Deserialize;
use serde_json::Value;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// The version in what `spire-server --version` or `spire-agent --version` printed: the line that is one, for kubectl
/// may add lines of its own. Development builds say `1.16.0-dev-…`.
#[must_use]
pub fn version_in(printed: &str) -> Option<Version> {
    printed.lines().find_map(|line| Version::parse(line.trim()).ok())
}

/// A trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bundle {
    /// Without `spiffe://`.
    pub trust_domain: String,
    /// CA certificates.
    #[serde(default)]
    pub x509_authorities: Vec<X509Authority>,
    /// Keys that sign JWT-SVIDs.
    #[serde(default)]
    pub jwt_authorities: Vec<Value>,
}

/// A CA certificate of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct X509Authority {
    /// Base64 of the DER certificate.
    pub asn1: String,
    /// Missing before SPIRE 1.11.
    #[serde(default)]
    pub tainted: bool,
}

impl X509Authority {
    /// The authority's id: the certificate's SubjectKeyId, lower-case hex without colons.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        let der = base64::engine::general_purpose::STANDARD.decode(&self.asn1).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(super::hex(id.0)),
            _ => None,
        })
    }

    /// When it expires, in unix seconds.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        let der = base64::engine::general_purpose::STANDARD.decode(&self.asn1).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    }
}

/// The answer of `localauthority x509 show`: what the server process behind the socket signs with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LocalAuthorities {
    /// Signs now.
    pub active: LocalAuthority,
    /// Signs next; the other slot holds either this or [`LocalAuthorities::old`].
    #[serde(default)]
    pub prepared: Option<LocalAuthority>,
    /// Signed before.
    #[serde(default)]
    pub old: Option<LocalAuthority>,
}

/// A slot of a server process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LocalAuthority {
    /// As [`X509Authority::key_id`].
    pub authority_id: String,
    /// Unix seconds, as text.
    #[serde(default)]
    pub expires_at: String,
    /// The SubjectKeyId of the upstream authority that signed it; empty without one.
    #[serde(default)]
    pub upstream_authority_subject_key_id: String,
}

/// The answer of any `count`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Count {
    /// How many.
    pub count: u64,
}

/// The answer of `agent list`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Agents {
    /// All agents.
    #[serde(default)]
    pub agents: Vec<Agent>,
}

/// An attested agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Agent {
    /// Its SPIFFE id.
    pub id: SpiffeId,
    /// `k8s_psat`.
    pub attestation_type: String,
    /// Unix seconds.
    #[serde(default)]
    pub x509svid_expires_at: String,
    /// Whether it is banned.
    #[serde(default)]
    pub banned: bool,
}

/// A SPIFFE id in two parts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SpiffeId {
    /// Without `spiffe://`.
    pub trust_domain: String,
    /// With its leading slash.
    pub path: String,
}

impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_among_what_kubectl_adds() {
        assert_eq!(version_in("1.7.2\n"), Some(Version::new(1, 7, 2)));
        let noisy = "E1124 10:29:11.332049   23931 websocket.go:296] Unknown stream id 1, discarding message\n1.7.2\n";
        assert_eq!(version_in(noisy), Some(Version::new(1, 7, 2)));
        assert_eq!(version_in("1.16.0-dev-abc").map(|version| version.to_string()).as_deref(), Some("1.16.0-dev-abc"));
        assert_eq!(version_in("spire-server: not found"), None);
    }

    #[test]
    fn shapes_of_spire_1_7() {
        let bundle: Bundle = serde_json::from_str(
            r#"{"jwt_authorities":[{"expires_at":"1700000000","key_id":"abc","public_key":"AA=="}],"refresh_hint":"0","sequence_number":"7","trust_domain":"td","x509_authorities":[{"asn1":"AAAA"}]}"#,
        )
        .unwrap();
        assert_eq!(bundle.trust_domain, "td");
        assert!(!bundle.x509_authorities[0].tainted);
        assert_eq!(bundle.x509_authorities[0].key_id(), None, "not a certificate");
        let agents: Agents = serde_json::from_str(
            r#"{"agents":[{"attestation_type":"k8s_psat","banned":false,"id":{"path":"/spire/agent/k8s_psat/c/u","trust_domain":"td"},"x509svid_expires_at":"1700000000"}],"next_page_token":""}"#,
        )
        .unwrap();
        assert_eq!(agents.agents[0].id.to_string(), "spiffe://td/spire/agent/k8s_psat/c/u");
        assert_eq!(serde_json::from_str::<Count>(r#"{"count":20}"#).unwrap().count, 20);
    }

    #[test]
    fn an_authority_is_named_by_its_subject_key_id() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![0xab, 0x01]);
        let certificate = parameters.self_signed(&key).unwrap();
        let asn1 = base64::engine::general_purpose::STANDARD.encode(certificate.der());
        assert_eq!(X509Authority { asn1, tainted: false }.key_id().as_deref(), Some("ab01"));
    }
}
