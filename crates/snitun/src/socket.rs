//! TCP socket options of a tunnel.

use std::io;

use tokio::net::TcpStream;

/// Maximum unsent bytes in the system's send buffer. They delay every urgent frame: a caller with a
/// small response would wait behind megabytes of another's download. Enough to bridge the time
/// until the writer is woken.
#[cfg(any(target_os = "android", target_os = "linux"))]
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Configures a TCP connection for a tunnel: disables Nagle's algorithm, and limits the unsent data
/// in the system (on Linux and Android).
///
/// # Errors
/// The system's error.
pub fn configure_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
        // Some Linux-compatible systems do not support it. The tunnel works without.
        tracing::debug!(%error, "the system does not support a limit on unsent data");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn configure_tcp_sets_socket_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        configure_tcp(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        }
    }
}
