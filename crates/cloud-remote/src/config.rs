//! The addresses of the relay and of the device's access point.

use rustls::pki_types::ServerName;

use crate::error::StartError;

/// The addresses of the relay and of the device's access point.
///
/// ```
/// use cloud_remote::RemoteConfig;
///
/// let config = RemoteConfig::new("remote.example.com", 443, "sn0001.ui.example.com");
/// assert_eq!(config.url(), "https://sn0001.ui.example.com/");
/// let config = RemoteConfig::new("127.0.0.1", 8443, "sn0001.ui.localhost");
/// assert_eq!(config.url(), "https://sn0001.ui.localhost:8443/");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    pub(crate) relay_host: String,
    pub(crate) relay_port: u16,
    pub(crate) access_point: String,
}

impl RemoteConfig {
    /// Creates a configuration from the relay's host name or address, its port (443 on the current
    /// platform), and the public host name of the device. Checked when remote access starts.
    pub fn new(
        relay_host: impl Into<String>,
        relay_port: u16,
        access_point: impl Into<String>,
    ) -> Self {
        Self {
            relay_host: relay_host.into(),
            relay_port,
            access_point: access_point.into(),
        }
    }

    /// Returns the device's public URL, at the relay's port, which devices and the public share.
    #[must_use]
    pub fn url(&self) -> String {
        match self.relay_port {
            443 => format!("https://{}/", self.access_point),
            port => format!("https://{}:{port}/", self.access_point),
        }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        if ServerName::try_from(self.relay_host.as_str()).is_err() || self.relay_port == 0 {
            return Err(StartError::Relay {
                host: self.relay_host.clone(),
                port: self.relay_port,
            });
        }
        match ServerName::try_from(self.access_point.as_str()) {
            Ok(ServerName::DnsName(_)) => Ok(()),
            _ => Err(StartError::AccessPoint {
                name: self.access_point.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_host_names() {
        assert!(
            RemoteConfig::new("remote.example.com", 443, "sn.example.com")
                .check()
                .is_ok()
        );
        assert!(
            RemoteConfig::new("::1", 443, "sn.example.com")
                .check()
                .is_ok()
        );
        for (host, port) in [("", 443), ("two words", 443), ("remote.example.com", 0)] {
            let error = RemoteConfig::new(host, port, "sn.example.com")
                .check()
                .unwrap_err();
            assert!(matches!(error, StartError::Relay { .. }), "{error}");
        }
        for name in ["", "https://sn.example.com", "192.0.2.1"] {
            let error = RemoteConfig::new("remote.example.com", 443, name)
                .check()
                .unwrap_err();
            assert!(matches!(error, StartError::AccessPoint { .. }), "{error}");
        }
    }
}
