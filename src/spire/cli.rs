//! What `spire-server` prints with `-output json`: proto field names, 64-bit numbers as strings, absent members
//! dropped (SPIRE 1.6.0 and later). Only what is read here is declared.

use base64::Engine;
use semver::Version;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::spire::certificate::{self, Facts};

/// The version in what `spire-server --version` or `spire-agent --version` printed: the line that is one, for kubectl
/// may add lines of its own. Development builds say `1.16.0-dev-…`.
#[must_use]
pub fn version_in(printed: &str) -> Option<Version> {
    printed.lines().find_map(|line| Version::parse(line.trim()).ok())
}

/// Why an answer cannot be used. A process that is ended while it prints, or whose connection breaks, leaves such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is none.
    #[error("printed nothing")]
    Nothing,
    /// Its end is missing.
    #[error("was cut off: its answer ends in the middle, after {bytes} bytes")]
    CutOff {
        /// How much there is.
        bytes: usize,
    },
    /// It is not what was asked for.
    #[error("printed something unexpected: {0}")]
    Wrong(String),
}

/// Reads an answer.
///
/// # Errors
/// It is no whole answer of that kind.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    if text.trim().is_empty() {
        return Err(Unreadable::Nothing);
    }
    // What was cut off amid a text ends with the line's end all the same.
    serde_json::from_str(text.trim_end()).map_err(|error| {
        if error.is_eof() { Unreadable::CutOff { bytes: text.len() } } else { Unreadable::Wrong(error.to_string()) }
    })
}

/// The answer of a command on several things. The process ends well even if one of them failed (facts, section 3), so
/// each has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Batch {
    /// One per thing that was asked for.
    pub results: Vec<BatchItem>,
}

/// What became of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchItem {
    /// How it went.
    pub status: BatchStatus,
    /// Which, if the server says so.
    #[serde(default)]
    pub id: String,
}

/// As gRPC says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchStatus {
    /// 0 is well; 5 not found.
    pub code: i32,
    /// In words.
    #[serde(default)]
    pub message: String,
}

impl Batch {
    /// Whether everything went well.
    ///
    /// # Errors
    /// The first thing that did not. An answer about nothing is none.
    pub fn check(&self) -> Result<(), BatchStatus> {
        if self.results.is_empty() {
            return Err(BatchStatus { code: 2, message: "the server did not say what became of it".to_owned() });
        }
        self.results.iter().find(|item| item.status.code != 0).map_or(Ok(()), |item| Err(item.status.clone()))
    }
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
    /// Its id and dates, if it can be read.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        certificate::facts(&base64::engine::general_purpose::STANDARD.decode(&self.asn1).ok()?)
    }

    /// The authority's id: the certificate's SubjectKeyId, lower-case hex without colons.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        self.facts().map(|facts| facts.id)
    }
}

/// From this version on a server tells which authority is its own (facts, section 3).
pub const LOCAL_AUTHORITY: Version = Version::new(1, 11, 0);

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
    /// Whether it may attest again by itself. Missing before SPIRE 1.6.3.
    #[serde(default)]
    pub can_reattest: Option<bool>,
    /// Its version. Missing before SPIRE 1.14.3, empty of an agent that is older.
    #[serde(default)]
    pub agent_version: String,
}

/// A SPIFFE id in two parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
    fn an_answer_is_whole_or_none() {
        assert_eq!(read::<Count>("{\"count\":3}\n").unwrap().count, 3);
        assert_eq!(read::<Count>(" \n"), Err(Unreadable::Nothing));
        assert_eq!(read::<Count>("{\"count\":"), Err(Unreadable::CutOff { bytes: 9 }));
        assert!(matches!(read::<Count>("Error: nobody"), Err(Unreadable::Wrong(_))));
    }

    #[test]
    fn a_failed_item_is_a_failure_though_the_process_ended_well() {
        let batch = |text: &str| read::<Batch>(text).unwrap().check();
        assert_eq!(batch(r#"{"results":[{"id":"a","status":{"code":0,"message":"OK"}}]}"#), Ok(()));
        let failed = batch(
            r#"{"results":[{"status":{"code":0,"message":"OK"}},{"id":"b","status":{"code":5,"message":"entry not found"}}]}"#,
        );
        assert_eq!(failed, Err(BatchStatus { code: 5, message: "entry not found".into() }));
        assert!(batch(r#"{"results":[]}"#).is_err());
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
