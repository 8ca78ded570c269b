//! Health endpoints of a running instance, over HTTP on a loopback address: `/healthz`, `/readyz`,
//! `/metrics`.
//!
//! Any process on this machine may query them, but no other machine, and no web page through a
//! browser on this one. The server limits concurrent connections and their duration, and serves one
//! request per connection, so that no caller delays the others or the device.

mod connections;
mod host_check;
mod liveness;
mod metrics;

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
pub(crate) use self::liveness::{HEARTBEAT_INTERVAL, HealthState};
use self::metrics::Outlets;
use crate::error::{CliError, Result};

/// Parses a loopback address with a port; port 0 is any free port.
pub(crate) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address: SocketAddr = text.parse().map_err(|_| {
        "is not an address with a port such as 127.0.0.1:9100 or [::1]:9100".to_owned()
    })?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("is not a loopback address; the health endpoints are only for this machine".to_owned())
    }
}

/// The running server; stops when dropped.
#[derive(Debug)]
pub(crate) struct HealthServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// The bound socket, bound before the device starts.
#[derive(Debug)]
pub(crate) struct HealthSocket {
    address: SocketAddr,
    listener: TcpListener,
}

impl HealthSocket {
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self> {
        let failed = |error: std::io::Error| {
            CliError::with_cause(
                format_args!("cannot listen on {address}, given with --health"),
                &error,
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener })
    }

    /// Starts the server, which reports `health_state` and the lines that outlets have lost.
    pub(crate) fn serve(self, health_state: HealthState, outlets: Outlets) -> HealthServer {
        HealthServer {
            address: self.address,
            task: tokio::spawn(connections::serve(
                self.listener,
                router(health_state, outlets),
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

fn router(health_state: HealthState, outlets: Outlets) -> Router {
    let (live, ready) = (health_state.clone(), health_state.clone());
    Router::new()
        .route("/healthz", get(async move || healthz(&live)))
        .route("/readyz", get(async move || readyz(&ready)))
        .route(
            "/metrics",
            get(async move || metrics::page(health_state, outlets).await),
        )
        .fallback(async || (StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"))
        .layer(middleware::from_fn(host_check::require_loopback_host))
}

/// Liveness: whether the main task makes progress, with or without a network. A supervisor restarts
/// the process on failure.
fn healthz(health_state: &HealthState) -> impl IntoResponse + use<> {
    let stuck = health_state.stuck_for(Instant::now());
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

/// Readiness: whether the platform and public callers can reach the device and its application.
fn readyz(health_state: &HealthState) -> impl IntoResponse + use<> {
    let missing = health_state.missing();
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
    fn only_loopback_addresses_are_accepted() {
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
