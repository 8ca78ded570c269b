//! The connection's task over scripted streams.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::*;
use crate::codec::decoder::Incoming;
use crate::codec::frame::{ChannelId, FrameType};
use crate::crypto::cipher::{Cipher, Role};
use crate::crypto::key::SessionKey;
use crate::handshake::{ClientHandshake, ServerHandshake};
use crate::limits::{Limits, Timeouts};
use crate::version::ProtocolVersion;

/// Data that the peer sends.
enum Sends {
    Nothing,
    /// Pings as fast as they are read, until we close the connection.
    Flood,
    /// Numbers of small frames at these times, each with a read of its own that uses coop budget,
    /// as a socket's do.
    Bursts(VecDeque<(Instant, usize)>),
}

/// The scripted peer.
struct Peer {
    /// Seals the sent frames.
    encoder: Encoder,
    sends: Sends,
    /// Accepts all writes, instead of none.
    reads: bool,
    /// Number of reads attempted.
    reads_tried: Arc<AtomicUsize>,
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reads_tried.fetch_add(1, Ordering::Relaxed);
        let mut wire = Vec::new();
        match &mut this.sends {
            Sends::Nothing => return Poll::Pending,
            Sends::Flood => {
                while buf.remaining() - wire.len() >= 32 {
                    let id = ChannelId([1; 16]);
                    this.encoder.ping(id, false, &mut wire).unwrap();
                }
            }
            Sends::Bursts(bursts) => {
                let work = ready!(tokio::task::coop::poll_proceed(cx));
                let Some((at, left)) = bursts.front_mut() else {
                    return Poll::Pending;
                };
                if *at > Instant::now() {
                    return Poll::Pending;
                }
                *left -= 1;
                if *left == 0 {
                    bursts.pop_front();
                }
                let id = ChannelId([9; 16]);
                this.encoder.bare(id, FrameType::Close, &mut wire).unwrap();
                work.made_progress();
            }
        }
        buf.put_slice(&wire);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.reads {
            Poll::Ready(Ok(bytes.len()))
        } else {
            Poll::Pending
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sends = Sends::Nothing;
        Poll::Ready(Ok(()))
    }
}

struct Run {
    handle: TunnelHandle,
    reads_tried: Arc<AtomicUsize>,
}

/// Runs the server's end of a tunnel with this peer.
fn run(sends: Sends, reads: bool, throttling: Option<u32>, timeouts: Timeouts) -> Run {
    let key = || SessionKey::new([3; 32], [4; 16]).with_cipher(Cipher::AesCbc);
    let (mut challenge, mut answer) = (Vec::new(), Vec::new());
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let server = ServerHandshake::new(key(), &mut random, &mut challenge).unwrap();
    let client = ClientHandshake::new(key())
        .answer(&mut challenge, &mut random, &mut answer)
        .unwrap();
    let version = ProtocolVersion::V0;
    let reads_tried = Arc::new(AtomicUsize::new(0));
    let peer = Peer {
        encoder: Encoder::new(
            client.sealer,
            version,
            Box::new(|dest: &mut [u8]| dest.fill(2)),
        ),
        sends,
        reads,
        reads_tried: Arc::clone(&reads_tried),
    };
    let config = MuxConfig {
        role: Role::Server,
        version,
        throttling: throttling.and_then(|rate| rate.try_into().ok()),
        limits: Limits::default(),
        timeouts,
    };
    let (handle, work) = start(
        peer,
        server.verify(&mut answer).unwrap(),
        config,
        TunnelLogs::default(),
    )
    .unwrap();
    tokio::spawn(work);
    Run {
        handle,
        reads_tried,
    }
}

/// Advances the clock by `time` in small steps, and runs the task in between.
async fn pass(time: Duration) {
    const STEPS: u32 = 10;
    for _ in 0..STEPS {
        tokio::time::advance(time / STEPS).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn flooding_peer_stops_no_timer() {
    let timeouts = Timeouts {
        drain: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let flooded = run(Sends::Flood, false, None, timeouts);
    pass(Duration::from_millis(10)).await;
    flooded.handle.close();
    pass(Duration::from_millis(90)).await;
    assert!(
        !flooded.handle.is_closed(),
        "the drain timeout has not passed"
    );
    pass(Duration::from_millis(50)).await;
    assert!(flooded.handle.is_closed());

    let flooded = run(Sends::Flood, false, None, Timeouts::default());
    pass(Duration::from_secs(150)).await;
    assert!(flooded.handle.is_closed());
    assert_eq!(*flooded.handle.closed().await, CloseReason::WriteStalled);
}

#[tokio::test(start_paused = true)]
async fn timer_fired_during_busy_poll_is_rearmed() {
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    // The first frame moves the idle deadline, and the timer stays where it is: when it fires, so
    // much data has arrived that tokio's coop budget is used up.
    let bursts = Sends::Bursts([(after(60), 1), (after(120), 200)].into());
    let run = run(bursts, true, None, Timeouts::default());
    tokio::time::sleep_until(after(60)).await;
    run.handle.shared.with(|state| {
        let now = state.clock.now();
        state.mux.ping(ChannelId([3; 16]), now)
    });
    let closed = tokio::time::timeout(Duration::from_secs(3600), run.handle.closed()).await;
    assert_eq!(*closed.unwrap(), CloseReason::PingTimeout);
    assert_eq!(begun.elapsed().as_secs(), 120 + 90);
}

#[tokio::test(start_paused = true)]
async fn task_sleeps_while_throttled() {
    let run = run(Sends::Nothing, true, Some(1), Timeouts::default());
    let mut channel = run.handle.open(None).unwrap();
    // One frame is sent, the next one waits for a second.
    channel.write_all(&[0; 128 * 1024]).await.unwrap();
    pass(Duration::from_millis(100)).await;
    assert_eq!(run.handle.stats().bytes_sent, 64 * 1024);
    let before = run.reads_tried.load(Ordering::Relaxed);
    pass(Duration::from_millis(800)).await;
    // Another handle that reads statistics or writes a little does not change that.
    run.handle.stats();
    let mut other = run.handle.open(None).unwrap();
    other.write_all(b"small").await.unwrap();
    pass(Duration::from_millis(50)).await;
    let tried = run.reads_tried.load(Ordering::Relaxed) - before;
    assert!(
        tried <= 5,
        "polled {tried} times during one throttling pause"
    );
    assert_eq!(run.handle.stats().bytes_sent, 64 * 1024 + 5);
    pass(Duration::from_millis(100)).await;
    assert_eq!(run.handle.stats().bytes_sent, 128 * 1024 + 5);
}

#[tokio::test(start_paused = true)]
async fn channel_closed_while_paused_ends_after_linger() {
    let timeouts = Timeouts {
        linger: Duration::from_secs(5),
        ..Timeouts::default()
    };
    let run = run(Sends::Nothing, true, None, timeouts);
    let mut channel = run.handle.open(None).unwrap();
    let id = channel.id();
    let pause = Incoming::Pause { id };
    let paused = |state: &mut shared::State| state.mux.handle(pause, state.clock.now());
    run.handle.shared.with(paused).unwrap();
    channel.write_all(&[1; 1000]).await.unwrap();
    pass(Duration::from_millis(10)).await;
    drop(channel);
    pass(Duration::from_secs(4)).await;
    assert_eq!(run.handle.open_channels(), 1, "it may still be resumed");
    pass(Duration::from_secs(2)).await;
    assert_eq!(run.handle.open_channels(), 0);
}

#[tokio::test(start_paused = true)]
async fn unanswered_ping_times_out() {
    // Nothing at all arrives: the tunnel ends.
    let silent = run(Sends::Nothing, true, None, Timeouts::default());
    pass(Duration::from_millis(7)).await;
    assert_eq!(silent.handle.ping().await, Err(PingError::Closed));
    // Other data arrives, and the tunnel stays up.
    let bursts = (1..10).map(|n| (Instant::now() + Duration::from_secs(10 * n), 1));
    let bursts = Sends::Bursts(bursts.collect());
    let busy = run(bursts, true, None, Timeouts::default());
    let mut channel = busy.handle.open(None).unwrap();
    let handle = busy.handle.clone();
    let ping = tokio::spawn(async move { handle.ping().await });
    for _ in 0..9 {
        assert!(!ping.is_finished());
        pass(Duration::from_secs(10)).await;
        // Makes the task read from the connection, which wakes nothing by itself.
        channel.write_all(b"anything").await.unwrap();
    }
    assert_eq!(ping.await.unwrap(), Err(PingError::TimedOut));
    assert!(!busy.handle.is_closed());
}
