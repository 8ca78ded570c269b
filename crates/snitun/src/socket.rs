//! What a tunnel wants of the TCP connection below it.

use std::io;

use tokio::net::TcpStream;

/// Bytes that the system may keep for a connection beyond what it has sent. What lies there is ahead of every frame that
/// becomes urgent meanwhile: a caller who wants one small answer would wait behind megabytes of another's download. Enough to
/// bridge the time until the writer is woken.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 128 * 1024;

/// Prepares a TCP connection for a tunnel: Nagle's algorithm off, little kept unsent in the system (on Linux and Android), and
/// its receive buffer as large as `receive_buffer` says, in bytes; `None` leaves that to the system.
///
/// A bound on the receive buffer keeps small transfers quick beside large ones where the receiver's processor is the
/// bottleneck, since everything in the buffer is ahead of them. It also bounds the throughput, to about the buffer's size in
/// each round trip: on the internet, better leave it to the system.
///
/// # Errors
/// What the system says.
pub fn prepare_tcp(stream: &TcpStream, receive_buffer: Option<usize>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
        // Some systems that pass for Linux do not have it. The tunnel works without.
        tracing::debug!(%error, "the system does not bound what it keeps unsent");
    }
    receive_buffer.map_or(Ok(()), |size| socket.set_recv_buffer_size(size))
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
        let socket = socket2::SockRef::from(&stream);
        let by_itself = socket.recv_buffer_size().unwrap();
        prepare_tcp(&stream, None).unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(socket.recv_buffer_size().unwrap(), by_itself);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
        // Linux takes twice as much, for its own needs.
        prepare_tcp(&stream, Some(16 * 1024)).unwrap();
        let bounded = socket.recv_buffer_size().unwrap();
        assert!((16 * 1024..=32 * 1024).contains(&bounded), "{bounded}");
    }
}
