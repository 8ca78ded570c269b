//! Connection establishment: TCP, optionally through a proxy, then TLS, CONNECT and CONNACK.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::Connector;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, LastWill, LastWillProperties, Packet,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::connect_options::ConnectOptions;
use crate::core::connection_event::ServerCapabilities;
use crate::core::endpoint::Port;
use crate::error::cause::{Cause, TlsCause};
use crate::mqtt::decode::{ConnAck, Received};
use crate::mqtt::message::{Message, QoS};
use crate::mqtt::message_properties::MessageProperties;
use crate::session::config::{Acknowledge, SessionConfig};
use crate::transport::framed::Framed;
use crate::transport::tls;

/// Send buffer of the socket (Linux doubles it, and counts its own overhead). The default grows to
/// megabytes, which delay pings and acknowledgements on a slow uplink: buffered data counts as
/// written, and must be acknowledged in time. This is 20 seconds of an uplink of 3 KB/s, and at a
/// round trip of 100 ms about AWS IoT Core's limit per second.
const SEND_BUFFER_BYTES: u32 = 32 << 10;

/// Maximum data buffered in TLS, one record: buffered data counts as written.
const TLS_BUFFER_BYTES: usize = 16 << 10;

/// An accepted connection, and the server's capabilities.
pub(crate) type Accepted<S> = (Framed<S>, ServerCapabilities);

/// Connects within [`Timeouts::connect`](crate::Timeouts::connect).
pub(crate) async fn connect(
    config: Arc<SessionConfig>,
    options: ConnectOptions,
) -> Result<Accepted<TlsStream<TcpStream>>, Cause> {
    let deadline = Instant::now() + config.timeouts.connect;
    let endpoint = options.endpoint;
    let (port, tls) = target(&config, endpoint.port);
    let attempt = async {
        let host = config.host.as_str();
        let connector = Connector::new()
            .proxy(config.proxy.clone())
            .first_family(endpoint.first_family)
            .attempt_timeout(config.timeouts.connect)
            .send_buffer_bytes(SEND_BUFFER_BYTES);
        let stream = connector.connect(host, port, deadline).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Cause::NameNotFound)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let mut stream = stream.map_err(|error| handshake_failed(&error))?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        connect_handshake(stream, &config, options).await
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
    options: ConnectOptions,
) -> Result<Accepted<S>, Cause> {
    let limit = config.limits.incoming_packet_bytes;
    let mut framed = Framed::new(stream, limit, options.lenient);
    framed.send(&connect_packet(config, options)).await?;
    match framed.receive().await? {
        Received::ConnAck(connack) if connack.reason.is_failure() => Err(Cause::NotAccepted {
            reason: connack.reason,
            message: connack.message,
        }),
        Received::ConnAck(connack) => Ok((framed, capabilities(&connack, config))),
        Received::ConnAckOfMqtt311 => Err(Cause::Mqtt311Only),
        _ => Err(Cause::Protocol(
            "CONNECT was answered with another packet than CONNACK".into(),
        )),
    }
}

fn connect_packet(config: &SessionConfig, options: ConnectOptions) -> Packet {
    // Topic aliases are not offered: they cost memory, and devices do not need them.
    let properties = ConnectProperties {
        session_expiry_interval: config.session_expiry.map(whole_seconds),
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
        let qos = if options.will_at_most_once {
            QoS::AtMostOnce
        } else {
            will.qos
        };
        let retain = will.retain && !options.will_not_retained;
        let properties = will_properties(will, config.will_delay);
        LastWill::new(&will.topic, payload, qos.into(), retain, properties)
    });
    Packet::Connect(connect, will, None)
}

fn will_properties(will: &Message, delay: Option<Duration>) -> Option<LastWillProperties> {
    let properties = will.properties.as_deref().cloned();
    (delay.is_some() || properties.is_some()).then(|| {
        let MessageProperties {
            content_type,
            response_topic,
            correlation_data,
            user_properties,
            ..
        } = properties.unwrap_or_default();
        LastWillProperties {
            delay_interval: delay.map(whole_seconds),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type,
            response_topic,
            correlation_data,
            user_properties,
        }
    })
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn capabilities(connack: &ConnAck, config: &SessionConfig) -> ServerCapabilities {
    let keep_alive = connack
        .server_keep_alive
        // The server does not use keep-alive, but the session must detect a dead server.
        .filter(|seconds| *seconds > 0)
        .map_or(config.keep_alive, |seconds| {
            // A longer interval must not delay the detection of a dead connection.
            Duration::from_secs(seconds.into()).min(config.keep_alive)
        });
    ServerCapabilities {
        receive_maximum: (connack.receive_maximum).unwrap_or(config.limits.in_flight),
        maximum_packet: connack.maximum_packet,
        at_least_once: connack.maximum_qos.is_none_or(|qos| qos >= 1),
        retain: connack.retain_available.unwrap_or(true),
        keep_alive,
        session_present: connack.session_present,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::endpoint::Endpoint;
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
                server_keep_alive: server,
                ..ConnAck::default()
            };
            let keep_alive = capabilities(&connack, &config).keep_alive;
            assert_eq!(keep_alive, Duration::from_secs(expected), "{server:?}");
        }
    }

    #[test]
    fn will_has_its_delay_and_properties() {
        let mut config = SessionConfig::new("localhost", "device", Arc::new(bare()));
        config.session_expiry = Some(Duration::from_secs(60));
        let options = ConnectOptions {
            endpoint: Endpoint {
                port: Port::Main,
                first_family: cloud_net::AddressFamily::default(),
            },
            lenient: false,
            will_at_most_once: false,
            will_not_retained: false,
        };
        let written = |config: &SessionConfig| {
            let mut written = bytes::BytesMut::new();
            connect_packet(config, options)
                .write(&mut written, None)
                .unwrap();
            written
        };
        let will = Message::new("t", "OFFLINE");
        config.will = Some(will.clone());
        assert!(written(&config).ends_with(b"\0\x06device\0\0\x01t\0\x07OFFLINE"));
        config.will_delay = Some(Duration::from_secs(30));
        config.will = Some(will.with_properties(MessageProperties::new().content_type("x")));
        let properties = b"\x09\x18\0\0\0\x1e\x03\0\x01x";
        let expected = [b"device", &properties[..], b"\0\x01t\0\x07OFFLINE"].concat();
        assert!(written(&config).ends_with(&expected));
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
