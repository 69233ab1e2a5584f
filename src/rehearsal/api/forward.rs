//! `…/pods/NAME/portforward`: a WebSocket to a port of a pod, as API servers open it to `kubectl port-forward`
//! (subprotocol `v4.channel.k8s.io`: channel 0 carries the bytes, channel 1 the one error; each begins with the port's
//! number). What answers inside the pod is [`crate::rehearsal::pages`], spoken to in real HTTP.

use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::core::Status;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::kinds::{self, Served};
use super::serve::{Body, whole};
use super::status;
use crate::rehearsal::object::{condition, items, number, text};
use crate::rehearsal::pages;
use crate::rehearsal::store::{Key, Store};

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;
const PIECE: usize = 16 * 1024;

/// The pod and the port that a request wants a stream to, if it is such a request.
pub(super) fn wanted(request: &Request<Incoming>) -> Option<(Key, String)> {
    let steps: Vec<&str> = request.uri().path().split('/').filter(|step| !step.is_empty()).collect();
    let ["api", "v1", "namespaces", namespace, "pods", pod, "portforward"] = steps.as_slice() else { return None };
    let query = request.uri().query().unwrap_or_default();
    let ports = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "ports")?.1.into_owned();
    Some((Key::pod(namespace, pod), ports))
}

/// Switches protocols, if there is such a pod.
pub(super) fn answer(
    store: &Store,
    key: &Key,
    ports: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<Status>> {
    let served = kinds::BUILT_IN.iter().find(|kind| kind.1 == "Pod").map(Served::from);
    let served = served.ok_or_else(|| status::unknown("pods"))?;
    let pod = store.get(key).ok_or_else(|| status::not_found(&served, &key.name))?;
    let port: u16 = ports.parse().map_err(|_| status::unknown(&format!("a forward of the ports {ports}")))?;
    if text(&pod, "/status/phase") != "Running" {
        let phase = text(&pod, "/status/phase");
        return Err(status::bad_request(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let bytes = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let protocols = bytes(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let offered = String::from_utf8_lossy(protocols).split(',').any(|protocol| protocol.trim() == PROTOCOL);
    let (Some(key_of), true) = (bytes(header::SEC_WEBSOCKET_KEY), offered) else {
        return Err(status::bad_request("Upgrade request required"));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key_of)).map_err(|_| status::bad_request("bad key"))?;
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL)),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ] {
        response.headers_mut().insert(name, value);
    }
    let (store, key) = (store.clone(), key.clone());
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            // A client that has gone is no trouble.
            let _ = serve(socket, &store, &key, port).await;
        }
    });
    Ok(response)
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Broken = tokio_tungstenite::tungstenite::Error;

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

async fn serve(mut socket: Socket, store: &Store, key: &Key, port: u16) -> Result<(), Broken> {
    socket.send(frame(DATA, &port.to_le_bytes())).await?;
    socket.send(frame(ERROR, &port.to_le_bytes())).await?;
    let Some(inside) = store.get(key).and_then(|pod| connect(store, pod, port)) else {
        let why = format!(
            "an error occurred forwarding {port} -> {port}: failed to connect to localhost:{port} inside the pod: connection refused"
        );
        socket.send(frame(ERROR, why.as_bytes())).await?;
        return socket.close(None).await;
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(inside);
    let mut ticks = store.ticks();
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some((&DATA, bytes)) = bytes.split_first()
                        && to_pod.write_all(bytes).await.is_err()
                    {
                        break;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            read = from_pod.read(&mut piece) => match read {
                Ok(0) | Err(_) => break,
                Ok(length) => socket.send(frame(DATA, &piece[..length])).await?,
            },
            // The stream ends with the pod, in the middle of whatever it carries.
            _ = ticks.changed() => {
                if store.is_shut() || store.get(key).is_none_or(|pod| text(&pod, "/status/phase") != "Running") {
                    return Ok(());
                }
            }
        }
    }
    socket.close(None).await
}

/// A connection to the program that listens on `port` in the pod, if one does.
fn connect(store: &Store, pod: Value, port: u16) -> Option<DuplexStream> {
    let listens =
        |container: &Value| items(container, "/ports").any(|p| number(p, "/containerPort", 0) == i64::from(port));
    if !items(&pod, "/spec/containers").any(listens) || !condition(&pod, "ContainersReady") {
        return None;
    }
    let (ours, theirs) = tokio::io::duplex(super::PIPE);
    let store = store.clone();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let page = pages::answer(&store, &pod, port, request.uri());
            async move { Ok::<_, std::convert::Infallible>(page) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        let _ = connection.await;
    });
    Some(ours)
}
