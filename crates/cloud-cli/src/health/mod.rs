//! Health endpoints of a running instance, over HTTP on a loopback address: `/healthz`, `/readyz`,
//! `/metrics`, and the status page at `/status/`.
//!
//! Any process on this machine may query them, but no other machine, and no web page through a
//! browser on this one, unless they are made public. The server limits concurrent connections and
//! their duration, and serves one request per connection, so that no caller delays the others or
//! the device.

mod catalogue;
mod connections;
mod host_check;
mod liveness;
mod log_line;
mod metrics;
mod options;
mod process;
mod request_counters;

use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json, Redirect};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::connections::Limits;
pub(crate) use self::liveness::{HEARTBEAT_INTERVAL, HealthState};
pub(crate) use self::log_line::HealthLog;
use self::metrics::{CONTENT_TYPE, UPKEEP_INTERVAL};
pub(crate) use self::metrics::{Metrics, Outlets};
pub(crate) use self::options::{HealthAddress, HealthOptions};
pub(crate) use self::request_counters::RequestCounters;
use crate::error::{CliError, Result};
use crate::ticks::ticks;

/// The running server; stops when dropped.
#[derive(Debug)]
pub(crate) struct HealthServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

/// The bound socket, bound before the device starts.
#[derive(Debug)]
pub(crate) struct HealthSocket {
    address: HealthAddress,
    listener: TcpListener,
}

impl HealthSocket {
    pub(crate) async fn bind(address: HealthAddress) -> Result<Self> {
        let wanted = address.address;
        let failed = |error: std::io::Error| {
            CliError::with_cause(
                format_args!("cannot listen on {wanted}, given with --health"),
                &error,
            )
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if !bound.ip().is_loopback() {
            tracing::warn!(address = %bound, "the health endpoints have no authentication: other machines can read them");
        }
        let address = HealthAddress {
            address: bound,
            ..address
        };
        Ok(Self { address, listener })
    }

    /// Starts the server, which reports `health_state`, the metrics, and the lines that outlets
    /// have lost. On this machine it serves `page` too, on others if that is wanted.
    pub(crate) fn serve(
        self,
        health_state: HealthState,
        metrics: Metrics,
        outlets: Outlets,
        page: Router,
    ) -> HealthServer {
        let mut router = router(health_state, metrics.clone(), outlets);
        if self.address.has_page || !self.address.is_public {
            // Its links are relative.
            router = router
                .route("/status", get(async || Redirect::temporary("/status/")))
                .nest_service("/status/", page);
        }
        if !self.address.is_public {
            router = router.layer(middleware::from_fn(host_check::require_loopback_host));
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(connections::serve(
            self.listener,
            router,
            Limits::default(),
            self.address.allowed,
        ));
        tasks.spawn(async move {
            let mut ticks = ticks(UPKEEP_INTERVAL);
            loop {
                ticks.tick().await;
                metrics.upkeep();
            }
        });
        HealthServer {
            address: self.address.address,
            _tasks: tasks,
        }
    }
}

impl HealthServer {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(health_state: HealthState, metrics: Metrics, outlets: Outlets) -> Router {
    let (live, ready) = (health_state.clone(), health_state.clone());
    Router::new()
        .route("/healthz", get(async move || healthz(&live)))
        .route("/readyz", get(async move || readyz(&ready)))
        .route(
            "/metrics",
            get(async move || {
                let text = metrics.render(&health_state, &outlets).await;
                ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
            }),
        )
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "try /healthz, /readyz, /metrics or /status/\n",
            )
        })
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
