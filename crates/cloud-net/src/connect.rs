//! TCP connections to a host: resolution, the address race, and a proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connect_error::{ConnectError, ProxyError, ProxyFailure};
use crate::happy_eyeballs::{AddressFamily, interleave_families, race};
use crate::host_and_port::HostAndPort;
use crate::proxy::{Proxy, ProxyServer};
use crate::resolve::Resolver;

/// Default time limit of one address: four SYN packets, at 0, 1, 3 and 7 seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

/// Connects to hosts over TCP, directly or through a proxy.
///
/// A host may be a name or an IP address, an IPv6 address without brackets. Clones share the bound
/// on concurrent name lookups, so a process keeps one of these for each purpose.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use cloud_net::{Connector, Proxy};
/// use tokio::time::Instant;
///
/// let connector = Connector::new().proxy(Proxy::from_env()?);
/// let deadline = Instant::now() + Duration::from_secs(20);
/// let stream = connector.connect("server.example", 443, deadline).await?;
/// # drop(stream);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Connector {
    resolver: Resolver,
    proxy: Option<Proxy>,
    first_family: AddressFamily,
    attempt_timeout: Duration,
    send_buffer_bytes: Option<u32>,
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// Creates a connector without a proxy.
    pub fn new() -> Self {
        Self {
            resolver: Resolver::default(),
            proxy: None,
            first_family: AddressFamily::Preferred,
            attempt_timeout: ATTEMPT_TIMEOUT,
            send_buffer_bytes: None,
        }
    }

    /// Sets the proxy. It applies to the hosts that it does not except.
    pub fn proxy(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// Sets the address family to try first.
    pub fn first_family(mut self, family: AddressFamily) -> Self {
        self.first_family = family;
        self
    }

    /// Sets the time limit of each address. Default: 8 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets the size of the socket's send buffer. Default: the system's.
    pub fn send_buffer_bytes(mut self, bytes: u32) -> Self {
        self.send_buffer_bytes = Some(bytes);
        self
    }

    /// Connects to a host until `deadline`. `TCP_NODELAY` is set.
    ///
    /// # Errors
    /// [`ConnectError`], which names what was tried.
    ///
    /// # Cancel safety
    /// Dropping the future drops all attempts; a name lookup continues in the background.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        match self.proxy.as_ref().and_then(|proxy| proxy.for_host(host)) {
            Some(proxy) => {
                let connected = self.through(&proxy, host, port, deadline).await;
                connected.map_err(|failure| {
                    let target = HostAndPort(host, port).to_string();
                    ProxyError::new(target, proxy.to_string(), failure).into()
                })
            }
            None => self.direct(host, port, deadline).await,
        }
    }

    async fn through(
        &self,
        proxy: &ProxyServer,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ProxyFailure> {
        let mut stream = self
            .direct(proxy.host(), proxy.port(), deadline)
            .await
            .map_err(|error| ProxyFailure::Unreachable(Box::new(error)))?;
        timeout_at(deadline, proxy.open(&mut stream, host, port))
            .await
            .unwrap_or(Err(ProxyFailure::TimedOut))?;
        Ok(stream)
    }

    async fn direct(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let found = self.resolver.resolve(host, port, deadline).await;
        let addresses = found.map_err(|error| {
            tracing::debug!(%error, host, "the name was not resolved");
            ConnectError::NameNotFound {
                host: host.to_owned(),
                reason: error.to_string(),
            }
        })?;
        let addresses = interleave_families(addresses, self.first_family);
        let connect = |address| self.connect_address(address);
        let connected = timeout_at(deadline, race(addresses.clone(), connect)).await;
        let timed_out = || Err(io::ErrorKind::TimedOut.into());
        connected
            .unwrap_or_else(|_| timed_out())
            .map_err(|error| ConnectError::Tcp {
                host: host.to_owned(),
                port,
                addresses,
                kind: error.kind(),
                reason: error.to_string(),
            })
    }

    async fn connect_address(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let attempt = async {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_nodelay(true)?;
            if let Some(bytes) = self.send_buffer_bytes {
                socket.set_send_buffer_size(bytes)?;
            }
            socket.connect(address).await
        };
        let connected = timeout(self.attempt_timeout, attempt)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected.inspect_err(|error| {
            tracing::debug!(%address, %error, "no connection to this address");
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    async fn closed_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn connects_to_a_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = Connector::new().send_buffer_bytes(32 << 10);
        let stream = connector.connect("localhost", port, soon()).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn errors_name_what_was_tried() {
        let port = closed_port().await;
        let connector = Connector::new();
        let error = connector.connect("127.0.0.1", port, soon()).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            format!("127.0.0.1:{port} refused the TCP connection; check the host and the port")
        );
        let error = connector.connect("localhost", port, soon()).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("localhost:{port} refused")) && error.contains("127.0.0.1"),
            "{error}"
        );
        let error = connector.connect("nowhere.invalid", port, soon()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ConnectError::NameNotFound { .. }));
        assert!(error.to_string().contains("nowhere.invalid"), "{error}");
    }

    #[tokio::test]
    async fn refused_by_the_proxy_names_the_proxy() {
        let port = closed_port().await;
        for scheme in ["http", "socks5"] {
            let proxy = Proxy::new(&format!("{scheme}://me:s3cret@127.0.0.1:{port}")).unwrap();
            let connector = Connector::new().proxy(Some(proxy));
            let error = connector.connect("server.example", 443, soon()).await;
            let error = error.unwrap_err();
            assert!(matches!(&error, ConnectError::Proxy(_)));
            let text = format!("{error} {error:?}");
            assert!(
                text.contains(&format!("proxy 127.0.0.1:{port}")) && text.contains("refused"),
                "{text}"
            );
            assert!(!text.contains("s3cret") && !text.contains("server.example:443 refused"));
        }
    }

    #[tokio::test]
    async fn silent_proxy_costs_the_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for scheme in ["http", "socks5"] {
            let proxy = Proxy::new(&format!("{scheme}://{address}")).unwrap();
            let connector = Connector::new().proxy(Some(proxy));
            let deadline = Instant::now() + Duration::from_millis(200);
            let connect = connector.connect("server.example", 443, deadline);
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            };
            let (error, ()) = tokio::join!(connect, serve);
            let Err(ConnectError::Proxy(error)) = error else {
                panic!("{error:?}");
            };
            assert_eq!(error.failure, ProxyFailure::TimedOut);
        }
    }
}
