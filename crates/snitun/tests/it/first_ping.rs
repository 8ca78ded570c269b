//! Connecting to a server that sends data but does not answer the first ping.

use std::time::Duration;

use snitun::client::{self, ClientConfig, ConnectError};
use snitun::{ChannelId, Encoder, FrameType, ProtocolVersion, ServerHandshake, SessionKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use crate::support::pair::entropy;

const TOKEN: &str = "token";

fn key() -> SessionKey {
    SessionKey::new([3; 32], [4; 16])
}

/// Does the handshake, and sends a frame each second from then on.
async fn serve(mut stream: DuplexStream) {
    stream.read_exact(&mut [0; TOKEN.len()]).await.unwrap();
    let mut challenge = Vec::new();
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let handshake = ServerHandshake::new(key().aes_cbc(), &mut random, &mut challenge).unwrap();
    stream.write_all(&challenge).await.unwrap();
    let mut answer = vec![0; handshake.answer_len()];
    stream.read_exact(&mut answer).await.unwrap();
    let session = handshake.verify(&mut answer).unwrap();
    let mut encoder = Encoder::new(session.sealer, ProtocolVersion::V0, entropy(1));
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut wire = Vec::new();
        let id = ChannelId([9; 16]);
        encoder.bare(id, FrameType::Close, &mut wire).unwrap();
        if stream.write_all(&wire).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_ping_is_bounded_by_handshake_and_ping_timeouts() {
    for (ping_answer, waited) in [(90, 30), (20, 20)] {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(serve(theirs));
        let mut config = ClientConfig::new(TOKEN, key().aes_cbc());
        config.timeouts.ping_answer = Duration::from_secs(ping_answer);
        let begun = Instant::now();
        let error = client::connect(ours, config).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut(_)), "{error}");
        assert_eq!(begun.elapsed().as_secs(), waited);
    }
}
