//! Connection establishment: TCP, optionally through a proxy, then TLS, CONNECT and CONNACK.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, LastWill, Packet,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::connection_event::ServerCapabilities;
use crate::core::endpoint::{Endpoint, Port};
use crate::error::cause::{Cause, TlsCause};
use crate::session::config::{Acknowledge, SessionConfig};
use crate::transport::framed::{Framed, Received};
use crate::transport::happy_eyeballs::connect_tcp;
use crate::transport::tls;

/// Maximum data buffered in TLS, one record: buffered data counts as written.
const TLS_BUFFER_BYTES: usize = 16 << 10;

/// An accepted connection, and the server's capabilities.
pub(crate) type Accepted<S> = (Framed<S>, ServerCapabilities);

/// Connects within [`Timeouts::connect`](crate::Timeouts::connect).
pub(crate) async fn connect(
    config: Arc<SessionConfig>,
    endpoint: Endpoint,
) -> Result<Accepted<TlsStream<TcpStream>>, Cause> {
    let deadline = Instant::now() + config.timeouts.connect;
    let (port, tls) = target(&config, endpoint.port);
    let attempt = async {
        let host = config.host.as_str();
        let stream = match config.proxy.as_ref().and_then(|proxy| proxy.for_host(host)) {
            Some(proxy) => {
                proxy
                    .tunnel(host, port, endpoint.first_family, deadline)
                    .await?
            }
            None => connect_tcp(host, port, endpoint.first_family, deadline).await?,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Cause::NameNotFound)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let mut stream = stream.map_err(|error| handshake_failed(&error))?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        connect_handshake(stream, &config).await
    };
    timeout_at(deadline, attempt)
        .await
        .unwrap_or(Err(Cause::ConnectTimeout))
}

/// Returns the TCP port, and the TLS settings with the ALPN name for it.
fn target(config: &SessionConfig, port: Port) -> (u16, Arc<ClientConfig>) {
    let tls = Arc::clone(&config.tls);
    match port {
        Port::Main => (config.port, tls::for_port(tls, config.port)),
        Port::Fallback(port) => (port, tls::with_alpn(tls)),
    }
}

fn handshake_failed(error: &io::Error) -> Cause {
    match Cause::from(error) {
        Cause::Closed { .. } => TlsCause::HandshakeAborted.into(),
        cause => cause,
    }
}

/// Exchanges CONNECT and CONNACK.
async fn connect_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: &SessionConfig,
) -> Result<Accepted<S>, Cause> {
    let mut framed = Framed::new(stream, config.limits.incoming_packet_bytes);
    framed.send(&connect_packet(config)).await?;
    match framed.receive().await? {
        Received::Packet(Packet::ConnAck(connack))
            if connack.code == ConnectReturnCode::Success =>
        {
            let capabilities = capabilities(&connack, config);
            Ok((framed, capabilities))
        }
        Received::Packet(Packet::ConnAck(connack)) => Err(Cause::NotAccepted(connack.code.into())),
        _ => Err(Cause::Protocol(
            "CONNECT was answered with another packet than CONNACK".into(),
        )),
    }
}

fn connect_packet(config: &SessionConfig) -> Packet {
    // Topic aliases are not offered: they cost memory, and devices do not need them.
    let properties = ConnectProperties {
        session_expiry_interval: config
            .session_expiry
            .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        receive_maximum: (config.acknowledge == Acknowledge::AfterHandlers)
            .then_some(config.limits.incoming_in_flight),
        max_packet_size: Some(config.limits.incoming_packet_bytes),
        ..ConnectProperties::new()
    };
    let connect = Connect {
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: config.client_id.clone(),
        clean_start: config.session_expiry.is_none(),
        properties: Some(properties),
    };
    let will = config.will.as_ref().map(|will| {
        let payload = will.payload.to_vec();
        LastWill::new(&will.topic, payload, will.qos.into(), will.retain, None)
    });
    Packet::Connect(connect, will, None)
}

fn capabilities(connack: &ConnAck, config: &SessionConfig) -> ServerCapabilities {
    let properties = connack.properties.as_ref();
    let keep_alive = properties
        .and_then(|p| p.server_keep_alive)
        // The server does not use keep-alive, but the session must detect a dead server.
        .filter(|seconds| *seconds > 0)
        .map_or(config.keep_alive, |seconds| {
            // A longer interval must not delay the detection of a dead connection.
            Duration::from_secs(seconds.into()).min(config.keep_alive)
        });
    ServerCapabilities {
        receive_maximum: properties
            .and_then(|p| p.receive_max)
            .unwrap_or(config.limits.in_flight),
        maximum_packet: properties.and_then(|p| p.max_packet_size),
        at_least_once: properties
            .and_then(|p| p.max_qos)
            .is_none_or(|qos| qos >= 1),
        retain: properties
            .and_then(|p| p.retain_available)
            .is_none_or(|flag| flag == 1),
        keep_alive,
        session_present: connack.session_present,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::ConnAckProperties;

    use super::*;
    use crate::tls::ALPN_AWS_MQTT;

    fn bare() -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    }

    #[test]
    fn shorter_keep_alive_applies() {
        let config = SessionConfig::new("localhost", "device", Arc::new(bare()));
        for (server, expected) in [(None, 60), (Some(0), 60), (Some(20), 20), (Some(65535), 60)] {
            let connack = ConnAck {
                session_present: false,
                code: ConnectReturnCode::Success,
                properties: Some(ConnAckProperties {
                    session_expiry_interval: None,
                    receive_max: None,
                    max_qos: None,
                    retain_available: None,
                    max_packet_size: None,
                    assigned_client_identifier: None,
                    topic_alias_max: None,
                    reason_string: None,
                    user_properties: Vec::new(),
                    wildcard_subscription_available: None,
                    subscription_identifiers_available: None,
                    shared_subscription_available: None,
                    server_keep_alive: server,
                    response_information: None,
                    server_reference: None,
                    authentication_method: None,
                    authentication_data: None,
                }),
            };
            let keep_alive = capabilities(&connack, &config).keep_alive;
            assert_eq!(keep_alive, Duration::from_secs(expected), "{server:?}");
        }
    }

    #[test]
    fn target_adds_alpn_name_for_port_443() {
        let mut config = SessionConfig::new("localhost", "device", Arc::new(bare()));
        for (main, port, expected, named) in [
            (8883, Port::Main, 8883, false),
            (8883, Port::Fallback(443), 443, true),
            (443, Port::Main, 443, true),
        ] {
            config.port = main;
            let (port, tls) = target(&config, port);
            let names: &[Vec<u8>] = if named {
                &[ALPN_AWS_MQTT.to_vec()]
            } else {
                &[]
            };
            assert_eq!((port, &tls.alpn_protocols[..]), (expected, names));
        }
        // A configured name is kept.
        let mut tls = ClientConfig::clone(&config.tls);
        tls.alpn_protocols = vec![b"mqtt".to_vec()];
        config.tls = Arc::new(tls);
        assert_eq!(target(&config, Port::Main).1.alpn_protocols, [b"mqtt"]);
    }
}
