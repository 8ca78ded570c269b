//! A caller of the device's public page that sends bytes as they are.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::test_cloud::TestCloud;

/// Time limit for a response; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Opens a connection, with the certificate verified.
pub(crate) fn connect(world: &TestCloud) -> StreamOwned<ClientConnection, TcpStream> {
    let access_point = world.device_status()["access_point"].clone();
    let name = access_point.as_str().unwrap().to_owned();
    let roots = fs::read_to_string(world.ready["ca_file"].as_str().unwrap()).unwrap();
    let config = testkit::tls::client(&roots, &[]);
    let stream = TcpStream::connect(world.ready["relay"].as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let tls = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    StreamOwned::new(tls, stream)
}

/// Sends a request over a connection of its own, with the certificate verified, and waits until the
/// device closes it. Any response will do, also none.
pub(crate) fn send_request(world: &TestCloud, request: &[u8]) {
    let mut tls = connect(world);
    tls.write_all(request).unwrap();
    let _ = tls.read_to_end(&mut Vec::new());
}
