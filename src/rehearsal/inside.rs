//! The programs inside the containers, as far as `kubectl exec` starts them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::authority::jwt_key_id;
use super::cluster::Cluster;
use super::faults::Fault;
use super::kubectl::{inner_exit, no_program};
use super::object::text;
use super::process::{Ended, Process};
use super::spire::{Database, Settings, Spire};
use super::{pods, spire};

/// Runs `argv` in that container.
pub(super) fn run(cluster: &Cluster, process: &Process<'_>, pod: &Value, container: &Value, argv: &[&str]) -> Ended {
    let Some((program, rest)) = argv.split_first() else { return Err(process.unknown()) };
    let image = text(container, "/image");
    let program = program.rsplit('/').next().unwrap_or(program);
    match program {
        "spire-server" if image.contains("spire-server") => server(cluster, process, pod, container, rest),
        "spire-agent" if image.contains("spire-agent") => agent(cluster, process, pod, container, rest),
        "psql" | "sh" if image.contains("postgres") => postgres(cluster, process, pod, argv),
        "pg_isready" if image.contains("postgres") => {
            process.out("/var/run/postgresql:5432 - accepting connections");
            Ok(())
        }
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
    let spire = cluster.spire();
    let up = spire.is_server_up(&cluster.store, &cluster.faults(), pod);
    if let ["healthcheck"] = words.as_slice() {
        if up {
            process.out("Server is healthy.");
            return Ok(());
        }
        process.err("Error: server is unhealthy: unable to determine health");
        return Err(inner_exit(process, 1));
    }
    let found = up
        .then(|| Settings::of(&cluster.store, pod))
        .flatten()
        .and_then(|settings| Some((database_of(&spire, cluster, pod)?, settings)));
    let Some((database, settings)) = found else {
        process.err("Error: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix /tmp/spire-server/private/api.sock: connect: no such file or directory\"");
        return Err(inner_exit(process, 1));
    };
    let td = settings.trust_domain.as_str();
    let answer = match words.as_slice() {
        ["entry", "show"] => json!({"entries": entries(database, td), "next_page_token": ""}),
        ["entry", "count"] => json!({"count": database.entries.len()}),
        ["agent", "list"] => json!({"agents": agents(database, td), "next_page_token": ""}),
        ["agent", "count"] => json!({"count": database.agents.len()}),
        ["bundle", "show"] => bundle(database, td),
        _ => return Err(process.unknown()),
    };
    // The texts for people are not modelled: `coastal` asks for JSON.
    if !json {
        return Err(process.unknown());
    }
    process.out(answer.to_string());
    Ok(())
}

fn database_of<'a>(spire: &'a Spire, cluster: &Cluster, pod: &Value) -> Option<&'a Database> {
    let (_, home) = Spire::connection(&cluster.store, pod)?;
    spire.databases.get(&home)
}

// JSON of the CLI: facts, section 3.

fn entries(database: &Database, td: &str) -> Vec<Value> {
    let rows = database.entries.iter().map(|(uid, entry)| {
        json!({
            "admin": false, "created_at": entry.created.as_second().to_string(), "dns_names": [], "downstream": false, "expires_at": "0",
            "federates_with": [], "hint": "", "id": entry.id, "jwt_svid_ttl": 0,
            "parent_id": {"path": entry.parent, "trust_domain": td}, "revision_number": "0",
            "selectors": [{"type": "k8s", "value": format!("pod-uid:{uid}")}],
            "spiffe_id": {"path": entry.path, "trust_domain": td}, "store_svid": false, "x509_svid_ttl": 0,
        })
    });
    rows.collect()
}

fn agents(database: &Database, td: &str) -> Vec<Value> {
    let rows = database.agents.iter().map(|(node, agent)| {
        json!({
            "attestation_type": "k8s_psat", "banned": false, "can_reattest": true, "id": {"path": agent.path, "trust_domain": td},
            "selectors": [
                {"type": "k8s_psat", "value": format!("agent_node_uid:{node}")},
                {"type": "k8s_psat", "value": format!("agent_pod_name:{}", agent.pod)},
                {"type": "k8s_psat", "value": format!("agent_ns:{}", agent.namespace)},
            ],
            "x509svid_expires_at": agent.expires.as_second().to_string(), "x509svid_serial_number": "1",
        })
    });
    rows.collect()
}

fn bundle(database: &Database, td: &str) -> Value {
    let x509: Vec<Value> = database
        .bundle
        .iter()
        .filter_map(|authority| Some(json!({"asn1": BASE64.encode(authority.certificate().ok()?)})))
        .collect();
    let jwt = database.bundle.iter().map(|authority| {
        json!({
            "expires_at": authority.expires().as_second().to_string(), "key_id": jwt_key_id(&authority.seed),
            "public_key": BASE64.encode(&authority.seed),
        })
    });
    json!({
        "jwt_authorities": jwt.collect::<Vec<_>>(), "refresh_hint": "0", "sequence_number": database.sequence.to_string(),
        "trust_domain": td, "x509_authorities": x509,
    })
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

/// `psql`, bare or by way of a shell; the query is what counts.
fn postgres(cluster: &Cluster, process: &Process<'_>, pod: &Value, argv: &[&str]) -> Ended {
    let line = argv.join(" ").to_lowercase();
    if cluster.faults().any(|fault| *fault == Fault::LoginRefused) {
        process.err("psql: error: connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  password authentication failed for user \"spire\"");
        return Err(inner_exit(process, 2));
    }
    // Only the bare form of the output is modelled: no headings, no alignment.
    let bare = argv.iter().any(|word| word.contains("-tA") || word.contains("-At") || word.contains("--tuples-only"));
    if !bare {
        return Err(process.unknown());
    }
    if line.contains("select 1") {
        process.out("1");
        return Ok(());
    }
    if !line.contains("migrations") {
        return Err(process.unknown());
    }
    let spire = cluster.spire();
    let Some((schema, version)) =
        spire.databases.get(&pods::home(&cluster.store, pod)).and_then(|database| database.migrations.as_ref())
    else {
        process.err("ERROR:  relation \"migrations\" does not exist");
        return Err(inner_exit(process, 1));
    };
    process.out(format!("{schema}|{version}"));
    Ok(())
}
