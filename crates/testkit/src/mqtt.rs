//! An MQTT broker that grants every request and sends what a test's script says (MQTT v5.0 §2, §3).

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::{ServerConnection, StreamOwned};

use crate::pki::Pair;
use crate::tls;

/// The broker. Its threads end with the process of the test.
#[derive(Debug)]
pub struct ScriptedBroker {
    /// Its address, whose certificate is for `localhost`.
    pub address: SocketAddr,
    /// The root to trust, in PEM.
    pub root: String,
}

/// One connection of a device.
#[derive(Debug)]
pub struct BrokerConnection(StreamOwned<ServerConnection, TcpStream>);

/// A request of a device that the broker has granted.
#[derive(Debug, Clone, Copy)]
pub enum Granted<'a> {
    /// A SUBSCRIBE.
    Subscribe,
    /// A message.
    Publish {
        /// The topic.
        topic: &'a str,
        /// The payload.
        payload: &'a [u8],
    },
}

impl ScriptedBroker {
    /// Starts a broker; it calls `script` after each granted request.
    pub fn start(
        script: impl Fn(&mut BrokerConnection, Granted<'_>) -> Result<()> + Clone + Send + 'static,
    ) -> Self {
        let pair = Pair::self_signed("localhost");
        let tls = Arc::new(tls::server(&pair));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&tls)).unwrap();
                let mut connection = BrokerConnection(StreamOwned::new(tls, stream.unwrap()));
                let script = script.clone();
                // A closed connection does not fail the test.
                thread::spawn(move || drop(connection.serve(script)));
            }
        });
        Self {
            address,
            root: pair.certificate,
        }
    }
}

impl BrokerConnection {
    fn serve(&mut self, script: impl Fn(&mut Self, Granted<'_>) -> Result<()>) -> Result<()> {
        loop {
            let (kind, body) = self.read()?;
            match kind >> 4 {
                // CONNECT: CONNACK.
                1 => self.packet(0x20, &[0, 0, 0])?,
                // PUBLISH: PUBACK at QoS 1.
                3 => {
                    let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let topic = std::str::from_utf8(&body[2..topic_end]).unwrap();
                    let mut rest = &body[topic_end..];
                    if kind & 0x06 != 0 {
                        self.packet(0x40, &rest[..2])?;
                        rest = &rest[2..];
                    }
                    // The properties are shorter than 128 bytes.
                    let payload = &rest[1 + usize::from(rest[0])..];
                    script(self, Granted::Publish { topic, payload })?;
                }
                // SUBSCRIBE: SUBACK.
                8 => {
                    let mut filters = &body[3 + usize::from(body[2])..];
                    let mut answer = vec![body[0], body[1], 0];
                    while let [high, low, ..] = filters {
                        filters = &filters[3 + usize::from(u16::from_be_bytes([*high, *low]))..];
                        answer.push(1);
                    }
                    self.packet(0x90, &answer)?;
                    script(self, Granted::Subscribe)?;
                }
                // PINGREQ: PINGRESP.
                12 => self.packet(0xd0, &[])?,
                _ => return Ok(()),
            }
        }
    }

    fn read(&mut self) -> Result<(u8, Vec<u8>)> {
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

    fn packet(&mut self, kind: u8, body: &[u8]) -> Result<()> {
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
        self.0.write_all(&packet)?;
        self.0.flush()
    }

    /// Sends PUBLISH at QoS 0. The topic may be any bytes.
    pub fn publish(&mut self, topic: &[u8], payload: &[u8]) -> Result<()> {
        let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        self.packet(0x30, &[&length[..], topic, &[0], payload].concat())
    }

    /// Sends DISCONNECT with this reason code and reason string.
    pub fn disconnect(&mut self, code: u8, reason: &str) -> Result<()> {
        let length = u16::try_from(reason.len()).unwrap().to_be_bytes();
        let properties = [&[0x1f][..], &length, reason.as_bytes()].concat();
        let size = u8::try_from(properties.len()).unwrap();
        self.packet(0xe0, &[&[code, size][..], &properties].concat())
    }
}
