//! The real world with fake tools: what is asked, locked, interrupted, and never written to.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::TestLab;

/// A lab file without downloads.
const LAB: &str = "schema = 1\n[addons.cert-manager]\nenabled = false\n[addons.contour]\nenabled = false\n";

/// A kind that writes down what it is asked, and never ends making a cluster: a process below it holds `$DIR/alive`
/// open for as long as it lives.
const KIND: &str = r#"
case "$*" in
    version) echo "kind v0.27.0 go1.23.6 linux/amd64" ;;
    "get clusters") cat "$DIR/clusters" 2>/dev/null || true ;;
    "create cluster"*)
        echo "$*" >> "$DIR/argv"
        echo kind > "$DIR/clusters"
        [ -e "$DIR/quick" ] && exit 1
        [ -e "$DIR/stubborn" ] && trap '' INT
        # In the foreground: a shell's background jobs ignore SIGINT.
        (exec 3> "$DIR/alive"; echo "below is up"; sleep 1000; true) ;;
    "delete cluster"*) echo "$*" >> "$DIR/argv"; rm -f "$DIR/clusters" ;;
    *) echo "ERROR: unknown: $*" >&2; exit 1 ;;
esac
"#;

fn lab() -> TestLab {
    let lab = TestLab::with_tools(&[
        ("kind", KIND),
        ("helm", "echo v3.17.2"),
        ("kubectl", r#"echo '{"clientVersion":{"gitVersion":"v1.32.3"}}'"#),
        ("docker", r#"[ "$1" = version ] && echo '{"Client":{"Version":"28.0.4"},"Server":{"Version":"28.0.4"}}'"#),
    ]);
    lab.write("lab.toml", LAB);
    nix::unistd::mkfifo(&lab.at("alive"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    lab
}

/// A helm that never ends adding a repository; it holds `$DIR/alive` open for as long as it lives.
const HELM: &str = r#"
case "$*" in
    "repo list"*) echo '[]' ;;
    "repo add"*) trap 'exit 130' INT; exec 3> "$DIR/alive"; echo "below is up"; while :; do :; done ;;
    *) echo v3.17.2 ;;
esac
"#;

/// A `coastal` that stands in the middle of a command of a tool; and the end of the FIFO that reads nothing until all
/// below that are gone.
struct Midway {
    child: Child,
    // Kept, or coastal would find nobody reading.
    output: BufReader<ChildStdout>,
    alive: std::fs::File,
}

/// `cluster-up` amid `kind create cluster`.
fn midway(lab: &TestLab) -> Midway {
    midway_of(lab, "--output json cluster-up")
}

fn midway_of(lab: &TestLab, words: &str) -> Midway {
    let flags = nix::libc::O_NONBLOCK;
    let first = OpenOptions::new().read(true).custom_flags(flags).open(lab.at("alive")).unwrap();
    let mut child = lab.start(words, Stdio::piped());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("below is up") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "coastal ended: {:?}", child.wait());
    }
    let alive = std::fs::File::open(lab.at("alive")).unwrap();
    drop(first);
    Midway { child, output, alive }
}

impl Midway {
    /// Ctrl-C, as a terminal or a supervisor sends it.
    fn interrupt(mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        // Ends only when no process below kind holds the other end.
        self.alive.read_to_end(&mut Vec::new()).unwrap();
        code
    }
}

/// A kind that ignores Ctrl-C has 15 s to think about it, unless the user has less.
#[test]
fn a_second_ctrl_c_ends_everything_at_once() {
    let lab = lab();
    std::fs::write(lab.at("stubborn"), "").unwrap();
    let Midway { mut child, output: _output, mut alive } = midway(&lab);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let status = loop {
        // One more each time: those that come within half a second count as one.
        kill(pid, Signal::SIGINT).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(status.code(), Some(130));
    let (gone, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || gone.send(alive.read_to_end(&mut Vec::new())));
    assert!(told.recv_timeout(std::time::Duration::from_secs(20)).is_ok(), "a process below kind lives on");
}

fn asked_of_kind(lab: &TestLab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.at("argv")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn nothing_is_destroyed_unasked_when_nobody_can_be_asked() {
    let lab = lab();
    std::fs::write(lab.at("clusters"), "kind\n").unwrap();
    for command in ["down", "down --keep-cluster", "cluster-down", "tear-down", "spire-uninstall"] {
        let ran = lab.coastal(command).ends(2).says("--yes");
        assert!(ran.err.contains("error: "), "{ran:?}");
    }
    assert!(asked_of_kind(&lab).is_empty());
    assert!(!lab.state().join("runs").exists(), "no run was begun");
}

#[test]
fn a_second_coastal_is_told_who_is_at_work() {
    let lab = lab();
    let first = midway(&lab);
    let pid = first.child.id();
    for command in ["cluster-up", "cluster-down --yes"] {
        lab.coastal(command)
            .ends(4)
            .says("another coastal is at work on this lab: `coastal --output json cluster-up`")
            .says(&format!("process {pid}, since 20"))
            .says(&format!("kill -INT {pid}"));
    }
    first.interrupt();
    assert_eq!(asked_of_kind(&lab), ["create cluster"]);
}

fn assert_the_journal_says_so(lab: &TestLab) {
    let run = std::fs::read_dir(lab.state().join("runs")).unwrap().next().unwrap().unwrap().path();
    let journal = std::fs::read_to_string(run.join("events.jsonl")).unwrap();
    let last: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!(last["what"]["type"], "run-ended");
    assert_eq!(last["what"]["result"]["outcome"], "interrupted");
    assert_eq!(last["what"]["result"]["exit_code"], 130);
}

#[test]
fn ctrl_c_amid_helm_leaves_no_process_either() {
    let lab = lab();
    lab.tool("helm", HELM);
    assert_eq!(midway_of(&lab, "--output json add-repos").interrupt(), Some(130));
    assert_the_journal_says_so(&lab);
}

#[test]
fn ctrl_c_leaves_no_process_and_the_next_run_repairs_what_was_half_made() {
    let lab = lab();
    assert_eq!(midway(&lab).interrupt(), Some(130));

    assert_the_journal_says_so(&lab);

    std::fs::write(lab.at("quick"), "").unwrap();
    lab.coastal("cluster-up").ends(5).says("half-made, from an interrupted run");
    assert_eq!(asked_of_kind(&lab), ["create cluster", "delete cluster", "create cluster"]);
    lab.coastal("cluster-down --yes").ok();
    assert_eq!(asked_of_kind(&lab).last().unwrap(), "delete cluster");
    lab.coastal("cluster-down --yes").ok().says("nothing to change");
}

/// An API server of somebody's production: one node, of a cloud. Returns its address and what it was asked.
fn production() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        let node = r#"{"metadata":{"name":"n"},"spec":{"providerID":"aws:///eu-west-1a/i-0abc"}}"#;
        let body = format!(r#"{{"kind":"NodeList","apiVersion":"v1","metadata":{{}},"items":[{node}]}}"#);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            seen.lock().unwrap().push(request.trim().to_owned());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    (address, asked)
}

#[test]
fn a_kubeconfig_that_leads_to_production_is_refused() {
    let lab = lab();
    let (address, asked) = production();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: kind-kind\n\
         clusters: [{{name: kind-kind, cluster: {{server: \"{address}\"}}}}]\n\
         contexts: [{{name: kind-kind, context: {{cluster: kind-kind, user: u}}}}]\n\
         users: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::create_dir_all(lab.state()).unwrap();
    std::fs::write(lab.state().join("kubeconfig"), kubeconfig).unwrap();
    for command in ["cluster-up", "namespaces", "status", "cluster-down --yes", "down --keep-cluster --yes"] {
        lab.coastal(command).ends(7).says("does not lead to a kind cluster; nothing was touched").says("aws:///");
    }
    assert!(asked_of_kind(&lab).is_empty());
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.starts_with("GET ")), "{asked:?}");
}

#[test]
fn every_tool_that_is_missing_is_named_by_what_only_looks_too() {
    for command in ["status", "upgrade --to 1.8.0", "open prometheus"] {
        let mut ran = TestLab::new().coastal(command).ends(4);
        for tool in ["docker", "kind", "helm", "kubectl"] {
            ran = ran.says(&format!("next: {tool}: install "));
        }
    }
}
