//! A line-tap: a proxy on loopback that keeps what goes through it, so that the test knows every secret that there was.
//!
//! For the broker it ends TLS on both sides. The device has to trust it, and it needs the device's own
//! certificate and key to pass for the device.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use cloud_facade::config::Credentials;
use integration_tests::pki;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What was heard: the bytes of each direction of each connection.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// The proxy. Ends when dropped.
pub(crate) struct Tap {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    heard: Heard,
    _tasks: JoinSet<()>,
}

/// The two TLS sides of a tap on an encrypted line.
pub(crate) struct Sides {
    near: TlsAcceptor,
    far: TlsConnector,
}

impl Sides {
    /// Shows `server` to the device, and the device's `credentials` to a broker that proves itself under `ca_pem`.
    pub(crate) fn new(
        server: &pki::Pair,
        credentials: &Credentials,
        ca_pem: &str,
    ) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_slice_iter(server.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let near = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(server.key.as_bytes())?)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let far = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(credentials.chain().to_vec(), credentials.key())?;
        Ok(Self {
            near: TlsAcceptor::from(Arc::new(near)),
            far: TlsConnector::from(Arc::new(far)),
        })
    }
}

impl Tap {
    /// Listens for connections to `target`, which are encrypted if there are `sides`.
    pub(crate) async fn start(target: SocketAddr, sides: Option<Sides>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heard = Heard::default();
        let (mut tasks, all, sides) = (JoinSet::new(), Arc::clone(&heard), sides.map(Arc::new));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (heard, sides) = (Arc::clone(&all), sides.clone());
                // How a connection ends is for its two ends to see.
                connections.spawn(async move {
                    drop(carry(near, target, sides.as_deref(), &heard).await)
                });
            }
        });
        Ok(Self {
            address,
            heard,
            _tasks: tasks,
        })
    }

    /// What went over the line so far.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    sides: Option<&Sides>,
    heard: &Heard,
) -> anyhow::Result<()> {
    let far = TcpStream::connect(target).await.context("no target")?;
    match sides {
        None => both_ways(near, far, heard).await,
        Some(sides) => {
            let near = sides.near.accept(near).await?;
            let far = sides
                .far
                .connect(ServerName::try_from("localhost")?, far)
                .await?;
            both_ways(near, far, heard).await;
        }
    }
    Ok(())
}

/// Ends when either side does.
async fn both_ways(
    near: impl AsyncRead + AsyncWrite,
    far: impl AsyncRead + AsyncWrite,
    heard: &Heard,
) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::select! {
        _ = copy(near_read, far_write, heard) => {}
        _ = copy(far_read, near_write, heard) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    heard: &Heard,
) -> std::io::Result<()> {
    let place = {
        let mut heard = heard.lock().unwrap();
        heard.push(Vec::new());
        heard.len() - 1
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        heard.lock().unwrap()[place].extend_from_slice(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
