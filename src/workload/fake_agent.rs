//! For tests: SPIRE authorities that issue SVIDs, and an agent that serves them on a Unix socket.
//!
//! The agent speaks gRPC by hand on hyper's HTTP/2 server, so that it can also misbehave: drop connections, vanish
//! and come back on the same path, deny, send rubbish.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use time::OffsetDateTime;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::spire::hex;

/// An authority, as a SPIRE server has one. Its key id is one byte, repeated.
pub(crate) struct Authority {
    /// Its certificate.
    pub(crate) der: Vec<u8>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    number: u8,
    /// The certificates between it and the root, itself first; empty for a root.
    above: Vec<Vec<u8>>,
}

/// An X509-SVID.
pub(crate) struct Identity {
    /// Its SPIFFE id.
    pub(crate) id: String,
    /// Leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

fn seconds(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("a date")
}

fn authority_params(number: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "coastal-containers.example");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![number; 20]);
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    /// A root.
    pub(crate) fn new(number: u8) -> Self {
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(authority_params(number), key).expect("a certificate");
        Authority { der: issuer.der().to_vec(), issuer, number, above: Vec::new() }
    }

    /// An authority below this one.
    pub(crate) fn subordinate(&self, number: u8) -> Self {
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::signed_by(authority_params(number), key, &self.issuer).expect("a certificate");
        let der = issuer.der().to_vec();
        let above = std::iter::once(der.clone()).chain(self.above.iter().cloned()).collect();
        Authority { der, issuer, number, above }
    }

    /// Its id, in SPIRE's spelling.
    pub(crate) fn key_id(&self) -> String {
        hex(&[self.number; 20])
    }

    /// Issues an SVID, valid from 2023-10-23T19:20:33Z for a century.
    pub(crate) fn issue(&self, id: &str, serial: u64) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = seconds(1_698_088_833);
        params.not_after = seconds(4_853_863_243);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let chain = std::iter::once(leaf.der().to_vec()).chain(self.above.iter().cloned()).collect();
        Identity { id: id.to_owned(), chain, key: key.serialize_der() }
    }
}

/// `X509SVIDResponse` of the Workload API.
#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
}

/// `X509SVID` of the Workload API, `x509_svid` and `x509_svid_key` under shorter names.
#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// What the agent does with callers.
#[derive(Clone)]
pub(crate) enum Mood {
    /// Sends this, now and to every open stream.
    Serve(Bytes),
    /// Refuses, as an agent that has no entry for the caller.
    NoIdentity,
    /// Ends open streams as a stopping agent does, and refuses new ones as unavailable.
    Stopping,
}

impl Mood {
    /// Serves these SVIDs with this bundle.
    pub(crate) fn serving(svids: &[&Identity], bundle: &[&Authority]) -> Self {
        let bundle: Vec<u8> = bundle.iter().flat_map(|authority| authority.der.clone()).collect();
        let svid = |svid: &&Identity| X509Svid {
            spiffe_id: svid.id.clone(),
            chain: svid.chain.concat(),
            key: svid.key.clone(),
            bundle: bundle.clone(),
            hint: String::new(),
        };
        Mood::Serve(X509SvidResponse { svids: svids.iter().map(svid).collect() }.encode_to_vec().into())
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// An agent that serves the Workload API.
pub(crate) struct FakeAgent {
    socket: PathBuf,
    mood: watch::Sender<Mood>,
    calls: Arc<AtomicUsize>,
    // Aborts the accepting task, and with it every connection, when dropped.
    _tasks: JoinSet<()>,
}

impl FakeAgent {
    /// Starts one on a path that must be free.
    pub(crate) fn start(socket: &Path, mood: Mood) -> Self {
        let listener = UnixListener::bind(socket).expect("a free path");
        let (mood, watched) = watch::channel(mood);
        let calls = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counter = calls.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (watched, counter) = (watched.clone(), counter.clone());
                let service = hyper::service::service_fn(move |request| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(&request, watched.clone());
                    async move { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // A client that goes away is no concern of the agent's.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        FakeAgent { socket: socket.to_owned(), mood, calls, _tasks: tasks }
    }

    /// Changes what it does, for open streams too.
    pub(crate) fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How often it was asked for SVIDs.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn answer(request: &Request<Incoming>, mood: watch::Receiver<Mood>) -> Response<Body> {
    if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
        return reply(stream::iter([status(12, "unknown method")]).boxed());
    }
    // SPIRE: `security header missing from request`, InvalidArgument.
    if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return reply(stream::iter([status(3, "security header missing from request")]).boxed());
    }
    let messages = stream::unfold((mood, true, false), |(mut mood, first, over)| async move {
        if over || (!first && mood.changed().await.is_err()) {
            return None;
        }
        let now = mood.borrow_and_update().clone();
        let (frame, over) = match now {
            Mood::Serve(message) => (Frame::data(framed(&message)), false),
            Mood::NoIdentity => (status(7, "no identity issued"), true),
            Mood::Stopping => (status(14, "transport is closing"), true),
        };
        Some((frame, (mood, false, over)))
    });
    reply(messages.boxed())
}

fn reply(frames: BoxStream<'static, Frame<Bytes>>) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames.map(Ok).boxed()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// gRPC's length-prefixed message, uncompressed.
fn framed(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).expect("a small message");
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

fn status(code: u8, message: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    Frame::trailers(trailers)
}
