//! `keys.json` of SPIRE's key manager `disk`: `{"keys": {"x509-CA-A": BASE64 OF PKCS #8, …}}`
//! (pkg/server/plugin/keymanager/disk).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::Deserialize;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

/// The keys of one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Public key (the bit string) by the id of its private key.
    public: BTreeMap<String, Vec<u8>>,
    /// Keys that could not be read: their ids, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Keys {
    /// Reads a `keys.json`. No private key is kept.
    ///
    /// # Errors
    /// It is none, in words.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            keys: BTreeMap<String, String>,
        }
        let file: File = serde_json::from_slice(text).map_err(|error| {
            // serde's words may quote what stands there; where it stands is said without it.
            format!("it is no keys.json of SPIRE's (line {}, column {})", error.line(), error.column())
        })?;
        let mut keys = Keys::default();
        for (id, encoded) in file.keys {
            let pair = BASE64
                .decode(encoded)
                .map_err(|_| "no base64".to_owned())
                .and_then(|der| KeyPair::try_from(der).map_err(|error| error.to_string()));
            match pair {
                Ok(pair) => drop(keys.public.insert(id, pair.der_bytes().to_vec())),
                Err(why) => keys.unreadable.push((id, why)),
            }
        }
        Ok(keys)
    }

    /// Whether the private key of that certificate (DER) is there.
    #[must_use]
    pub fn hold(&self, certificate: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let key = &certificate.public_key().subject_public_key.data;
        self.public.values().any(|held| held.as_slice() == key.as_ref())
    }

    /// Whether the private key of that public key (PKIX) is there.
    #[must_use]
    pub fn hold_public(&self, pkix: &[u8]) -> bool {
        let Ok((_, info)) = SubjectPublicKeyInfo::from_der(pkix) else { return false };
        self.public.values().any(|held| held.as_slice() == info.subject_public_key.data.as_ref())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.public.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.public.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pairs: &[(&str, &KeyPair)]) -> Vec<u8> {
        let keys: BTreeMap<&str, String> =
            pairs.iter().map(|(id, pair)| (*id, BASE64.encode(pair.serialize_der()))).collect();
        serde_json::to_vec(&serde_json::json!({ "keys": keys })).unwrap()
    }

    fn certificate(pair: &KeyPair) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(pair).unwrap().der().to_vec()
    }

    #[test]
    fn a_key_is_known_by_its_certificate() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let (ours, other) = (KeyPair::generate_for(algorithm).unwrap(), KeyPair::generate_for(algorithm).unwrap());
            let keys = Keys::read(&file(&[("x509-CA-A", &ours)])).unwrap();
            assert!(keys.hold(&certificate(&ours)) && !keys.hold(&certificate(&other)));
            assert!(
                keys.hold_public(&ours.subject_public_key_info())
                    && !keys.hold_public(&other.subject_public_key_info())
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_without_being_shown() {
        for bad in [&b""[..], b"{", b"[]", b"{\"keys\": {\"x509-CA-A\": 7}}", b"c2VjcmV0"] {
            let words = Keys::read(bad).unwrap_err();
            assert!(words.contains("no keys.json"), "{words}");
        }
        let keys = Keys::read(br#"{"keys": {"x509-CA-A": "c2VjcmV0", "x509-CA-B": "???"}}"#).unwrap();
        assert!(keys.is_empty());
        assert_eq!(keys.unreadable.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["x509-CA-A", "x509-CA-B"]);
        assert!(!format!("{keys:?}").contains("c2Vj"));
    }
}
