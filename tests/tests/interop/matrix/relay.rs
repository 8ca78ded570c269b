//! The relay of a cell: ours in this process, or the Python one in its own.

use std::net::SocketAddr;
use std::time::Duration;

use integration_tests::process::Process;
use snitun::TunnelStats;
use snitun::server::{FernetKeys, Server, ServerConfig};
use testkit::wait::{LIMIT, timeout};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Maker;
use super::service::MEETING;
use crate::peers::script;

pub(super) struct Relay {
    pub(super) address: SocketAddr,
    running: Running,
}

enum Running {
    Ours(Server, JoinHandle<()>),
    Python(Box<Process>),
}

impl Relay {
    pub(super) async fn start(maker: &Maker, fernet_key: &str, port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let running = match maker {
            Maker::Us => {
                // All callers have one address here, and the machine may be busy with the Python
                // ones.
                let config = ServerConfig {
                    max_in_flight_per_address: MEETING + 10,
                    first_byte_timeout: LIMIT,
                    hello_timeout: LIMIT,
                    stop_grace: Duration::ZERO,
                    ..ServerConfig::default()
                };
                let server = Server::new(FernetKeys::from_keys(&[fernet_key])?, config);
                let listener = TcpListener::bind(address).await?;
                let serving = server.clone();
                let task = tokio::spawn(async move {
                    serving.serve(listener, std::future::pending()).await;
                });
                Running::Ours(server, task)
            }
            Maker::Python(python) => {
                let mut process = Process::spawn(
                    "the Python server",
                    script(python, "py_snitun_server.py").args([
                        // In one word: a key may begin with `-`, which the script would take for
                        // another option.
                        &format!("--fernet-key={fernet_key}"),
                        "--port",
                        &port.to_string(),
                    ]),
                )?;
                process.event("ready").await?;
                Running::Python(Box::new(process))
            }
        };
        Ok(Self { address, running })
    }

    /// What our server has counted.
    pub(super) fn stats(&self) -> Option<TunnelStats> {
        match &self.running {
            Running::Ours(server, _) => Some(server.handle().metrics().tunnels),
            Running::Python(_) => None,
        }
    }

    /// Ends it: ours with a shutdown, the Python one with SIGKILL.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.running {
            Running::Ours(server, task) => {
                timeout("our server to stop", server.stop()).await;
                task.await?;
                Ok(())
            }
            Running::Python(process) => process.kill().await,
        }
    }
}
