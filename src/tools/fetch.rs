//! The real [`Fetcher`]: downloads over HTTP, whole or not at all.
//!
//! TLS is checked against the certificates that this machine trusts, as helm and docker do, and the proxy variables
//! are honoured.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempPath;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

use crate::error::{Failure, Kind, io_failure};
use crate::world::Fetcher;

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the connection stands.
    pub connect: Duration,
    /// Without a byte.
    pub silence: Duration,
    /// For the whole file.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connect: Duration::from_secs(15), silence: Duration::from_secs(30), whole: Duration::from_secs(600) }
    }
}

/// Downloads over HTTP.
pub struct HttpFetcher {
    agent: ureq::Agent,
    limits: Limits,
}

impl HttpFetcher {
    /// A fetcher with the usual limits.
    #[must_use]
    pub fn new() -> Self {
        HttpFetcher::with(Limits::default())
    }

    /// A fetcher with other limits.
    #[must_use]
    pub fn with(limits: Limits) -> Self {
        HttpFetcher { agent: agent(limits).build().new_agent(), limits }
    }
}

fn agent(limits: Limits) -> ConfigBuilder<AgentScope> {
    ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .timeout_connect(Some(limits.connect))
        .timeout_recv_response(Some(limits.silence))
        .timeout_per_read(Some(limits.silence))
        .timeout_global(Some(limits.whole))
        .user_agent(concat!("coastal/", env!("CARGO_PKG_VERSION")))
}

impl Default for HttpFetcher {
    fn default() -> Self {
        HttpFetcher::new()
    }
}

#[async_trait]
impl Fetcher for HttpFetcher {
    async fn fetch(&self, url: &str, to: &Path, cancel: &CancellationToken) -> Result<(), Failure> {
        if cancel.is_cancelled() {
            return Err(Failure::interrupted());
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Failure::new(
                Kind::Config,
                format!("`{}` cannot be downloaded: not http or https", shown(url)),
            )
            .next("give an https URL or the path of a local file in lab.toml"));
        }
        let (part, file) = create_part(to)?;
        // Cancelled when this future ends or is dropped, so that the thread does not go on for nobody.
        let stop = cancel.child_token();
        let _stop_at_the_end = stop.clone().drop_guard();
        // A thread of our own, not the runtime's: the runtime would wait at exit for one that hangs in a system call.
        let (done, result) = oneshot::channel();
        let (agent, address) = (self.agent.clone(), url.to_owned());
        std::thread::Builder::new()
            .name("download".into())
            .spawn(move || {
                // Nobody listens any more when it was cancelled.
                let _ = done.send(download(&agent, &address, file, &stop));
            })
            .map_err(|error| Failure::unexpected(format!("could not start a thread for a download: {error}")))?;
        let downloaded = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::interrupted()),
            result = result => result,
        };
        match downloaded {
            Ok(Ok(())) => part.persist(to).map_err(|error| io_failure("write", to, &error.error)),
            Ok(Err(Trouble::Remote(error))) => Err(remote_failure(url, &error, self.limits)),
            Ok(Err(Trouble::Local(error))) => Err(io_failure("write", &part, &error)),
            Err(_) => Err(Failure::unexpected(format!("the download of {} ended without a result", shown(url)))),
        }
    }
}

/// What went wrong, and on which side.
enum Trouble {
    Remote(ureq::Error),
    Local(io::Error),
}

/// The file beside `to` that is written first. Its name is fixed, so that one which a killed run left behind is
/// written over; it is removed when dropped.
fn create_part(to: &Path) -> Result<(TempPath, File), Failure> {
    if let Some(directory) = to.parent() {
        std::fs::create_dir_all(directory).map_err(|error| io_failure("make the directory", directory, &error))?;
    }
    let mut name: OsString = to.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let file = File::create(&part).map_err(|error| io_failure("write", &part, &error))?;
    let path = TempPath::try_from_path(&part).map_err(|error| io_failure("write", &part, &error))?;
    Ok((path, file))
}

fn download(agent: &ureq::Agent, url: &str, mut file: File, stop: &CancellationToken) -> Result<(), Trouble> {
    let response = agent.get(url).call().map_err(Trouble::Remote)?;
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; 64 << 10];
    while !stop.is_cancelled() {
        let n = body.read(&mut buffer).map_err(|error| Trouble::Remote(error.into()))?;
        if n == 0 {
            return file.sync_all().map_err(Trouble::Local);
        }
        file.write_all(&buffer[..n]).map_err(Trouble::Local)?;
    }
    Err(Trouble::Local(io::ErrorKind::Interrupted.into()))
}

fn remote_failure(url: &str, error: &ureq::Error, limits: Limits) -> Failure {
    let (kind, why) = match error {
        ureq::Error::StatusCode(code) => {
            let words = http::StatusCode::from_u16(*code).ok().and_then(|code| code.canonical_reason()).unwrap_or("");
            let kind = if *code < 500 { Kind::Prerequisite } else { Kind::Tool };
            (kind, format!("the server answers {code} {words}").trim_end().to_owned())
        }
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            (Kind::Timeout, format!("no connection within {} s", limits.connect.as_secs()))
        }
        ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::PerCall | ureq::Timeout::RecvBody) => {
            (Kind::Timeout, format!("not complete within {} s", limits.whole.as_secs()))
        }
        ureq::Error::Timeout(_) => (Kind::Timeout, format!("the server was silent for {} s", limits.silence.as_secs())),
        ureq::Error::HostNotFound => (Kind::Prerequisite, "its host name does not resolve".into()),
        ureq::Error::ConnectionFailed => (Kind::Prerequisite, "nobody answers at that address".into()),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            (Kind::Prerequisite, "nobody answers at that address (connection refused)".into())
        }
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            (Kind::Tool, "the connection broke before the end".into())
        }
        other => (Kind::Tool, other.to_string()),
    };
    let failure = Failure::new(kind, format!("could not download {}: {why}", shown(url)));
    match error {
        ureq::Error::StatusCode(401 | 403) => failure.next(
            "see whether a login or a proxy is needed; a file that was downloaded by hand can be named in lab.toml",
        ),
        ureq::Error::StatusCode(400..=499) => failure.next("correct the URL in lab.toml, or name a local file there"),
        _ => failure
            .next(format!("see what the network says: `curl -fsSLI '{}'`", shown(url)))
            .next("with no network: download it elsewhere, and name the file in lab.toml"),
    }
}

/// The URL without a password.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((login, _)) => format!("{scheme}://…{}", &rest[login.len()..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};

    /// A server that gives each connection to `answer` once the request's headers are read. Ends with the test.
    fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = BufReader::new(stream.try_clone().unwrap());
                for line in request.lines() {
                    if line.unwrap().is_empty() {
                        break;
                    }
                }
                answer(stream);
            }
        });
        url
    }

    /// A server that always says the same and closes.
    fn say(text: &'static str) -> String {
        serve(move |mut stream| stream.write_all(text.as_bytes()).unwrap())
    }

    /// The real fetcher, but deaf to the proxy variables of whoever runs the tests.
    fn fetcher(limits: Limits) -> HttpFetcher {
        HttpFetcher { agent: agent(limits).proxy(None).build().new_agent(), limits }
    }

    async fn fetch(url: &str, to: &Path) -> Result<(), Failure> {
        fetcher(Limits::default()).fetch(url, to, &CancellationToken::new()).await
    }

    fn names_in(directory: &Path) -> Vec<String> {
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_comes_whole_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("new/chart.tgz");
        let url = say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: application/gzip\r\n\r\nhello");
        fetch(&url, &to).await.unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"hello");
        assert_eq!(names_in(to.parent().unwrap()), ["chart.tgz"]);
    }

    #[tokio::test]
    async fn what_a_killed_run_left_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("m.yaml");
        std::fs::write(directory.path().join("m.yaml.part"), "a half that is longer than the whole").unwrap();
        fetch(&say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole"), &to).await.unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"whole");
        assert_eq!(names_in(directory.path()), ["m.yaml"]);
    }

    #[tokio::test]
    async fn failures_say_why_and_leave_nothing() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (url, kind, why) in [
            (
                say("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
                Kind::Prerequisite,
                "the server answers 404 Not Found",
            ),
            (
                say("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
                Kind::Tool,
                "the server answers 503 Service Unavailable",
            ),
            (
                say("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf"),
                Kind::Tool,
                "the connection broke before the end",
            ),
            (
                format!("http://{closed}/file"),
                Kind::Prerequisite,
                "nobody answers at that address (connection refused)",
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let to = directory.path().join("m.yaml");
            std::fs::write(&to, "what was there before").unwrap();
            let failure = fetch(&url, &to).await.unwrap_err();
            assert_eq!((failure.kind, failure.message), (kind, format!("could not download {url}: {why}")));
            assert!(!failure.next.is_empty());
            assert_eq!(std::fs::read(&to).unwrap(), b"what was there before");
            assert_eq!(names_in(directory.path()), ["m.yaml"]);
        }
    }

    #[tokio::test]
    async fn nonsense_is_not_tried() {
        for url in ["", "file:///etc/passwd", "ftp://host/file", "cert-manager.yaml"] {
            let failure = fetch(url, Path::new("/no/such/place")).await.unwrap_err();
            assert_eq!(failure.kind, Kind::Config, "{url}");
        }
        let to = tempfile::tempdir().unwrap();
        assert!(fetch("http://", &to.path().join("x")).await.is_err());
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let to = file.path().join("below-a-file");
        let failure = fetch("http://127.0.0.1:1/", &to).await.unwrap_err();
        assert!(failure.message.contains(&file.path().display().to_string()), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let url = serve(std::mem::forget);
        let limits = Limits { silence: Duration::from_millis(20), ..Limits::default() };
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("x");
        let failure = fetcher(limits).fetch(&url, &to, &CancellationToken::new()).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Timeout, "{}", failure.message);
        assert!(names_in(directory.path()).is_empty());
    }

    #[tokio::test]
    async fn cancelling_ends_it_at_once() {
        // Cancelled by the server when it has the request, and never answered.
        let cancel = CancellationToken::new();
        let by_the_server = cancel.clone();
        let url = serve(move |stream| {
            std::mem::forget(stream);
            by_the_server.cancel();
        });
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("x");
        let failure = fetcher(Limits::default()).fetch(&url, &to, &cancel).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Interrupted);
        assert!(names_in(directory.path()).is_empty());
        assert_eq!(fetcher(Limits::default()).fetch(&url, &to, &cancel).await.unwrap_err().kind, Kind::Interrupted);
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        for (url, expected) in [
            ("https://host/a@b", "https://host/a@b"),
            ("https://me:secret@host/a", "https://…@host/a"),
            ("https://me:p@ss@host", "https://…@host"),
            ("no url", "no url"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
