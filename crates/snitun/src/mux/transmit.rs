//! What goes out next, and in which order.
//!
//! Control frames first: they are few, tiny, and what others wait for. Then one frame of each channel in turn. CLOSE is not
//! a control frame in this sense: it takes its channel's turn once the channel's data has gone.

use crate::moment::Moment;
use std::net::IpAddr;

use super::channel::{Barrier, Phase};
use super::{ChannelKey, Event, Mux, channel_mut};
use crate::batch::{COPY_UP_TO, WriteBatch};
use crate::cipher::SealError;
use crate::encoder::Encoder;
use crate::frame::{ChannelId, FrameType};

/// Messages from this size on are large: they wait for throttling, as in the reference, and while enough is under way.
const LARGE_FROM: usize = 8192;

/// A frame that goes ahead of data.
#[derive(Debug)]
pub(super) enum Control {
    New {
        id: ChannelId,
        caller: Option<IpAddr>,
    },
    /// CLOSE for a channel that never was, or whose data is dropped.
    Refuse(ChannelId),
    /// PAUSE or RESUME, whichever the channel wants by the time that this is written.
    Flow(ChannelKey),
    Ping(ChannelId),
    Pong(ChannelId),
}

impl Mux {
    /// Whether [`Mux::poll_transmit`] may have something to write now. What waits for a pause to end is not counted:
    /// [`Mux::poll_timeout`] tells when that is.
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.ring.is_empty()
    }

    /// Adds the next frames to `batch` until it is full or nothing is left. Call it again once the batch is written.
    ///
    /// # Errors
    /// [`SealError`]; the connection is over.
    pub fn poll_transmit(
        &mut self,
        encoder: &mut Encoder,
        batch: &mut WriteBatch,
        now: Moment,
    ) -> Result<(), SealError> {
        while let Some(chunk) = batch.take_spent() {
            self.pool.put(chunk);
        }
        while !batch.is_full() {
            let Some(control) = self.control.pop_front() else {
                break;
            };
            self.transmit_control(control, encoder, batch)?;
        }
        self.return_held_back(now);
        while !batch.is_full() {
            let Some(key) = self.ring.pop_front() else {
                break;
            };
            self.transmit_channel(key, encoder, batch, now)?;
        }
        Ok(())
    }

    /// Those that have waited with much to send are the next ones, if they may.
    pub(super) fn return_held_back(&mut self, now: Moment) {
        if !self.held_back.is_empty() && !self.holds_back(now) {
            self.held_back.append(&mut self.ring);
            std::mem::swap(&mut self.held_back, &mut self.ring);
        }
    }

    /// Whether large messages have to wait.
    fn holds_back(&self, now: Moment) -> bool {
        self.timers.is_throttled(now) || self.window_holds()
    }

    /// Whether bulk has to wait until the peer has read more.
    fn window_holds(&self) -> bool {
        // At the end everything goes to the system, which delivers when we have gone.
        !self.window.is_open() && !self.timers.is_draining()
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
                batch.append(|out| encoder.ping(id, true, out))
            }
            Control::Flow(key) => {
                let Some(channel) = channel_mut(&mut self.slots, key) else {
                    return Ok(());
                };
                let flow = &mut channel.flow;
                flow.noted = false;
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

    /// A channel's turn, unless it has much to send and that has to wait.
    fn transmit_channel(
        &mut self,
        key: ChannelKey,
        encoder: &mut Encoder,
        batch: &mut WriteBatch,
        now: Moment,
    ) -> Result<(), SealError> {
        let share = self.config.limits.send_share(self.by_id.len());
        let throttled = self.timers.is_throttled(now);
        let window_holds = self.window_holds();
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Ok(());
        };
        channel.scheduled = false;
        if !channel.has_output() {
            return Ok(());
        }
        let id = channel.id;
        let large = channel.send.front_len() >= LARGE_FROM;
        // Bulk may have been written in small pieces.
        let bulk = large || channel.send.len() >= LARGE_FROM;
        if (large && throttled) || (bulk && window_holds) {
            channel.scheduled = true;
            self.held_back.push_back(key);
            return Ok(());
        }
        let Some(chunk) = channel.send.pop() else {
            let flow = &mut channel.flow;
            if self.config.version.has_flow_control()
                && channel.phase != Phase::GivenUp
                && flow.barrier == Barrier::None
                && flow.sent > Barrier::ABOVE
            {
                flow.barrier = Barrier::Waiting(Barrier::ROUNDS);
                // The channel's own id is as good as any, and tells whom the answer is for.
                batch.append(|out| encoder.ping(id, false, out))?;
                return Ok(());
            }
            batch.append(|out| encoder.bare(id, FrameType::Close, out))?;
            self.finish(key, None);
            return Ok(());
        };
        // Half of its room free again: worth waking the writer for.
        if channel.writer_waits && channel.send.len() <= share / 2 {
            channel.writer_waits = false;
            self.events.push_back(Event::Writable(key));
        }
        channel.flow.sent = channel.flow.sent.saturating_add(chunk.len());
        let probe = self.window.send(chunk.len(), now);
        self.make_room(chunk.len());
        self.stats.bytes_sent += chunk.len() as u64;
        // A chunk is at most 64 KiB.
        let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        batch.append(|out| encoder.data(id, size, out))?;
        if chunk.len() <= COPY_UP_TO {
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
