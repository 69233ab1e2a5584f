//! Whole archives: written, read back, and damaged in every way that a file can be.

use std::path::{Path, PathBuf};

use age::x25519;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use semver::Version;

use super::archive::{Head, LAB, MANIFEST};
use super::contents::{self, Keep};
use super::manifest::{Manifest, Migrations, Slot};
use super::{Cover, Protection, Seal, Unseal, Writer, authorities, keys};
use crate::error::{Failure, Kind};
use crate::spire::hex;
use crate::spire::records::{Bundle, Certificate};
use prost::Message as _;

const TD: &str = "example.org";

fn start() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(100)
}

/// A server with one CA, and a dump that holds it.
fn sample(padding: usize) -> (String, Vec<u8>, Manifest) {
    let pair = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let date = |time: Timestamp| time::OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap();
    (parameters.not_before, parameters.not_after) = (date(start()), date(start() + SignedDuration::from_hours(24)));
    let certificate = parameters.self_signed(&pair).unwrap().der().to_vec();
    let bundle = Bundle {
        trust_domain: format!("spiffe://{TD}"),
        certificates: vec![Certificate { der: certificate, tainted: false }],
        jwt_keys: Vec::new(),
    };
    let rows: Vec<String> = (0..padding).map(|id| format!("{id}\te{id}\tspiffe://{TD}/w{id}\n")).collect();
    let rows = rows.concat();
    let dump = format!(
        "COPY public.bundles (id, trust_domain, data) FROM stdin;\n1\tspiffe://{TD}\t\\\\x{}\n\\.\n\
         COPY public.registered_entries (id, entry_id, spiffe_id) FROM stdin;\n{rows}\\.\n\
         COPY public.migrations (id, version, code_version) FROM stdin;\n1\t22\t1.7.2\n\\.\n\n\
         -- PostgreSQL database dump complete\n",
        hex(&bundle.encode_to_vec())
    );
    let file = serde_json::json!({"keys": {"x509-CA-A": BASE64.encode(pair.serialize_der())}}).to_string().into_bytes();
    let server =
        authorities::Server { pod: "spire-server-0", keys: keys::Keys::read(&file).unwrap(), ..Default::default() };
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        coastal: "0.1.0".into(),
        lab: "day-two".into(),
        trust_domain: TD.into(),
        taken_at: start(),
        one_moment: true,
        changed: Vec::new(),
        incomplete: Vec::new(),
        migrations: Migrations { schema: 22, code_version: Version::new(1, 7, 2) },
        servers: vec![Version::new(1, 7, 2)],
        agents: Vec::new(),
        chart: Some("spire-0.13.0".into()),
        entries: padding as u64,
        attested_agents: 0,
        authorities: authorities::find(&bundle, &[], &[server], start()),
        members: Vec::new(),
    };
    (dump, file, manifest)
}

fn head() -> Head {
    Head { coastal_backup: Manifest::SCHEMA, trust_domain: TD.into(), begun_at: start() }
}

fn write(to: &Path, seal: &Seal, padding: usize) -> super::Described {
    let (dump, keys, manifest) = sample(padding);
    let mut writer = Writer::create(to, "day-two", seal, &head()).unwrap();
    dump.as_bytes().chunks(1000).for_each(|piece| writer.dump(piece).unwrap());
    writer.end_dump().unwrap();
    writer.add("servers/spire-server-0/keys.json", &keys).unwrap();
    writer.add(LAB, b"schema = 1\n").unwrap();
    writer.finish(manifest).unwrap()
}

struct Place {
    directory: tempfile::TempDir,
    identity: x25519::Identity,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().unwrap(), identity: x25519::Identity::generate() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn seal(&self) -> Seal {
        Seal::to(&[self.identity.to_public().to_string()]).unwrap()
    }

    fn unseal(&self) -> Unseal {
        use age::secrecy::ExposeSecret as _;
        let file = self.path("key.txt");
        std::fs::write(&file, format!("# a comment\n{}\n", self.identity.to_string().expose_secret())).unwrap();
        Unseal::with(&[file], None).unwrap()
    }
}

fn refused(result: Result<super::Contents, Failure>) -> Failure {
    match result {
        Ok(contents) => panic!("it was read: {:?}", contents.problems),
        Err(failure) => failure,
    }
}

#[test]
fn what_goes_in_comes_out() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    for (name, seal, protection) in
        [("a.tar", Seal::Plaintext, Protection::Plaintext), ("a.tar.age", place.seal(), Protection::Recipients)]
    {
        let path = place.path(name);
        // More than a part's worth.
        let described = write(&path, &seal, 60_000);
        let file = std::fs::read(&path).unwrap();
        assert_eq!((described.bytes, described.protection), (file.len() as u64, protection));
        assert_eq!(described.sha256, hex(&<sha2::Sha256 as sha2::Digest>::digest(&file)));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let contents = contents::read(&path, &place.unseal(), Keep::Dump).unwrap();
        assert_eq!(contents.problems, Vec::<String>::new());
        assert_eq!(contents.manifest, described.manifest);
        assert!(contents.manifest.members.iter().any(|member| member.path == "database/dump.sql.0001"));
        assert_eq!((contents.seen.entries, contents.lab.as_str()), (60_000, "schema = 1\n"));
        assert!(contents.dump.ends_with(b"-- PostgreSQL database dump complete\n"));
        assert_eq!(contents.authorities, contents.manifest.authorities);
        assert_eq!(contents.authorities[0].slot, Slot::Active);
        assert_eq!(contents.cover(start()), Cover::Until(start() + SignedDuration::from_hours(20)));
        assert!(contents::read(&path, &place.unseal(), Keep::Nothing).unwrap().dump.is_empty());
    }
    let left: Vec<_> =
        std::fs::read_dir(place.directory.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let place = Place::new();
    for (name, seal) in [("a.tar", Seal::Plaintext), ("a.tar.age", place.seal())] {
        let path = place.path(name);
        write(&path, &seal, 100);
        let whole = std::fs::read(&path).unwrap();
        // A plain archive ends with 1024 bytes of nothing, which nobody misses.
        let end = whole.len() - if seal.protection() == Protection::Plaintext { 1024 } else { 0 };
        for keep in (0..end).step_by(331).chain([end - 1]) {
            let cut = place.path("cut");
            std::fs::write(&cut, &whole[..keep]).unwrap();
            let failure = refused(contents::read(&cut, &place.unseal(), Keep::Nothing));
            assert!(matches!(failure.kind, Kind::Refused | Kind::CheckFailed), "{keep}: {failure:?}");
        }
    }
}

#[test]
fn one_bit_is_enough() {
    let place = Place::new();
    for (name, seal) in [("a.tar", Seal::Plaintext), ("a.tar.age", place.seal())] {
        let path = place.path(name);
        write(&path, &seal, 20);
        let whole = std::fs::read(&path).unwrap();
        let mut missed = 0;
        for at in (0..whole.len()).step_by(97) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            let file = place.path("flipped");
            std::fs::write(&file, &flipped).unwrap();
            match contents::read(&file, &place.unseal(), Keep::Nothing) {
                Err(failure) => assert!(failure.kind != Kind::Unexpected, "{at}: {failure:?}"),
                Ok(contents) if contents.problems.is_empty() => missed += 1,
                Ok(_) => {}
            }
        }
        // Of a plain archive, what fills up a member's last block belongs to nothing; nor does the manifest vouch for itself.
        let most = if seal.protection() == Protection::Plaintext { whole.len() / 97 * 2 / 3 } else { 0 };
        assert!(missed <= most, "{name}: {missed} of {}", whole.len() / 97);
    }
}

#[test]
fn a_member_that_was_exchanged_is_named() {
    let place = Place::new();
    let path = place.path("a.tar");
    write(&path, &Seal::Plaintext, 20);
    let mut whole = std::fs::read(&path).unwrap();
    let at = whole.windows(10).position(|window| window == b"schema = 1").unwrap();
    whole[at + 9] = b'2';
    let other = place.path("b.tar");
    std::fs::write(&other, whole).unwrap();
    let contents = contents::read(&other, &Unseal::default(), Keep::Nothing).unwrap();
    assert!(
        contents.problems.len() == 1 && contents.problems[0].contains("`lab.toml` is not what it was"),
        "{:?}",
        contents.problems
    );
}

#[test]
fn keys_that_belong_to_no_ca_are_a_problem() {
    let place = Place::new();
    let ((dump, _, manifest), (_, foreign, _)) = (sample(0), sample(0));
    let path = place.path("a.tar");
    let mut writer = Writer::create(&path, "day-two", &Seal::Plaintext, &head()).unwrap();
    writer.dump(dump.as_bytes()).unwrap();
    writer.end_dump().unwrap();
    writer.add("servers/spire-server-0/keys.json", &foreign).unwrap();
    writer.add("servers/No.Pod/keys.json", &foreign).unwrap();
    writer.finish(manifest).unwrap();
    let contents = contents::read(&path, &Unseal::default(), Keep::Nothing).unwrap();
    for words in ["no key of spire-server-0 belongs to a CA", "`servers/No.Pod/keys.json` is no member"] {
        assert!(contents.problems.iter().any(|problem| problem.contains(words)), "{words}: {:?}", contents.problems);
    }
    assert!(!contents.cover(start()).holds());
}

#[test]
fn only_the_right_key_opens_it() {
    let place = Place::new();
    let path = place.path("a.tar.age");
    write(&path, &place.seal(), 1);
    let other = Place::new();
    let failure = refused(contents::read(&path, &other.unseal(), Keep::Nothing));
    assert!(failure.message.contains("none of the 1 identities") && failure.kind == Kind::Refused, "{failure:?}");
    let failure = refused(contents::read(&path, &Unseal::default(), Keep::Nothing));
    assert!(failure.message.contains("encrypted to recipients") && failure.kind == Kind::Usage, "{failure:?}");
}

#[test]
fn only_the_right_passphrase_opens_it() {
    let place = Place::new();
    let path = place.path("a.tar.age");
    let mut recipient = age::scrypt::Recipient::new("sesame".to_owned().into());
    recipient.set_work_factor(2);
    write(&path, &Seal::Passphrase(recipient), 1);
    let with = |words: &str| {
        let file = place.path("passphrase");
        std::fs::write(&file, words).unwrap();
        Unseal::with(&[], Some(&file))
    };
    let contents = contents::read(&path, &with("sesame\n").unwrap(), Keep::Nothing).unwrap();
    assert_eq!((contents.problems.len(), contents.protection), (0, Protection::Passphrase));
    let failure = refused(contents::read(&path, &with("open\n").unwrap(), Keep::Nothing));
    assert!(failure.message.contains("the passphrase does not open"), "{failure:?}");
    assert!(refused(contents::read(&path, &Unseal::default(), Keep::Nothing)).message.contains("with a passphrase"));
    assert!(with("\nsesame").is_err());
}

#[test]
fn what_is_no_backup_is_refused() {
    let place = Place::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    tar.append_data(&mut header, MANIFEST, &b"{}\n"[..]).unwrap();
    for (name, bytes) in [
        ("other.tar", tar.into_inner().unwrap()),
        ("empty", Vec::new()),
        ("text", b"hello ".repeat(1000)),
        ("age", b"age-encryption.org/v1\n-> X25519 nonsense\n".to_vec()),
        ("letters", b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec()),
    ] {
        let path = place.path(name);
        std::fs::write(&path, bytes).unwrap();
        let failure = refused(contents::read(&path, &place.unseal(), Keep::Nothing));
        assert_eq!(failure.kind, Kind::Refused, "{name}: {failure:?}");
    }
    assert_eq!(
        refused(contents::read(&place.path("nowhere"), &Unseal::default(), Keep::Nothing)).kind,
        Kind::Prerequisite
    );
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let place = Place::new();
    let path = place.path("a.tar");
    write(&path, &Seal::Plaintext, 1);
    let failure = Writer::create(&path, "day-two", &Seal::Plaintext, &head()).map(|_| ()).unwrap_err();
    assert!(failure.message.contains("is there already"), "{failure:?}");
    // What a run that was killed left goes with the next one of the same lab; another lab's may be at work.
    let (ours, others) = (place.path(".day-two-backup-x.part"), place.path(".other-backup-x.part"));
    std::fs::write(&ours, "").unwrap();
    std::fs::write(&others, "").unwrap();
    let writer = Writer::create(&place.path("b.tar"), "day-two", &Seal::Plaintext, &head()).unwrap();
    assert!(!ours.exists() && others.exists());
    drop(writer);
    assert!(!place.path("b.tar").exists());
    let parts = std::fs::read_dir(place.directory.path()).unwrap().flatten();
    assert_eq!(parts.filter(|entry| entry.file_name().to_string_lossy().contains("day-two-backup")).count(), 0);
}

/// `/dev/full` takes no byte: what a full disk does.
#[test]
fn a_full_disk_is_said_to_be_full() {
    use std::io::Write as _;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for seal in [Seal::Plaintext, Place::new().seal()] {
        let mut sealed = seal.wrap(std::io::BufWriter::new(full.try_clone().unwrap())).unwrap();
        let error = sealed.write_all(&vec![0; 1 << 20]).unwrap_err();
        let failure = crate::error::io_failure("write", Path::new("/backups/a.tar"), &error);
        assert_eq!(failure.kind, Kind::Prerequisite, "{error:?}");
        assert!(failure.next.iter().any(|next| next.contains("disk space")), "{failure:?}");
    }
}
