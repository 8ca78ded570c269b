//! The source of messages to deliver: packets encoded in advance, sent as fast as the broker
//! accepts them, so that the source is not the bottleneck.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Connect, Packet, Publish};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::broker::{Site, tls};
use crate::{IN_FLIGHT, PAYLOAD};

/// Length of a PUBACK without a reason code.
const ACKNOWLEDGEMENT: usize = 4;

/// Publishes this many messages at QoS 1, to the topics that `topic` returns for their numbers.
pub(crate) fn publish(site: &Site, count: u32, topic: impl Fn(usize) -> String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tcp = TcpStream::connect(("127.0.0.1", site.port)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(tls(site.directory.path()));
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, tcp).await.unwrap();
        let connect = Connect {
            keep_alive: 60,
            client_id: "source".into(),
            clean_start: true,
            properties: None,
        };
        let mut buffer = BytesMut::new();
        Packet::Connect(connect, None, None)
            .write(&mut buffer, None)
            .unwrap();
        stream.write_all_buf(&mut buffer).await.unwrap();
        loop {
            stream.read_buf(&mut buffer).await.unwrap();
            if let Ok(packet) = Packet::read(&mut buffer, None) {
                assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}");
                break;
            }
        }
        let (mut reader, mut writer) = split(stream);
        let answered = Arc::new(AtomicUsize::new(0));
        let more = Arc::new(tokio::sync::Notify::new());
        let (counter, waker) = (Arc::clone(&answered), Arc::clone(&more));
        let reading = tokio::spawn(async move {
            let mut bytes = buffer.len();
            while bytes < count as usize * ACKNOWLEDGEMENT {
                buffer.clear();
                bytes += reader.read_buf(&mut buffer).await.unwrap();
                counter.store(bytes / ACKNOWLEDGEMENT, Ordering::Release);
                waker.notify_one();
            }
        });
        let (mut packets, mut sent) = (BytesMut::new(), 0);
        while sent < count as usize {
            let room = usize::from(IN_FLIGHT) + answered.load(Ordering::Acquire) - sent;
            for _ in 0..room.min(count as usize - sent) {
                let mut publish =
                    Publish::new(topic(sent), QoS::AtLeastOnce, vec![7; PAYLOAD], None);
                publish.pkid = (sent % usize::from(IN_FLIGHT)) as u16 + 1;
                publish.write(&mut packets).unwrap();
                sent += 1;
            }
            if packets.has_remaining() {
                writer.write_all_buf(&mut packets).await.unwrap();
                writer.flush().await.unwrap();
            } else {
                more.notified().await;
            }
        }
        reading.await.unwrap();
    });
}
