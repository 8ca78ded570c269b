//! What a tunnel wants of the TCP connection below it.

use std::io;

use tokio::net::TcpStream;

/// Bytes that the system may keep for a connection beyond what it has sent. What lies there is ahead of every frame that
/// becomes urgent meanwhile: a caller who wants one small answer would wait behind megabytes of another's download. Enough to
/// bridge the time until the writer is woken.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 128 * 1024;

/// Prepares a TCP connection for a tunnel: Nagle's algorithm off, and little kept unsent in the system (on Linux and Android).
///
/// # Errors
/// What the system says.
pub fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        // Some systems that pass for Linux do not have it. The tunnel works without.
        tracing::debug!(%error, "the system does not bound what it keeps unsent");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_gets_what_a_tunnel_wants() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        prepare_tcp(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
        }
    }
}
