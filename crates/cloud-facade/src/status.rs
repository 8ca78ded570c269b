//! How things stand, as one value that can be watched.

use std::time::SystemTime;

use cloud_remote::RotationStatus;

/// How things stand with the connection to the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// Whether it has been initialized and not been stopped since.
    pub running: bool,
    /// The connection to the broker.
    pub iot: Link,
    /// The tunnel.
    pub remote: Link,
    /// Whether the public gets through to the device, as a probe has last found out; none without a probe or a tunnel.
    pub reachable: Option<bool>,
    /// The serial number, decimal, of the certificate that is served; none while not running.
    pub certificate_serial: Option<String>,
    /// The serial number, decimal, of the client certificate for the broker; none while not running.
    pub iot_certificate_serial: Option<String>,
    /// How far the rotation of the served certificate is.
    pub certificate_rotation: RotationStatus,
    /// How far the rotation of the client certificate is.
    pub iot_certificate_rotation: RotationStatus,
}

/// One of the two connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Link {
    /// Whether it is up. For messaging: subscriptions granted and ONLINE out. For the tunnel: a PING answered.
    pub connected: bool,
    /// Since when it has been as it is now, by the wall clock; none before the first attempt has ended.
    pub since: Option<SystemTime>,
    /// Why it is down, once it has been up or tried.
    pub reason: Option<String>,
}

impl Link {
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
    fn a_link_is_down_since_it_went_down_whatever_is_tried_meanwhile() {
        let mut link = Link::default();
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
