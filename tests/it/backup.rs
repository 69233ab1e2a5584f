//! `backup` and `restore`, end to end: into a new cluster with the same CA, and every archive that must be refused.

use age::secrecy::ExposeSecret;
use age::x25519;
use serde_json::Value;

use crate::support::{Ran, TestLab};

/// A lab that is up in a kept world, and the file with its identity.
fn lab() -> (TestLab, String) {
    let lab = TestLab::new();
    let identity = x25519::Identity::generate();
    let key = lab.write("key.txt", identity.to_string().expose_secret());
    let recipient = identity.to_public().to_string();
    lab.rehearse(&format!("backup --to {} --recipient {recipient}", lab.at("a.tar.age").display())).ok();
    (lab, key.display().to_string())
}

fn cas(ran: &Ran) -> Vec<String> {
    let bundle: Value = serde_json::from_str(&ran.out).unwrap();
    let text = bundle.to_string();
    let mut ids: Vec<String> =
        text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 40).map(str::to_owned).collect();
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn a_new_cluster_gets_the_same_ca() {
    let (lab, key) = lab();
    let archive = lab.at("a.tar.age").display().to_string();
    let before = cas(&lab.rehearse("bundle --output json").ok());
    assert_eq!(before.len(), 3);
    let verified = lab.rehearse(&format!("backup verify {archive} --identity {key} --output json")).ok();
    let report: Value = serde_json::from_str(&verified.out).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["cover"]["cover"], "until");
    assert_eq!(report["manifest"]["one_moment"], true);

    // The first world is lost with its cluster.
    let new = lab.at("new.json").display().to_string();
    let on_new = |words: &str| lab.coastal(&format!("rehearse --world {new} {words}"));
    on_new(&format!("restore {archive} --identity {key}")).ok().says("the same 3 CAs as in the backup");
    assert_eq!(cas(&on_new("bundle --output json").ok()), before);
    // The rest of the lab follows, and nothing of it makes a new CA.
    on_new("up").ok();
    on_new("test").ok();
    assert_eq!(cas(&on_new("bundle --output json").ok()), before);
}

#[test]
fn a_running_lab_goes_back_and_its_workload_keeps_its_identity() {
    let (lab, key) = lab();
    let archive = lab.at("a.tar.age").display().to_string();
    lab.rehearse(&format!("restore {archive} --identity {key} --dry-run"))
        .ok()
        .says("would be lost")
        .says("restore-gate");
    lab.rehearse(&format!("restore {archive} --identity {key}")).ok().says("is kept in");
    lab.rehearse("test").ok();
    // Nothing with keys in it is left.
    assert!(!lab.at("world.json.state/restore").exists());
}

#[test]
fn what_must_not_be_restored_is_refused_before_anything_is_touched() {
    let (lab, key) = lab();
    let archive = lab.at("a.tar.age");
    let restore = |file: &str, more: &str| lab.rehearse(&format!("restore {file} --identity {key} {more}"));
    restore(&archive.display().to_string(), "--at 1.11.3")
        .ends(7)
        .says("must not be restored onto SPIRE 1.11.3")
        .says("1.7.0 to 1.7.6");
    let whole = std::fs::read(&archive).unwrap();
    let damaged = |name: &str, bytes: &[u8]| {
        std::fs::write(lab.at(name), bytes).unwrap();
        lab.at(name).display().to_string()
    };
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (file, code, words) in [
        (damaged("cut.tar.age", &whole[..whole.len() / 2]), 8, "its end is missing"),
        (damaged("flipped.tar.age", &flipped), 8, "does not decrypt"),
        (damaged("foreign.tar", &[0; 4096]), 7, "no backup of coastal's"),
        (lab.at("nowhere.tar").display().to_string(), 4, "could not read"),
    ] {
        restore(&file, "").ends(code).says(words);
        lab.rehearse(&format!("backup verify {file} --identity {key}")).ends(code).says(words);
    }
    lab.rehearse(&format!("restore {}", archive.display())).ends(2).says("encrypted to recipients");
    let other = x25519::Identity::generate();
    let other = lab.write("other.txt", other.to_string().expose_secret());
    lab.rehearse(&format!("restore {} --identity {}", archive.display(), other.display()))
        .ends(7)
        .says("none of the 1 identities");
    // Nothing was touched: the lab is as it was.
    lab.rehearse("test").ok();
    // Another trust domain's lab, on its own world.
    lab.write("lab.toml", "schema = 1\n[spire]\ntrust-domain = \"harbour.example\"\n");
    let words =
        format!("rehearse --world {} restore {} --identity {key}", lab.at("other.json").display(), archive.display());
    lab.coastal(&words).ends(7).says("of another trust domain; nothing was touched");
}

#[test]
fn a_backup_says_who_may_open_it_and_old_ones_go() {
    let lab = TestLab::new();
    lab.write("lab.toml", "schema = 1\n[backup]\ndir = \"backups\"\nkeep = 2\n");
    lab.rehearse("backup").ends(2).says("nothing says who may open it");
    for _ in 0..3 {
        lab.rehearse("backup --plaintext").ok().says("is not encrypted");
    }
    let names: Vec<String> = std::fs::read_dir(lab.at("cwd/backups"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // Two archives, each with its description, and nothing half-written.
    assert_eq!(names.len(), 4, "{names:?}");
    let list: Value = serde_json::from_str(&lab.rehearse("backup list --output json").ok().out).unwrap();
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    lab.rehearse("backup list").ok().says("covers until");
    lab.rehearse(&format!("backup --plaintext --to {}", lab.at("cwd/backups").join(&names[0]).display()))
        .ends(7)
        .says("is there already");
}

#[test]
fn a_dump_that_cannot_be_taken_is_explained_and_leaves_no_archive() {
    let lab = TestLab::new();
    for (fault, code, words) in [
        ("dump-mismatch", 5, "pg_dump is older than the server"),
        ("database-unreachable", 5, "the database could not be dumped"),
    ] {
        lab.coastal(&format!("rehearse --fault {fault} backup --plaintext --to {}", lab.at("x/a.tar").display()))
            .ends(code)
            .says(words);
        assert_eq!(std::fs::read_dir(lab.at("x")).map_or(0, Iterator::count), 0);
    }
}
