//! Whose the CAs of a bundle are, what they are to their servers, and whether their keys are at hand.

use jiff::Timestamp;

use super::keys::Keys;
use super::manifest::{Authority, Slot};
use crate::spire::certificate;
use crate::spire::records::{Bundle, Journal, Status};

/// What is known of one server.
#[derive(Debug, Default)]
pub struct Server<'a> {
    /// Its pod.
    pub pod: &'a str,
    /// Its keys.
    pub keys: Keys,
    /// Its `journal.pem`, until SPIRE 1.9.
    pub journal: Option<Journal>,
    /// The authority that it says it signs with, from SPIRE 1.11 on.
    pub active: Option<String>,
}

/// The authorities, in the bundle's order; then those that only a server knows.
#[must_use]
pub fn find(bundle: &Bundle, in_database: &[Journal], servers: &[Server<'_>], at: Timestamp) -> Vec<Authority> {
    let mut all: Vec<(Authority, &[u8])> = Vec::new();
    let journals = || servers.iter().filter_map(|server| server.journal.as_ref()).chain(in_database);
    let journaled = journals().flat_map(|journal| journal.authorities.iter().map(|entry| (&entry.certificate, false)));
    for (der, trusted) in bundle.certificates.iter().map(|root| (&root.der, true)).chain(journaled) {
        let Some(certificate::Facts { id, not_before, not_after }) = certificate::facts(der) else { continue };
        if all.iter().any(|(known, _)| known.id == id) {
            continue;
        }
        let owner = servers.iter().find(|server| {
            let says =
                server.journal.iter().flat_map(|journal| &journal.authorities).any(|entry| entry.certificate == *der);
            server.keys.hold(der) || says || server.active.as_ref() == Some(&id)
        });
        // What only a journal knows and no key is there for is long gone.
        if !trusted && !owner.is_some_and(|owner| owner.keys.hold(der)) {
            continue;
        }
        let key = owner.is_some_and(|owner| owner.keys.hold(der));
        let server = owner.map(|owner| owner.pod.to_owned());
        all.push((Authority { id, server, slot: Slot::Old, not_before, not_after, key, trusted }, der));
    }
    for server in servers {
        let mut own: Vec<usize> =
            (0..all.len()).filter(|&index| all[index].0.server.as_deref() == Some(server.pod)).collect();
        own.sort_by_key(|&index| all[index].0.not_before);
        let active = match &server.active {
            Some(id) => own.iter().position(|&index| all[index].0.id == *id),
            None => journaled_active(&own, &all, server, in_database).or_else(|| by_age(&own, &all, at)),
        };
        for (position, &index) in own.iter().enumerate() {
            all[index].0.slot = match active {
                Some(active) if position == active => Slot::Active,
                Some(active) if position > active && all[index].0.key => Slot::Prepared,
                _ => Slot::Old,
            };
        }
        if let (Some(id), None) = (&server.active, active) {
            let (id, server) = (id.clone(), Some(server.pod.to_owned()));
            let unknown =
                Authority { id, server, slot: Slot::Active, not_before: at, not_after: at, key: false, trusted: false };
            all.push((unknown, &[]));
        }
    }
    all.into_iter().map(|(authority, _)| authority).collect()
}

/// The one that the server's own journal says is active.
fn journaled_active(
    own: &[usize],
    all: &[(Authority, &[u8])],
    server: &Server<'_>,
    others: &[Journal],
) -> Option<usize> {
    let says = |journal: &Journal, der: &[u8]| {
        journal.authorities.iter().any(|entry| entry.certificate == der && entry.status() == Status::Active)
    };
    own.iter().position(|&index| {
        let der = all[index].1;
        server.journal.iter().chain(others).any(|journal| says(journal, der)) && server.keys.hold(der)
    })
}

/// By the rotator's rule: a server activates the next one when a sixth of the life of the present one is left.
fn by_age(own: &[usize], all: &[(Authority, &[u8])], at: Timestamp) -> Option<usize> {
    let held: Vec<usize> = (0..own.len()).filter(|&position| all[own[position]].0.key).collect();
    let mut held = held.into_iter();
    let mut active = held.next()?;
    for next in held {
        if at < all[own[active]].0.succeeded_at() {
            break;
        }
        active = next;
    }
    Some(active)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use jiff::SignedDuration;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::spire::records::{Certificate, Entry};

    fn bundle(certificates: &[&[u8]]) -> Bundle {
        let root = |der: &&[u8]| Certificate { der: der.to_vec(), tainted: false };
        Bundle { certificates: certificates.iter().map(root).collect(), ..Bundle::default() }
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    fn certificate(made: i64) -> (KeyPair, Vec<u8>) {
        let pair = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let date = |hours| time::OffsetDateTime::from_unix_timestamp(at(hours).as_second()).unwrap();
        (parameters.not_before, parameters.not_after) = (date(made), date(made + 24));
        let der = parameters.self_signed(&pair).unwrap().der().to_vec();
        (pair, der)
    }

    fn keys(pairs: &[&KeyPair]) -> Keys {
        let encode = |pair: &KeyPair| base64::engine::general_purpose::STANDARD.encode(pair.serialize_der());
        let map: std::collections::BTreeMap<String, String> =
            pairs.iter().enumerate().map(|(slot, pair)| (format!("x509-CA-{slot}"), encode(pair))).collect();
        Keys::read(serde_json::json!({ "keys": map }).to_string().as_bytes()).unwrap()
    }

    fn slots(found: &[Authority]) -> Vec<(Option<&str>, Slot, bool)> {
        found.iter().map(|one| (one.server.as_deref(), one.slot, one.key)).collect()
    }

    #[test]
    fn whose_they_are_and_which_one_signs() {
        let ((k1, c1), (k2, c2), (_, orphan), (k3, c3)) =
            (certificate(0), certificate(12), certificate(1), certificate(3));
        let bundle = bundle(&[&c1, &orphan, &c2, &c3]);
        let servers = |active: Option<&Vec<u8>>, journal: Option<Journal>| {
            let active = active.map(|der| certificate::facts(der).unwrap().id);
            vec![
                Server { pod: "s-0", keys: keys(&[&k1, &k2]), journal, active },
                Server { pod: "s-1", keys: keys(&[&k3]), ..Server::default() },
            ]
        };
        let zero = |first, second| {
            vec![
                (Some("s-0"), first, true),
                (None, Slot::Old, false),
                (Some("s-0"), second, true),
                (Some("s-1"), Slot::Active, true),
            ]
        };
        let find = |servers: &[Server<'_>], hour| find(&bundle, &[], servers, at(hour));
        // By age: the second is made at half of the first's life, and signs when a sixth of it is left.
        assert_eq!(slots(&find(&servers(None, None), 13)), zero(Slot::Active, Slot::Prepared));
        assert_eq!(slots(&find(&servers(None, None), 20)), zero(Slot::Old, Slot::Active));
        // What the server says counts more, and what its journal says.
        assert_eq!(slots(&find(&servers(Some(&c2), None), 13)), zero(Slot::Old, Slot::Active));
        let journal =
            Journal { authorities: vec![Entry::new(c1.clone(), Status::Old), Entry::new(c2.clone(), Status::Active)] };
        assert_eq!(slots(&find(&servers(None, Some(journal.clone())), 13)), zero(Slot::Old, Slot::Active));
        let found = super::find(&bundle, &[journal], &servers(None, None), at(13));
        assert_eq!(slots(&found), zero(Slot::Old, Slot::Active));
    }

    #[test]
    fn an_active_one_that_is_not_at_hand_is_in_the_list_all_the_same() {
        let ((k1, c1), (_, c2)) = (certificate(0), certificate(12));
        let _both = bundle(&[&c1, &c2]);
        let one = |der: &[u8], active: String| {
            let server = Server { pod: "s-0", keys: keys(&[&k1]), journal: None, active: Some(active) };
            find(&bundle(&[der]), &[], &[server], at(1))
        };
        // In the bundle, without its key.
        let second = certificate::facts(&c2).unwrap().id;
        assert_eq!(slots(&one(&c2, second.clone())), [(Some("s-0"), Slot::Active, false)]);
        // Not even in the bundle.
        assert_eq!(slots(&one(&c1, second)), [(Some("s-0"), Slot::Old, true), (Some("s-0"), Slot::Active, false)]);
    }
}
