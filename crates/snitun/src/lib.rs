//! The SniTun protocol: a device behind any firewall serves TLS to the public through a relay that cannot read it.
//!
//! A *device* (the [client]) opens one TCP connection to a *relay* (the [server]) and keeps it. The relay reads the host
//! name in the TLS ClientHello of each public caller, opens a *channel* inside the connection of the device that goes by
//! that name, and from then on only carries bytes: TLS ends on the device. Tokens say who may connect under which name.
//! The other side may as well be the Python package `snitun`; all of its protocol versions (0, 1, 2) and ciphers
//! (`aes-cbc`, `aes-gcm`, `aes-gcm-siv`) are here.
//!
//! # What is in it
//!
//! Both ends are there by default; `default-features = false` leaves the protocol alone.
//!
//! | feature | what it adds |
//! |---|---|
//! | none | the protocol as state machines without I/O, clock or random source: [`Decoder`], [`Encoder`], [`Mux`], the handshakes, [`sni`] |
//! | `driver` | what both ends share, on tokio: [`Channel`], [`TunnelHandle`], [`relay()`], [`prepare_tcp`]; the next two switch it on |
//! | `client` | `client`: connects a device over any byte stream, yields [channels](Channel) |
//! | `server` | `server`: tokens, registry of devices, public side |
//!
//! A [`Channel`] is an ordinary tokio byte stream; [`relay()`] joins one to a TCP connection.
//!
//! # What holds whoever is on the other side
//!
//! - Reading from the connection never waits for a channel. Channels take turns; PING, PAUSE and the like go ahead of data.
//! - Everything that is queued has a bound ([`Limits`]) and every wait has one ([`Timeouts`]).
//! - A channel that is not read is paused from version 1 on. Version 0 cannot do that: at its receive limit the channel is
//!   closed, and it alone.
//! - A frame may announce 4 GiB; what arrives is passed on piece by piece, and nothing is allocated for an announcement.
//!
//! # Example
//!
//! A relay, a device and a caller in one process:
//!
//! ```
//! # #[cfg(all(feature = "client", feature = "server"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::{Duration, SystemTime, UNIX_EPOCH};
//! use snitun::SessionKey;
//! use snitun::client::{self, ClientConfig};
//! use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
//! use tokio::net::{TcpListener, TcpStream};
//!
//! // The relay.
//! let fernet = FernetKeys::generate();
//! let server = Server::new(fernet.clone(), ServerConfig::default());
//! let relay = server.handle();
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let serving = tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await });
//!
//! // Whoever runs it gives the device a token for a key and a host name.
//! let key = SessionKey::generate()?;
//! let valid = (SystemTime::now() + Duration::from_secs(3600)).duration_since(UNIX_EPOCH)?.as_secs();
//! let content = TokenContent::new("device.example.com", key, valid);
//! let token = fernet.issue(&content)?;
//!
//! // The device.
//! let stream = TcpStream::connect(address).await?;
//! snitun::prepare_tcp(&stream)?;
//! let tunnel = client::connect(stream, ClientConfig::new(token, content.key.aes_cbc())).await?;
//! assert!(relay.is_connected("device.example.com"));
//! println!("the relay is {:?} away", tunnel.handle().ping().await?);
//! // `tunnel.accept()` now yields a channel for each caller: do TLS on it, or hand it to `snitun::relay`.
//!
//! drop(tunnel);
//! let _ = stop.send(());
//! serving.await?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "client", feature = "server")))]
//! # fn main() {}
//! ```
//!
//! The examples `forward` (a device that forwards every channel to a TCP address) and `relay` (a relay) are small programs
//! that can be used as they are.
//!
//! # Not in it
//!
//! TLS on the channels, deciding where to connect to and when to try again, and HTTP: a channel is bytes.
//!
//! Protocol: [`docs/protocol.md`] in the repository, "SniTun".
//!
//! [`docs/protocol.md`]: https://github.com/clesyde/clesyde-cloud-rs/blob/main/docs/protocol.md#snitun

// This page tells of everything, whatever of it is there.
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(rustdoc::broken_intra_doc_links)
)]

mod batch;
mod cipher;
mod close;
mod connection_key;
mod decoder;
mod encoder;
mod frame;
mod handshake;
mod hex;
mod key;
mod limits;
mod moment;
mod mux;
mod version;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "driver")]
mod driver;
pub mod proxy;
#[cfg(feature = "driver")]
mod relay;
#[cfg(feature = "server")]
pub mod server;
pub mod sni;
#[cfg(feature = "driver")]
mod socket;
mod stats;

pub use batch::WriteBatch;
pub use cipher::{BadUnit, Cipher, Entropy, Opener, Role, SealError, Sealer, UnsupportedCipher};
pub use close::{ChannelError, CloseReason, OpenError};
pub use connection_key::{ConnectionKey, OneTimeKey, ReusableKey};
pub use decoder::{DecodeError, Decoder, Incoming, MAX_SKIPPED};
#[cfg(feature = "driver")]
pub use driver::{Channel, ChannelReader, ChannelWriter, NoRandomness, PingError, TunnelHandle};
pub use encoder::Encoder;
pub use frame::{ChannelId, EXTRA_LEN, FrameType, HEADER_LEN, Header};
pub use handshake::{
    CHALLENGE_LEN, ClientHandshake, HandshakeError, MAX_TOKEN_LEN, ServerHandshake, Session,
};
pub use key::{IV_LEN, KEY_LEN, KeyError, SessionKey};
pub use limits::{Limits, Timeouts};
pub use moment::Moment;
pub use mux::{ChannelKey, Event, Mux, MuxConfig, Read, Write};
#[cfg(feature = "driver")]
pub use relay::{Relayed, relay};
#[cfg(feature = "driver")]
pub use socket::prepare_tcp;
pub use stats::TunnelStats;
pub use version::{ProtocolVersion, UnsupportedVersion};
