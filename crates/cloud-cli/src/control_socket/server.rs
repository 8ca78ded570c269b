//! The server on the socket: who is served, and how many at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::api_error::ApiError;
use super::path::{self, SocketFiles};

/// Delay after an accept error, such as no free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Maximum open connections: all streams, and as many requests that wait for a response.
const MAX_CONNECTIONS: usize = 64;

/// Maximum connections that receive an error because all places are taken, or because of their
/// user.
const MAX_REFUSED: usize = 8;

/// Time limit for a request's head. Clients are on this machine and send it at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a request's head: a topic filter and a URL's escapes of it fit.
const MAX_HEAD_SIZE: usize = 16 * 1024;

/// The control socket of this instance; removed when dropped, which ends its connections.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    task: JoinHandle<()>,
    _files: SocketFiles,
}

impl ControlSocket {
    /// Serves `router`. Call it while the directory is locked. Without a socket the device runs
    /// all the same.
    pub(crate) fn serve(base_path: &Path, router: Router) -> Option<Self> {
        let bound = path::bind(base_path)
            .and_then(|(listener, files)| Ok((UnixListener::from_std(listener)?, files)));
        match bound {
            Ok((listener, files)) => Some(Self {
                task: tokio::spawn(serve(listener, router)),
                _files: files,
            }),
            Err(error) => {
                tracing::warn!(?base_path, %error, "could not create the control socket; commands and other programs cannot use this instance");
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let refused_places = Arc::new(Semaphore::new(MAX_REFUSED));
    let refusals = [true, false]
        .map(|is_permitted| Router::new().fallback(async move || refusal(is_permitted)));
    let [full, forbidden] = refusals;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        let place = is_permitted(&stream).then(|| Arc::clone(&places).try_acquire_owned());
        let (router, place) = match place {
            Some(Ok(place)) => (&router, place),
            refused => {
                let router = if refused.is_some() { &full } else { &forbidden };
                match Arc::clone(&refused_places).try_acquire_owned() {
                    Ok(place) => (router, place),
                    // Closes the connection without a response.
                    Err(_) => continue,
                }
            }
        };
        connections.spawn(serve_connection(stream, router.clone(), place));
    }
}

/// The response to a connection that is not served.
fn refusal(is_permitted: bool) -> ApiError {
    if is_permitted {
        return ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many",
            format!("{MAX_CONNECTIONS} connections are open already; close one first"),
        );
    }
    ApiError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "only the user of the instance and root may use its control socket",
    )
}

/// Whether the peer is of the same user, or root. The mode of the socket says the same, but a
/// descriptor or a directory can be passed on.
fn is_permitted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Serves one request per connection, so that no idle connection takes a place.
async fn serve_connection(stream: UnixStream, router: Router, _place: OwnedSemaphorePermit) {
    // An error affects only its own client.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}
