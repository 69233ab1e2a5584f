//! The programs inside the containers, as far as `kubectl exec` starts them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::authority::{Authority, jwt_key_id};
use super::cluster::Cluster;
use super::faults::Fault;
use super::kubectl::{inner_exit, no_program};
use super::object::{items, text};
use super::process::{Ended, Process};
use super::spire::keys::below_mount;
use super::spire::{Database, Entry, Pass, Server, dump, struck_after_prepare};
use super::{pods, spire};
use crate::spire::cli::LOCAL_AUTHORITY;
use crate::spire::rotation::KeyType;

/// The first version that knows its agents' versions.
const VERSION_REPORTED: semver::Version = semver::Version::new(1, 14, 3);

/// Runs `argv` in that container.
pub(super) fn run(cluster: &Cluster, process: &Process<'_>, pod: &Value, container: &Value, argv: &[&str]) -> Ended {
    let Some((program, rest)) = argv.split_first() else { return Err(process.unknown()) };
    let image = text(container, "/image");
    let program = program.rsplit('/').next().unwrap_or(program);
    match program {
        "spire-server" if image.contains("spire-server") => server(cluster, process, pod, container, rest),
        "spire-agent" if image.contains("spire-agent") => agent(cluster, process, pod, container, rest),
        "cat" | "rm" | "sh" if image.contains("postgres") && !pods::is_database(container) => {
            on_claim(cluster, process, pod, container, argv)
        }
        "psql" | "pg_dump" | "pg_isready" | "sh" if image.contains("postgres") => postgres(cluster, process, pod, argv),
        // The images of SPIRE hold nothing else, not even a shell (facts, section 2).
        _ if image.contains("spiffe/") => Err(no_program(process, cluster, program)),
        _ => Err(process.unknown()),
    }
}

/// The words without `-socketPath X` and `-output json`, and whether the latter is there.
fn plain<'a>(argv: &[&'a str]) -> (Vec<&'a str>, bool) {
    let (mut words, mut json) = (Vec::new(), false);
    let mut rest = argv.iter();
    while let Some(word) = rest.next() {
        match word.trim_start_matches('-') {
            "socketPath" => drop(rest.next()),
            "output" => json = rest.next() == Some(&"json"),
            flag if flag.starts_with("socketPath=") => {}
            "output=json" => json = true,
            _ => words.push(*word),
        }
    }
    (words, json)
}

fn server(cluster: &Cluster, process: &Process<'_>, pod: &Value, container: &Value, argv: &[&str]) -> Ended {
    let (words, json) = plain(argv);
    if matches!(words.as_slice(), ["--version" | "-version"]) {
        // SPIRE prints it on standard error.
        process.err(pods::tag(text(container, "/image")));
        return Ok(());
    }
    if cluster.faults().any(|fault| matches!(fault, Fault::ServerUnreachable(name) if name == pods::name(pod))) {
        process.err("Error: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix /tmp/spire-server/private/api.sock: connect: connection refused\"");
        return Err(inner_exit(process, 1));
    }
    if let [command @ ("localauthority" | "upstreamauthority"), rest @ ..] = words.as_slice() {
        return local_authority(cluster, process, pod, command, rest);
    }
    let mut spire = cluster.spire();
    let up = spire.server_up(&cluster.store, &cluster.faults(), pod);
    if let ["healthcheck"] = words.as_slice() {
        if up.is_some() {
            process.out("Server is healthy.");
            return Ok(());
        }
        process.err("Error: server is unhealthy: unable to determine health");
        return Err(inner_exit(process, 1));
    }
    let found = up.and_then(|(life, server)| Some((life, spire.databases.get(&server.database)?, server)));
    let Some((life, database, server)) = found else {
        process.err("Error: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix /tmp/spire-server/private/api.sock: connect: no such file or directory\"");
        return Err(inner_exit(process, 1));
    };
    let td = server.settings.trust_domain.as_str();
    if let [subject, verb @ ("delete" | "ban" | "evict"), "-entryID" | "-spiffeID", id] = words.as_slice() {
        let (home, prefix) = (server.database.clone(), format!("spiffe://{td}"));
        return change(cluster, process, &mut spire, &home, (subject, verb), id.trim_start_matches(&prefix), json);
    }
    let answer = match words.as_slice() {
        ["entry", "show"] => json!({"entries": entries(database, td, |_| true), "next_page_token": ""}),
        ["entry", "show", "-spiffeID", id] => {
            let wanted = |entry: &Entry| format!("spiffe://{td}{}", entry.path) == *id;
            json!({"entries": entries(database, td, wanted), "next_page_token": ""})
        }
        ["entry", "count"] => json!({"count": database.entries.len()}),
        ["agent", "list"] => json!({"agents": agents(database, server, cluster.store.now()), "next_page_token": ""}),
        ["agent", "count"] => json!({"count": database.agents.len()}),
        ["bundle", "show"] => bundle(database, td),
        _ => return Err(process.unknown()),
    };
    // The texts for people are not modelled: `coastal` asks for JSON.
    if !json {
        return Err(process.unknown());
    }
    let is_bundle = matches!(words.as_slice(), ["bundle", "show"]);
    let answer = if is_bundle { spire.heard(&life, cluster.store.now(), answer) } else { answer };
    process.out(answer.to_string());
    Ok(())
}

/// Deletes an entry, bans or evicts an agent. A batch ends well whatever became of its items.
fn change(
    cluster: &Cluster,
    process: &Process<'_>,
    spire: &mut spire::Spire,
    home: &str,
    what: (&str, &str),
    id: &str,
    json: bool,
) -> Ended {
    if !json {
        return Err(process.unknown());
    }
    let answer = match what {
        ("entry", "delete") => {
            let status = if spire.delete_entry(home, id, cluster.store.now()) {
                json!({"code": 0, "message": "OK"})
            } else {
                json!({"code": 5, "message": "entry not found"})
            };
            json!({"results": [{"id": id, "status": status}]})
        }
        ("agent", verb) => {
            let done = if verb == "ban" { spire.ban_agent(home, id) } else { spire.evict_agent(home, id) };
            if !done {
                process
                    .err(format!("Error: failed to {verb} agent: rpc error: code = NotFound desc = agent not found"));
                return Err(inner_exit(process, 1));
            }
            json!({})
        }
        _ => return Err(process.unknown()),
    };
    process.out(answer.to_string());
    cluster.wake_spire();
    Ok(())
}

// JSON of the CLI: facts, section 3.

fn entries(database: &Database, td: &str, wanted: impl Fn(&Entry) -> bool) -> Vec<Value> {
    let rows = database.entries.iter().filter(|(_, entry)| wanted(entry)).map(|(uid, entry)| {
        json!({
            "admin": false, "created_at": entry.created.as_second().to_string(), "dns_names": [], "downstream": false, "expires_at": "0",
            "federates_with": [], "hint": entry.hint, "id": entry.id, "jwt_svid_ttl": 0,
            "parent_id": {"path": entry.parent, "trust_domain": td}, "revision_number": "0",
            "selectors": [{"type": "k8s", "value": format!("pod-uid:{uid}")}],
            "spiffe_id": {"path": entry.path, "trust_domain": td}, "store_svid": false, "x509_svid_ttl": 0,
        })
    });
    rows.collect()
}

fn agents(database: &Database, server: &Server, now: Timestamp) -> Vec<Value> {
    let td = server.settings.trust_domain.as_str();
    let rows = database.agents.iter().map(|(node, agent)| {
        // An agent renews its own SVID at half of its life, too.
        let half = agent.svid_ttl.as_secs().max(2) / 2;
        let renewals = now.duration_since(agent.attested).as_secs() / half;
        let expires = agent.attested.as_second() + renewals * half + agent.svid_ttl.as_secs();
        let mut row = json!({
            "attestation_type": "k8s_psat", "banned": agent.banned, "can_reattest": true, "id": {"path": agent.path, "trust_domain": td},
            "selectors": [
                {"type": "k8s_psat", "value": format!("agent_node_uid:{node}")},
                {"type": "k8s_psat", "value": format!("agent_pod_name:{}", agent.pod)},
                {"type": "k8s_psat", "value": format!("agent_ns:{}", agent.namespace)},
            ],
            "x509svid_expires_at": expires.to_string(), "x509svid_serial_number": "1",
        });
        // Agents report it, and servers show it, from here on (facts, section 3).
        let reported = semver::Version::parse(&agent.version).is_ok_and(|version| version >= VERSION_REPORTED);
        if server.version >= VERSION_REPORTED {
            row["agent_version"] = if reported { agent.version.as_str() } else { "" }.into();
        }
        row
    });
    rows.collect()
}

fn bundle(database: &Database, td: &str) -> Value {
    let tainted = |authority: &Authority| database.tainted.contains_key(&authority.seed);
    let x509: Vec<Value> = database
        .bundle
        .iter()
        .filter_map(|authority| {
            Some(json!({"asn1": BASE64.encode(authority.certificate().ok()?), "tainted": tainted(authority)}))
        })
        .collect();
    let jwt = database.jwt.iter().map(|authority| {
        json!({
            "expires_at": authority.expires.as_second().to_string(), "key_id": jwt_key_id(&authority.seed),
            "public_key": BASE64.encode(&authority.seed), "tainted": tainted(authority),
        })
    });
    json!({
        "jwt_authorities": jwt.collect::<Vec<_>>(), "refresh_hint": "0", "sequence_number": database.sequence.to_string(),
        "trust_domain": td, "x509_authorities": x509,
    })
}

/// `localauthority KEY VERB [-authorityID ID]`.
fn local_authority(cluster: &Cluster, process: &Process<'_>, pod: &Value, command: &str, words: &[&str]) -> Ended {
    let faults = cluster.faults().clone();
    let mut spire = cluster.spire();
    let up = spire.server_up(&cluster.store, &faults, pod);
    let Some((life, version)) = up.map(|(life, server)| (life, server.version.clone())) else {
        process.err("Error: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix /tmp/spire-server/private/api.sock: connect: no such file or directory\"");
        return Err(inner_exit(process, 1));
    };
    if version < LOCAL_AUTHORITY {
        process.err("Usage: spire-server [--version] [--help] <command> [<args>]");
        return Err(inner_exit(process, 127));
    }
    let fail = |words: String| {
        process.err(format!("Error: {words}"));
        Err(inner_exit(process, 1))
    };
    if command == "upstreamauthority" {
        let verb = words.first().copied().unwrap_or_default();
        return fail(format!(
            "could not {verb} X.509 upstream authority: rpc error: code = FailedPrecondition desc = upstream authority is not configured"
        ));
    }
    let (key, verb, id) = match words {
        ["x509", verb @ ("show" | "prepare")] => (KeyType::X509, *verb, ""),
        ["jwt", verb @ ("show" | "prepare")] => (KeyType::Jwt, *verb, ""),
        ["x509", verb @ ("activate" | "taint" | "revoke"), "-authorityID", id] => (KeyType::X509, *verb, *id),
        ["jwt", verb @ ("activate" | "taint" | "revoke"), "-authorityID", id] => (KeyType::Jwt, *verb, *id),
        [_, "activate" | "taint" | "revoke"] => return fail("an authority ID is required".to_owned()),
        _ => return Err(process.unknown()),
    };
    let pass = Pass::new(&cluster.store, &faults);
    let answer = spire.local_authority(&pass, pod, &life, key, (verb, id));
    if verb == "prepare" {
        let is = |fault: &Fault| struck_after_prepare(fault, pod).is_some();
        let struck = cluster.faults().take(is);
        if let Some(without_keys) = struck.and_then(|fault| struck_after_prepare(&fault, pod)) {
            spire.restart_server(&life, pass.now, without_keys);
        }
    }
    drop(spire);
    cluster.wake_spire();
    match answer {
        Ok(answer) => {
            process.out(answer.to_string());
            Ok(())
        }
        Err((code, words)) => {
            let verb = if verb == "show" { "get" } else { verb };
            fail(format!("could not {verb} {key} authority: rpc error: code = {code} desc = {words}"))
        }
    }
}

fn agent(cluster: &Cluster, process: &Process<'_>, pod: &Value, container: &Value, argv: &[&str]) -> Ended {
    let (words, _) = plain(argv);
    match words.as_slice() {
        ["--version" | "-version"] => {
            process.err(pods::tag(text(container, "/image")));
            Ok(())
        }
        ["healthcheck"] if spire::agent_container(pod).is_some() && cluster.spire().is_agent_up(pod) => {
            process.out("Agent is healthy.");
            Ok(())
        }
        ["healthcheck"] => {
            process.err("Error: agent is unhealthy: unable to determine health");
            Err(inner_exit(process, 1))
        }
        _ => Err(process.unknown()),
    }
}

/// A shell of somebody's own on a claim of a server: the few words by which keys leave and enter it.
fn on_claim(cluster: &Cluster, process: &Process<'_>, pod: &Value, container: &Value, argv: &[&str]) -> Ended {
    let volume =
        items(pod, "/spec/volumes").find(|volume| !text(volume, "/persistentVolumeClaim/claimName").is_empty());
    let volume = volume.map(|volume| text(volume, "/name")).ok_or_else(|| process.unknown())?;
    let file = |path| below_mount(container, volume, path).ok_or_else(|| process.unknown());
    let home = pods::home(&cluster.store, pod);
    let mut spire = cluster.spire();
    match argv {
        ["cat", path] => {
            let Some(text) = spire.file(&home, file(path)?) else {
                process.err(format!("cat: {path}: No such file or directory"));
                return Err(inner_exit(process, 1));
            };
            process.out(text);
            Ok(())
        }
        ["rm", "-f", path] => {
            spire.remove_file(&home, file(path)?);
            Ok(())
        }
        ["sh", "-c", _, _, path] if !process.stdin().is_empty() => {
            spire.put_file(&home, file(path)?, process.stdin()).map_err(|words| {
                process.err(words);
                inner_exit(process, 1)
            })
        }
        _ => Err(process.unknown()),
    }
}

/// PostgreSQL's own programs, bare or by way of a shell; the query is what counts.
fn postgres(cluster: &Cluster, process: &Process<'_>, pod: &Value, argv: &[&str]) -> Ended {
    let line = argv.join(" ");
    let (down, locked) = {
        let faults = cluster.faults();
        let any = |fault: &Fault| faults.any(|other| other == fault);
        (any(&Fault::DatabaseUnreachable), any(&Fault::LoginRefused))
    };
    if line.contains("pg_isready") {
        process.out(if down {
            "/var/run/postgresql:5432 - no response"
        } else {
            "/var/run/postgresql:5432 - accepting connections"
        });
        return if down { Err(inner_exit(process, 2)) } else { Ok(()) };
    }
    let dumps = line.contains("pg_dump");
    let program = if dumps { "pg_dump" } else { "psql" };
    if down || locked {
        let why = if down && line.contains("-h ") {
            "connection to server at \"spire-db\", port 5432 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"
        } else if down {
            "connection to server on socket \"/var/run/postgresql/.s.PGSQL.5432\" failed: No such file or directory\n\tIs the server running locally and accepting connections on that socket?"
        } else {
            "connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  password authentication failed for user \"spire\""
        };
        process.err(format!("{program}: error: {why}"));
        return Err(inner_exit(process, if dumps { 1 } else { 2 }));
    }
    if dumps && cluster.faults().any(|fault| *fault == Fault::DumpMismatch) {
        process.err("pg_dump: error: aborting because of server version mismatch");
        process.err("pg_dump: detail: server version: 16.4; pg_dump version: 15.8");
        return Err(inner_exit(process, 1));
    }
    let home = pods::home(&cluster.store, pod);
    let mut spire = cluster.spire();
    if dumps {
        process.out(dump::write(&spire.databases.entry(home).or_default().clone(), cluster.store.now()));
        return Ok(());
    }
    if !process.stdin().is_empty() {
        return match dump::read(process.stdin()) {
            Ok(restored) => {
                let database = spire.databases.entry(home).or_default();
                let password = std::mem::take(&mut database.password);
                *database = Database { password, ..restored };
                if !line.contains("--quiet") && !line.contains(" -q") {
                    process.out("SET\nDROP TABLE\nCREATE TABLE\nCOPY 1");
                }
                Ok(())
            }
            Err(words) => {
                process.err(format!("psql:<stdin>:1: {words}"));
                Err(inner_exit(process, 3))
            }
        };
    }
    query(process, &mut spire, &home, argv)
}

/// A query by psql.
fn query(process: &Process<'_>, spire: &mut spire::Spire, home: &str, argv: &[&str]) -> Ended {
    // Only the bare form of the output is modelled: no headings, no alignment.
    let bare = argv.iter().any(|word| word.contains("-tA") || word.contains("-At") || word.contains("--tuples-only"));
    let query = argv.join(" ").to_lowercase();
    let trust_domain = query.split("spiffe://").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    if bare && query.contains("select 1") {
        process.out("1");
        return Ok(());
    }
    if bare && query.contains("delete from bundles") {
        // The servers' own knowledge of it is in their memory: they have to be down.
        if let Some(database) = spire.databases.get_mut(home) {
            process.out(format!("DELETE {}", u8::from(!database.bundle.is_empty())));
            database.drop_bundle();
        }
        process.out("0");
        return Ok(());
    }
    if bare && query.contains("count(*) from bundles") {
        let known = spire.databases.get(home).filter(|database| database.migrations.is_some());
        let Some(database) = known else {
            process.err("ERROR:  relation \"bundles\" does not exist");
            return Err(inner_exit(process, 1));
        };
        let bundles = usize::from(!database.bundle.is_empty());
        process.out(format!("{bundles}|{}", database.entries.len()));
        return Ok(());
    }
    if bare && query.contains("from migrations") && query.contains("from bundles") {
        let database = spire.databases.get(home);
        let Some((database, (schema, version))) = database.and_then(|it| Some((it, it.migrations.as_ref()?))) else {
            process.err("ERROR:  relation \"migrations\" does not exist");
            return Err(inner_exit(process, 1));
        };
        let bundle = crate::spire::hex(&database.bundle_row(trust_domain));
        process.out(format!("{schema}|{version}|{}|{}|{bundle}", database.entries.len(), database.agents.len()));
        return Ok(());
    }
    if bare && query.contains("from bundles") {
        if let Some(database) = spire.databases.get(home) {
            process.out(crate::spire::hex(&database.bundle_row(trust_domain)));
        }
        return Ok(());
    }
    if !bare || !query.contains("migrations") {
        return Err(process.unknown());
    }
    let Some((schema, version)) = spire.databases.get(home).and_then(|database| database.migrations.as_ref()) else {
        process.err("ERROR:  relation \"migrations\" does not exist");
        return Err(inner_exit(process, 1));
    };
    process.out(format!("{schema}|{version}"));
    Ok(())
}
