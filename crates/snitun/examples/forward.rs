//! A SniTun client that forwards every channel to a TCP address.
//!
//! ```text
//! forward --server HOST:PORT --token-file FILE --to HOST:PORT [--key HEX] [--iv HEX]
//!         [--protocol-version 0|1|2] [--cipher aes-cbc|aes-gcm|aes-gcm-siv] [--throttling MESSAGES_PER_SECOND]
//! ```
//!
//! The token file contains a token, or the JSON that the `relay` example issues (which makes
//! `--key`, `--iv`, `--protocol-version` and `--cipher` unnecessary). One JSON line reports that
//! the tunnel is up; SIGTERM or Ctrl-C closes it. When the relay closes it, the program exits with
//! an error; a supervisor can restart it. Without arguments it runs a demo: a server, a device and
//! a caller in one process.

mod support;

use std::fmt::Display;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use serde_json::error::Category;
use snitun::client::{self, ClientConfig};
use snitun::{Cipher, CloseReason, KeyError, ProtocolVersion, SessionKey};
use support::ExampleError;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Idle timeout of a forwarded connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout for connecting to either side.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a SniTun tunnel and forwards every channel to a TCP address
#[derive(Parser)]
struct Options {
    /// Address of the relay
    #[arg(long, value_name = "HOST:PORT", value_parser = support::address)]
    server: String,

    /// File with a token, or with the JSON that the example `relay` issues
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,

    /// Address to forward callers to: a TLS server with a certificate for the device's host name
    #[arg(long, value_name = "HOST:PORT", value_parser = support::address)]
    to: String,

    /// The session key, 32 bytes as 64 hexadecimal digits [default: the one in the token file]
    #[arg(long, value_name = "HEX")]
    key: Option<String>,

    /// The initialization vector, 16 bytes as 32 hexadecimal digits [default: the one in the token
    /// file]
    #[arg(long, value_name = "HEX")]
    iv: Option<String>,

    /// Protocol version of the token: 0, 1 or 2 [default: the one in the token file, or 0]
    #[arg(long, value_name = "VERSION", value_parser = support::version)]
    protocol_version: Option<ProtocolVersion>,

    /// Cipher of the token: aes-cbc, aes-gcm or aes-gcm-siv [default: the one in the token file, or
    /// aes-cbc]
    #[arg(long)]
    cipher: Option<Cipher>,

    /// Maximum messages of 8 KiB or more to send per second
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = support::throttling)]
    throttling: Option<NonZeroU32>,
}

/// The content of the token file.
#[derive(Default, Deserialize)]
struct TokenFile {
    token: String,
    aes_key: Option<String>,
    aes_iv: Option<String>,
    protocol_version: Option<u8>,
    cipher: Option<String>,
}

impl TokenFile {
    fn read(file: &Path) -> Result<Self, ExampleError> {
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(ExampleError::context(format_args!("the token file {name}")))?;
        let token = text.trim();
        if token.starts_with('{') {
            return serde_json::from_str(token).map_err(|error| {
                // The wrong value may be a secret, which this error would repeat.
                let what = match error.classify() {
                    Category::Data => {
                        "a field is missing or of the wrong type; issue a new token".into()
                    }
                    _ => error.to_string(),
                };
                ExampleError::Failed(format!("the JSON in the token file {name}: {what}"))
            });
        }
        if token.is_empty() {
            return Err(ExampleError::Failed(format!(
                "the token file {name} is empty"
            )));
        }
        Ok(Self {
            token: token.to_owned(),
            ..Self::default()
        })
    }
}

impl Options {
    fn config(&self) -> Result<ClientConfig, ExampleError> {
        let issued = TokenFile::read(&self.token_file)?;
        let file = self.token_file.display();
        let missing = |option| {
            ExampleError::Usage(format!(
                "{option} is missing: the token file {file} does not contain it"
            ))
        };
        let key = self.key.as_ref().or(issued.aes_key.as_ref());
        let iv = self.iv.as_ref().or(issued.aes_iv.as_ref());
        let key = key.ok_or_else(|| missing("--key"))?;
        let iv = iv.ok_or_else(|| missing("--iv"))?;
        let in_file = || format!("the token file {file}");
        let key = SessionKey::from_hex(key, iv).map_err(|error| {
            let (option, given) = match error {
                KeyError::MalformedIv => ("--iv", self.iv.is_some()),
                _ => ("--key", self.key.is_some()),
            };
            if given {
                ExampleError::option(option)(error)
            } else {
                ExampleError::context(in_file())(error)
            }
        })?;
        let cipher = match (self.cipher, issued.cipher) {
            (Some(cipher), _) => cipher,
            (None, Some(cipher)) => cipher.parse().map_err(ExampleError::context(in_file()))?,
            (None, None) => Cipher::default(),
        };
        let mut config = ClientConfig::new(issued.token, key.with_cipher(cipher));
        config.version = match (self.protocol_version, issued.protocol_version) {
            (Some(version), _) => version,
            (None, Some(version)) => version
                .try_into()
                .map_err(ExampleError::context(in_file()))?,
            (None, None) => ProtocolVersion::default(),
        };
        config.throttling = self.throttling;
        Ok(config)
    }
}

// One thread: for a single tunnel, synchronization between threads costs more than a second one
// gains.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    support::end(if std::env::args_os().len() == 1 {
        demo::run().await
    } else {
        run(Options::parse()).await
    })
}

async fn run(options: Options) -> Result<(), ExampleError> {
    let config = options.config()?;
    let Options { server, to, .. } = options;
    // From here on a signal stops the program gracefully, also while it connects.
    let stopped = support::stop_signal()?;
    tokio::pin!(stopped);
    let connecting = async {
        let stream = connect(&server)
            .await
            .map_err(ExampleError::context(format_args!(
                "cannot connect to the relay {server}"
            )))?;
        snitun::configure_tcp(&stream)?;
        client::connect(stream, config)
            .await
            .map_err(ExampleError::context(format_args!(
                "no tunnel to the relay {server}"
            )))
    };
    let mut tunnel = tokio::select! {
        result = &mut stopped => return Ok(result?),
        connected = connecting => connected?,
    };
    let handle = tunnel.handle();
    println!(
        "{}",
        serde_json::json!({ "ready": true, "server": server, "to": to })
    );

    let mut channels = JoinSet::new();
    loop {
        tokio::select! {
            result = &mut stopped => { result?; break }
            Some(_) = channels.join_next() => {}
            channel = tunnel.accept() => match channel {
                Some(channel) => {
                    channels.spawn(forward(channel, to.clone()));
                }
                None => return Err(ended(&server, &*handle.closed().await)),
            },
        }
    }
    handle.close();
    handle.closed().await;
    channels.shutdown().await;
    Ok(())
}

/// Connects, with a timeout.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn forward(channel: snitun::Channel, to: String) {
    let target = match connect(&to).await {
        Ok(target) => target,
        Err(error) => return eprintln!("cannot connect to {to}: {error}"),
    };
    // The failure of one connection does not affect the others.
    let _ = snitun::copy_bidirectional(target, channel, IDLE_TIMEOUT).await;
}

/// Describes the end of the tunnel: the relay sends no reason, so list the possible ones.
fn ended(server: &impl Display, reason: &CloseReason) -> ExampleError {
    let why = match reason {
        CloseReason::Peer | CloseReason::Io { .. } => {
            " (the relay has stopped, another device replaced this one, or the token has expired)"
        }
        _ => "",
    };
    ExampleError::Failed(format!(
        "the tunnel to the relay {server} has ended: {reason}{why}; forward does not reconnect; restart it with a supervisor"
    ))
}

/// Everything in one process, on loopback.
mod demo {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use snitun::SessionKey;
    use snitun::client::{self, ClientConfig};
    use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::support::ExampleError;

    /// A minimal ClientHello for the host `a.test`.
    const HELLO: &[u8] = &[
        0x16, 3, 1, 0, 62, 1, 0, 0, 58, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 2, 0x13, 1, 1, 0, 0, 15, 0, 0, 0, 11, 0, 9,
        0, 0, 6, b'a', b'.', b't', b'e', b's', b't',
    ];

    pub(super) async fn run() -> Result<(), ExampleError> {
        let fernet = FernetKeys::generate();
        let server = Server::new(fernet.clone(), ServerConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            server.serve(listener, async { drop(stopped.await) }).await;
        });

        let key = SessionKey::generate()?;
        let valid = SystemTime::now() + Duration::from_secs(60);
        let valid = valid.duration_since(UNIX_EPOCH)?.as_secs();
        let content = TokenContent::new("a.test", key, valid);
        let config = ClientConfig::new(fernet.issue(&content)?, content.key.aes_cbc());
        let stream = TcpStream::connect(address).await?;
        let mut tunnel = client::connect(stream, config).await?;
        println!("tunnel up; ping took {:?}", tunnel.handle().ping().await?);

        let mut caller = TcpStream::connect(address).await?;
        caller.write_all(HELLO).await?;
        let mut channel = tunnel
            .accept()
            .await
            .ok_or_else(|| ExampleError::Failed("the tunnel ended".to_owned()))?;
        println!("channel from {:?}", channel.peer_ip());
        let mut hello = vec![0; HELLO.len()];
        channel.read_exact(&mut hello).await?;
        channel.write_all(b"not really TLS").await?;
        channel.shutdown().await?;
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await?;
        println!(
            "the caller sent a ClientHello of {} bytes and got {answer:?}",
            hello.len()
        );
        drop((caller, channel, tunnel));
        let _ = stop.send(());
        Ok(serving.await?)
    }
}
