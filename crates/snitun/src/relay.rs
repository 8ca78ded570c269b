//! Copies between a channel and a TCP connection, both ways, until either ends.
//!
//! There is no half-close in the protocol, so the end of one direction is the end of both: what is already on its way is
//! still delivered, then both are closed.

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

use crate::driver::{Channel, ChannelReader, ChannelWriter, TURN, WhenWoken};
use crate::limits::Timeouts;

/// Taken from a channel at a time, about: a full frame. It is held beyond what the channel's own limits count, and what becomes
/// urgent waits behind it.
const AT_A_TIME: usize = 64 * 1024;
/// Pieces given to one vectored write: what the largest frames and the ends of their predecessors come to.
const SLICES: usize = 16;
/// After our end, how long a caller may go on sending before we cut it off. Closing with bytes unread would make the
/// system reset the connection, and the caller could lose the last of what we sent.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a relayed connection came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the TCP connection into the channel.
    pub into_channel: u64,
    /// Bytes from the channel to the TCP connection.
    pub from_channel: u64,
}

/// Joins `tcp` and `channel` until one of them ends or nothing has moved for `idle`, or up to a quarter longer, then
/// closes both.
///
/// # Errors
/// The first failure on either side, [`TimedOut`](io::ErrorKind::TimedOut) for the limit on idleness. Both are closed then
/// as well.
///
/// # Cancel safety
/// Dropping the future closes both.
pub async fn relay(tcp: TcpStream, mut channel: Channel, idle: Duration) -> io::Result<Relayed> {
    let (mut tcp_reader, mut tcp_writer) = tcp.into_split();
    let (mut reader, mut writer) = channel.halves();
    let progress = Progress::default();
    let both = async {
        let into = pin!(into_channel(&mut tcp_reader, &mut writer, &progress));
        let from = pin!(from_channel(&mut reader, &mut tcp_writer, &progress));
        let mut from = WhenWoken::new(from);
        // In order: drawing lots each time would gain nothing, since neither is asked in vain.
        tokio::select! {
            biased;
            // The caller is done: the channel now yields what is left in it, then its end.
            ended = WhenWoken::new(into) => from.await.and(ended),
            // The channel is done: whatever else the caller sends has nowhere to go.
            ended = &mut from => ended,
        }
    };
    let idle = pin!(idle_for(idle.min(Timeouts::LONGEST), &progress));
    tokio::select! {
        biased;
        ended = both => ended?,
        () = WhenWoken::new(idle) => return Err(io::ErrorKind::TimedOut.into()),
    }
    // Its place in the tunnel is free from now on.
    drop(channel);
    let mut sink = [0; 1024];
    let drained = async { while matches!(tcp_reader.read(&mut sink).await, Ok(1..)) {} };
    // It was only a courtesy.
    let _ = tokio::time::timeout(LAST_WORDS, drained).await;
    Ok(progress.total())
}

async fn into_channel(
    tcp: &mut OwnedReadHalf,
    channel: &mut ChannelWriter<'_>,
    progress: &Progress,
) -> io::Result<()> {
    let mut turn = Turn::default();
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
            Ok(()) => Progress::moved(&progress.into_channel, count),
            // The other direction sees the channel's end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
        turn.moved(count).await;
    }
}

/// What the next read yields; nothing at the end. No buffer is kept while nothing comes: many connections are idle.
async fn receive(tcp: &mut OwnedReadHalf, channel: &ChannelWriter<'_>) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        ready!(tcp.as_ref().poll_read_ready(cx))?;
        let mut buffer = channel.take_buffer();
        // `read_buf` keeps nothing between polls, so that making it anew each time loses nothing. It knows from a buffer that
        // it did not fill that the socket is empty, and spares the system call that would say so.
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
    progress: &Progress,
) -> io::Result<()> {
    let mut pieces = VecDeque::new();
    let mut turn = Turn::default();
    loop {
        channel.read_pieces(&mut pieces, AT_A_TIME).await?;
        if pieces.is_empty() {
            tcp.shutdown().await?;
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
            Progress::moved(&progress.from_channel, count);
            turn.moved(count).await;
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
    let mut slices = [IoSlice::new(&[]); SLICES];
    let used = pieces
        .iter()
        .zip(&mut slices)
        .map(|(piece, slice)| *slice = IoSlice::new(piece))
        .count();
    tcp.write_vectored(&slices[..used]).await
}

/// Ends a task's turn when it has moved enough.
#[derive(Default)]
struct Turn {
    bytes: usize,
}

impl Turn {
    async fn moved(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= TURN {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What has moved. There is one writer at a time: both directions are in one task.
#[derive(Default)]
struct Progress {
    into_channel: AtomicU64,
    from_channel: AtomicU64,
}

impl Progress {
    fn moved(direction: &AtomicU64, count: usize) {
        let before = direction.load(Ordering::Relaxed);
        direction.store(before + count as u64, Ordering::Relaxed);
    }

    fn total(&self) -> Relayed {
        Relayed {
            into_channel: self.into_channel.load(Ordering::Relaxed),
            from_channel: self.from_channel.load(Ordering::Relaxed),
        }
    }
}

/// Done when nothing has moved for the limit, or up to a quarter longer: it looks four times in that time, and at no clock each
/// time that something moves.
async fn idle_for(limit: Duration, progress: &Progress) {
    const STEPS: u32 = 4;
    let mut seen = progress.total();
    let mut quiet = 0;
    while quiet < STEPS {
        tokio::time::sleep(limit / STEPS).await;
        let total = progress.total();
        if std::mem::replace(&mut seen, total) == total {
            quiet += 1;
        } else {
            quiet = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_is_who_moves_nothing_for_the_whole_limit() {
        const LIMIT: Duration = Duration::from_secs(80);
        let progress = Progress::default();
        let begun = Instant::now();
        let last_moved = async {
            // In turns, more often than the limit, and not in step with the looks.
            for step in 1..=20 {
                tokio::time::sleep(Duration::from_secs(61)).await;
                let direction = [&progress.into_channel, &progress.from_channel][step % 2];
                Progress::moved(direction, 1);
            }
            Instant::now()
        };
        let (last, ()) = tokio::join!(last_moved, idle_for(LIMIT, &progress));
        let idle = Instant::now() - last;
        assert!(begun.elapsed() > Duration::from_secs(20 * 61));
        assert!((LIMIT..=LIMIT * 5 / 4).contains(&idle), "{idle:?}");
        assert_eq!(
            (progress.total().into_channel, progress.total().from_channel),
            (10, 10)
        );
    }
}
