//! Where a local application listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// A local application accepts at once or is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The address of a local application.
///
/// ```
/// use cloud_remote::Upstream;
///
/// let upstream = Upstream::from(std::net::SocketAddr::from(([127, 0, 0, 1], 8080)));
/// assert_eq!(upstream.to_string(), "127.0.0.1:8080");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Upstream {
    /// A TCP port, on this device or beside it.
    Tcp(SocketAddr),
}

impl Upstream {
    pub(crate) async fn connect(self) -> io::Result<TcpStream> {
        let Self::Tcp(address) = self;
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address))
            .await
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the local application does not accept the connection",
                )
            })??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Tcp(address) = self;
        address.fmt(formatter)
    }
}
