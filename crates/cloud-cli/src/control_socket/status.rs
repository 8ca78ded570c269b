//! `GET /v1/status` and `GET /v1/url`: the state of a running instance.

use std::net::IpAddr;
use std::time::SystemTime;

use axum::extract::State;
use axum::response::Json;
use cloud_facade::remote::{RotationStatus, Visitor};
use cloud_net::{from_unix_seconds, unix_seconds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::instance::Instance;
use crate::application_check::ApplicationState;
use crate::time_fmt::rfc3339;

/// The status of a running instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    pub(crate) pid: u32,
    /// The program's version.
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) sn: String,
    /// The address of the device's page.
    #[serde(default)]
    pub(crate) url: String,
    pub(crate) iot_connected: bool,
    pub(crate) remote_connected: bool,
    /// The reason, after the first attempt.
    #[serde(default)]
    pub(crate) iot_reason: Option<String>,
    #[serde(default)]
    pub(crate) remote_reason: Option<String>,
    /// The time of the last change of each connection, RFC 3339; `None` before the first attempt
    /// has ended.
    #[serde(default)]
    pub(crate) iot_since: Option<String>,
    #[serde(default)]
    pub(crate) remote_since: Option<String>,
    /// The first application behind the tunnel with a problem, otherwise the first one; `None` for
    /// the built-in page.
    #[serde(default)]
    pub(crate) application: Option<ApplicationStatus>,
    /// All of them.
    #[serde(default)]
    pub(crate) applications: Vec<ApplicationStatus>,
    /// The rotation of each certificate, as text; `None` unless the platform desires another one.
    #[serde(default)]
    pub(crate) iot_rotation: Option<String>,
    #[serde(default)]
    pub(crate) remote_rotation: Option<String>,
    /// The callers that have connections open, by address.
    #[serde(default)]
    pub(crate) visitors: Vec<VisitorStatus>,
}

/// The open connections of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VisitorStatus {
    /// `None` for all connections whose address the relay does not send.
    pub(crate) address: Option<IpAddr>,
    pub(crate) connections: u64,
    /// HTTP requests on these connections.
    pub(crate) requests: u64,
    /// Bytes on these connections, including TLS.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Seconds since the oldest of these connections was opened.
    pub(crate) connected_for_s: u64,
}

impl From<Visitor> for VisitorStatus {
    fn from(visitor: Visitor) -> Self {
        Self {
            address: visitor.address,
            connections: visitor.connections,
            requests: visitor.requests,
            received: visitor.received,
            sent: visitor.sent,
            connected_for_s: visitor.connected_for.as_secs(),
        }
    }
}

/// The status of the application behind the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApplicationStatus {
    pub(crate) address: String,
    /// `None` if it is not known.
    pub(crate) answers: Option<bool>,
    pub(crate) reason: Option<String>,
    /// RFC 3339.
    pub(crate) since: Option<String>,
}

impl From<&ApplicationState> for ApplicationStatus {
    fn from(state: &ApplicationState) -> Self {
        Self {
            address: state.address.clone(),
            answers: state.answers,
            reason: state.reason.clone(),
            since: state.since.map(time_text),
        }
    }
}

impl InstanceStatus {
    pub(super) fn of(instance: &Instance) -> Self {
        let status = instance.cloud.status();
        let remote = instance.cloud.remote().ok().flatten();
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sn: instance.cloud.serial_number().to_string(),
            url: instance.url.to_string(),
            iot_connected: status.iot.connected,
            remote_connected: status.remote.connected,
            iot_reason: status.iot.reason.clone(),
            remote_reason: status.remote.reason.clone(),
            iot_since: status.iot.since.map(time_text),
            remote_since: status.remote.since.map(time_text),
            application: instance
                .applications
                .worst()
                .as_ref()
                .map(ApplicationStatus::from),
            applications: instance
                .applications
                .all()
                .iter()
                .map(ApplicationStatus::from)
                .collect(),
            iot_rotation: rotation(&status.iot_certificate_rotation),
            remote_rotation: rotation(&status.certificate_rotation),
            visitors: remote
                .map(|remote| remote.visitors().into_iter().map(Into::into).collect())
                .unwrap_or_default(),
        }
    }
}

/// `GET /v1/status`.
pub(super) async fn status(State(instance): State<Instance>) -> Json<InstanceStatus> {
    Json(InstanceStatus::of(&instance))
}

/// `GET /v1/url`: the address of the device's page.
pub(super) async fn url(State(instance): State<Instance>) -> Json<Value> {
    let reachable = instance.cloud.status().remote.connected;
    Json(json!({ "url": &*instance.url, "reachable": reachable }))
}

/// Formats a time for people, who need no fractions of a second.
fn time_text(time: SystemTime) -> String {
    rfc3339(from_unix_seconds(unix_seconds(time)))
}

fn rotation(status: &RotationStatus) -> Option<String> {
    (*status != RotationStatus::Idle).then(|| status.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn rotation_is_text_unless_idle() {
        assert_eq!(rotation(&RotationStatus::Idle), None);
        let until = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let serial = "42".parse().unwrap();
        assert_eq!(
            rotation(&RotationStatus::RateLimited { serial, until }).as_deref(),
            Some("certificate 42: rate limited until 2030-03-17T17:46:40Z")
        );
    }
}
