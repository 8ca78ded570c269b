//! Which user of this machine a connection over loopback comes from.

use std::net::SocketAddr;

/// The two ends of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalPeer {
    /// The client's address and port.
    pub(crate) client: SocketAddr,
    /// This process's address and port.
    pub(crate) server: SocketAddr,
}

impl LocalPeer {
    /// Whether the client's socket belongs to the user that this process runs as. The system's
    /// table of sockets says that; `false` where there is none.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_own_user(self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        // A client's socket for both families is in the table of IPv6.
        let tables = [procfs::net::tcp(), procfs::net::tcp6()];
        tables.into_iter().flatten().flatten().any(|entry| {
            entry.uid == own
                && canonical(entry.local_address) == canonical(self.client)
                && canonical(entry.remote_address) == canonical(self.server)
        })
    }

    /// See above.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn is_own_user(self) -> bool {
        false
    }
}

#[cfg(target_os = "linux")]
fn canonical(address: SocketAddr) -> (std::net::IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_connection_is_found_and_another_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let connection = TcpStream::connect(server).unwrap();
        let client = connection.local_addr().unwrap();
        assert!(LocalPeer { client, server }.is_own_user());
        // The listener itself has this address, but no connection to the client.
        let turned = LocalPeer {
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            server,
        };
        assert!(!turned.is_own_user());
    }
}
