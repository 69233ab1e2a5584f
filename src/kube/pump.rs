//! The bytes of one forwarded connection, both ways.
//!
//! A stream through the API server opens before the port inside the pod does, and says later that the port could not
//! be opened. Until something has come back, what the client sent is therefore kept, and sent again to the next pod.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// How long an answer may still come after the client has said that it sends no more: streams through the API server
/// cannot be closed in one direction, and a client that has gone altogether looks the same.
const LINGER: Duration = Duration::from_secs(5);
/// How much of what a client sends before anything comes back is kept.
const KEPT: usize = 256 * 1024;
const PIECE: usize = 16 * 1024;

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// Either end has closed, after whatever was said.
    Done,
    /// The pod did not take the connection; everything that the client sent is still there for another.
    Refused,
}

type Refusal = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// One stream to a port of a pod.
pub(super) struct Stream {
    io: Option<DuplexStream>,
    refusal: Option<Refusal>,
}

impl Stream {
    /// Takes the only port of `forwarder`.
    pub(super) fn new(mut forwarder: Portforwarder, port: u16) -> Self {
        let refusal = forwarder.take_error(port).map(|refusal| Box::pin(refusal) as Refusal);
        Stream { io: forwarder.take_stream(port), refusal }
    }

    /// Its bytes alone.
    pub(super) fn into_io(self) -> Option<DuplexStream> {
        self.io
    }
}

/// The end of a connection that somebody made to us.
pub(super) struct Client<S> {
    from: ReadHalf<S>,
    to: WriteHalf<S>,
    kept: Vec<u8>,
    /// The client has said that it sends no more.
    finished: bool,
}

impl<S: AsyncRead + AsyncWrite + Send> Client<S> {
    pub(super) fn new(io: S) -> Self {
        let (from, to) = tokio::io::split(io);
        Client { from, to, kept: Vec::new(), finished: false }
    }

    /// Carries bytes both ways until either end closes.
    pub(super) async fn pump(&mut self, stream: Stream) -> Carried {
        let (Some(io), Some(refusal)) = (stream.io, stream.refusal) else { return Carried::Refused };
        let (mut pod_from, mut pod_to) = tokio::io::split(io);
        let answered = AtomicBool::new(false);
        let was_refused = self.both_ways(&mut pod_from, &mut pod_to, refusal, &answered).await;
        if was_refused && !answered.load(Ordering::Relaxed) && self.kept.len() <= KEPT {
            return Carried::Refused;
        }
        // The client may have gone already.
        let _ = self.to.shutdown().await;
        Carried::Done
    }

    /// Whether it ended because the pod refused.
    async fn both_ways(
        &mut self,
        pod_from: &mut ReadHalf<DuplexStream>,
        pod_to: &mut WriteHalf<DuplexStream>,
        refusal: Refusal,
        answered: &AtomicBool,
    ) -> bool {
        let Client { from, to, kept, finished } = self;
        let up = async {
            if pod_to.write_all(kept).await.is_err() {
                return std::future::pending().await;
            }
            let mut piece = vec![0; PIECE];
            while !*finished {
                let Ok(length) = from.read(&mut piece).await else { return };
                *finished = length == 0;
                // Nothing is sent again once an answer has begun, or once there is too much of it.
                if !answered.load(Ordering::Relaxed) && kept.len() <= KEPT {
                    kept.extend_from_slice(&piece[..length]);
                }
                if pod_to.write_all(&piece[..length]).await.is_err() {
                    // Why, the other direction is told.
                    return std::future::pending().await;
                }
            }
        };
        let down = async {
            let mut piece = vec![0; PIECE];
            loop {
                match pod_from.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => {
                        answered.store(true, Ordering::Relaxed);
                        if to.write_all(&piece[..length]).await.is_err() {
                            break;
                        }
                    }
                }
            }
        };
        let refused = async {
            if refusal.await.is_none() {
                // The stream ended without a word; `down` sees that.
                std::future::pending::<()>().await;
            }
        };
        let (mut down, mut refused) = (std::pin::pin!(down), std::pin::pin!(refused));
        tokio::select! {
            () = &mut refused => true,
            () = &mut down => false,
            () = up => tokio::select! {
                () = &mut refused => true,
                _ = timeout(LINGER, &mut down) => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod that takes the connection: what is sent to the first half comes out of the second.
    fn stream(refusal: Option<&str>) -> (Stream, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        let refusal = refusal.map(str::to_owned);
        let refusal: Refusal = match refusal {
            Some(words) => Box::pin(async move { Some(words) }),
            None => Box::pin(std::future::pending()),
        };
        (Stream { io: Some(ours), refusal: Some(refusal) }, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_to_a_pod_that_refused_is_sent_to_the_next() {
        let (mut browser, ours) = tokio::io::duplex(64);
        let mut client = Client::new(ours);
        browser.write_all(b"GET / ").await.unwrap();
        let (first, mut gone) = stream(Some("connection refused"));
        // The refusal is there from the start; whether a byte got through before it, is chance.
        assert_eq!(client.pump(first).await, Carried::Refused);
        let mut seen = Vec::new();
        gone.read_to_end(&mut seen).await.unwrap();
        let (second, mut pod) = stream(None);
        let whole = async {
            browser.write_all(b"HTTP/1.1").await.unwrap();
            let mut request = vec![0; 14];
            pod.read_exact(&mut request).await.unwrap();
            assert_eq!(request, b"GET / HTTP/1.1");
            pod.write_all(b"200").await.unwrap();
            drop(pod);
            let mut answer = String::new();
            browser.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (carried, answer) = tokio::join!(client.pump(second), whole);
        assert_eq!((carried, answer.as_str()), (Carried::Done, "200"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_still_comes_after_the_client_has_sent_everything() {
        let (mut browser, ours) = tokio::io::duplex(1024);
        let (through, mut pod) = stream(None);
        browser.write_all(b"ping").await.unwrap();
        browser.shutdown().await.unwrap();
        let answering = async {
            let mut request = vec![0; 4];
            pod.read_exact(&mut request).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            pod.write_all(b"pong").await.unwrap();
            let mut answer = vec![0; 4];
            browser.read_exact(&mut answer).await.unwrap();
            answer
        };
        let mut client = Client::new(ours);
        let (carried, answer) = tokio::join!(client.pump(through), answering);
        assert_eq!((carried, answer.as_slice()), (Carried::Done, b"pong".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn much_goes_both_ways_at_once_through_narrow_pipes() {
        const MUCH: usize = 1 << 20;
        let (browser, ours) = tokio::io::duplex(64);
        let (through, pod) = stream(None);
        let shuttle = |end: DuplexStream| async move {
            let (mut from, mut to) = tokio::io::split(end);
            let send = async {
                to.write_all(&vec![7; MUCH]).await.unwrap();
                to.flush().await.unwrap();
            };
            let receive = async {
                let mut all = vec![0; MUCH];
                from.read_exact(&mut all).await.unwrap();
                all.iter().all(|byte| *byte == 7)
            };
            tokio::join!(send, receive).1
        };
        let mut client = Client::new(ours);
        let (_, one, other) = tokio::join!(client.pump(through), shuttle(browser), shuttle(pod));
        assert!(one && other);
    }
}
