//! Scheduling of outgoing frames.
//!
//! Control frames precede data: they are few and small, and others wait for them. Then each channel
//! in turn sends one frame. CLOSE is not a control frame in this sense: it takes its channel's turn
//! after the channel's data.

use std::net::IpAddr;

use super::channel::{Barrier, Phase};
use super::{ChannelKey, Event, Mux, channel_mut};
use crate::codec::encoder::Encoder;
use crate::codec::frame::{ChannelId, FrameType};
use crate::codec::write_batch::{COPY_THRESHOLD, WriteBatch};
use crate::crypto::cipher::SealError;
use crate::time::Timestamp;

/// Size from which a message counts as large: it waits for throttling, as in the reference, and for
/// the in-flight limit.
const LARGE_MESSAGE: usize = 8192;

/// A frame that precedes data.
#[derive(Debug)]
pub(super) enum Control {
    New {
        id: ChannelId,
        caller: Option<IpAddr>,
    },
    /// CLOSE for a channel that was rejected, or whose data is dropped.
    Refuse(ChannelId),
    /// PAUSE or RESUME, depending on the channel's state when it is written.
    Flow(ChannelKey),
    Ping(ChannelId),
    Pong(ChannelId),
}

impl Mux {
    /// Returns whether [`Mux::poll_transmit`] may have frames to write now. Deferred channels do
    /// not count: [`Mux::poll_timeout`] covers them.
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.ready.is_empty()
    }

    /// Appends frames to `batch` until it is full or nothing is left. Call it again once the batch
    /// is written.
    ///
    /// # Errors
    /// [`SealError`]; the connection is over.
    pub fn poll_transmit(
        &mut self,
        encoder: &mut Encoder,
        batch: &mut WriteBatch,
        now: Timestamp,
    ) -> Result<(), SealError> {
        while let Some(chunk) = batch.take_written() {
            self.pool.put(chunk);
        }
        while !batch.is_full() {
            let Some(control) = self.control.pop_front() else {
                break;
            };
            self.transmit_control(control, encoder, batch)?;
        }
        self.resume_deferred(now);
        while !batch.is_full() {
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            self.transmit_channel(key, encoder, batch, now)?;
        }
        if !self.pool.is_empty() {
            self.timers.arm_pool_expiry(now);
        }
        Ok(())
    }

    /// Moves deferred channels to the front of `ready` if they may send.
    pub(super) fn resume_deferred(&mut self, now: Timestamp) {
        if !self.deferred.is_empty() && !self.defers_bulk(now) {
            self.deferred.append(&mut self.ready);
            std::mem::swap(&mut self.deferred, &mut self.ready);
        }
    }

    /// Returns whether large messages must wait.
    fn defers_bulk(&self, now: Timestamp) -> bool {
        self.timers.is_throttled(now) || self.in_flight_limited()
    }

    /// Returns whether bulk must wait until the peer has read more.
    fn in_flight_limited(&self) -> bool {
        // While draining, everything goes to the system, which delivers it after we have exited.
        !self.in_flight.is_open() && !self.timers.is_draining()
    }

    fn transmit_control(
        &mut self,
        control: Control,
        encoder: &mut Encoder,
        batch: &mut WriteBatch,
    ) -> Result<(), SealError> {
        match control {
            Control::New { id, caller } => batch.append(|out| encoder.new_channel(id, caller, out)),
            Control::Refuse(id) => {
                self.refusals -= 1;
                batch.append(|out| encoder.bare(id, FrameType::Close, out))
            }
            Control::Ping(id) => batch.append(|out| encoder.ping(id, false, out)),
            Control::Pong(id) => {
                self.pongs -= 1;
                if self.config.version.has_flow_control() {
                    batch.append(|out| encoder.ping(id, true, out))
                } else {
                    batch.append(|out| encoder.pong_with_backpressure(id, out))
                }
            }
            Control::Flow(key) => {
                let Some(channel) = channel_mut(&mut self.slots, key) else {
                    return Ok(());
                };
                let flow = &mut channel.flow;
                flow.queued = false;
                if channel.phase == Phase::Closed || flow.desired_pause == flow.advertised_pause {
                    return Ok(());
                }
                flow.advertised_pause = flow.desired_pause;
                let kind = if flow.desired_pause {
                    self.stats.pauses_sent += 1;
                    FrameType::Pause
                } else {
                    FrameType::Resume
                };
                let id = channel.id;
                batch.append(|out| encoder.bare(id, kind, out))
            }
        }
    }

    /// Sends one frame of a channel, or defers the channel if it has bulk that must wait.
    fn transmit_channel(
        &mut self,
        key: ChannelKey,
        encoder: &mut Encoder,
        batch: &mut WriteBatch,
        now: Timestamp,
    ) -> Result<(), SealError> {
        let share = self.config.limits.send_share(self.by_id.len());
        let throttled = self.timers.is_throttled(now);
        let in_flight_limited = self.in_flight_limited();
        let paces = self.paces();
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Ok(());
        };
        channel.scheduled = false;
        if !channel.has_output() {
            return Ok(());
        }
        let id = channel.id;
        let large = channel.send.front_len() >= LARGE_MESSAGE;
        // Bulk may consist of small writes.
        let bulk = large || channel.send.len() >= LARGE_MESSAGE;
        if (large && throttled) || (bulk && in_flight_limited) {
            channel.scheduled = true;
            self.deferred.push_back(key);
            return Ok(());
        }
        if paces
            && channel.phase == Phase::Open
            && let Some(until) = channel.pacer.wait_until(now)
        {
            channel.scheduled = true;
            self.paced.push((until, key));
            self.stats.paced += 1;
            self.has_paced = true;
            return Ok(());
        }
        let Some(chunk) = channel.send.pop() else {
            let flow = &mut channel.flow;
            if self.config.version.has_flow_control()
                && channel.phase != Phase::LingerExpired
                && flow.barrier == Barrier::None
                && flow.sent > Barrier::THRESHOLD
            {
                flow.barrier = Barrier::Waiting(Barrier::ROUNDS);
                // The channel's own id identifies the channel in the answer.
                batch.append(|out| encoder.ping(id, false, out))?;
                return Ok(());
            }
            batch.append(|out| encoder.bare(id, FrameType::Close, out))?;
            self.finish(key, None);
            return Ok(());
        };
        // Half of its share is free again: worth waking the writer.
        if channel.writer_blocked && channel.send.len() <= share / 2 {
            channel.writer_blocked = false;
            self.events.push_back(Event::Writable(key));
        }
        channel.flow.sent = channel.flow.sent.saturating_add(chunk.len());
        if paces {
            channel.pacer.on_send(chunk.len(), now);
        }
        let probe = self.in_flight.on_send(chunk.len(), now);
        self.make_room(chunk.len());
        self.stats.bytes_sent += chunk.len() as u64;
        // A chunk is at most 64 KiB.
        let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        batch.append(|out| encoder.data(id, size, out))?;
        if chunk.len() <= COPY_THRESHOLD {
            batch.append(|out| {
                out.extend_from_slice(&chunk);
                Ok(())
            })?;
            self.pool.put(chunk);
        } else {
            batch.chain(chunk);
        }
        if let Some(id) = probe {
            batch.append(|out| encoder.ping(id, false, out))?;
        }
        if large {
            self.stats.throttled += u64::from(self.timers.throttle(now));
        }
        self.schedule(key);
        Ok(())
    }
}
