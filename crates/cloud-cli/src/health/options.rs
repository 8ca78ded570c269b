//! The options of the health endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::error::{CliError, Result};
use crate::value_parsers::range;

/// Options of the health endpoints.
#[derive(Debug, Args)]
pub(crate) struct HealthOptions {
    /// Serve /healthz (alive), /readyz (connected, and the application answers) and /metrics (for
    /// Prometheus) at this loopback address; port 0 is any free port
    #[arg(long, value_name = "ADDR", value_parser = address)]
    health: Option<SocketAddr>,

    /// Let --health be an address that other machines reach
    ///
    /// The endpoints have no authentication and no encryption: everyone who reaches the address
    /// reads what `/metrics` has. Use a network of your own, or a firewall.
    #[arg(long)]
    health_public: bool,

    /// Write a log line every SECONDS: everything is connected, or what is not
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    health_log: Option<u32>,

    /// Close connections to --health of callers beyond this range; may be given several times
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = range)]
    health_allow: Vec<IpNet>,

    /// Serve the status page at /status/ of --health's address also with --health-public
    ///
    /// On a loopback address it is there anyway. Pages of the same origin may show it in a frame,
    /// such as the ingress of Home Assistant.
    #[arg(long)]
    health_page: bool,
}

/// Where the health endpoints are, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthAddress {
    pub(crate) address: SocketAddr,
    /// Whether requests for other hosts than this machine are served.
    pub(crate) is_public: bool,
    /// The callers that are served; all if it is empty.
    pub(crate) allowed: Vec<IpNet>,
    /// Whether the status page is served there too.
    pub(crate) has_page: bool,
}

impl HealthOptions {
    /// Returns the address, if the endpoints are wanted.
    ///
    /// # Errors
    /// Usage error for an address beyond loopback that is not wanted explicitly.
    pub(crate) fn address(&self) -> Result<Option<HealthAddress>> {
        let Some(address) = self.health else {
            return Ok(None);
        };
        if !address.ip().is_loopback() && !self.health_public {
            return Err(CliError::Usage(format!(
                "--health {address} is not a loopback address; the health endpoints have no authentication: add \
                 --health-public if other machines may read them"
            )));
        }
        Ok(Some(HealthAddress {
            address,
            is_public: self.health_public,
            allowed: self.health_allow.clone(),
            has_page: self.health_page,
        }))
    }

    /// Returns the interval of log lines with the health, if they are wanted.
    pub(crate) fn log_interval(&self) -> Option<Duration> {
        self.health_log
            .map(|seconds| Duration::from_secs(seconds.into()))
    }
}

/// Parses an address with a port.
fn address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    text.parse().map_err(|_| {
        "is not an address with a port such as 127.0.0.1:9100 or [::1]:9100".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        health: HealthOptions,
    }

    /// Whether the endpoints are public, or `None` if the options are refused.
    fn public(options: &str) -> Option<bool> {
        let options = format!("run {options}");
        let cli = TestCli::try_parse_from(options.split_whitespace()).ok()?;
        Some(cli.health.address().ok()??.is_public)
    }

    #[test]
    fn addresses_beyond_loopback_need_their_option() {
        for good in ["127.0.0.1:9100", "[::1]:0", "localhost:80", "127.9.9.9:1"] {
            assert_eq!(public(&format!("--health {good}")), Some(false), "{good}");
        }
        for beyond in ["0.0.0.0:9100", "[::]:9100", "192.0.2.1:9100"] {
            assert_eq!(public(&format!("--health {beyond}")), None, "{beyond}");
            let options = format!("--health {beyond} --health-public");
            assert_eq!(public(&options), Some(true), "{beyond}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "9100",
            "localhost",
            "127.0.0.1:65536",
            "example.com:9100",
        ] {
            assert_eq!(
                public(&format!("--health={bad} --health-public")),
                None,
                "{bad}"
            );
        }
        assert_eq!(public("--health-public"), None);
    }
}
