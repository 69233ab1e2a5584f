//! SPIRE's own records, as its database and its disks hold them: protocol buffers (`spire.common.Bundle`, and `Entries`
//! of `private/server/journal`). Only what is needed here is read; unknown fields are passed over, as the format wants.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::manifest::Slot;

/// The type of the PEM block of `journal.pem`.
const JOURNAL: &str = "SPIRE CA JOURNAL";

/// The bundle of a trust domain, as the table `bundles` holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// With `spiffe://`.
    pub trust_domain: String,
    /// CA certificates, DER.
    pub certificates: Vec<Vec<u8>>,
    /// Public keys that verify JWT-SVIDs, PKIX.
    pub jwt_keys: Vec<Vec<u8>>,
}

/// A server's journal of its authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// X.509 authorities: the certificate in DER, and what it is. Servers before 1.7 do not say what.
    pub authorities: Vec<(Vec<u8>, Option<Slot>)>,
}

/// What is no such record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl Bundle {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bundle = Bundle::default();
        each_field(bytes, |number, value| {
            match (number, value) {
                (1, Value::Bytes(text)) => bundle.trust_domain = String::from_utf8_lossy(text).into_owned(),
                (2, Value::Bytes(certificate)) => bundle.certificates.extend(first_bytes(certificate)?),
                (3, Value::Bytes(key)) => bundle.jwt_keys.extend(first_bytes(key)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(bundle)
    }

    /// Writes one.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, self.trust_domain.as_bytes());
        for (number, list) in [(2, &self.certificates), (3, &self.jwt_keys)] {
            for item in list {
                let mut inner = Vec::new();
                put(&mut inner, 1, item);
                put(&mut bytes, number, &inner);
            }
        }
        bytes
    }
}

impl Journal {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut journal = Journal::default();
        each_field(bytes, |number, value| {
            let (1, Value::Bytes(entry)) = (number, value) else { return Ok(()) };
            let (mut certificate, mut slot) = (Vec::new(), None);
            each_field(entry, |number, value| {
                match (number, value) {
                    (3, Value::Bytes(der)) => certificate = der.to_vec(),
                    (5, Value::Number(2)) => slot = Some(Slot::Prepared),
                    (5, Value::Number(3)) => slot = Some(Slot::Active),
                    (5, Value::Number(4)) => slot = Some(Slot::Old),
                    _ => {}
                }
                Ok(())
            })?;
            journal.authorities.push((certificate, slot));
            Ok(())
        })?;
        Ok(journal)
    }

    /// Reads a `journal.pem`.
    ///
    /// # Errors
    /// It is none.
    pub fn read_pem(text: &str) -> Result<Self, Malformed> {
        let begin = format!("-----BEGIN {JOURNAL}-----");
        let end = format!("-----END {JOURNAL}-----");
        let inner = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        let (inner, _) = inner.ok_or(Malformed("it holds no PEM block of the type SPIRE CA JOURNAL"))?;
        let inner: String = inner.split_whitespace().collect();
        let bytes = BASE64.decode(inner).map_err(|_| Malformed("its PEM block is no base64"))?;
        Journal::read(&bytes)
    }

    /// Writes one.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (certificate, slot) in &self.authorities {
            let mut entry = Vec::new();
            put(&mut entry, 3, certificate);
            let status = match slot {
                None => 0,
                Some(Slot::Prepared) => 2,
                Some(Slot::Active) => 3,
                Some(Slot::Old) => 4,
            };
            if status != 0 {
                entry.extend([5 << 3, status]);
            }
            put(&mut bytes, 1, &entry);
        }
        bytes
    }

    /// Writes a `journal.pem`.
    #[must_use]
    pub fn write_pem(&self) -> String {
        let text = BASE64.encode(self.write());
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN {JOURNAL}-----\n{}\n-----END {JOURNAL}-----\n", lines.join("\n"))
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

const CUT_OFF: Malformed = Malformed("it is cut off");

fn each_field<'a>(
    mut rest: &'a [u8],
    mut take: impl FnMut(u64, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => split(&mut rest, 8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| CUT_OFF)?;
                Value::Bytes(split(&mut rest, length)?)
            }
            5 => split(&mut rest, 4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed("it is no record of SPIRE's")),
        };
        take(key >> 3, value)?;
    }
    Ok(())
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (first, others) = rest.split_at_checked(length).ok_or(CUT_OFF)?;
    *rest = others;
    Ok(first)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = split(rest, 1)?.first().copied().unwrap_or_default();
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed("it holds a number of more than 64 bits"))
}

/// Field 1 of a message, if it is there.
fn first_bytes(message: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut found = None;
    each_field(message, |number, value| {
        if let (1, Value::Bytes(bytes)) = (number, value) {
            found = Some(bytes.to_vec());
        }
        Ok(())
    })?;
    Ok(found)
}

fn put(to: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    to.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        to.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    to.push(u8::try_from(length).unwrap_or_default());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bundle = Bundle {
            trust_domain: "spiffe://example.org".into(),
            certificates: vec![vec![1; 700], vec![2; 3]],
            jwt_keys: vec![vec![3; 91]],
        };
        assert_eq!(Bundle::read(&bundle.write()), Ok(bundle));
        let journal = Journal {
            authorities: vec![
                (vec![1; 700], Some(Slot::Old)),
                (vec![2; 3], Some(Slot::Active)),
                (vec![4; 3], Some(Slot::Prepared)),
                (vec![5], None),
            ],
        };
        assert_eq!(Journal::read(&journal.write()).as_ref(), Ok(&journal));
        assert_eq!(Journal::read_pem(&format!("words\n{}", journal.write_pem())), Ok(journal));
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        // refresh_hint = 300, a fixed64 and a fixed32 that nobody knows.
        let mut bytes = vec![0x20, 0xac, 0x02, 0x49, 0, 0, 0, 0, 0, 0, 0, 0, 0x55, 0, 0, 0, 0];
        bytes.extend(Bundle { trust_domain: "td".into(), ..Bundle::default() }.write());
        assert_eq!(Bundle::read(&bytes).unwrap().trust_domain, "td");
        for bad in [&[0x0a][..], &[0x0a, 9, 1], &[0xff; 11], &[0x0b]] {
            assert!(Bundle::read(bad).is_err(), "{bad:?}");
        }
        assert!(Journal::read_pem("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----").is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Bundle::read(&bytes), Journal::read(&bytes), Journal::read_pem(&String::from_utf8_lossy(&bytes)));
        }
    }
}
