//! The connections of the health server: a bounded number; at the limit, the oldest connection
//! without a request is closed for a new one.
//!
//! All callers are on this machine, so a limit per address would not separate idle callers from
//! active ones. But an active caller sends its request at once, and each connection serves one
//! request: the connection that has waited longest is unlikely to send one.

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
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::sleep;

/// Delay after an accept error, such as no free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Maximum size of a request's head: hyper's minimum, and enough for these requests.
const MAX_HEAD_SIZE: usize = 8 * 1024;

/// The stream that keeps an open status page up to date.
const EVENTS: &str = "/status/events";

/// The limits of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum open connections. A scraper, a supervisor and a person need three. The rest is for a
    /// burst: the runtime polls the sockets only after about sixty task steps, and reads no new
    /// connection before.
    pub(super) connections: usize,
    /// Time limit for a request's head. Callers are on this machine and send it at once.
    pub(super) head: Duration,
    /// Time limit for a connection: request, response and close. No handler waits for a peer. An
    /// open status page has none: it is closed when all places are taken.
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

/// Serves callers in these ranges, or all if there are none, until the future is dropped, which
/// closes the connections.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    allowed: Vec<IpNet>,
) {
    let mut open = Connections::default();
    loop {
        let Ok((stream, caller)) = listener.accept().await else {
            sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        let caller = caller.ip().to_canonical();
        if !allowed.is_empty() && !allowed.iter().any(|range| range.contains(&caller)) {
            continue;
        }
        open.make_room(limits.connections);
        open.add(stream, router.clone(), limits);
        // In a burst, lets each connection be read once before the next ones replace it.
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
            let idle = self
                .oldest_first
                .iter()
                .position(|connection| !connection.has_request.load(Ordering::Relaxed));
            match self.oldest_first.remove(idle.unwrap_or(0)) {
                Some(connection) => connection.task.abort(),
                None => return,
            }
        }
    }

    fn add(&mut self, stream: TcpStream, router: Router, limits: Limits) {
        let has_request = Arc::<AtomicBool>::default();
        let received = Arc::clone(&has_request);
        let task = self.tasks.spawn(async move {
            let is_stream = AtomicBool::new(false);
            let expired = async {
                sleep(limits.connection).await;
                if is_stream.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // An error affects only its own caller.
                _ = serve_connection(stream, router, limits.head, &received, &is_stream) => {}
                () = expired => {}
            }
        });
        self.oldest_first
            .push_back(Connection { task, has_request });
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    head: Duration,
    has_request: &AtomicBool,
    is_stream: &AtomicBool,
) -> Result<(), hyper::Error> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        has_request.store(true, Ordering::Relaxed);
        is_stream.store(request.uri().path() == EVENTS, Ordering::Relaxed);
        router.call(request)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    /// A time limit that no test reaches.
    const NEVER: Duration = Duration::from_secs(3_600);
    const LIMIT: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    async fn start(limits: Limits) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(async || "alive"));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, router, limits, Vec::new()));
        (address, server)
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut received = String::new();
        let answer = timeout(LIMIT, stream.read_to_string(&mut received)).await;
        answer.expect("no answer").unwrap();
        received
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let closed = timeout(LIMIT, stream.read(&mut [0; 16])).await;
        matches!(closed, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn request_is_served_despite_hundreds_of_idle_connections() {
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
        // No time limit applies: only the oldest connections were closed.
        let newest = hanging.split_off(300 - limits.connections / 2);
        for stream in &mut hanging[..200] {
            assert!(is_closed(stream).await);
        }
        for stream in newest {
            let error = stream.try_read(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }

    /// All requests are sent before the server accepts the first.
    #[tokio::test]
    async fn burst_of_requests_is_served_completely() {
        let limits = Limits::default();
        let (address, _server) = start(limits).await;
        let mut callers = Vec::new();
        // Within the listen backlog of any system.
        for _ in 0..120 {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            std::io::Write::write_all(&mut stream, REQUEST).unwrap();
            callers.push(stream);
        }
        for mut stream in callers {
            let read = tokio::task::spawn_blocking(move || {
                let mut received = String::new();
                std::io::Read::read_to_string(&mut stream, &mut received).map(|_| received)
            });
            assert!(read.await.unwrap().unwrap().ends_with("alive"));
        }
    }

    #[tokio::test]
    async fn slow_head_is_closed_at_time_limit() {
        let limits = Limits {
            head: Duration::from_millis(50),
            connection: NEVER,
            ..Limits::default()
        };
        let (address, _server) = start(limits).await;
        for partial in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: local"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(partial).await.unwrap();
            assert!(is_closed(&mut stream).await, "{partial:?}");
        }
        assert!(ask(address).await.ends_with("alive"));
    }

    #[tokio::test]
    async fn dropping_server_closes_connections() {
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
