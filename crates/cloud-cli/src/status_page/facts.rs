//! What the page shows, at one time.

use std::time::SystemTime;

use cloud_facade::ConnectionStatus;
use cloud_facade::config::CertificateInfo;

use super::history::History;
use crate::application_check::ApplicationState;

/// A connection of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) connected: bool,
    /// The time of the last change of `connected`; `None` before the first attempt has ended.
    pub(super) since: Option<SystemTime>,
    pub(super) reason: Option<String>,
    /// The time of the next attempt, if it is known.
    pub(super) retry_at: Option<SystemTime>,
}

impl Link {
    pub(super) fn new(status: ConnectionStatus, retry_at: Option<SystemTime>) -> Self {
        Self {
            connected: status.connected,
            since: status.since,
            reason: status.reason,
            retry_at: retry_at.filter(|_| !status.connected),
        }
    }
}

/// A time during which a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    /// The name of the connection.
    pub(super) of: &'static str,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

/// The certificate of remote access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) serial: String,
    pub(super) serial_hex: String,
    pub(super) sha256: String,
    pub(super) issuer: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl From<&CertificateInfo> for Certificate {
    fn from(info: &CertificateInfo) -> Self {
        Self {
            serial: info.serial.clone(),
            serial_hex: info.serial_hex.clone(),
            sha256: info.sha256.clone(),
            issuer: info.issuer.clone(),
            not_before: info.not_before,
            not_after: info.not_after,
        }
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) now: SystemTime,
    pub(super) started: SystemTime,
    /// The connection to the broker.
    pub(super) iot: Link,
    /// The tunnel.
    pub(super) remote: Link,
    /// The public URL.
    pub(super) url: String,
    /// Whether the tunnel serves another application than the page.
    pub(super) is_replaced: bool,
    /// The applications behind the tunnel, if the reader may know them.
    pub(super) applications: Vec<ApplicationState>,
    pub(super) last_outage: Option<Outage>,
    pub(super) certificate: Option<Certificate>,
    /// Open connections of callers, and the number of their addresses.
    pub(super) connections: u64,
    pub(super) visitors: usize,
    /// Bytes to and from callers since the start.
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) history: History,
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// Returns the time this many seconds after the start.
    pub(in super::super) fn later(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    /// Facts of a device that has been online for three minutes.
    pub(in super::super) fn facts() -> Facts {
        let up = Link {
            connected: true,
            since: Some(later(0)),
            ..Link::default()
        };
        Facts {
            now: later(180),
            started: later(0),
            iot: up.clone(),
            remote: up,
            url: "https://sn1.example.com/".to_owned(),
            is_replaced: false,
            applications: Vec::new(),
            last_outage: None,
            certificate: Some(Certificate {
                serial: "1234567890".to_owned(),
                serial_hex: "499602d2".to_owned(),
                sha256: "ab".repeat(32),
                issuer: "CN=<Authority>".to_owned(),
                not_before: later(0),
                not_after: later(90 * 86_400 + 180),
            }),
            connections: 3,
            visitors: 2,
            sent: 1_500_000,
            received: 42_000,
            history: History::default(),
        }
    }
}
