//! What the tests of the simulator share: a public HTTP client, and a device made of rumqttc.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::sync::Arc;
use std::time::Duration;

use cloud_sim::{DeviceStatus, Fault, SimConfig, Simulator};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, LastWill, Packet, PubAckReason, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
pub use testkit::wait::{LIMIT, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub async fn start() -> Simulator {
    Simulator::start(SimConfig::default()).await.unwrap()
}

/// Waits until a device's status is as wanted.
pub async fn status(
    sim: &Simulator,
    sn: &str,
    wanted: impl Fn(&DeviceStatus) -> bool,
) -> DeviceStatus {
    let control = sim.control();
    eventually("the wanted status", async || {
        control.device(sn).await.ok().filter(&wanted)
    })
    .await
}

/// A TLS configuration that trusts these roots and nothing else.
pub fn tls(roots_pem: &str, identity: Option<(&str, &str)>) -> rustls::ClientConfig {
    let config = testkit::tls::client_builder(roots_pem);
    match identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let chain = testkit::pki::certificates(chain);
            config.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

pub fn http(sim: &Simulator) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(sim.ca_pem(), None))
        .timeout(LIMIT)
        .build()
        .unwrap()
}

/// A request to the control API, as its owner makes one.
pub fn control(sim: &Simulator, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
    http(sim)
        .request(method, format!("{}{path}", sim.control_url()))
        .header("content-type", "application/json")
        .bearer_auth(sim.control_token())
}

pub async fn call_register(sim: &Simulator, sn: &str, key: &str) -> reqwest::Response {
    http(sim)
        .post(format!("{}/device/register", sim.api_url()))
        .json(&json!({ "sn": sn, "token": key }))
        .send()
        .await
        .unwrap()
}

/// Registers a device and returns its `thing`.
pub async fn register(sim: &Simulator, sn: &str) -> Value {
    let response = call_register(sim, sn, sim.provisioning_key()).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["registration"]["error"], Value::Null);
    body["registration"]["thing"].clone()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub fn identity(thing: &Value) -> (&str, &str) {
    (
        text(&thing["iot"]["certificates"]["device_certificate"]),
        text(&thing["iot"]["keyPair"]["privateKey"]),
    )
}

/// One MQTT connection. It is not repeated.
pub struct Device {
    pub client: AsyncClient,
    pub connack: ConnAck,
    events: mpsc::UnboundedReceiver<Packet>,
    pump: JoinHandle<ConnectionError>,
}

impl Device {
    /// Connects with the certificate of `thing`, under its own name.
    pub async fn connect(sim: &Simulator, thing: &Value) -> Self {
        Self::try_connect(
            sim,
            thing,
            text(&thing["iot"]["thing_name"]),
            Some(identity(thing)),
        )
        .await
        .unwrap()
    }

    /// Connects under any name, with any certificate.
    pub async fn try_connect(
        sim: &Simulator,
        thing: &Value,
        client_id: &str,
        identity: Option<(&str, &str)>,
    ) -> Result<Self, ConnectionError> {
        let tls = tls(text(&thing["iot"]["certificates"]["root_ca"]), identity);
        let mut options = MqttOptions::new(client_id, "localhost", sim.mqtt_addr().port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::new(tls),
        )));
        options.set_keep_alive(Duration::from_secs(60));
        options.set_connection_timeout(LIMIT.as_secs());
        let will = LastWill::new(
            format!("c/d/{}/status", text(&thing["iot"]["thing_name"])),
            r#"{"state":"OFFLINE"}"#,
            QoS::AtMostOnce,
            false,
            None,
        );
        options.set_last_will(will);
        let (client, mut event_loop) = AsyncClient::new(options, 64);
        let connack = loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = event_loop.poll().await? {
                break connack;
            }
        };
        assert_eq!(connack.code, ConnectReturnCode::Success);
        let (sender, events) = mpsc::unbounded_channel();
        let pump = tokio::spawn(async move {
            loop {
                match event_loop.poll().await {
                    Ok(Event::Incoming(packet)) => drop(sender.send(packet)),
                    Ok(Event::Outgoing(_)) => {}
                    Err(error) => return error,
                }
            }
        });
        Ok(Self {
            client,
            connack,
            events,
            pump,
        })
    }

    /// The next packet; `None` once the connection is gone.
    pub async fn packet(&mut self) -> Option<Packet> {
        tokio::time::timeout(LIMIT, self.events.recv())
            .await
            .expect("a packet or the end of the connection")
    }

    /// Waits until the connection is gone, and tells why.
    pub async fn ended(&mut self) -> ConnectionError {
        tokio::time::timeout(LIMIT, &mut self.pump)
            .await
            .expect("the end of the connection")
            .unwrap()
    }

    /// Subscribes and returns what the broker says to it.
    pub async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.client
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .unwrap();
        loop {
            if let Packet::SubAck(suback) = self.packet().await.expect("a SUBACK") {
                return suback.return_codes[0];
            }
        }
    }

    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client
            .publish(topic, QoS::AtMostOnce, false, payload.into())
            .await
            .unwrap();
    }

    /// Publishes with QoS 1 and returns what the broker says to it.
    pub async fn publish_acknowledged(&mut self, topic: &str, payload: &str) -> PubAckReason {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload.to_owned())
            .await
            .unwrap();
        loop {
            if let Packet::PubAck(puback) = self.packet().await.expect("a PUBACK") {
                return puback.reason;
            }
        }
    }

    /// The next message: topic and payload.
    pub async fn message(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Packet::Publish(publish) = self.packet().await.expect("a message") {
                return (
                    String::from_utf8(publish.topic.to_vec()).unwrap(),
                    publish.payload.to_vec(),
                );
            }
        }
    }

    /// The next message, in JSON.
    pub async fn json(&mut self) -> (String, Value) {
        let (topic, payload) = self.message().await;
        (topic, serde_json::from_slice(&payload).unwrap())
    }

    /// Whether nothing comes for a while.
    pub async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.events.recv())
            .await
            .is_err()
    }

    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// A TLS connection with the certificate of `thing`.
pub async fn raw_tls(sim: &Simulator, thing: &Value) -> TlsStream<TcpStream> {
    try_raw_tls(sim, thing, "localhost").await.unwrap()
}

/// As [`raw_tls`], to the broker under any name.
pub async fn try_raw_tls(
    sim: &Simulator,
    thing: &Value,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = tls(
        text(&thing["iot"]["certificates"]["root_ca"]),
        Some(identity(thing)),
    );
    let stream = TcpStream::connect(sim.mqtt_addr()).await?;
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
}

/// Connects without a client library, and returns the stream after CONNACK. rumqttc loses the
/// reason of a DISCONNECT that has no properties, so a test of that reads the bytes.
pub async fn raw_connect(sim: &Simulator, thing: &Value) -> TlsStream<TcpStream> {
    let name = text(&thing["iot"]["thing_name"]);
    let mut stream = raw_tls(sim, thing).await;
    let mut packet = b"\x10\0\0\x04MQTT\x05\x02\0\x3c\0\0".to_vec();
    packet.push(name.len().try_into().unwrap());
    packet.extend_from_slice(name.as_bytes());
    packet[1] = (packet.len() - 2).try_into().unwrap();
    stream.write_all(&packet).await.unwrap();
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], 0x20, "CONNACK");
    let mut connack = vec![0; head[1].into()];
    stream.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack[1], 0, "accepted");
    stream
}

/// All that still comes on a stream.
pub async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest))
        .await
        .expect("the end of the stream")
        .unwrap();
    rest
}

/// Where a device asks for a token.
pub const TOKEN_REQUEST: &str = "c/d/SN1/remotetoken/req";

pub fn token_request() -> String {
    json!({ "aesKey": "5a".repeat(32), "aesIv": "c3".repeat(16) }).to_string()
}

/// A registered device that listens to its answers.
pub async fn listening(sim: &Simulator) -> Device {
    let thing = register(sim, "SN1").await;
    let mut device = Device::connect(sim, &thing).await;
    device.subscribe("c/d/SN1/+/res").await;
    device
}

pub async fn fault(sim: &Simulator, fault: Fault) -> usize {
    sim.control().fault(fault).await.unwrap()
}
