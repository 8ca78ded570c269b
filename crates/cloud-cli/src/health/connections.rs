//! The connections of the health server: a bounded number, of which the oldest that has sent no request makes room for a new
//! one.
//!
//! All callers are on this machine, so no share by address would separate those that hang from those that ask. But one that
//! asks does so at once, and each connection is for one request: the one that has waited longest for a request is not about
//! to send it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

/// After an error that says that there are no file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Of a request's head; hyper takes no less. Nothing asked here needs more.
const HEAD_SIZE: usize = 8 * 1024;

/// What callers may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Open connections. A scraper, a supervisor and a person make three. The rest is room for a burst: the runtime looks for
    /// what has arrived after some sixty steps of its tasks, and until then none of the new connections is read.
    pub(super) connections: usize,
    /// For a request's head. Callers are on this machine and send it at once.
    pub(super) head: Duration,
    /// For a request, its answer and the end of the connection. Nothing here waits for a peer.
    pub(super) connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(2),
            connection: Duration::from_secs(5),
        }
    }
}

/// Answers until it is dropped, and its connections with it.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits) {
    let mut open = Connections::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        open.make_room(limits.connections);
        open.add(stream, router.clone(), limits);
        // In a burst, each connection is read once before the next ones push it out.
        yield_now().await;
    }
}

#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    has_request: Arc<AtomicBool>,
}

impl Connections {
    /// Closes connections until there are fewer than `limit`.
    fn make_room(&mut self, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first
            .retain(|connection| !connection.task.is_finished());
        while self.oldest_first.len() >= limit {
            let silent = self
                .oldest_first
                .iter()
                .position(|connection| !connection.has_request.load(Ordering::Relaxed));
            match self.oldest_first.remove(silent.unwrap_or(0)) {
                Some(connection) => connection.task.abort(),
                None => return,
            }
        }
    }

    fn add(&mut self, stream: TcpStream, router: Router, limits: Limits) {
        let has_request = Arc::<AtomicBool>::default();
        let seen = Arc::clone(&has_request);
        let task = self.tasks.spawn(async move {
            // A connection that fails concerns its caller alone.
            let _ = timeout(
                limits.connection,
                answer(stream, router, limits.head, &seen),
            )
            .await;
        });
        self.oldest_first
            .push_back(Connection { task, has_request });
    }
}

async fn answer(
    stream: TcpStream,
    router: Router,
    head: Duration,
    has_request: &AtomicBool,
) -> Result<(), hyper::Error> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        has_request.store(true, Ordering::Relaxed);
        router.call(request)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// So long that nothing in a test ends by it.
    const NEVER: Duration = Duration::from_secs(3_600);
    const LIMIT: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    async fn start(limits: Limits) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(async || "alive"));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, router, limits));
        (address, server)
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut seen = String::new();
        let answer = timeout(LIMIT, stream.read_to_string(&mut seen)).await;
        answer.expect("no answer").unwrap();
        seen
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let closed = timeout(LIMIT, stream.read(&mut [0; 16])).await;
        matches!(closed, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn caller_is_answered_beside_hundreds_that_hang() {
        let limits = Limits {
            head: NEVER,
            connection: NEVER,
            ..Limits::default()
        };
        let (address, _server) = start(limits).await;
        let mut hanging = Vec::new();
        for round in 0..300 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if round % 2 == 1 {
                stream
                    .write_all(b"GET /healthz HTTP/1.1\r\nX: ")
                    .await
                    .unwrap();
            }
            hanging.push(stream);
            if round % 50 == 49 {
                assert!(ask(address).await.ends_with("alive"));
            }
        }
        // No time limit has done this, but that the oldest were closed, and they alone.
        let newest = hanging.split_off(300 - limits.connections / 2);
        for stream in &mut hanging[..200] {
            assert!(is_closed(stream).await);
        }
        for stream in newest {
            let error = stream.try_read(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }

    /// All of them have asked before the server looks at the first.
    #[tokio::test]
    async fn callers_of_one_burst_are_all_answered() {
        let limits = Limits::default();
        let (address, _server) = start(limits).await;
        let mut callers = Vec::new();
        // No more than any system queues for a listener.
        for _ in 0..120 {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            std::io::Write::write_all(&mut stream, REQUEST).unwrap();
            callers.push(stream);
        }
        for mut stream in callers {
            let read = tokio::task::spawn_blocking(move || {
                let mut seen = String::new();
                std::io::Read::read_to_string(&mut stream, &mut seen).map(|_| seen)
            });
            assert!(read.await.unwrap().unwrap().ends_with("alive"));
        }
    }

    #[tokio::test]
    async fn slow_head_is_closed_at_its_limit() {
        let limits = Limits {
            head: Duration::from_millis(50),
            connection: NEVER,
            ..Limits::default()
        };
        let (address, _server) = start(limits).await;
        for begun in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: local"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun).await.unwrap();
            assert!(is_closed(&mut stream).await, "{begun:?}");
        }
        assert!(ask(address).await.ends_with("alive"));
    }

    #[tokio::test]
    async fn connections_end_with_the_server() {
        let limits = Limits {
            head: NEVER,
            connection: NEVER,
            ..Limits::default()
        };
        let (address, server) = start(limits).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(address).await.ends_with("alive"));
        drop(server);
        assert!(is_closed(&mut stream).await);
    }
}
