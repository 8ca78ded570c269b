//! A wire tap: a proxy on loopback that records the bytes, so that the test knows every secret that
//! was sent.
//!
//! For the broker it ends TLS on both sides. The device has to trust it, and it needs the device's
//! own certificate and key to pass for the device.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use cloud_facade::config::Credentials;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The bytes of each direction of each connection.
type Recorded = Arc<Mutex<Vec<Vec<u8>>>>;

/// The proxy. Ends when dropped.
pub(crate) struct Tap {
    /// The listen address.
    pub(crate) address: SocketAddr,
    recorded: Recorded,
    _tasks: JoinSet<()>,
}

/// The two TLS sides of a tap on an encrypted line.
pub(crate) struct Sides {
    near: TlsAcceptor,
    far: TlsConnector,
}

impl Sides {
    /// Shows `server` to the device, and the device's `credentials` to a broker that proves itself
    /// under `ca_pem`.
    pub(crate) fn new(
        server: &testkit::pki::Pair,
        credentials: &Credentials,
        ca_pem: &str,
    ) -> anyhow::Result<Self> {
        let far = testkit::tls::client_builder(ca_pem)
            .with_client_auth_cert(credentials.chain().to_vec(), credentials.key())?;
        Ok(Self {
            near: TlsAcceptor::from(Arc::new(testkit::tls::server(server))),
            far: TlsConnector::from(Arc::new(far)),
        })
    }
}

impl Tap {
    /// Listens for connections to `target`, which are encrypted if there are `sides`.
    pub(crate) async fn start(target: SocketAddr, sides: Option<Sides>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let recorded = Recorded::default();
        let (mut tasks, all, sides) = (JoinSet::new(), Arc::clone(&recorded), sides.map(Arc::new));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (recorded, sides) = (Arc::clone(&all), sides.clone());
                // How a connection ends is for its two ends to see.
                connections.spawn(async move {
                    drop(carry(near, target, sides.as_deref(), &recorded).await)
                });
            }
        });
        Ok(Self {
            address,
            recorded,
            _tasks: tasks,
        })
    }

    /// The recorded bytes.
    pub(crate) fn recorded(&self) -> Vec<Vec<u8>> {
        self.recorded.lock().unwrap().clone()
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    sides: Option<&Sides>,
    recorded: &Recorded,
) -> anyhow::Result<()> {
    let far = TcpStream::connect(target).await.context("no target")?;
    match sides {
        None => both_ways(near, far, recorded).await,
        Some(sides) => {
            let near = sides.near.accept(near).await?;
            let far = sides
                .far
                .connect(ServerName::try_from("localhost")?, far)
                .await?;
            both_ways(near, far, recorded).await;
        }
    }
    Ok(())
}

/// Ends when either side does.
async fn both_ways(
    near: impl AsyncRead + AsyncWrite,
    far: impl AsyncRead + AsyncWrite,
    recorded: &Recorded,
) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::select! {
        _ = copy(near_read, far_write, recorded) => {}
        _ = copy(far_read, near_write, recorded) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    recorded: &Recorded,
) -> std::io::Result<()> {
    let place = {
        let mut recorded = recorded.lock().unwrap();
        recorded.push(Vec::new());
        recorded.len() - 1
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        recorded.lock().unwrap()[place].extend_from_slice(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
