//! Follows the Workload API for ever and logs what it receives: what `coastal workload` runs in the lab's pods.
//!
//! The connection is made anew after every end of a stream, at most half a second later. A stock gRPC client that met a
//! missing socket backs off up to two minutes (seen on a real cluster), which would hide when SPIRE came back.
//! Only certificates are written, never the private key.

use std::error::Error;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use spiffe::transport::{Endpoint, GrpcStatusCode, TransportError};
use spiffe::{WorkloadApiClient, WorkloadApiError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::error::Failure;
use crate::workload::log::Log;
use crate::workload::record::State;
use crate::world::Clock;

/// The variable that holds the endpoint, by the SPIFFE standard.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The pause after a stream that worked. It doubles with each attempt that brings nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause. Half of it, on average, is added to the time in which a new pod gets its
/// identity; each attempt costs the agent a look at the kubelet's list of pods.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long the socket may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the agent may take to answer. It asks the kubelet about the caller's pod, up to 60 times 500 ms.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Follows the Workload API at `endpoint` (`unix:///path`, or what `SPIFFE_ENDPOINT_SOCKET` says) and writes to
/// `out`, until SIGTERM or SIGINT. Must run inside a tokio runtime with I/O and time.
///
/// # Errors
/// There is no endpoint or it cannot be read, or `out` cannot be written. Nothing that the Workload API does is an
/// error: it is logged and tried again.
pub async fn follow(endpoint: Option<String>, clock: &dyn Clock, out: &mut dyn Write) -> Result<(), Failure> {
    let named = endpoint.or_else(|| std::env::var(ENDPOINT_VARIABLE).ok());
    let endpoint = parse_endpoint(named.as_deref())?;
    // Before anything else: the first process of a container is deaf to signals that it does not handle.
    let handler = |kind| signal(kind).map_err(|error| Failure::unexpected(format!("cannot handle signals: {error}")));
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    follow_until(&endpoint, clock, out, stop).await
}

fn parse_endpoint(named: Option<&str>) -> Result<Endpoint, Failure> {
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return Err(Failure::usage(format!("no Workload API endpoint: {ENDPOINT_VARIABLE} is not set"))
            .next(format!("in a pod that mounts the SPIFFE CSI driver: `{ENDPOINT_VARIABLE}=unix:///spiffe-workload-api/spire-agent.sock coastal workload`")));
    };
    Endpoint::parse(named).map_err(|error| {
        Failure::usage(format!("`{named}` is not a Workload API endpoint: {}", with_causes(&error)))
            .next("write it as `unix:///path/to/agent.sock` or `tcp://127.0.0.1:8081`")
    })
}

/// [`follow`] with another way to be stopped.
async fn follow_until(
    endpoint: &Endpoint,
    clock: &dyn Clock,
    out: &mut dyn Write,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut stop = pin!(stop);
    let mut log = Log::new(clock, out);
    let mut pause = FIRST_PAUSE;
    loop {
        let before = log.sequence();
        tokio::select! {
            biased;
            () = &mut stop => return log.change(State::Stopped, "asked to end"),
            ended = attempt(endpoint, &mut log) => {
                let (state, message) = ended?;
                log.change(state, &message)?;
            }
        }
        if log.sequence() > before {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            biased;
            () = &mut stop => return log.change(State::Stopped, "asked to end"),
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// One connection, from its start to its end; says how it ended.
async fn attempt(endpoint: &Endpoint, log: &mut Log<'_>) -> Result<(State, String), Failure> {
    log.attempt();
    let client = match timeout(CONNECT_LIMIT, WorkloadApiClient::connect(endpoint.clone())).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Ok(end_of(&error, false)),
        Err(_) => return Ok((State::Unreachable, format!("no connection within {} s", CONNECT_LIMIT.as_secs()))),
    };
    let mut stream = match timeout(ANSWER_LIMIT, client.stream_x509_contexts()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ok(end_of(&error, false)),
        Err(_) => return Ok((State::Unreachable, format!("no answer within {} s", ANSWER_LIMIT.as_secs()))),
    };
    let mut worked = false;
    while let Some(next) = stream.next().await {
        let written = match next {
            Ok(context) => log.update(&context)?,
            Err(error) => return Ok(end_of(&error, worked)),
        };
        if let Err(unreadable) = written {
            return Ok((State::Unreadable, unreadable.to_string()));
        }
        worked = true;
    }
    Ok((State::Lost, "the agent ended the stream".into()))
}

/// What an error says about the connection; `worked` if an update had come through it.
fn end_of(error: &WorkloadApiError, worked: bool) -> (State, String) {
    let state = match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => State::NoIdentity,
        WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
            // What a client makes of a connection that breaks under it.
            GrpcStatusCode::Unavailable | GrpcStatusCode::Unknown | GrpcStatusCode::Cancelled if worked => State::Lost,
            GrpcStatusCode::Unavailable | GrpcStatusCode::Unknown | GrpcStatusCode::Cancelled => State::Unreachable,
            _ => State::Refused,
        },
        WorkloadApiError::Transport(_) | WorkloadApiError::EmptyResponse => State::Unreachable,
        _ => State::Unreadable,
    };
    match state {
        State::Lost => (state, format!("the connection broke: {}", root_cause(error))),
        _ => (state, with_causes(error)),
    }
}

/// The innermost cause: what the layers above make of a broken connection is long and says nothing.
fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// An error and its causes in one line, each said once.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::path::Path;

    use jiff::Timestamp;
    use nix::sys::signal::{Signal, raise};
    use tempfile::TempDir;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::Instant;

    use super::*;
    use crate::error::Kind;
    use crate::workload::fake_agent::{Authority, FakeAgent, Mood};
    use crate::workload::record::{Line, Update, parse_line};

    const ID: &str = "spiffe://coastal-containers.example/ns/default/sa/workload";

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Timestamp {
            "2023-10-23T12:00:00Z".parse().expect("a time stamp")
        }
    }

    /// A writer whose lines can be awaited.
    struct Lines {
        partial: Vec<u8>,
        lines: mpsc::UnboundedSender<String>,
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.partial.extend_from_slice(bytes);
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                // After the test's last look nobody listens.
                let _ = self.lines.send(String::from_utf8(line).expect("text"));
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Seen {
        lines: mpsc::UnboundedReceiver<String>,
        all: String,
    }

    impl Seen {
        /// The next of our lines.
        async fn next(&mut self) -> Line {
            loop {
                let line = timeout(Duration::from_secs(10), self.lines.recv()).await.expect("a line in time");
                let line = line.expect("a line");
                self.all.push_str(&line);
                if let Some(line) = parse_line(&line) {
                    return line;
                }
            }
        }

        async fn update(&mut self) -> Update {
            match self.next().await {
                Line::Update(update) => update,
                other @ Line::Connection(_) => panic!("not an update: {other:?}"),
            }
        }

        async fn state(&mut self) -> State {
            match self.next().await {
                Line::Connection(connection) => connection.state,
                other @ Line::Update(_) => panic!("not a change of the connection: {other:?}"),
            }
        }
    }

    /// Follows `socket` beside `script`, then stops and gives the whole log.
    async fn follow_beside<F: Future<Output = Seen>>(socket: &Path, script: impl FnOnce(Seen) -> F) -> String {
        let endpoint = Endpoint::Unix(socket.to_owned());
        let (sender, lines) = mpsc::unbounded_channel();
        let mut out = Lines { partial: Vec::new(), lines: sender };
        let (stop, stopped) = oneshot::channel::<()>();
        let following = follow_until(&endpoint, &Noon, &mut out, async {
            let _ = stopped.await;
        });
        let (result, all) = tokio::join!(following, async {
            let mut seen = script(Seen { lines, all: String::new() }).await;
            stop.send(()).expect("still following");
            assert_eq!(seen.state().await, State::Stopped);
            seen.all
        });
        assert_eq!(result, Ok(()));
        all
    }

    fn socket() -> (TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");
        (dir, socket)
    }

    #[tokio::test]
    async fn logs_certificates_and_a_line_per_update_and_never_a_key() {
        let (_dir, socket) = socket();
        let authority = Authority::new(1);
        let first = authority.issue(ID, 0x11);
        let agent = FakeAgent::start(&socket, Mood::serving(&[&first], &[&authority]));
        let log = follow_beside(&socket, async |mut seen| {
            assert_eq!(seen.state().await, State::Following);
            let update = seen.update().await;
            assert_eq!((update.sequence, update.svid, update.spiffe_id.as_str()), (1, 0, ID));
            assert_eq!(update.serial.as_deref(), Some("11"));
            assert_eq!(update.received_at, Some(Noon.now()));
            assert_eq!(update.issuer_key_id, Some(authority.key_id()));
            assert_eq!(update.chains_to_bundle(), Some(true));
            let next = Authority::new(2);
            let (rotated, other) = (next.issue(ID, 0x12), authority.issue("spiffe://coastal-containers.example/x", 1));
            agent.turn(Mood::serving(&[&rotated, &other], &[&authority, &next]));
            let (update, beside) = (seen.update().await, seen.update().await);
            assert_eq!((update.sequence, update.serial.as_deref()), (2, Some("12")));
            assert_eq!(update.bundle_key_ids, vec![authority.key_id(), next.key_id()]);
            assert_eq!((beside.sequence, beside.svid), (2, 1));
            seen
        })
        .await;
        assert!(
            log.contains(&format!("2023/10/23 12:00:00 SVID updated for \"{ID}\":\n-----BEGIN CERTIFICATE-----\n"))
        );
        assert_eq!(log.matches("BEGIN CERTIFICATE").count(), 3);
        assert!(!log.contains("PRIVATE KEY"));
        assert_eq!(agent.calls(), 1, "one stream brought all of it");
    }

    #[tokio::test]
    async fn a_denial_is_said_once_and_ends_with_the_identity() {
        let (_dir, socket) = socket();
        let authority = Authority::new(1);
        let agent = FakeAgent::start(&socket, Mood::NoIdentity);
        follow_beside(&socket, async |mut seen| {
            assert_eq!(seen.state().await, State::NoIdentity);
            while agent.calls() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
            agent.turn(Mood::serving(&[&authority.issue(ID, 1)], &[&authority]));
            let Line::Connection(connection) = seen.next().await else { panic!("the denial was said again") };
            assert_eq!(connection.state, State::Following);
            assert!(connection.attempts >= 3, "{connection:?}");
            assert_eq!(seen.update().await.sequence, 1);
            seen
        })
        .await;
    }

    #[tokio::test]
    async fn an_agent_that_restarts_is_followed_again_on_the_same_path() {
        let (_dir, socket) = socket();
        let authority = Authority::new(1);
        let mood = Mood::serving(&[&authority.issue(ID, 0xaa)], &[&authority]);
        let agent = Cell::new(None);
        follow_beside(&socket, async |mut seen| {
            assert_eq!(seen.state().await, State::Unreachable, "no socket yet");
            agent.set(Some(FakeAgent::start(&socket, mood.clone())));
            assert_eq!(seen.state().await, State::Following);
            assert_eq!(seen.update().await.sequence, 1);
            drop(agent.take());
            assert_eq!(seen.state().await, State::Lost);
            assert_eq!(seen.state().await, State::Unreachable);
            let back = Instant::now();
            agent.set(Some(FakeAgent::start(&socket, mood.clone())));
            assert_eq!(seen.state().await, State::Following);
            let update = seen.update().await;
            assert!(back.elapsed() < LONGEST_PAUSE + Duration::from_millis(500), "{:?}", back.elapsed());
            assert_eq!((update.sequence, update.serial.as_deref()), (2, Some("aa")));
            seen
        })
        .await;
    }

    #[tokio::test]
    async fn an_ended_stream_is_opened_again_at_once() {
        let (_dir, socket) = socket();
        let authority = Authority::new(1);
        let mood = Mood::serving(&[&authority.issue(ID, 1)], &[&authority]);
        let agent = FakeAgent::start(&socket, mood.clone());
        follow_beside(&socket, async |mut seen| {
            assert_eq!(seen.state().await, State::Following);
            seen.update().await;
            agent.turn(Mood::Stopping);
            assert_eq!(seen.state().await, State::Lost);
            agent.turn(mood.clone());
            // Whether an attempt met the agent while it was stopping is a matter of microseconds.
            let mut state = seen.state().await;
            if state == State::Unreachable {
                state = seen.state().await;
            }
            assert_eq!(state, State::Following);
            assert_eq!(seen.update().await.sequence, 2);
            seen
        })
        .await;
    }

    #[tokio::test]
    async fn rubbish_is_reported_and_survived() {
        let (_dir, socket) = socket();
        let authority = Authority::new(1);
        let agent = FakeAgent::start(&socket, Mood::Serve(b"\x0a\x03\x0a\x01x"[..].into()));
        follow_beside(&socket, async |mut seen| {
            assert_eq!(seen.state().await, State::Unreadable);
            agent.turn(Mood::serving(&[&authority.issue(ID, 1)], &[&authority]));
            assert_eq!(seen.state().await, State::Following);
            assert_eq!(seen.update().await.sequence, 1);
            seen
        })
        .await;
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_dir, socket) = socket();
        let endpoint = Endpoint::Unix(socket);
        let ended = follow_until(&endpoint, &Noon, &mut Full, std::future::pending()).await;
        let failure = ended.expect_err("the disk is full");
        assert_eq!(failure.kind, Kind::Prerequisite);
        assert!(failure.message.starts_with("could not write `standard output`"), "{failure}");
    }

    #[tokio::test]
    async fn sigterm_ends_it_cleanly() {
        let (_dir, socket) = socket();
        let (sender, lines) = mpsc::unbounded_channel();
        let mut out = Lines { partial: Vec::new(), lines: sender };
        let mut seen = Seen { lines, all: String::new() };
        let endpoint = format!("unix://{}", socket.display());
        let (result, ()) = tokio::join!(follow(Some(endpoint), &Noon, &mut out), async {
            // The first line comes after the handlers are in place.
            assert_eq!(seen.state().await, State::Unreachable);
            raise(Signal::SIGTERM).expect("raised");
            assert_eq!(seen.state().await, State::Stopped);
        });
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn an_endpoint_is_needed_and_must_be_one() {
        assert_eq!(parse_endpoint(Some("unix:///a/b.sock")), Ok(Endpoint::Unix("/a/b.sock".into())));
        for (named, words) in [
            (None, "SPIFFE_ENDPOINT_SOCKET is not set"),
            (Some(""), "SPIFFE_ENDPOINT_SOCKET is not set"),
            (Some("/a/b.sock"), "not a valid URI"),
            (Some("http://a"), "scheme must be unix: or tcp:"),
        ] {
            let failure = parse_endpoint(named).expect_err("not an endpoint");
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.message.contains(words), "{failure}");
            assert_eq!(failure.next.len(), 1);
        }
    }
}
