//! The SniTun protocol: a device behind a firewall serves TLS to the public through a relay that
//! cannot decrypt it.
//!
//! A *device* (the [client]) opens one TCP connection to a *relay* (the [server]) and keeps it. The
//! relay reads the host name in the TLS ClientHello of each public *caller*, opens a *channel*
//! inside the connection of the device with that name, and from then on only forwards bytes: TLS
//! ends on the device. Tokens authenticate devices and determine their names. The crate
//! interoperates with the Python package `snitun`, with all of its protocol versions (0, 1, 2) and
//! ciphers (`aes-cbc`, `aes-gcm`, `aes-gcm-siv`).
//!
//! # Features
//!
//! Both ends are enabled by default; `default-features = false` leaves only the protocol.
//!
//! | feature | adds |
//! |---|---|
//! | none | the protocol as state machines without I/O, clock or random source: [`Decoder`], [`Encoder`], [`Mux`], the handshakes, [`sni`] |
//! | `driver` | the tokio driver of both ends: [`Channel`], [`TunnelHandle`], [`copy_bidirectional`], [`configure_tcp`]; enabled by the next two |
//! | `client` | `client`: connects a device over any byte stream, accepts [channels](Channel) |
//! | `server` | `server`: tokens, registry of devices, public side |
//!
//! A [`Channel`] is a tokio byte stream; [`copy_bidirectional()`] connects one to a TCP connection.
//!
//! # Guarantees against any peer
//!
//! - Reading from the connection never waits for a channel. Channels take turns; PING, PAUSE and
//!   other control frames precede data.
//! - Every queue has a bound ([`Limits`]) and every wait has a timeout ([`Timeouts`]).
//! - A channel that is not read is paused from version 1 on. Version 0 has no flow control: at its
//!   receive limit the channel is closed, and no other.
//! - A frame may announce 4 GiB; data is passed on piece by piece, and nothing is allocated for the
//!   announced size.
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
//! let task = tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await });
//!
//! // The operator issues a token for a key and a host name.
//! let key = SessionKey::generate()?;
//! let valid = (SystemTime::now() + Duration::from_secs(3600)).duration_since(UNIX_EPOCH)?.as_secs();
//! let content = TokenContent::new("device.example.com", key, valid);
//! let token = fernet.issue(&content)?;
//!
//! // The device.
//! let stream = TcpStream::connect(address).await?;
//! snitun::configure_tcp(&stream)?;
//! let tunnel = client::connect(stream, ClientConfig::new(token, content.key.aes_cbc())).await?;
//! assert!(relay.is_connected("device.example.com"));
//! println!("the relay is {:?} away", tunnel.handle().ping().await?);
//! // `tunnel.accept()` accepts a channel for each caller: terminate TLS on it, or pass it to `snitun::copy_bidirectional`.
//!
//! drop(tunnel);
//! let _ = stop.send(());
//! task.await?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "client", feature = "server")))]
//! # fn main() {}
//! ```
//!
//! # Errors
//!
//! | error | of | again later? |
//! |---|---|---|
//! | `client::ConnectError` | `client::connect` | yes, unless the token is refused each time: then with a new one |
//! | [`CloseReason`] | the end of a tunnel | yes: connect again |
//! | [`OpenError`] | opening a channel | yes, while the tunnel lives |
//! | [`ChannelError`] | reading and writing a channel, inside of `std::io::Error` | no: the channel has ended, the others have not |
//! | `PingError` | `TunnelHandle::ping` | yes, unless the tunnel has ended |
//! | `server::TokenError` | issuing and checking tokens | `Unavailable` only |
//! | [`HandshakeError`], [`DecodeError`], [`SealError`] | the protocol without I/O | no: end the connection |
//! | [`KeyError`], [`UnsupportedCipher`], [`UnsupportedVersion`] | a value of the configuration | no: change it |
//! | [`sni::SniError`], [`proxy::ProxyError`] | the first bytes of a caller | no: close its connection |
//! | `EntropyError` | the system's random source | yes |
//!
//! The examples `forward` (a device that forwards every channel to a TCP address) and `relay` (a
//! relay) are small usable programs.
//!
//! # Out of scope
//!
//! The crate contains no TLS for the channels, no choice of the server address, no reconnection,
//! and no HTTP: a channel carries bytes.
//!
//! The protocol is described in [`docs/protocol.md`], "SniTun".
//!
//! [`docs/protocol.md`]:
//! https://github.com/clesyde/clesyde-cloud-rs/blob/main/docs/protocol.md#snitun

// The documentation links to all features, even where they are disabled.
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(rustdoc::broken_intra_doc_links)
)]

mod close;
mod codec;
mod crypto;
mod handshake;
mod hex;
mod limits;
mod mux;
mod time;
mod version;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "driver")]
mod copy;
#[cfg(feature = "driver")]
mod driver;
pub mod proxy;
#[cfg(feature = "server")]
pub mod server;
pub mod sni;
#[cfg(feature = "driver")]
mod socket;
mod stats;

pub use close::{ChannelError, CloseReason, OpenError};
pub use codec::decoder::{DecodeError, Decoder, Incoming, MAX_SKIPPED};
pub use codec::encoder::Encoder;
pub use codec::frame::{ChannelId, EXTRA_LEN, FrameType, HEADER_LEN, Header};
pub use codec::write_batch::WriteBatch;
#[cfg(feature = "driver")]
pub use copy::{CopyStats, copy_bidirectional};
pub use crypto::cipher::{
    Cipher, DecryptError, Entropy, Opener, Role, SealError, Sealer, UnsupportedCipher,
};
pub use crypto::connection_key::{ConnectionKey, OneTimeKey, ReusableKey};
pub use crypto::key::{IV_LEN, KEY_LEN, KeyError, SessionKey};
#[cfg(feature = "driver")]
pub use driver::{Channel, ChannelReader, ChannelWriter, EntropyError, PingError, TunnelHandle};
pub use handshake::{
    CHALLENGE_LEN, ClientHandshake, HandshakeError, MAX_TOKEN_LEN, ServerHandshake, Session,
};
pub use limits::{Limits, Timeouts};
pub use mux::{ChannelKey, Event, Mux, MuxConfig, Read, Write};
#[cfg(feature = "driver")]
pub use socket::configure_tcp;
pub use stats::TunnelStats;
pub use time::Timestamp;
pub use version::{ProtocolVersion, UnsupportedVersion};
