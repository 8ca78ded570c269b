//! A broker of MQTT v5 that does what it likes: it takes every client, and sends what an attack has it send.
//!
//! Specification: MQTT v5.0 §2 and §3. What the client sends is looked at only as far as it has to be answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use integration_tests::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Longest packet that is read: AWS IoT Core takes 128 KiB.
const MAX_PACKET: usize = 256 * 1024;

/// Until a client that has subscribed is attacked: by then it has fetched its shadow.
const CALM: Duration = Duration::from_millis(500);

/// What the broker does once a client has subscribed.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Sends these messages in turn, so many in all, and then is quiet.
    Flood {
        messages: Vec<(String, Vec<u8>)>,
        count: usize,
    },
    /// Sends DISCONNECT with this reason string.
    Disconnect(String),
    /// Answers each publish whose topic ends with the first text, on the topic with the second text in its place.
    Answer {
        requests: String,
        answers: String,
        payload: Vec<u8>,
    },
}

/// A running broker. Ends when dropped.
pub(crate) struct HostileBroker {
    pub(crate) address: SocketAddr,
    /// The root to trust.
    pub(crate) ca: String,
    _server: JoinSet<()>,
}

impl HostileBroker {
    pub(crate) async fn start(behaviour: Behaviour) -> Result<Self> {
        let authority = Authority::new("Hostile broker")?;
        let pair = authority.server(&["localhost"])?;
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behaviour) = (acceptor.clone(), behaviour.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // How a connection ends is the client's affair.
                        let _ = serve(stream, behaviour).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            ca: authority.pem(),
            _server: server,
        })
    }
}

type Reader = ReadHalf<TlsStream<TcpStream>>;
type Writer = WriteHalf<TlsStream<TcpStream>>;

async fn serve(stream: TlsStream<TcpStream>, behaviour: Behaviour) -> Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut attack = match &behaviour {
        Behaviour::Flood { .. } | Behaviour::Disconnect(_) => Some(()),
        Behaviour::Answer { .. } => None,
    };
    loop {
        let (first, packet) = read_packet(&mut reader).await?;
        match first >> 4 {
            1 => send(&mut writer, 0x20, &[0, 0, 0]).await?,
            3 => on_publish(&mut writer, first, &packet, &behaviour).await?,
            8 => {
                let filters = count_filters(&packet);
                let id = packet.get(..2).unwrap_or_default();
                send(&mut writer, 0x90, &[id, &[0], &vec![0; filters]].concat()).await?;
                if attack.take().is_some() {
                    sleep(CALM).await;
                    strike(&mut writer, &behaviour).await?;
                }
            }
            12 => send(&mut writer, 0xd0, &[]).await?,
            14 => return Ok(()),
            _ => {}
        }
    }
}

async fn strike(writer: &mut Writer, behaviour: &Behaviour) -> Result<()> {
    match behaviour {
        Behaviour::Flood { messages, count } => {
            for (topic, payload) in messages.iter().cycle().take(*count) {
                publish(writer, topic, payload).await?;
            }
        }
        Behaviour::Disconnect(reason) => {
            // 0x8b: the server is shutting down. The client comes again.
            let property = [&[0x1f][..], &text(reason)].concat();
            send(
                writer,
                0xe0,
                &[&[0x8b, property.len() as u8][..], &property].concat(),
            )
            .await?;
        }
        Behaviour::Answer { .. } => {}
    }
    Ok(())
}

async fn on_publish(
    writer: &mut Writer,
    first: u8,
    packet: &[u8],
    behaviour: &Behaviour,
) -> Result<()> {
    let length = packet.get(..2).map_or(0, |bytes| {
        usize::from(bytes[0]) << 8 | usize::from(bytes[1])
    });
    let topic = String::from_utf8_lossy(packet.get(2..2 + length).unwrap_or_default()).into_owned();
    if first & 6 != 0 {
        let id = packet.get(2 + length..4 + length).unwrap_or_default();
        send(writer, 0x40, id).await?;
    }
    if let Behaviour::Answer {
        requests,
        answers,
        payload,
    } = behaviour
        && let Some(begin) = topic.strip_suffix(requests.as_str())
    {
        publish(writer, &format!("{begin}{answers}"), payload).await?;
    }
    Ok(())
}

/// The filters of a SUBSCRIBE, each with one byte of options behind it.
fn count_filters(packet: &[u8]) -> usize {
    let Some((properties, mut rest)) = packet.get(2..).and_then(variable_integer) else {
        return 0;
    };
    rest = rest.get(properties..).unwrap_or_default();
    let mut count = 0;
    while let [high, low, after @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        rest = after.get(length + 1..).unwrap_or_default();
        count += 1;
    }
    count
}

/// An integer of variable length, and what is behind it.
fn variable_integer(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

async fn read_packet(reader: &mut Reader) -> Result<(u8, Vec<u8>)> {
    let first = reader.read_u8().await?;
    let mut length = 0;
    for at in 0..4 {
        let byte = reader.read_u8().await?;
        length |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            break;
        }
    }
    if length > MAX_PACKET {
        bail!("a packet of {length} bytes");
    }
    let mut packet = vec![0; length];
    reader.read_exact(&mut packet).await?;
    Ok((first, packet))
}

async fn publish(writer: &mut Writer, topic: &str, payload: &[u8]) -> Result<()> {
    send(writer, 0x30, &[&text(topic)[..], &[0], payload].concat()).await
}

async fn send(writer: &mut Writer, first: u8, content: &[u8]) -> Result<()> {
    let mut packet = vec![first];
    let mut rest = content.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 128 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(content);
    writer.write_all(&packet).await?;
    writer.flush().await?;
    Ok(())
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}
