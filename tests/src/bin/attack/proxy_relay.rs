//! A relay whose callers have any address: behind a PROXY protocol header, as behind a load
//! balancer.
//!
//! The simulator's relay listens on 127.0.0.1, so that its callers are never of IPv6. This one
//! takes the simulator's tokens, since it has its keys.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use snitun::server::{FernetKeys, ListenerConfig, ListenerRole, Server, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A running relay. Ends when dropped.
pub(crate) struct ProxyRelay {
    /// For the device.
    pub(crate) devices: SocketAddr,
    /// For callers with a PROXY header.
    pub(crate) callers: SocketAddr,
    _tasks: JoinSet<()>,
}

impl ProxyRelay {
    /// Starts a relay for the tokens of the simulator with this data directory.
    pub(crate) async fn start(data_dir: &Path) -> Result<Self> {
        let state: Value =
            serde_json::from_slice(&std::fs::read(data_dir.join("simulator.json"))?)?;
        let key = state["fernet_key"].as_str().context("no Fernet key")?;
        let server = Server::new(FernetKeys::from_keys(&[key])?, ServerConfig::default());
        let mut tasks = JoinSet::new();
        let mut listen = async |role, proxy_protocol| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let server = server.clone();
            let port = ListenerConfig {
                role,
                proxy_protocol,
            };
            tasks.spawn(async move {
                server
                    .serve_listener(listener, port, std::future::pending())
                    .await;
            });
            anyhow::Ok(address)
        };
        let devices = listen(ListenerRole::Any, false).await?;
        let callers = listen(ListenerRole::Callers, true).await?;
        Ok(Self {
            devices,
            callers,
            _tasks: tasks,
        })
    }
}
