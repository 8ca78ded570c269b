//! What supervisors and monitoring ask a running instance, over HTTP on a loopback address: `/healthz`, `/readyz`, `/metrics`.
//!
//! It listens on loopback alone: any process on this machine may ask, but no other machine, and no web page through a browser
//! on this one. Few are served at a time, one request for each connection, and none for long, so that no
//! caller can hold up the others or us.

mod connections;
mod host_check;
mod metrics;
mod vitals;

use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::connections::Limits;
pub(crate) use self::vitals::{PULSE, Vitals};
use crate::failure::{Failure, Outcome};

/// A loopback address with a port, of which 0 is any free one.
pub(crate) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "is no address with a port such as 127.0.0.1:9100 or [::1]:9100".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("is not a loopback address; what it tells is for this machine alone".to_owned())
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct HealthServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// The place that it answers at, taken before anything is started.
#[derive(Debug)]
pub(crate) struct HealthSocket {
    address: SocketAddr,
    listener: TcpListener,
}

impl HealthSocket {
    pub(crate) async fn bind(address: SocketAddr) -> Outcome<Self> {
        let failed = |error: std::io::Error| {
            Failure::because(
                format_args!("cannot listen on {address}, given with --health"),
                &error,
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener })
    }

    /// Begins to answer with what `vitals` show.
    pub(crate) fn serve(self, vitals: Vitals) -> HealthServer {
        HealthServer {
            address: self.address,
            task: tokio::spawn(connections::serve(
                self.listener,
                router(vitals),
                Limits::default(),
            )),
        }
    }
}

impl HealthServer {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(vitals: Vitals) -> Router {
    let (alive, ready) = (vitals.clone(), vitals.clone());
    Router::new()
        .route("/healthz", get(async move || healthz(&alive)))
        .route("/readyz", get(async move || readyz(&ready)))
        .route("/metrics", get(async move || metrics::page(vitals).await))
        .fallback(async || (StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"))
        .layer(middleware::from_fn(host_check::require_loopback_host))
}

/// Whether this process does its work, be there a network or not: what a supervisor restarts it for.
fn healthz(vitals: &Vitals) -> impl IntoResponse + use<> {
    let stuck = vitals.stuck_for(Instant::now());
    let status = match stuck {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "alive": stuck.is_none(),
        "stuck_for_s": stuck.map(|time| time.as_secs()),
    });
    uncached(status, body)
}

/// Whether the platform and the public reach the device.
fn readyz(vitals: &Vitals) -> impl IntoResponse + use<> {
    let missing = vitals.missing();
    let status = match missing.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    uncached(
        status,
        json!({ "ready": missing.is_empty(), "missing": missing }),
    )
}

fn uncached(status: StatusCode, body: serde_json::Value) -> impl IntoResponse {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_listened_to() {
        for good in ["127.0.0.1:9100", "[::1]:0", "localhost:80", "127.9.9.9:1"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "9100",
            "localhost",
            "127.0.0.1:65536",
            "0.0.0.0:9100",
            "[::]:9100",
            "192.0.2.1:9100",
            "example.com:9100",
        ] {
            assert!(loopback(bad).is_err(), "{bad}");
        }
        assert!(loopback("0.0.0.0:1").unwrap_err().contains("loopback"));
    }
}
