//! The task that owns the connection: reads, writes, keeps time.
//!
//! It never waits for a channel. It reads as long as there is something to read, writes whatever the multiplexer wants
//! written, many frames at a time, and sleeps when neither goes on.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use cloud_net::{LogThrottle, warn_throttled};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use super::TURN;
use super::input::Input;
use super::shared::Shared;
use crate::batch::WriteBatch;
use crate::close::CloseReason;
use crate::decoder::{Decoder, Incoming};
use crate::encoder::Encoder;
use crate::moment::Moment;

/// Pieces given to one vectored write.
const SLICES: usize = 64;
/// How long the connection's own end may take. What was to be said has been said.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// How much of a peer that goes on sending is read meanwhile: several times what is under way when it hears of the end.
const UNREAD: usize = 16 * 1024 * 1024;

pub(crate) struct Task<S> {
    stream: S,
    shared: Arc<Shared>,
    decoder: Decoder,
    encoder: Encoder,
    batch: WriteBatch,
    input: Input,
    sleep: Pin<Box<Sleep>>,
    /// When `sleep` is set to go off.
    armed: Moment,
    /// Whom `sleep` will wake: as long as that is us, and it is not yet time, there is no need to ask it.
    sleeper: Option<Waker>,
    /// When the multiplexer has something to do, as of the last time that the task was parked.
    timeout: Option<Moment>,
    /// Something was written since the last flush.
    unflushed: bool,
    /// Bytes received, and bytes sent, in this turn. Each is bounded for itself, so that neither keeps the other from going on.
    received: usize,
    sent: usize,
    /// A NEW with a malformed address was told of: a peer that sends one may send a thousand.
    told_malformed: bool,
    malformed_log: Arc<LogThrottle>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Task<S> {
    pub(crate) fn new(
        stream: S,
        shared: Arc<Shared>,
        decoder: Decoder,
        encoder: Encoder,
        malformed_log: Arc<LogThrottle>,
    ) -> Self {
        let armed = shared.clock.now();
        let sleep = tokio::time::sleep_until(shared.clock.instant(armed));
        Self {
            stream,
            shared,
            decoder,
            encoder,
            batch: WriteBatch::new(),
            input: Input::default(),
            sleep: Box::pin(sleep),
            armed,
            sleeper: None,
            timeout: None,
            unflushed: false,
            received: 0,
            sent: 0,
            told_malformed: false,
            malformed_log,
        }
    }

    /// Runs the connection to its end.
    pub(crate) async fn run(mut self) -> CloseReason {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(%reason, "tunnel ended");
        self.shared.end(reason.clone());
        // Failing to say goodbye to a connection that is over changes nothing.
        let _ = tokio::time::timeout(SHUTDOWN, self.goodbye()).await;
        reason
    }

    /// Ends our direction and reads on to the end of the peer's: closing with bytes unread would make the system reset the
    /// connection, and the peer could lose the last of what we sent.
    async fn goodbye(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut unread = vec![0; 16 * 1024];
        let mut left = UNREAD;
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
        // Asked seldom: a turn takes some tens of microseconds.
        let mut now = self.shared.clock.now();
        // Whether something may have come up to be written since the task was last parked.
        let mut stale = true;
        loop {
            // Before writing: what has come may ask for an answer, and a connection that takes all we have must not keep us
            // from hearing PAUSE.
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
            let over = self.received.max(self.sent) >= TURN;
            if read && !over {
                // What comes next may be the answer to what was written just now.
                now = self.shared.clock.now();
                continue;
            }
            // Time goes on for who always has something to read or to write as well.
            match self.poll_time(cx, now) {
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Ready(Ok(())) if !over => {
                    now = self.shared.clock.now();
                    stale = true;
                }
                Poll::Pending if !over => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {
                    // Wakes us once the runtime has looked around; nothing else is waited for.
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes until there is nothing to write (ready, the task parked as idle), the turn is over (ready), or the connection is
    /// full (pending).
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Result<(), CloseReason>> {
        let mut sent = false;
        loop {
            if self.batch.is_empty() {
                let (encoder, batch) = (&mut self.encoder, &mut self.batch);
                let timeout = &mut self.timeout;
                let over = self.sent >= TURN;
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
                    if batch.is_empty() {
                        state.park_task(cx, true);
                    }
                    if batch.is_empty() || over {
                        *timeout = state.mux.poll_timeout();
                    }
                    Ok(batch.is_empty() || over)
                })?;
                if done {
                    break;
                }
            }
            let stream = Pin::new(&mut self.stream);
            let written = if let Some(single) = self.batch.single() {
                stream.poll_write(cx, single)
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
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

    /// One read, and all the frames in it.
    fn poll_read(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Result<(), CloseReason>> {
        // `read_buf` keeps nothing between polls, so that making it anew each time loses nothing.
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
        let (told, log) = (&mut self.told_malformed, &self.malformed_log);
        Poll::Ready(self.shared.with(|state| {
            state.mux.handle_received(now);
            while let Some(incoming) = decoder.decode(input)? {
                if let Incoming::MalformedNew { id } = &incoming
                    && !std::mem::replace(told, true)
                {
                    warn_throttled!(log, %id, "the peer opened a channel with a malformed address; ignored, as will be others");
                }
                tracing::trace!(frame = incoming.name(), id = %incoming.id(), "received");
                state.mux.handle(incoming, now)?;
            }
            Ok(())
        }))
    }

    /// Ready when something was due.
    fn poll_time(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Result<(), CloseReason>> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        if timeout <= now {
            return Poll::Ready(self.shared.with(|state| {
                let handled = state.mux.handle_timeout(now);
                handled.map_err(|reason| state.closing.clone().unwrap_or(reason))
            }));
        }
        // Deadlines mostly move away as bytes come and go. The timer is left where it is then and set again when it
        // goes off: cheaper than moving it with every read.
        if timeout < self.armed || self.armed <= now {
            self.armed = timeout;
            self.sleep
                .as_mut()
                .reset(self.shared.clock.instant(timeout));
        } else if self
            .sleeper
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        self.sleeper = Some(cx.waker().clone());
        // Whatever else this turn has used up: a timer that is put off for that has not taken our waker, and would wake nobody.
        ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
        // A good moment, since it comes every minute or two.
        self.input.forget();
        Poll::Ready(Ok(()))
    }
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        // Whoever dropped the connection while it was running closed it.
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
