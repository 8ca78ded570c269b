//! The way to the platform: names, the provisioning API, what time it is there, and the broker's ports.
//!
//! The broker is spoken to as far as TLS, which disturbs no session of this device.

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

use super::report::{Finding, Trouble};

/// For one name. Resolvers give up after five seconds for each server that they ask.
const NAME_LIMIT: Duration = Duration::from_secs(5);

/// For the TCP connection, to whichever of the addresses answers, and for TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// From here on, certificates that are made today, or end today, are judged wrongly.
const CLOCK_IS_USELESS: u64 = 3_600_000;

/// The addresses of a host. Names below `localhost` are this machine, as browsers have it, whatever the resolver says.
pub(super) async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let found = timeout(NAME_LIMIT, tokio::net::lookup_host((host, 0)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no name server answers in time"))??;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

/// What came of looking for a name.
pub(super) fn name(host: &str, found: &io::Result<Vec<IpAddr>>) -> Finding {
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
    match found {
        Ok(_) if host.parse::<IpAddr>().is_ok() => Finding::Good(format!("{host} is an address")),
        Ok(addresses) if !addresses.is_empty() => Finding::Good(format!(
            "{host}: IPv4 {}; IPv6 {}",
            of_kind(addresses, false),
            of_kind(addresses, true)
        )),
        other => Finding::bad(
            match other {
                Err(error) => format!("{host} is not found: {error}"),
                Ok(_) => format!("{host} has no address"),
            },
            "see whether the network is up and its name server answers (/etc/resolv.conf); if other names are found, this \
             one is wrong",
        ),
    }
}

/// Whether the API answers, and what time it is there.
pub(super) async fn api(client: &Client) -> (Finding, Finding) {
    match client.probe().await {
        Ok(reached) => (
            Finding::Good(format!("{} answers", client.url())),
            match reached.clock_skew {
                Some(skew) => clock(skew),
                None => Finding::Skipped("the API's answer has no date".to_owned()),
            },
        ),
        Err(error) => {
            let advice = match &error {
                ProvisionError::Untrusted { .. } => {
                    "give the API's own root certificate with --ca-file if it has one; otherwise find out who stands in between"
                }
                ProvisionError::NotValidYet { .. } | ProvisionError::Expired { .. } => {
                    "set the clock; if it is right, the platform has to renew its certificate"
                }
                ProvisionError::CaptivePortal { .. }
                | ProvisionError::Redirected { .. }
                | ProvisionError::WebPage { .. } => "sign in to the network, or correct --api-url",
                ProvisionError::Proxy { .. } => "correct --proxy or HTTPS_PROXY",
                ProvisionError::Server { .. } => "wait, or tell the platform's operator",
                ProvisionError::Unreachable { .. } | ProvisionError::ConnectTimedOut { .. } => {
                    "see whether the network is up, the address is right, and no firewall stands in between"
                }
                _ => "correct --api-url",
            };
            let clock = match &error {
                ProvisionError::NotValidYet { .. } | ProvisionError::Expired { .. } => {
                    Finding::warning(
                        "it may be wrong: the API's certificate is not valid by it",
                        "set it",
                    )
                }
                _ => Finding::after("api"),
            };
            (Finding::bad(error.to_string(), advice), clock)
        }
    }
}

fn clock(skew: ClockSkew) -> Finding {
    let cause = || format!("the clock of this device is {skew}");
    let advice =
        "set it: switch on NTP (timedatectl set-ntp true), or change the battery of its clock";
    if !skew.is_significant() {
        Finding::Good(format!("{skew}, by the platform's clock"))
    } else if skew.correction_ms().unsigned_abs() < CLOCK_IS_USELESS {
        Finding::warning(cause(), advice)
    } else {
        Finding::bad(cause(), advice)
    }
}

/// Looks whether the broker can be spoken to on both of its ports. With one of them out of order the session goes by the
/// other, which makes a warning of it.
pub(super) async fn broker(
    host: &str,
    addresses: &[IpAddr],
    port: u16,
    tls: &Arc<ClientConfig>,
) -> (Finding, Finding) {
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
        let other = Finding::Skipped(format!(
            "the endpoint names port {port}, so no other is tried"
        ));
        return (main.unwrap_or_else(Finding::Bad), other);
    }
    match tokio::join!(
        handshake(host, addresses, MQTT, tls),
        handshake(host, addresses, HTTPS, &with_alpn)
    ) {
        (Err(main), Err(other)) => (Finding::Bad(main), Finding::Bad(other)),
        (main, other) => (
            main.unwrap_or_else(Finding::Warning),
            other.unwrap_or_else(Finding::Warning),
        ),
    }
}

/// TCP and TLS, with the device's certificate at hand. Whether that is accepted, only a session can tell.
async fn handshake(
    host: &str,
    addresses: &[IpAddr],
    port: u16,
    tls: &Arc<ClientConfig>,
) -> Result<Finding, Trouble> {
    let trouble = |cause: String, advice: &str| Trouble {
        cause: format!("{host}, port {port}: {cause}"),
        advice: advice.to_owned(),
    };
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(addresses.as_slice()))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| {
            trouble(
                format!("no connection: {error}"),
                "let outgoing connections to this port through the firewall; if other ports work, the broker may be down",
            )
        })?;
    let address = stream
        .peer_addr()
        .map_or_else(|_| port.to_string(), |address| address.to_string());
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        trouble(
            error.to_string(),
            "correct iot_endpoint in cloud_config.json",
        )
    })?;
    timeout(
        CONNECT_LIMIT,
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
                "something else answers in the broker's place, or iot_ca.pem is not its root: register anew with \
                 `clesyde-cloud provision --force`"
            }
            Some(TlsCause::WrongName) => "correct iot_endpoint in cloud_config.json",
            Some(TlsCause::Expired | TlsCause::NotYetValid) => "set the clock",
            _ => "see whether a broker listens there, and whether something inspects TLS on the way",
        };
        let cause = tls.map_or_else(|| error.to_string(), |cause| cause.to_string());
        trouble(format!("no TLS: {cause}"), advice)
    })?;
    Ok(Finding::Good(format!(
        "{host} at {address}: TLS is up, the broker is the right one"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_of_this_machine_need_no_resolver() {
        for host in ["127.0.0.1", "::1"] {
            assert_eq!(resolve(host).await.unwrap().len(), 1);
        }
        let found = resolve("sn0001.ui.localhost").await;
        assert_eq!(
            name("sn0001.ui.localhost", &found),
            Finding::Good("sn0001.ui.localhost: IPv4 127.0.0.1; IPv6 ::1".to_owned())
        );
        let found = resolve("no-such-host.invalid").await;
        assert!(matches!(
            name("no-such-host.invalid", &found),
            Finding::Bad(_)
        ));
    }
}
