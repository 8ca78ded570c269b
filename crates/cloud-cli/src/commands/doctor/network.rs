//! The network: DNS names, the provisioning API, the clock, and the broker's ports.
//!
//! The check of the broker stops after the TLS handshake, which does not disturb a session of this
//! device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cloud_facade::iot::TlsCause;
use cloud_facade::iot::tls::ALPN_AWS_MQTT;
use cloud_facade::provision::{Client, ClockSkew, ProvisionError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::report::{CheckResult, Problem};

/// Time limit for one name. Resolvers give up after five seconds per server.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the TCP connection to any of the addresses, and for the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clock skew from which the validity of recent certificates is judged wrongly.
const MAX_USABLE_CLOCK_SKEW_MS: u64 = 3_600_000;

/// Resolves a host. Like browsers, maps names below `localhost` to this machine without a resolver.
pub(super) async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let resolved = timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, 0)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no name server answers in time"))??;
    let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

/// Returns the result of the step for a name.
pub(super) fn name(host: &str, resolved: &io::Result<Vec<IpAddr>>) -> CheckResult {
    let of_kind = |addresses: &[IpAddr], v6: bool| {
        let all: Vec<_> = addresses
            .iter()
            .filter(|address| address.is_ipv6() == v6)
            .map(ToString::to_string)
            .collect();
        match all.is_empty() {
            true => "none".to_owned(),
            false => all.join(", "),
        }
    };
    match resolved {
        Ok(_) if host.parse::<IpAddr>().is_ok() => {
            CheckResult::Passed(format!("{host} is an address"))
        }
        Ok(addresses) if !addresses.is_empty() => CheckResult::Passed(format!(
            "{host}: IPv4 {}; IPv6 {}",
            of_kind(addresses, false),
            of_kind(addresses, true)
        )),
        other => CheckResult::failed(
            match other {
                Err(error) => format!("{host} cannot be resolved: {error}"),
                Ok(_) => format!("{host} has no address"),
            },
            "check whether the network is up and its name server answers (/etc/resolv.conf); if other names resolve, this \
             one is wrong",
        ),
    }
}

/// Checks whether the API answers, and compares its clock.
pub(super) async fn api(client: &Client) -> (CheckResult, CheckResult) {
    match client.probe().await {
        Ok(reached) => (
            CheckResult::Passed(format!("{} answers", client.url())),
            match reached.clock_skew {
                Some(skew) => clock(skew),
                None => CheckResult::Skipped("the API's answer has no date".to_owned()),
            },
        ),
        Err(error) => {
            let advice = match &error {
                ProvisionError::Untrusted { .. } => {
                    "name the API's own root certificate with --ca-file if it has one; otherwise find out what intercepts the connection"
                }
                ProvisionError::NotValidYet { .. } | ProvisionError::Expired { .. } => {
                    "set the clock; if it is right, the platform has to renew its certificate"
                }
                ProvisionError::CaptivePortal { .. }
                | ProvisionError::Redirected { .. }
                | ProvisionError::WebPage { .. } => "sign in to the network, or correct --api-url",
                ProvisionError::Proxy { .. } => "correct --proxy or HTTPS_PROXY",
                ProvisionError::Server { .. } => "wait, or contact the platform's operator",
                ProvisionError::Unreachable { .. } | ProvisionError::ConnectTimedOut { .. } => {
                    "check whether the network is up, the address is right, and no firewall blocks the connection"
                }
                _ => "correct --api-url",
            };
            let clock = match &error {
                ProvisionError::NotValidYet { .. } | ProvisionError::Expired { .. } => {
                    CheckResult::warning(
                        "it may be wrong: by this clock, the API's certificate is not valid",
                        "set it",
                    )
                }
                _ => CheckResult::requires("api"),
            };
            (CheckResult::failed(error.to_string(), advice), clock)
        }
    }
}

fn clock(skew: ClockSkew) -> CheckResult {
    let cause = || format!("the clock of this device is {skew}");
    let advice =
        "set it: enable NTP (timedatectl set-ntp true), or replace the battery of the clock";
    if !skew.is_significant() {
        CheckResult::Passed(format!("{skew}, according to the platform's clock"))
    } else if skew.correction_ms().unsigned_abs() < MAX_USABLE_CLOCK_SKEW_MS {
        CheckResult::warning(cause(), advice)
    } else {
        CheckResult::failed(cause(), advice)
    }
}

/// Checks a TLS handshake with the broker on both of its ports. If one port fails, the session uses
/// the other, so the failure is only a warning.
pub(super) async fn broker(
    host: &str,
    addresses: &[IpAddr],
    port: u16,
    tls: &Arc<ClientConfig>,
) -> (CheckResult, CheckResult) {
    const MQTT: u16 = 8883;
    const HTTPS: u16 = 443;
    let with_alpn = {
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![ALPN_AWS_MQTT.to_vec()];
        Arc::new(tls)
    };
    let tls = if port == HTTPS { &with_alpn } else { tls };
    if port != MQTT {
        let main = handshake(host, addresses, port, tls).await;
        let other = CheckResult::Skipped(format!(
            "the endpoint names port {port}, so no other is tried"
        ));
        return (main.unwrap_or_else(CheckResult::Failed), other);
    }
    match tokio::join!(
        handshake(host, addresses, MQTT, tls),
        handshake(host, addresses, HTTPS, &with_alpn)
    ) {
        (Err(main), Err(other)) => (CheckResult::Failed(main), CheckResult::Failed(other)),
        (main, other) => (
            main.unwrap_or_else(CheckResult::Warning),
            other.unwrap_or_else(CheckResult::Warning),
        ),
    }
}

/// Connects with TCP and TLS, with the device's certificate. Only a session shows whether the
/// broker accepts the certificate.
async fn handshake(
    host: &str,
    addresses: &[IpAddr],
    port: u16,
    tls: &Arc<ClientConfig>,
) -> Result<CheckResult, Problem> {
    let problem = |cause: String, advice: &str| Problem {
        cause: format!("{host}, port {port}: {cause}"),
        advice: advice.to_owned(),
    };
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(addresses.as_slice()))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| {
            problem(
                format!("no connection: {error}"),
                "allow outgoing connections to this port in the firewall; if other ports work, the broker may be down",
            )
        })?;
    let address = stream
        .peer_addr()
        .map_or_else(|_| port.to_string(), |address| address.to_string());
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        problem(
            error.to_string(),
            "correct iot_endpoint in cloud_config.json",
        )
    })?;
    timeout(
        CONNECT_TIMEOUT,
        TlsConnector::from(Arc::clone(tls)).connect(name, stream),
    )
    .await
    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    .map_err(|error| {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .map(TlsCause::from);
        let advice = match &tls {
            Some(TlsCause::UnknownIssuer) => {
                "another server answers instead of the broker, or iot_ca.pem is not its root: register again with \
                 `clesyde-cloud provision --force`"
            }
            Some(TlsCause::WrongName) => "correct iot_endpoint in cloud_config.json",
            Some(TlsCause::Expired | TlsCause::NotYetValid) => "set the clock",
            _ => "check whether a broker listens there, and whether something on the path inspects TLS",
        };
        let cause = tls.map_or_else(|| error.to_string(), |cause| cause.to_string());
        problem(format!("no TLS: {cause}"), advice)
    })?;
    Ok(CheckResult::Passed(format!(
        "{host} at {address}: TLS works, and the broker is authenticated"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_names_resolve_without_resolver() {
        for host in ["127.0.0.1", "::1"] {
            assert_eq!(resolve(host).await.unwrap().len(), 1);
        }
        let found = resolve("sn0001.ui.localhost").await;
        assert_eq!(
            name("sn0001.ui.localhost", &found),
            CheckResult::Passed("sn0001.ui.localhost: IPv4 127.0.0.1; IPv6 ::1".to_owned())
        );
        let found = resolve("no-such-host.invalid").await;
        assert!(matches!(
            name("no-such-host.invalid", &found),
            CheckResult::Failed(_)
        ));
    }
}
