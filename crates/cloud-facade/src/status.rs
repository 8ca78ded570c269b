//! The status, as one value that can be watched.

use std::time::SystemTime;

use cloud_remote::RotationStatus;

/// The status of the connection to the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// Whether it is initialized and not stopped.
    pub running: bool,
    /// The connection to the broker.
    pub iot: ConnectionStatus,
    /// The tunnel.
    pub remote: ConnectionStatus,
    /// The result of the last probe of the public access point; `None` without a probe or a tunnel.
    pub reachable: Option<bool>,
    /// The serial number, decimal, of the served certificate; `None` while not running.
    pub certificate_serial: Option<String>,
    /// The serial number, decimal, of the client certificate for the broker; `None` while not
    /// running.
    pub iot_certificate_serial: Option<String>,
    /// The rotation of the served certificate.
    pub certificate_rotation: RotationStatus,
    /// The rotation of the client certificate.
    pub iot_certificate_rotation: RotationStatus,
}

/// The status of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Whether it is connected. Messaging: subscriptions granted and ONLINE published. Tunnel: a
    /// PING was answered.
    pub connected: bool,
    /// The time of the last change of `connected`, by the wall clock; `None` before the first
    /// attempt has ended.
    pub since: Option<SystemTime>,
    /// The reason for being disconnected, after the first attempt.
    pub reason: Option<String>,
}

impl ConnectionStatus {
    pub(crate) fn up(&mut self) {
        *self = Self {
            connected: true,
            since: Some(SystemTime::now()),
            reason: None,
        };
    }

    pub(crate) fn down(&mut self, reason: String) {
        let since = if self.connected { None } else { self.since };
        *self = Self {
            connected: false,
            since: Some(since.unwrap_or_else(SystemTime::now)),
            reason: Some(reason),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn since_is_kept_across_failed_attempts() {
        let mut link = ConnectionStatus::default();
        link.down("refused".into());
        assert!(!link.connected && link.since.is_some());

        link.up();
        assert!(link.connected && link.reason.is_none());

        let before = SystemTime::now();
        link.down("cut".into());
        assert!(link.since.is_some_and(|since| since >= before));
        let long_ago = before - Duration::from_secs(3600);
        link.since = Some(long_ago);
        link.down("refused".into());
        assert_eq!(link.since, Some(long_ago));
        assert_eq!(link.reason.as_deref(), Some("refused"));
    }
}
