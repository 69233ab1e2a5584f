//! X.509 of this world: authorities and SVIDs as real certificates.
//!
//! Keys follow from a seed, so that two runs of a story print the same certificates; hence Ed25519, whose keys are
//! any 32 bytes, where SPIRE takes RSA or EC.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SPIRE backdates by so much.
const BACKDATE: SignedDuration = SignedDuration::from_secs(10);

/// The subject of a CA certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) country: String,
    pub(super) organization: String,
    pub(super) common_name: String,
}

/// An authority of a trust domain: everything that its key and its certificate follow from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authority {
    /// The key follows from it.
    pub(super) seed: String,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) trust_domain: String,
    pub(super) subject: Subject,
}

/// A certificate that could not be made: a SPIFFE id that is no URI, or a date beyond what a certificate holds.
pub(super) type Trouble = rcgen::Error;

impl Authority {
    /// Its certificate, in DER.
    pub(super) fn certificate(&self) -> Result<Vec<u8>, Trouble> {
        Ok(self.params()?.self_signed(&key_of(&self.seed)?)?.der().to_vec())
    }

    fn params(&self) -> Result<CertificateParams, Trouble> {
        let mut params = params(&self.seed, &format!("spiffe://{}", self.trust_domain), (self.issued, self.expires))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, self.subject.country.as_str());
        params.distinguished_name.push(DnType::OrganizationName, self.subject.organization.as_str());
        params.distinguished_name.push(DnType::CommonName, self.subject.common_name.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }

    /// Signs an SVID that lives for `life`, but no longer than the authority; in DER. Says as well when it runs out.
    /// `number` tells the SVIDs of one workload apart.
    pub(super) fn sign(
        &self,
        id: &str,
        workload: &str,
        number: u64,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<(Vec<u8>, Timestamp), Trouble> {
        let seed = format!("{}/{workload}/{number}", self.seed);
        let expires = (now + life).min(self.expires);
        let mut leaf = params(&seed, id, (now, expires))?;
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CountryName, "US");
        leaf.distinguished_name.push(DnType::OrganizationName, "SPIRE");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(self.params()?, key_of(&self.seed)?);
        Ok((leaf.signed_by(&key_of(&seed)?, &issuer)?.der().to_vec(), expires))
    }
}

fn params(seed: &str, uri: &str, (now, expires): (Timestamp, Timestamp)) -> Result<CertificateParams, Trouble> {
    let date =
        |time: Timestamp| time::OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| rcgen::Error::Time);
    let mut params = CertificateParams::default();
    let mut serial = Sha256::digest(format!("serial of {seed}"))[..16].to_vec();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from(serial));
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.not_before = date(now - BACKDATE)?;
    params.not_after = date(expires)?;
    Ok(params)
}

fn key_of(seed: &str) -> Result<KeyPair, Trouble> {
    KeyPair::from_pkcs8_der_and_sign_algo(&private_key(seed).into(), &PKCS_ED25519)
}

/// The private key of an authority, as a key manager keeps it on disk: PKCS #8.
pub(super) fn private_key(seed: &str) -> Vec<u8> {
    // PKCS #8 of an Ed25519 key (RFC 8410) is this prefix and the 32 bytes of the key.
    let mut der = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend_from_slice(&Sha256::digest(format!("key of {seed}")));
    der
}

/// The public key that goes with it: PKIX.
pub(super) fn public_key(seed: &str) -> Result<Vec<u8>, Trouble> {
    Ok(key_of(seed)?.subject_public_key_info())
}

/// A JWT key's id: 32 letters and digits, as SPIRE makes them.
pub(super) fn jwt_key_id(seed: &str) -> String {
    Sha256::digest(format!("jwt {seed}")).iter().take(16).fold(String::new(), |mut id, byte| {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}
