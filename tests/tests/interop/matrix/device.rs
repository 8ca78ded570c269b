//! The device of a cell: our client in this process, or the Python one in its own, with the service
//! behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use integration_tests::process::Process;
use snitun::client::{self, ClientConfig, TunnelHandle};
use snitun::server::{FernetKeys, TokenContent};
use snitun::{CloseReason, SessionKey, TunnelStats};
use tempfile::TempDir;
use testkit::wait::timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::service::Service;
use super::{HOST, Maker, Terms};
use crate::peers::script;

pub(super) enum Device {
    Ours {
        tunnel: TunnelHandle,
        _channels: JoinSet<()>,
    },
    Python {
        process: Box<Process>,
        _connections: JoinSet<()>,
        _token: TempDir,
    },
}

impl Device {
    /// Connects with a token of its own, and returns once a ping was answered.
    pub(super) async fn connect(
        maker: &Maker,
        relay: SocketAddr,
        keys: &FernetKeys,
        terms: Terms,
        service: &Arc<Service>,
    ) -> anyhow::Result<Self> {
        let valid = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(3600);
        let mut content = TokenContent::new(HOST, SessionKey::generate()?, valid.as_secs());
        (content.protocol_version, content.cipher) = (terms.version, terms.cipher);
        let token = keys.issue(&content)?;
        match maker {
            Maker::Us => Self::ours(relay, token, content, Arc::clone(service)).await,
            Maker::Python(python) => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let to = listener.local_addr()?;
                let issued = serde_json::json!({
                    "token": token,
                    "aes_key": *content.key.key_hex(),
                    "aes_iv": *content.key.iv_hex(),
                    "protocol_version": u8::from(terms.version),
                    "cipher": terms.cipher.name(),
                });
                let directory = tempfile::tempdir()?;
                let token_file = directory.path().join("token.json");
                std::fs::write(&token_file, issued.to_string())?;
                let mut process = Process::spawn(
                    "the Python client",
                    script(python, "py_snitun_client.py")
                        .args(["--server", &relay.to_string(), "--to", &to.to_string()])
                        .arg("--token-file")
                        .arg(&token_file),
                )?;
                process.event("ready").await?;
                Ok(Self::Python {
                    process: Box::new(process),
                    _connections: serve(listener, Arc::clone(service)),
                    _token: directory,
                })
            }
        }
    }

    async fn ours(
        relay: SocketAddr,
        token: String,
        content: TokenContent,
        service: Arc<Service>,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new(token, content.key.with_cipher(content.cipher));
        config.version = content.protocol_version;
        let stream = TcpStream::connect(relay).await?;
        stream.set_nodelay(true)?;
        let mut tunnel = timeout("our client to connect", client::connect(stream, config)).await?;
        let handle = tunnel.handle();
        timeout("the answer to a ping", handle.ping()).await?;
        let mut channels = JoinSet::new();
        channels.spawn(async move {
            let mut serving = JoinSet::new();
            while let Some(channel) = tunnel.accept().await {
                let service = Arc::clone(&service);
                // The callers notice what goes wrong.
                serving.spawn(async move { service.serve(channel).await });
            }
        });
        Ok(Self::Ours {
            tunnel: handle,
            _channels: channels,
        })
    }

    /// What our client has counted.
    pub(super) fn stats(&self) -> Option<TunnelStats> {
        match self {
            Self::Ours { tunnel, .. } => Some(tunnel.stats()),
            Self::Python { .. } => None,
        }
    }

    /// Waits until it has noticed that the relay is gone.
    pub(super) async fn sees_the_end(self) -> anyhow::Result<()> {
        match self {
            Self::Ours { tunnel, .. } => {
                let reason = timeout("our client to see the end", tunnel.closed()).await;
                let expected = matches!(*reason, CloseReason::Peer | CloseReason::Io { .. });
                ensure!(expected, "{reason}");
            }
            Self::Python { mut process, .. } => {
                process.event("tunnel_ended").await?;
            }
        }
        Ok(())
    }
}

/// The service on a port, for a device that forwards to one.
fn serve(listener: TcpListener, service: Arc<Service>) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = Arc::clone(&service);
            serving.spawn(async move { service.serve(stream).await });
        }
    });
    accepting
}
