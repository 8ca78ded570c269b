//! Client and server over real sockets on loopback.

mod support;

use snitun::{Cipher, ProtocolVersion};
use support::{Relay, client_hello, noise, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_channels_carry_megabytes_both_ways() {
    const CHANNELS: usize = 50;
    const SIZE: usize = 2 * 1024 * 1024;

    let relay = Relay::start(Default::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();

    let device = tokio::spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        for _ in 0..CHANNELS {
            let mut channel = tunnel.accept().await.unwrap();
            assert_eq!(channel.peer_ip(), Some("127.0.0.1".parse().unwrap()));
            echoes.spawn(async move {
                let mut hello = vec![0; client_hello("device.example.com").len()];
                channel.read_exact(&mut hello).await.unwrap();
                let mut buffer = vec![0; 30_000];
                loop {
                    let count = channel.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    channel.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
        while let Some(echo) = echoes.join_next().await {
            echo.unwrap();
        }
        tunnel
    });

    let mut callers = tokio::task::JoinSet::new();
    for seed in 0..CHANNELS as u64 {
        let address = relay.address;
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(&client_hello("Device.example.com"))
                .await
                .unwrap();
            let sent = noise(seed, SIZE);
            let (mut reader, mut writer) = stream.split();
            let mut received = vec![0; SIZE];
            let (written, read) =
                tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
            written.unwrap();
            read.unwrap();
            assert!(sent == received, "caller {seed} got other bytes back");
        });
    }
    within(async {
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    })
    .await;
    let tunnel = within(device).await.unwrap();
    drop(tunnel);
    relay.stop().await;
}
