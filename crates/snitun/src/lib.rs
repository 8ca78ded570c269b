//! The SniTun protocol: sans-IO core, tokio driver, client and server

mod batch;
mod cipher;
mod close;
mod decoder;
mod encoder;
mod frame;
mod handshake;
mod hex;
mod key;
mod limits;
mod mux;
mod version;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "driver")]
mod driver;
#[cfg(feature = "driver")]
mod relay;
#[cfg(feature = "server")]
pub mod server;
pub mod sni;

pub use batch::WriteBatch;
pub use cipher::{BadUnit, Cipher, Entropy, Opener, Role, SealError, Sealer, UnsupportedCipher};
pub use close::{ChannelError, CloseReason, OpenError};
pub use decoder::{DecodeError, Decoder, Incoming};
#[cfg(feature = "driver")]
pub use driver::{Channel, ChannelReader, ChannelWriter, NoRandomness, PingError, TunnelHandle};
pub use encoder::Encoder;
pub use frame::{ChannelId, EXTRA_LEN, FrameType, HEADER_LEN, Header};
pub use handshake::{
    CHALLENGE_LEN, ClientHandshake, HandshakeError, MAX_TOKEN_LEN, ServerHandshake, Session,
};
pub use key::{IV_LEN, KEY_LEN, KeyError, SessionKey};
pub use limits::{Limits, Timeouts};
pub use mux::{ChannelKey, Event, Mux, MuxConfig, Read, Write};
#[cfg(feature = "driver")]
pub use relay::{Relayed, relay};
pub use version::{ProtocolVersion, UnsupportedVersion};
