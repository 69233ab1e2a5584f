//! SPIRE's own records, as its database and its disks hold them: protocol buffers. Only the fields that are needed here
//! are named (proto/spire/common/common.proto, proto/private/server/journal/journal.proto); others are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;

/// The type of the PEM block of `journal.pem`.
const JOURNAL: &str = "SPIRE CA JOURNAL";

/// `spire.common.Bundle`: the column `data` of the table `bundles`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Bundle {
    /// With `spiffe://`.
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    /// CA certificates.
    #[prost(message, repeated, tag = "2")]
    pub certificates: Vec<Certificate>,
    /// Keys that verify JWT-SVIDs.
    #[prost(message, repeated, tag = "3")]
    pub jwt_keys: Vec<PublicKey>,
}

/// `spire.common.Certificate`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Certificate {
    /// DER.
    #[prost(bytes = "vec", tag = "1")]
    pub der: Vec<u8>,
    /// Whether it is tainted.
    #[prost(bool, tag = "2")]
    pub tainted: bool,
}

/// `spire.common.PublicKey`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PublicKey {
    /// PKIX.
    #[prost(bytes = "vec", tag = "1")]
    pub pkix: Vec<u8>,
    /// `kid` of the tokens that it verifies.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Until when, in unix seconds; 0 for ever.
    #[prost(int64, tag = "3")]
    pub not_after: i64,
    /// Whether it is tainted.
    #[prost(bool, tag = "4")]
    pub tainted: bool,
}

/// `Entries` of a server's journal of its authorities: the column `data` of `ca_journals`, and `journal.pem`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Journal {
    /// X.509 authorities, oldest first.
    #[prost(message, repeated, tag = "1")]
    pub authorities: Vec<Entry>,
}

/// An X.509 authority in a journal.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// DER.
    #[prost(bytes = "vec", tag = "3")]
    pub certificate: Vec<u8>,
    /// What it is to its server.
    #[prost(enumeration = "Status", tag = "5")]
    pub status: i32,
}

/// What an authority is to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Servers before 1.7 do not say.
    Unknown = 0,
    /// It signs next.
    Prepared = 2,
    /// It signs.
    Active = 3,
    /// It signed before.
    Old = 4,
}

impl Entry {
    /// An authority, and what it is.
    #[must_use]
    pub fn new(certificate: Vec<u8>, status: Status) -> Self {
        Entry { certificate, status: status.into() }
    }
}

impl Journal {
    /// Reads a `journal.pem`.
    ///
    /// # Errors
    /// It is none, in words.
    pub fn read_pem(text: &str) -> Result<Self, String> {
        let begin = format!("-----BEGIN {JOURNAL}-----");
        let end = format!("-----END {JOURNAL}-----");
        let inner = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        let (inner, _) = inner.ok_or_else(|| format!("it holds no PEM block of the type {JOURNAL}"))?;
        let inner: String = inner.split_whitespace().collect();
        let bytes = BASE64.decode(inner).map_err(|_| "its PEM block is no base64")?;
        Journal::decode(bytes.as_slice()).map_err(|error| error.to_string())
    }

    /// Writes a `journal.pem`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let text = BASE64.encode(self.encode_to_vec());
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN {JOURNAL}-----\n{}\n-----END {JOURNAL}-----\n", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes are those of SPIRE's own encoder, by the numbers of its fields.
    #[test]
    fn the_fields_have_spires_numbers() {
        let bundle = Bundle {
            trust_domain: "td".into(),
            certificates: vec![Certificate { der: vec![7], tainted: true }],
            jwt_keys: vec![PublicKey { pkix: vec![8], id: "k".into(), not_after: 300, tainted: true }],
        };
        let bytes = b"\x0a\x02td\x12\x05\x0a\x01\x07\x10\x01\x1a\x0b\x0a\x01\x08\x12\x01k\x18\xac\x02\x20\x01";
        assert_eq!(bundle.encode_to_vec(), bytes);
        let journal =
            Journal { authorities: vec![Entry::new(vec![1], Status::Old), Entry::new(vec![2], Status::Unknown)] };
        assert_eq!(journal.encode_to_vec(), b"\x0a\x05\x1a\x01\x01\x28\x04\x0a\x03\x1a\x01\x02");
        assert_eq!(Journal::read_pem(&format!("words\n{}", journal.to_pem())), Ok(journal));
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        // refresh_hint = 300, a fixed64 and a fixed32 that nobody knows.
        let mut bytes = vec![0x20, 0xac, 0x02, 0x49, 0, 0, 0, 0, 0, 0, 0, 0, 0x55, 0, 0, 0, 0];
        bytes.extend(Bundle { trust_domain: "td".into(), ..Bundle::default() }.encode_to_vec());
        assert_eq!(Bundle::decode(bytes.as_slice()).unwrap().trust_domain, "td");
        for bad in [&[0x0a][..], &[0x0a, 9, 1], &[0xff; 11], &[0x0b]] {
            assert!(Bundle::decode(bad).is_err(), "{bad:?}");
        }
        assert!(Journal::read_pem("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----").is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Bundle::decode(bytes.as_slice()), Journal::decode(bytes.as_slice()));
            let _ = Journal::read_pem(&String::from_utf8_lossy(&bytes));
        }
    }
}
