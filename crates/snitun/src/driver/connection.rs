//! The task that owns the connection: reads, writes, and runs the timers.
//!
//! It reads while there is data, writes the multiplexer's frames in batches, and sleeps when
//! neither is possible. It never waits for a channel, but for the short pauses in reading that
//! version 0 needs ([`Mux::is_reading_paused`](crate::mux::Mux::is_reading_paused)).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use cloud_net::{info_throttled, warn_throttled};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use super::read_buffer::ReadBuffer;
use super::shared::Shared;
use super::{POLL_BUDGET, TunnelLogs};
use crate::close::CloseReason;
use crate::codec::decoder::{Decoder, Incoming};
use crate::codec::encoder::Encoder;
use crate::codec::write_batch::WriteBatch;
use crate::mux::Overrun;
use crate::time::Timestamp;

/// Maximum slices in one vectored write.
const MAX_IO_SLICES: usize = 64;
/// Timeout for closing the connection after all data was sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum bytes read from a peer that still sends during the shutdown: several times the data in
/// flight when it learns of the end.
const MAX_DRAIN: usize = 16 * 1024 * 1024;

pub(crate) struct ConnectionTask<S> {
    stream: S,
    shared: Arc<Shared>,
    decoder: Decoder,
    encoder: Encoder,
    batch: WriteBatch,
    input: ReadBuffer,
    sleep: Pin<Box<Sleep>>,
    /// Deadline that `sleep` is set to.
    timer_deadline: Timestamp,
    /// The waker that `sleep` holds: while it is ours and the deadline has not passed, `sleep` need
    /// not be polled.
    timer_waker: Option<Waker>,
    /// The multiplexer's next deadline when the task was last parked.
    timeout: Option<Timestamp>,
    /// Reading was paused when it was last checked.
    reading_paused: bool,
    /// Data was written since the last flush.
    unflushed: bool,
    /// Bytes received and bytes sent in this poll. Each has its own budget, so that neither
    /// direction blocks the other.
    received: usize,
    sent: usize,
    /// A NEW with a malformed address was logged: a peer that sends one may send a thousand.
    logged_malformed: bool,
    logs: TunnelLogs,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ConnectionTask<S> {
    pub(crate) fn new(
        stream: S,
        shared: Arc<Shared>,
        decoder: Decoder,
        encoder: Encoder,
        logs: TunnelLogs,
    ) -> Self {
        let timer_deadline = shared.clock.now();
        let sleep = tokio::time::sleep_until(shared.clock.instant(timer_deadline));
        Self {
            stream,
            shared,
            decoder,
            encoder,
            batch: WriteBatch::new(),
            input: ReadBuffer::default(),
            sleep: Box::pin(sleep),
            timer_deadline,
            timer_waker: None,
            timeout: None,
            reading_paused: false,
            unflushed: false,
            received: 0,
            sent: 0,
            logged_malformed: false,
            logs,
        }
    }

    /// Runs the connection until it ends.
    pub(crate) async fn run(mut self) -> CloseReason {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(%reason, "tunnel ended");
        self.shared.end(reason.clone());
        // The connection is over: an error changes nothing.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shut_down()).await;
        reason
    }

    /// Closes our direction and reads until the peer closes its own: closing with unread bytes
    /// would make the system reset the connection, and the peer could lose the last data that we
    /// sent.
    async fn shut_down(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut unread = vec![0; 16 * 1024];
        let mut left = MAX_DRAIN;
        while left > 0 {
            let count = self.stream.read(&mut unread).await?;
            if count == 0 {
                break;
            }
            left = left.saturating_sub(count);
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        (self.received, self.sent) = (0, 0);
        // Read rarely: a poll takes some tens of microseconds.
        let mut now = self.shared.clock.now();
        // New output may have been queued since the task was last parked.
        let mut stale = true;
        loop {
            // Read before writing: a received frame may need an answer, and a connection that
            // accepts everything must not keep us from reading PAUSE.
            let read = match self.poll_read(cx, now) {
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            if (read || stale)
                && let Poll::Ready(Err(reason)) = self.poll_write(cx, now)
            {
                return Poll::Ready(reason);
            }
            stale = false;
            let budget_spent = self.received.max(self.sent) >= POLL_BUDGET;
            if read && !budget_spent {
                // The next read may return the answer to the last write.
                now = self.shared.clock.now();
                continue;
            }
            // Timers also run while there is always data to read or write.
            match self.poll_timer(cx, now) {
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Ready(Ok(())) if !budget_spent => {
                    now = self.shared.clock.now();
                    stale = true;
                }
                Poll::Pending if !budget_spent => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {
                    // Wakes us after the runtime has polled other tasks.
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes until there is nothing to write (ready, the task parked as idle), the budget is spent
    /// (ready), or the connection is full (pending).
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        now: Timestamp,
    ) -> Poll<Result<(), CloseReason>> {
        let mut sent = false;
        loop {
            if self.batch.is_empty() {
                let (encoder, batch) = (&mut self.encoder, &mut self.batch);
                let (timeout, logs) = (&mut self.timeout, &self.logs);
                let budget_spent = self.sent >= POLL_BUDGET;
                let done = self.shared.with(|state| {
                    state.unpark_task();
                    if std::mem::take(&mut sent) {
                        state.mux.handle_sent(now);
                    }
                    if let Some(reason) = &state.closing {
                        let reason = reason.clone();
                        state.mux.drain(now);
                        state.mux.poll_transmit(encoder, batch, now)?;
                        if batch.is_empty() && state.mux.is_drained() {
                            return Err(reason);
                        }
                    } else {
                        state.mux.poll_transmit(encoder, batch, now)?;
                    }
                    if state.mux.take_paced() {
                        info_throttled!(
                            logs.paced,
                            "sending more slowly on a connection with much data: version 0 of the protocol does not show how far the other end has read, and a peer that takes everything cuts what is far behind; a reader slower than 16 MiB/s can still be cut"
                        );
                    }
                    if batch.is_empty() {
                        state.park_task(cx, true);
                    }
                    if batch.is_empty() || budget_spent {
                        *timeout = state.mux.poll_timeout();
                    }
                    Ok(batch.is_empty() || budget_spent)
                })?;
                if done {
                    break;
                }
            }
            let stream = Pin::new(&mut self.stream);
            let written = if let Some(single) = self.batch.single() {
                stream.poll_write(cx, single)
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
                let count = self.batch.slices(&mut slices);
                stream.poll_write_vectored(cx, &slices[..count])
            };
            match written {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(failed(&io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => {
                    self.batch.advance(written);
                    self.sent += written;
                    self.unflushed = true;
                    sent = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(&error))),
                Poll::Pending => {
                    self.timeout = self.shared.with(|state| {
                        if sent {
                            state.mux.handle_sent(now);
                        }
                        state.mux.handle_write_blocked(now);
                        if state.closing.is_some() {
                            state.mux.drain(now);
                        }
                        state.park_task(cx, false);
                        state.mux.poll_timeout()
                    });
                    return Poll::Pending;
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and handles all frames in the data.
    fn poll_read(&mut self, cx: &mut Context<'_>, now: Timestamp) -> Poll<Result<(), CloseReason>> {
        if self.reading_paused {
            self.reading_paused = self.shared.with(|state| state.mux.is_reading_paused(now));
            if self.reading_paused {
                return Poll::Pending;
            }
        }
        // `read_buf` keeps no state between polls, so dropping it loses nothing.
        let read = ready!(pin!(self.stream.read_buf(self.input.with_room())).poll(cx));
        match read {
            Ok(0) => {
                let closing = self.shared.with(|state| state.closing.clone());
                return Poll::Ready(Err(closing.unwrap_or(CloseReason::Peer)));
            }
            Ok(count) => self.received += count,
            Err(error) => return Poll::Ready(Err(failed(&error))),
        }
        let (decoder, input) = (&mut self.decoder, self.input.bytes());
        let (logged, logs) = (&mut self.logged_malformed, &self.logs);
        let paused = &mut self.reading_paused;
        Poll::Ready(self.shared.with(|state| {
            state.mux.handle_received(now);
            while let Some(incoming) = decoder.decode(input)? {
                if let Incoming::MalformedNew { id } = &incoming
                    && !std::mem::replace(logged, true)
                {
                    warn_throttled!(logs.malformed, %id, "the peer opened a channel with a malformed address; this and further ones are ignored");
                }
                tracing::trace!(frame = incoming.name(), id = %incoming.id(), "received");
                let handled = state.mux.handle(incoming, now);
                if let Some(Overrun { caller, unread }) = state.mux.take_overrun() {
                    warn_throttled!(
                        logs.overrun,
                        ?caller,
                        unread,
                        "closed a connection at the limit of unread data: more arrives than is read, and version 0 of the protocol cannot pause one sender; what arrived before is still delivered"
                    );
                }
                handled?;
            }
            *paused = state.mux.is_reading_paused(now);
            Ok(())
        }))
    }

    /// Returns ready when a timer fired.
    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        now: Timestamp,
    ) -> Poll<Result<(), CloseReason>> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        if timeout <= now {
            return Poll::Ready(self.shared.with(|state| {
                let handled = state.mux.handle_timeout(now);
                handled.map_err(|reason| state.closing.clone().unwrap_or(reason))
            }));
        }
        // Deadlines mostly move later as bytes arrive. The timer then stays where it is and is
        // reset when it fires: cheaper than moving it on every read.
        if timeout < self.timer_deadline || self.timer_deadline <= now {
            self.timer_deadline = timeout;
            self.sleep
                .as_mut()
                .reset(self.shared.clock.instant(timeout));
        } else if self
            .timer_waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        self.timer_waker = Some(cx.waker().clone());
        // Unconstrained: a timer that returns pending for lack of budget has not stored our waker
        // and would wake nothing.
        ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
        // The timer fires every minute or two.
        self.input.release_unused();
        Poll::Ready(Ok(()))
    }
}

impl<S> Drop for ConnectionTask<S> {
    fn drop(&mut self) {
        // Dropping a running connection closes the tunnel.
        if !self.shared.is_closed() {
            self.shared.end(CloseReason::Local);
        }
    }
}

fn failed(error: &io::Error) -> CloseReason {
    CloseReason::Io {
        kind: error.kind(),
        message: error.to_string(),
    }
}
