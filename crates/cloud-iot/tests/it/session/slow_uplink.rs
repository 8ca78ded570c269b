//! A slow uplink, as at the edge of a mobile network.

use std::time::Duration;

use cloud_iot::{Message, Session, SessionEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::interval;

use crate::common::*;

/// Forwards connections to a port, with this many bytes per second from the client. Returns its own
/// port.
fn slow_way_to(port: u16, rate: usize) -> u16 {
    const PIECES: usize = 20;
    let socket = TcpSocket::new_v4().unwrap();
    // Otherwise the buffer would take the whole message at once, and delay what follows.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let here = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((device, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut from_device, mut to_device) = device.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_device).await });
            tokio::spawn(async move {
                let mut piece = vec![0; rate / PIECES];
                let mut ticks = interval(Duration::from_secs(1) / PIECES as u32);
                while let Ok(read @ 1..) = from_device.read(&mut piece).await {
                    if to_server.write_all(&piece[..read]).await.is_err() {
                        return;
                    }
                    ticks.tick().await;
                }
            });
        }
    });
    here
}

/// The acknowledgement timeout applies to a silent server, and not to data that is still being
/// sent.
#[tokio::test(flavor = "multi_thread")]
async fn message_slower_than_acknowledge_timeout_is_delivered() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.port = slow_way_to(site.broker.port, 15_000);
    config.timeouts.acknowledge = Duration::from_secs(7);
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    let mut events = session.events();
    let payload = vec![7; 120 << 10];
    let large = session.publish(Message::new("large", payload)).unwrap();
    let small = session.publish(Message::new("small", "1")).unwrap();
    soon(large).await.unwrap();
    soon(small).await.unwrap();
    while let Ok(event) = events.try_recv() {
        assert!(
            !matches!(event, SessionEvent::Disconnected { .. }),
            "{event:?}"
        );
    }
    session.stop(STOP).await;
}
