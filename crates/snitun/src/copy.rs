//! Copies between a channel and a TCP connection in both directions, until either ends.
//!
//! The protocol has no half-close, so the end of one direction ends both: data in flight is still
//! delivered, then both sides are closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::driver::{Channel, ChannelReader, ChannelWriter, POLL_BUDGET, WakeGated};
use crate::limits::Timeouts;

/// Approximate bytes taken from a channel at a time: a full frame. They are not counted by the
/// channel's own limits, and urgent data waits behind them.
const READ_BATCH: usize = 64 * 1024;
/// Maximum slices in one vectored write: the largest frames and the ends of their predecessors.
const MAX_IO_SLICES: usize = 16;
/// Time that the TCP peer may go on sending after our end. Closing with unread bytes would make the
/// system reset the connection, and the peer could lose the last data that we sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum bytes read in this time: what is in flight when the peer learns of the end. An endless
/// download would send until the time has passed.
const MAX_DRAIN: usize = 256 * 1024;

/// Byte counts of a copied connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Bytes from the TCP connection into the channel.
    pub into_channel: u64,
    /// Bytes from the channel to the TCP connection.
    pub from_channel: u64,
}

/// Copies between `tcp` and `channel` until one of them ends or no byte has moved for `idle`
/// (checked in steps of a quarter of it), then closes both.
///
/// # Errors
/// The first error on either side, or [`TimedOut`](io::ErrorKind::TimedOut) for the idle timeout.
/// Both sides are closed then as well. Data that arrived before a channel failed is delivered.
///
/// # Cancel safety
/// Dropping the future closes both sides.
pub async fn copy_bidirectional(
    tcp: TcpStream,
    mut channel: Channel,
    idle: Duration,
) -> io::Result<CopyStats> {
    let (mut tcp_reader, mut tcp_writer) = tcp.into_split();
    let (mut reader, mut writer) = channel.halves();
    let counters = CopyCounters::default();
    let both = async {
        let into = pin!(into_channel(&mut tcp_reader, &mut writer, &counters));
        let from = pin!(from_channel(&mut reader, &mut tcp_writer, &counters));
        let mut from = WakeGated::new(from);
        // `biased`: both branches are polled only when woken, so a random order would gain nothing.
        tokio::select! {
            biased;
            // The caller is done: the channel now returns its remaining data, then its end.
            ended = WakeGated::new(into) => from.await.and(ended),
            // The channel is done: further data from the caller has no destination.
            ended = &mut from => ended,
        }
    };
    let idle = pin!(idle_for(idle.min(Timeouts::MAX), &counters));
    let ended = tokio::select! {
        biased;
        ended = both => ended,
        () = WakeGated::new(idle) => return Err(io::ErrorKind::TimedOut.into()),
    };
    // Frees the channel's slot in the tunnel.
    drop(channel);
    // Best effort, also after an error.
    let _ = tcp_writer.shutdown().await;
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(&mut tcp_reader)).await;
    ended.map(|()| counters.total())
}

/// Reads until the end, or [`MAX_DRAIN`] bytes.
async fn drain(tcp: &mut OwnedReadHalf) {
    let mut sink = [0; 1024];
    let mut left = MAX_DRAIN;
    while left > 0 {
        match tcp.read(&mut sink).await {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

async fn into_channel(
    tcp: &mut OwnedReadHalf,
    channel: &mut ChannelWriter<'_>,
    counters: &CopyCounters,
) -> io::Result<()> {
    let mut budget = CoopBudget::default();
    loop {
        let buffer = match receive(tcp, channel).await {
            Ok(buffer) if !buffer.is_empty() => buffer,
            ended => {
                channel.shutdown().await?;
                return ended.map(drop);
            }
        };
        let count = buffer.len();
        match channel.write_buffer(buffer).await {
            Ok(()) => CopyCounters::add(&counters.into_channel, count),
            // The other direction sees the channel's end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
        budget.moved(count).await;
    }
}

/// Waits for data and reads it; returns an empty buffer at the end. An idle connection, of which
/// there are many, holds no buffer.
async fn receive(tcp: &mut OwnedReadHalf, channel: &ChannelWriter<'_>) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        ready!(tcp.as_ref().poll_read_ready(cx))?;
        let mut buffer = channel.take_buffer();
        // `read_buf` keeps no state between polls, so dropping it loses nothing. It knows from a
        // partly filled buffer that the socket is empty, and saves the system call that would show
        // it.
        let read = pin!(tcp.read_buf(&mut buffer)).poll(cx);
        match read {
            Poll::Ready(read) => Poll::Ready(read.map(|_| buffer)),
            Poll::Pending => {
                channel.return_buffer(buffer);
                Poll::Pending
            }
        }
    })
    .await
}

async fn from_channel(
    channel: &mut ChannelReader<'_>,
    tcp: &mut OwnedWriteHalf,
    counters: &CopyCounters,
) -> io::Result<()> {
    let mut pieces = VecDeque::new();
    let mut budget = CoopBudget::default();
    loop {
        channel.read_pieces(&mut pieces, READ_BATCH).await?;
        if pieces.is_empty() {
            return Ok(());
        }
        while let Some(first) = pieces.front() {
            let mut count = if pieces.len() == 1 {
                tcp.write(first).await?
            } else {
                write_pieces(tcp, &pieces).await?
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            CopyCounters::add(&counters.from_channel, count);
            budget.moved(count).await;
            while let Some(first) = pieces.front_mut() {
                if count < first.len() {
                    first.advance(count);
                    break;
                }
                count -= first.len();
                pieces.pop_front();
            }
        }
    }
}

async fn write_pieces(tcp: &mut OwnedWriteHalf, pieces: &VecDeque<BytesMut>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
    let used = pieces
        .iter()
        .zip(&mut slices)
        .map(|(piece, slice)| *slice = IoSlice::new(piece))
        .count();
    tcp.write_vectored(&slices[..used]).await
}

/// Yields to other tasks after [`POLL_BUDGET`] bytes.
#[derive(Default)]
struct CoopBudget {
    bytes: usize,
}

impl CoopBudget {
    async fn moved(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= POLL_BUDGET {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Bytes copied. There is one writer at a time: both directions are in one task.
#[derive(Default)]
struct CopyCounters {
    into_channel: AtomicU64,
    from_channel: AtomicU64,
}

impl CopyCounters {
    fn add(direction: &AtomicU64, count: usize) {
        let before = direction.load(Ordering::Relaxed);
        direction.store(before + count as u64, Ordering::Relaxed);
    }

    fn total(&self) -> CopyStats {
        CopyStats {
            into_channel: self.into_channel.load(Ordering::Relaxed),
            from_channel: self.from_channel.load(Ordering::Relaxed),
        }
    }
}

/// Completes when no byte has moved for `limit`, or up to a quarter longer: it compares the
/// counters four times in that period, and reads no clock for each copied chunk.
async fn idle_for(limit: Duration, counters: &CopyCounters) {
    const STEPS: u32 = 4;
    let mut seen = counters.total();
    let mut quiet = 0;
    while quiet < STEPS {
        tokio::time::sleep(limit / STEPS).await;
        let total = counters.total();
        if std::mem::replace(&mut seen, total) == total {
            quiet += 1;
        } else {
            quiet = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    /// An endless download that the caller has cancelled.
    #[tokio::test]
    async fn drain_ends_while_the_peer_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (application, accepted) = tokio::join!(connecting, listener.accept());
        let (mut application, (mut reader, _writer)) =
            (application.unwrap(), accepted.unwrap().0.into_split());
        let endless = async { while application.write_all(&[7; 64 * 1024]).await.is_ok() {} };
        tokio::select! {
            () = endless => panic!("the connection has ended"),
            () = drain(&mut reader) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_timeout_counts_from_the_last_byte() {
        const LIMIT: Duration = Duration::from_secs(80);
        let counters = CopyCounters::default();
        let begun = Instant::now();
        let last_moved = async {
            // Alternating, more often than the limit, and not in step with the checks.
            for step in 1..=20 {
                tokio::time::sleep(Duration::from_secs(61)).await;
                let direction = [&counters.into_channel, &counters.from_channel][step % 2];
                CopyCounters::add(direction, 1);
            }
            Instant::now()
        };
        let (last, ()) = tokio::join!(last_moved, idle_for(LIMIT, &counters));
        let idle = Instant::now() - last;
        assert!(begun.elapsed() > Duration::from_secs(20 * 61));
        assert!((LIMIT..=LIMIT * 5 / 4).contains(&idle), "{idle:?}");
        assert_eq!(
            (counters.total().into_channel, counters.total().from_channel),
            (10, 10)
        );
    }
}
