//! The address of a local application, and connections to it.

pub(crate) mod copy;
pub(crate) mod health;
mod host;
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

use cloud_net::ConnectError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use self::host::UpstreamHost;

/// The connect timeout: a local application accepts at once or is not running.
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
    /// A TCP port, on this device or in its network.
    Tcp(SocketAddr),
    /// A TCP port of a host name, resolved when a connection is made.
    Host(UpstreamHost),
    /// A Unix socket, which only local users with access to its file reach.
    #[cfg(unix)]
    Unix(Arc<Path>),
}

impl Upstream {
    /// Creates an upstream from a host and TCP port. A name is resolved for each connection; an IP
    /// address is used directly.
    pub fn host(name: &str, port: u16) -> Self {
        match name.parse::<IpAddr>() {
            Ok(address) => Self::Tcp((address, port).into()),
            Err(_) => Self::Host(UpstreamHost::new(name, port)),
        }
    }

    /// Creates an upstream from the path of a Unix socket.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::Unix(path.as_ref().into())
    }

    pub(crate) async fn connect(&self) -> io::Result<UpstreamStream> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        timeout_at(deadline, self.connect_until(deadline))
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the local application does not accept the connection",
                ))
            })
    }

    async fn connect_until(&self, deadline: Instant) -> io::Result<UpstreamStream> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                UpstreamStream(Box::pin(stream))
            }
            Self::Host(host) => match host.connect(deadline).await {
                Ok(stream) => UpstreamStream(Box::pin(stream)),
                Err(ConnectError::Tcp { kind, reason, .. }) => {
                    return Err(io::Error::new(kind, reason));
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::NotFound, error)),
            },
            #[cfg(unix)]
            Self::Unix(path) => {
                UpstreamStream(Box::pin(tokio::net::UnixStream::connect(path).await?))
            }
        })
    }

    /// Returns the host and the port by which the application knows itself, if it has some.
    pub(crate) fn host_and_port(&self) -> Option<(String, u16)> {
        match self {
            Self::Tcp(address) => Some((address.ip().to_string(), address.port())),
            Self::Host(name) => Some((name.name().to_owned(), name.port())),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }
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

/// A connection to a local application over any transport.
pub(crate) struct UpstreamStream(Pin<Box<dyn ReadWrite + Send>>);

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
