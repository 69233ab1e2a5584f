//! Trust bundles in every form in which SPIRE keeps them: the CLI's JSON, the row of the data store, and the two formats
//! of the `ConfigMap` that agents boot from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};

use crate::spire::cli::Bundle;
use crate::spire::planes::Authorities;
use crate::spire::rotation::Held;
use crate::spire::{certificate, records};

/// What a bundle holds of both types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// CA certificates.
    pub x509: Authorities,
    /// JWT keys; none if the form has no place for them.
    pub jwt: Option<Authorities>,
}

/// Key of the `ConfigMap` in which the notifier `k8sbundle` keeps PEM (charts before 0.26).
pub const PEM_KEY: &str = "bundle.crt";
/// Key of the `ConfigMap` in which the publisher `k8s_configmap` keeps the format of the SPIFFE standard.
pub const SPIFFE_KEY: &str = "bundle.spiffe";

impl Keys {
    /// Out of `bundle show -output json`.
    #[must_use]
    pub fn of_cli(bundle: &Bundle) -> Self {
        let x509 = bundle.x509_authorities.iter().filter_map(|authority| {
            let facts = authority.facts()?;
            Some((facts.id, Held { tainted: authority.tainted, expires_at: Some(facts.not_after) }))
        });
        let jwt = bundle.jwt_authorities.iter().filter_map(|key| {
            let seconds = key["expires_at"].as_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
            let expires_at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
            Some((key["key_id"].as_str()?.to_owned(), Held { tainted: key["tainted"] == true, expires_at }))
        });
        Keys { x509: x509.collect(), jwt: Some(jwt.collect()) }
    }

    /// Out of the data of a `ConfigMap`.
    ///
    /// # Errors
    /// It holds no bundle that can be read; says why.
    pub fn of_config_map(pem: Option<&str>, spiffe: Option<&str>) -> Result<Self, String> {
        match (pem, spiffe) {
            (_, Some(text)) => Keys::of_spiffe(text),
            (Some(text), None) => Keys::of_pem(text),
            (None, None) => Err(format!("it has neither `{PEM_KEY}` nor `{SPIFFE_KEY}`")),
        }
    }

    fn of_pem(text: &str) -> Result<Self, String> {
        let mut x509 = Authorities::new();
        for pem in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
            let pem = pem.map_err(|error| format!("its PEM is broken: {error}"))?;
            insert(&mut x509, &pem.contents, false)?;
        }
        Ok(Keys { x509, jwt: None })
    }

    fn of_spiffe(text: &str) -> Result<Self, String> {
        let set: Value = serde_json::from_str(text).map_err(|error| format!("its JSON is broken: {error}"))?;
        let (mut x509, mut jwt) = (Authorities::new(), Authorities::new());
        for key in set["keys"].as_array().ok_or("its JSON has no `keys`")? {
            match key["use"].as_str() {
                Some("x509-svid") => {
                    let der = key["x5c"][0].as_str().and_then(|text| BASE64.decode(text).ok());
                    insert(&mut x509, &der.ok_or("a key of it has no certificate")?, false)?;
                }
                Some("jwt-svid") => {
                    let id = key["kid"].as_str().ok_or("a JWT key of it has no `kid`")?;
                    jwt.insert(id.to_owned(), Held::default());
                }
                _ => {}
            }
        }
        Ok(Keys { x509, jwt: Some(jwt) })
    }

    /// Out of the column `data` of the table `bundles`: the message `spire.common.Bundle`.
    ///
    /// # Errors
    /// It is not such a message.
    pub fn of_row(bytes: &[u8]) -> Result<Self, String> {
        let bundle = records::Bundle::decode(bytes).map_err(|error| format!("the row is no bundle: {error}"))?;
        let mut x509 = Authorities::new();
        for certificate in &bundle.certificates {
            insert(&mut x509, &certificate.der, certificate.tainted)?;
        }
        let jwt = bundle.jwt_keys.into_iter().map(|key| {
            let seconds = Some(key.not_after).filter(|seconds| *seconds > 0);
            let expires_at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
            (key.id, Held { tainted: key.tainted, expires_at })
        });
        Ok(Keys { x509, jwt: Some(jwt.collect()) })
    }
}

fn insert(authorities: &mut Authorities, der: &[u8], tainted: bool) -> Result<(), String> {
    let facts = certificate::facts(der).ok_or("a certificate of it cannot be read")?;
    authorities.insert(facts.id, Held { tainted, expires_at: Some(facts.not_after) });
    Ok(())
}

/// The bundle of the servers as the `ConfigMap` keeps it in PEM.
#[must_use]
pub fn pem(bundle: &Bundle) -> String {
    let certificates: Vec<Vec<u8>> =
        bundle.x509_authorities.iter().filter_map(|authority| BASE64.decode(&authority.asn1).ok()).collect();
    crate::workload::svid::pem(&certificates.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// A bundle of the SPIFFE standard without the keys that are named; everything else as it was.
///
/// # Errors
/// It is not JSON.
pub fn spiffe_without(text: &str, gone: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut set: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let keys = set["keys"].as_array_mut().ok_or("no `keys`")?;
    keys.retain(|key| {
        let der = key["x5c"][0].as_str().and_then(|text| BASE64.decode(text).ok());
        let id =
            der.and_then(|der| Some(certificate::facts(&der)?.id)).or_else(|| key["kid"].as_str().map(str::to_owned));
        !id.is_some_and(|id| gone(&id))
    });
    let sequence = set["spiffe_sequence"].as_u64().unwrap_or_default();
    set["spiffe_sequence"] = json!(sequence + 1);
    Ok(set.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(id: u8) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![id]);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    fn ids(authorities: &Authorities) -> Vec<(&str, bool)> {
        authorities.iter().map(|(id, held)| (id.as_str(), held.tainted)).collect()
    }

    #[test]
    fn the_row_of_the_data_store_is_read() {
        let root = |id: u8, tainted: bool| records::Certificate { der: certificate(id), tainted };
        let key = records::PublicKey { pkix: vec![1], id: "kid1".into(), not_after: 1_700_000_000, tainted: true };
        let bundle = records::Bundle {
            trust_domain: "spiffe://td".into(),
            certificates: vec![root(0xaa, false), root(0xbb, true)],
            jwt_keys: vec![key],
        };
        let row = bundle.encode_to_vec();
        let keys = Keys::of_row(&row).unwrap();
        assert_eq!(ids(&keys.x509), [("aa", false), ("bb", true)]);
        let jwt = keys.jwt.unwrap();
        assert_eq!(ids(&jwt), [("kid1", true)]);
        assert_eq!(jwt["kid1"].expires_at, Timestamp::from_second(1_700_000_000).ok());
        for broken in [&row[..row.len() - 1], &row[..40], b"\x0b", b"hello"] {
            assert!(Keys::of_row(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn both_forms_of_the_config_map_are_read() {
        let (one, two) = (certificate(1), certificate(2));
        let pem = crate::workload::svid::pem(&[&one, &two]);
        let keys = Keys::of_config_map(Some(&pem), None).unwrap();
        assert_eq!((ids(&keys.x509), keys.jwt), (vec![("01", false), ("02", false)], None));
        let spiffe = json!({"spiffe_sequence": 4, "keys": [
            {"use": "x509-svid", "x5c": [BASE64.encode(&one)]}, {"use": "jwt-svid", "kid": "k1"}, {"use": "x509-svid", "x5c": [BASE64.encode(&two)]},
        ]})
        .to_string();
        let keys = Keys::of_config_map(Some("stale"), Some(&spiffe)).unwrap();
        assert_eq!((keys.x509.len(), ids(keys.jwt.as_ref().unwrap())), (2, vec![("k1", false)]));
        let less = spiffe_without(&spiffe, |id| id == "01" || id == "k1").unwrap();
        let keys = Keys::of_config_map(None, Some(&less)).unwrap();
        assert_eq!((ids(&keys.x509), keys.jwt.map(|jwt| jwt.len())), (vec![("02", false)], Some(0)));
        for (pem, spiffe) in [
            (None, None),
            (None, Some("{")),
            (None, Some("{}")),
            (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None),
        ] {
            assert!(Keys::of_config_map(pem, spiffe).is_err(), "{pem:?} {spiffe:?}");
        }
    }
}
