//! An MQTT broker that grants every request and sends the raw bytes of a test's script.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// The broker. Its threads end with the test's process.
pub(crate) struct ScriptedBroker {
    port: u16,
    root: String,
}

/// One connection of the device.
pub(crate) struct BrokerConnection(StreamOwned<ServerConnection, TcpStream>);

/// Called with topic and payload of each message from the device.
type Script = dyn Fn(&mut BrokerConnection, &str, &[u8]) -> std::io::Result<()> + Send + Sync;

impl ScriptedBroker {
    pub(crate) fn start(
        script: impl Fn(&mut BrokerConnection, &str, &[u8]) -> std::io::Result<()>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let (tls, script): (_, Arc<Script>) = (Arc::new(tls), Arc::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&tls)).unwrap();
                let mut link = BrokerConnection(StreamOwned::new(tls, stream.unwrap()));
                let script = Arc::clone(&script);
                // A closed connection does not fail the test.
                thread::spawn(move || drop(link.serve(&*script)));
            }
        });
        let root = certificate.pem();
        Self { port, root }
    }

    /// Configures it as the broker of the device with this directory.
    pub(crate) fn configure_device(&self, config: &Path) {
        let file = config.join("cloud_config.json");
        let mut document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        document["iot_endpoint"] = format!("localhost:{}", self.port).into();
        fs::write(file, document.to_string()).unwrap();
        fs::write(config.join("iot_ca.pem"), &self.root).unwrap();
    }
}

impl BrokerConnection {
    fn serve(&mut self, script: &Script) -> std::io::Result<()> {
        loop {
            let (kind, body) = self.read()?;
            match kind >> 4 {
                // CONNECT: CONNACK.
                1 => self.0.write_all(&[0x20, 3, 0, 0, 0])?,
                // PUBLISH: PUBACK at QoS 1, and the script.
                3 => {
                    let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let topic = String::from_utf8(body[2..topic_end].to_vec()).unwrap();
                    let mut rest = &body[topic_end..];
                    if kind & 0x06 != 0 {
                        self.0.write_all(&[0x40, 2, rest[0], rest[1]])?;
                        rest = &rest[2..];
                    }
                    // The properties are shorter than 128 bytes.
                    script(self, &topic, &rest[1 + usize::from(rest[0])..])?;
                }
                // SUBSCRIBE: SUBACK, all granted.
                8 => {
                    let mut filters = &body[3 + usize::from(body[2])..];
                    let mut answer = vec![body[0], body[1], 0];
                    while let [high, low, ..] = filters {
                        filters = &filters[3 + usize::from(u16::from_be_bytes([*high, *low]))..];
                        answer.push(1);
                    }
                    self.packet(0x90, &answer)?;
                }
                // PINGREQ: PINGRESP.
                12 => self.0.write_all(&[0xd0, 0])?,
                _ => return Ok(()),
            }
            self.0.flush()?;
        }
    }

    fn read(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        let (kind, mut length, mut shift) = (byte[0], 0, 0);
        loop {
            self.0.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((kind, body))
    }

    fn packet(&mut self, kind: u8, body: &[u8]) -> std::io::Result<()> {
        let (mut packet, mut length) = (vec![kind], body.len());
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            packet.push((length & 0x7f) as u8 | more);
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.0.write_all(&packet)
    }

    /// PUBLISH at QoS 0. The topic may be anything.
    pub(crate) fn publish(&mut self, topic: &[u8], payload: &[u8]) -> std::io::Result<()> {
        let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        self.packet(0x30, &[&length[..], topic, &[0], payload].concat())
    }

    /// DISCONNECT "quota exceeded", with a reason string.
    pub(crate) fn disconnect(&mut self, reason: &str) -> std::io::Result<()> {
        let length = u16::try_from(reason.len()).unwrap().to_be_bytes();
        let properties = [&[0x1f][..], &length, reason.as_bytes()].concat();
        let size = [u8::try_from(properties.len()).unwrap()];
        self.packet(0xe0, &[&[0x97][..], &size, &properties].concat())?;
        self.0.flush()
    }
}
