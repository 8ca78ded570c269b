//! Test harness for whole tunnels: a server and a device on loopback, and callers.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use snitun::client::{self, ClientConfig, ConnectError, Tunnel};
use snitun::server::{
    Authenticator, FernetKeys, ListenerConfig, ListenerRole, Server, ServerConfig, ServerHandle,
    TokenContent,
};
use snitun::{Channel, Cipher, ConnectionKey, ProtocolVersion, SessionKey};
pub(crate) use testkit::tls::client_hello;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far longer than any operation; reaching it fails the test.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Fails instead of hanging.
pub(crate) async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("took too long")
}

/// The defaults with a stop that does not wait for callers: tests end with unfinished callers.
pub(crate) fn server_config() -> ServerConfig {
    ServerConfig {
        stop_grace: Duration::ZERO,
        ..ServerConfig::default()
    }
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) keys: FernetKeys,
    pub(crate) handle: ServerHandle,
    server: Server,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        Self::with_keys(FernetKeys::generate(), config).await
    }

    pub(crate) async fn with_keys(keys: FernetKeys, config: ServerConfig) -> Self {
        Self::serve(Server::new(keys.clone(), config), keys).await
    }

    /// A server with `authenticator` only.
    pub(crate) async fn start_with(
        authenticator: impl Authenticator,
        config: ServerConfig,
    ) -> Self {
        Self::serve(Server::new(authenticator, config), FernetKeys::generate()).await
    }

    async fn serve(server: Server, keys: FernetKeys) -> Self {
        let handle = server.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = server.clone();
        let task = tokio::spawn(async move {
            serving
                .serve(listener, async {
                    let _ = stopped.await;
                })
                .await;
        });
        Self {
            address,
            keys,
            handle,
            server,
            stop: Some(stop),
            task,
        }
    }

    /// Another listener of the same server, which stops with it.
    pub(crate) async fn port(
        &self,
        role: ListenerRole,
        proxy_protocol: bool,
    ) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.server.clone();
        let port = ListenerConfig {
            role,
            proxy_protocol,
        };
        let task = tokio::spawn(async move {
            server
                .serve_listener(listener, port, std::future::pending())
                .await;
        });
        (address, task)
    }

    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        with_timeout(self.task).await.unwrap();
    }

    /// A configuration with a token for `hostname` and a fresh key.
    pub(crate) fn config_for(
        &self,
        hostname: &str,
        version: ProtocolVersion,
        cipher: Cipher,
    ) -> ClientConfig {
        let key = SessionKey::generate().unwrap();
        let mut content = TokenContent::new(hostname, key, seconds_from_now(3600));
        content.protocol_version = version;
        content.cipher = cipher;
        let token = self.keys.issue(&content).unwrap();
        let mut config = ClientConfig::new(token, content.key.with_cipher(cipher));
        config.version = version;
        config
    }

    pub(crate) async fn device(
        &self,
        config: ClientConfig<impl Into<ConnectionKey>>,
    ) -> Result<Tunnel, ConnectError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        with_timeout(client::connect(stream, config)).await
    }

    /// A device for `hostname` whose session cipher is AES-CBC.
    pub(crate) async fn tunnel(&self, hostname: &str, version: ProtocolVersion) -> Tunnel {
        let config = self.config_for(hostname, version, Cipher::AesCbc);
        self.device(config).await.unwrap()
    }

    /// A caller that has sent a ClientHello for `hostname`, and its channel on the device.
    pub(crate) async fn call(&self, tunnel: &mut Tunnel, hostname: &str) -> (TcpStream, Channel) {
        let mut caller = TcpStream::connect(self.address).await.unwrap();
        let hello = client_hello(hostname);
        caller.write_all(&hello).await.unwrap();
        let mut channel = with_timeout(tunnel.accept()).await.unwrap();
        let mut first = vec![0; hello.len()];
        with_timeout(tokio::io::AsyncReadExt::read_exact(
            &mut channel,
            &mut first,
        ))
        .await
        .unwrap();
        assert_eq!(first, hello);
        (caller, channel)
    }
}

pub(crate) fn seconds_from_now(seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().checked_add_signed(seconds).unwrap()
}

/// Repeatable pseudo-random bytes.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Sends `bytes` to the server and returns whether it closes the connection without sending data.
pub(crate) async fn is_closed(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    matches!(
        with_timeout(stream.read(&mut [0; 10])).await,
        Ok(0) | Err(_)
    )
}
