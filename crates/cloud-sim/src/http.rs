//! Serves an axum router on a listener, with bounds, until it is shut down.
//!
//! Not `axum::serve`, because that spawns connections which outlive it when a client does not end
//! its request.

use std::time::Duration;

use axum::{Extension, Router};
use cloud_net::{LogThrottle, warn_throttled};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::local_peer::LocalPeer;

/// Connections at once to one of the two APIs.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Serves until `shutdown`; connections still open then are dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT);
    let server = server.http1_only();
    let mut tasks = JoinSet::new();
    let accept_log = LogThrottle::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept(), if tasks.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, client)) => {
                    let _ = stream.set_nodelay(true);
                    let peer = stream.local_addr().ok().map(|server| LocalPeer { client, server });
                    let service = TowerToHyperService::new(router.clone().layer(Extension(peer)));
                    let server = server.clone();
                    tasks.spawn(async move {
                        let served = server.serve_connection(TokioIo::new(stream), service).await;
                        if let Err(error) = served {
                            tracing::debug!(%error, "HTTP connection broke");
                        }
                    });
                }
                Err(error) => {
                    warn_throttled!(accept_log, %error, "cannot accept HTTP connections; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    tasks.shutdown().await;
}
