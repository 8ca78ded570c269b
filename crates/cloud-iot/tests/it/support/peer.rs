//! A scripted server, packet by packet. rumqttc encodes the packets.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    LastWill, Packet, PubAck, PubAckReason, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pki::{Flaw, Pki};
use super::tap::{Tap, Wire};

/// More than any step takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Peer {
    pub(crate) port: u16,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

pub(crate) struct Link {
    stream: TlsStream<Tap>,
    buffer: BytesMut,
}

impl Peer {
    pub(crate) async fn listen(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            port,
            listener,
            acceptor: tls.into(),
        }
    }

    /// Creates a peer with this ALPN name only.
    pub(crate) async fn listen_with_alpn(pki: &Pki, name: &[u8]) -> Self {
        let mut tls = ServerConfig::clone(&pki.server(Flaw::None));
        tls.alpn_protocols = vec![name.to_vec()];
        Self::listen(Arc::new(tls)).await
    }

    /// Accepts a TCP connection.
    pub(crate) async fn tcp(&self) -> Tap {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .unwrap()
            .unwrap();
        Tap::new(stream)
    }

    /// Accepts a connection and reads its CONNECT.
    pub(crate) async fn accept(&self) -> Link {
        self.accept_with_connect().await.0
    }

    /// Accepts a connection and reads its CONNECT.
    pub(crate) async fn accept_with_connect(&self) -> (Link, Connect) {
        let (link, packet) = self.accept_with_packet().await;
        match packet {
            Packet::Connect(connect, ..) => (link, connect),
            other => panic!("no CONNECT but {other:?}"),
        }
    }

    async fn accept_with_packet(&self) -> (Link, Packet) {
        let stream = timeout(PATIENCE, self.acceptor.accept(self.tcp().await))
            .await
            .unwrap()
            .unwrap();
        let mut link = Link {
            stream,
            buffer: BytesMut::new(),
        };
        let packet = link.read().await.expect("a packet");
        (link, packet)
    }

    /// Accepts a connection and reads its CONNECT, which has a will.
    pub(crate) async fn accept_with_will(&self) -> (Link, LastWill) {
        let (link, packet) = self.accept_with_packet().await;
        match packet {
            Packet::Connect(_, Some(will), _) => (link, will),
            other => panic!("no will in {other:?}"),
        }
    }

    /// Accepts a TLS connection, or returns the handshake error.
    pub(crate) async fn handshake(&self) -> std::io::Result<()> {
        self.handshake_on(self.tcp().await).await
    }

    /// The same on an accepted TCP connection.
    pub(crate) async fn handshake_on(&self, tcp: Tap) -> std::io::Result<()> {
        timeout(PATIENCE, self.acceptor.accept(tcp))
            .await
            .unwrap()
            .map(drop)
    }

    /// Accepts a connection up to CONNACK.
    pub(crate) async fn connected(&self) -> Link {
        let mut link = self.accept().await;
        link.connack(None).await;
        link
    }

    /// Accepts a connection up to SUBACK.
    pub(crate) async fn subscribed(&self) -> Link {
        let mut link = self.connected().await;
        link.suback(None).await;
        link
    }
}

impl Link {
    /// Returns the negotiated ALPN name.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// Returns the TLS records of this connection.
    pub(crate) fn wire(&self) -> Wire {
        self.stream.get_ref().0.wire.clone()
    }

    /// Returns the next packet; `None` at the end of the connection.
    pub(crate) async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, Some(1 << 20)) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                // A DISCONNECT without a reason, which rumqttc writes but cannot read.
                Err(Error::PayloadRequired) => {
                    let reason = DisconnectReasonCode::NormalDisconnection;
                    return Some(Packet::Disconnect(Disconnect::new(reason)));
                }
                Err(error) => panic!("the client sent {error}"),
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
                .await
                .unwrap();
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// Returns the next bytes.
    pub(crate) async fn raw_read(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            assert!(matches!(read, Ok(Ok(1..))), "{read:?}");
        }
        self.buffer.split_to(length).to_vec()
    }

    /// Returns the kind of the next packet and, for a PUBLISH, its payload.
    pub(crate) async fn summary(&mut self) -> String {
        match self.read().await {
            Some(Packet::Publish(publish)) => {
                format!("publish {}", String::from_utf8_lossy(&publish.payload))
            }
            Some(Packet::Subscribe(subscribe)) => format!("subscribe {}", subscribe.filters.len()),
            Some(Packet::Disconnect(_)) => "disconnect".into(),
            Some(Packet::PingReq(_)) => "ping".into(),
            Some(packet) => format!("{packet:?}"),
            None => "end".into(),
        }
    }

    pub(crate) async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.raw(&bytes).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn connack(&mut self, properties: Option<ConnAckProperties>) {
        self.connack_with_session(false, properties).await;
    }

    pub(crate) async fn connack_with_session(
        &mut self,
        session_present: bool,
        properties: Option<ConnAckProperties>,
    ) {
        let code = ConnectReturnCode::Success;
        self.write(Packet::ConnAck(ConnAck {
            session_present,
            code,
            properties,
        }))
        .await;
    }

    /// Reads a SUBSCRIBE and answers with `code` for its last filter.
    pub(crate) async fn suback(&mut self, last: Option<SubscribeReasonCode>) {
        let Some(Packet::Subscribe(subscribe)) = self.read().await else {
            panic!("no SUBSCRIBE")
        };
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let mut return_codes = vec![granted; subscribe.filters.len()];
        if let (Some(code), Some(place)) = (last, return_codes.last_mut()) {
            *place = code;
        }
        self.write(Packet::SubAck(SubAck {
            pkid: subscribe.pkid,
            return_codes,
            properties: None,
        }))
        .await;
    }

    /// Reads a PUBLISH; answers it if a reason is given. Returns its payload.
    pub(crate) async fn publish(&mut self, reason: Option<PubAckReason>) -> String {
        let packet = self.read().await;
        let Some(Packet::Publish(publish)) = packet else {
            panic!("no PUBLISH but {packet:?}")
        };
        if let Some(reason) = reason {
            let ack = PubAck {
                pkid: publish.pkid,
                reason,
                properties: None,
            };
            self.write(Packet::PubAck(ack)).await;
        }
        String::from_utf8(publish.payload.to_vec()).unwrap()
    }
}

/// Empty properties of a CONNACK.
pub(crate) fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
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
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
