//! Where a local application listens.

mod cached_host;
pub(crate) mod copy;
pub(crate) mod proxy_protocol;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use self::cached_host::CachedHost;

/// A local application accepts at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of a local application.
///
/// ```
/// use cloud_remote::Upstream;
///
/// let upstream = Upstream::from(std::net::SocketAddr::from(([127, 0, 0, 1], 8080)));
/// assert_eq!(upstream.to_string(), "127.0.0.1:8080");
/// assert_eq!(Upstream::host("127.0.0.1", 8080), upstream);
/// assert_eq!(Upstream::host("localhost", 8080).to_string(), "localhost:8080");
/// # #[cfg(unix)]
/// assert_eq!(Upstream::unix("/run/ui.sock").to_string(), "/run/ui.sock");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Upstream {
    /// A TCP port, on this device or beside it.
    Tcp(SocketAddr),
    /// A TCP port at whatever address the name has when a connection is made.
    Host(CachedHost),
    /// A Unix socket, which only those on this device reach who may open its file.
    #[cfg(unix)]
    Unix(Arc<Path>),
}

impl Upstream {
    /// A TCP port of a host, looked up again for connections, once a second at most; the address of last time is used where that
    /// fails or takes long. An address in place of a name is taken as such.
    pub fn host(name: &str, port: u16) -> Self {
        match name.parse::<IpAddr>() {
            Ok(address) => Self::Tcp((address, port).into()),
            Err(_) => Self::Host(CachedHost::new(name, port)),
        }
    }

    /// A Unix socket.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::Unix(path.as_ref().into())
    }

    pub(crate) async fn connect(&self) -> io::Result<UpstreamStream> {
        timeout(CONNECT_TIMEOUT, self.connect_without_limit())
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the local application does not accept the connection",
                ))
            })
    }

    async fn connect_without_limit(&self) -> io::Result<UpstreamStream> {
        Ok(match self {
            Self::Tcp(address) => connect_tcp(&[*address]).await?,
            Self::Host(name) => connect_tcp(&name.addresses().await?).await?,
            #[cfg(unix)]
            Self::Unix(path) => {
                UpstreamStream(Box::pin(tokio::net::UnixStream::connect(path).await?))
            }
        })
    }

    /// What stands for it in a URI. (The application is told the public host name all the same.)
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Host(_) => "localhost".to_owned(),
            #[cfg(unix)]
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// Connects to the first of them that accepts.
async fn connect_tcp(addresses: &[SocketAddr]) -> io::Result<UpstreamStream> {
    let stream = TcpStream::connect(addresses).await?;
    stream.set_nodelay(true)?;
    Ok(UpstreamStream(Box::pin(stream)))
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Host(name) => name.fmt(formatter),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

trait ReadWrite: AsyncRead + AsyncWrite {}
impl<S: AsyncRead + AsyncWrite> ReadWrite for S {}

/// A connection to a local application, whatever it goes over.
pub(crate) struct UpstreamStream(Pin<Box<dyn ReadWrite + Send>>);

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}
