//! Ports of the loopback interface.

use std::net::TcpListener;

/// Returns a port that nothing listens on now, for a program that cannot choose one itself, or as
/// an address that refuses connections.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
