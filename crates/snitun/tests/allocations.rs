//! Allocation counts: none for announced sizes, none for small frames. This is a separate program
//! because it installs a counting allocator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "it/support/pair.rs"]
mod pair;
#[path = "it/support/relay.rs"]
mod relay;

use pair::{CLIENT, Pair, SERVER, small_limits};
use relay::Relay;
use snitun::server::ServerConfig;
use snitun::{
    ChannelId, Cipher, FrameType, HEADER_LEN, Header, Limits, ProtocolVersion, Read, sni,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Frames of every type that announce 4 GiB cost no memory until the bytes arrive.
#[test]
fn announced_size_allocates_nothing() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
    let server = pair.open();
    let id = pair.sides[SERVER].mux.id(server).unwrap();
    pair.settle();
    let client = pair.accept();
    for kind in [
        FrameType::Data as u8,
        FrameType::Close as u8,
        FrameType::Ping as u8,
        0x77,
    ] {
        let header = Header {
            // DATA is for the open channel, the other types for an unknown one.
            id: if kind == FrameType::Data as u8 {
                id
            } else {
                ChannelId([9; 16])
            },
            kind,
            size: 60_000,
            extra: *b"ping       ",
        };
        let mut wire = Vec::new();
        pair.sides[SERVER].encoder.raw(&header, &mut wire).unwrap();
        wire.resize(HEADER_LEN + 60_000, 0);
        pair.sides[CLIENT].wire.extend_from_slice(&wire);
        pair.read(CLIENT, usize::MAX);
        pair.drain(CLIENT, client);
    }
    let header = Header {
        id,
        kind: FrameType::Data as u8,
        size: u32::MAX,
        extra: [0; 11],
    };
    let mut wire = Vec::with_capacity(HEADER_LEN);
    pair.sides[SERVER].encoder.raw(&header, &mut wire).unwrap();
    pair.sides[CLIENT].wire.extend_from_slice(&wire);
    let announced = allocation_counter::measure(|| pair.read(CLIENT, usize::MAX));
    assert!(announced.bytes_max < 1024, "{announced:?}");
    // Ten megabytes pass through while no more than a few pieces are held.
    let piece = vec![0; 10_000];
    let passed = allocation_counter::measure(|| {
        for _ in 0..1000 {
            pair.sides[CLIENT].wire.extend_from_slice(&piece);
            pair.read(CLIENT, usize::MAX);
            let Read::Data(data) = pair.sides[CLIENT].mux.read(client) else {
                panic!("nothing came");
            };
            assert_eq!(data.len(), piece.len());
        }
    });
    assert!(passed.bytes_max < 200_000, "{passed:?}");

    // A ClientHello with an excessive announced length is rejected at once.
    let hello = [0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff];
    let read = allocation_counter::measure(|| {
        for len in 0..hello.len() {
            let _ = sni::server_name(&hello[..len]);
        }
    });
    assert!(read.bytes_max < 1024, "{read:?}");
}

/// Small frames in both directions after a warm-up: each side has all the buffers that it needs.
#[test]
fn small_frame_allocates_nothing() {
    for version in ProtocolVersion::ALL {
        for cipher in Cipher::ALL {
            let mut pair = Pair::new(version, cipher, Limits::default(), 1);
            let server = pair.open();
            pair.settle();
            let client = pair.accept();
            let mut frames = |count: usize| {
                for _ in 0..count {
                    for (from, key, to, end) in [
                        (SERVER, server, CLIENT, client),
                        (CLIENT, client, SERVER, server),
                    ] {
                        assert_eq!(pair.sides[to].mux.read(end), Read::Blocked);
                        pair.sides[from].mux.write(key, &[7; 100]);
                        pair.write(from, usize::MAX);
                        pair.read(to, usize::MAX);
                        while pair.sides[to].mux.poll_event().is_some() {}
                        let Read::Data(data) = pair.sides[to].mux.read(end) else {
                            panic!("nothing came");
                        };
                        assert_eq!(data.len(), 100);
                    }
                }
            };
            frames(100);
            let counted = allocation_counter::measure(|| frames(1000));
            // The pipes of this test sometimes get new buffers; 2000 frames do not.
            assert!(
                counted.count_total < 100,
                "{version:?} {cipher}: {counted:?}"
            );
        }
    }
}

/// The same with the driver: a caller's bytes through server, tunnel and device and back, all on
/// one thread. tokio's sockets and timers do not allocate either.
#[test]
fn small_frame_allocates_nothing_in_driver() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let counted = runtime.block_on(async {
        let relay = Relay::start(ServerConfig::default()).await;
        let config = relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
        let mut tunnel = relay.device(config).await.unwrap();
        let (caller, channel) = relay.call(&mut tunnel, "device.example.com").await;
        (relay, tunnel, caller, channel)
    });
    let (relay, tunnel, mut caller, mut channel) = counted;
    let mut frames = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                let (mut there, mut back) = ([0; 100], [0; 100]);
                let (read, written) =
                    tokio::join!(channel.read_exact(&mut there), caller.write_all(&[7; 100]));
                read.unwrap();
                written.unwrap();
                let (read, written) =
                    tokio::join!(caller.read_exact(&mut back), channel.write_all(&there));
                read.unwrap();
                written.unwrap();
                assert_eq!(back, [7; 100]);
            }
        });
    };
    frames(500);
    let counted = allocation_counter::measure(|| frames(1000));
    println!("{counted:?}");
    assert!(counted.count_total < 20, "{counted:?}");
    runtime.block_on(async {
        drop((caller, channel, tunnel));
        relay.stop().await;
    });
}
