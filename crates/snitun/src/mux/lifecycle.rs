//! Opening and closing of channels.
//!
//! The wire and the application release a channel independently: its id becomes free when the wire
//! is done with it, its slot when the application is done as well.

use std::net::IpAddr;

use super::channel::{ChannelState, Phase};
use super::transmit::Control;
use super::{ChannelKey, Event, Mux, Overrun, Slot, channel_mut};
use crate::close::{ChannelError, CloseReason, OpenError};
use crate::codec::frame::ChannelId;
use crate::time::Timestamp;

impl Mux {
    /// Opens a channel on behalf of `caller` under a random `id`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&mut self, id: ChannelId, caller: Option<IpAddr>) -> Result<ChannelKey, OpenError> {
        if self.ended || self.timers.is_draining() {
            return Err(OpenError::Closed);
        }
        if self.by_id.contains_key(&id) {
            return Err(OpenError::DuplicateId);
        }
        let key = self.insert(id, caller)?;
        self.control.push_back(Control::New { id, caller });
        Ok(key)
    }

    pub(super) fn insert(
        &mut self,
        id: ChannelId,
        caller: Option<IpAddr>,
    ) -> Result<ChannelKey, OpenError> {
        if self.slots.len() - self.free.len() >= self.config.limits.max_channels {
            self.stats.channels_refused += 1;
            return Err(OpenError::TooManyChannels);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.channel = Some(ChannelState::new(id, caller));
        let key = ChannelKey {
            index,
            generation: slot.generation,
        };
        self.by_id.insert(id, key);
        self.stats.channels_opened += 1;
        Ok(key)
    }

    /// Returns the next channel that the peer has opened.
    pub fn accept(&mut self) -> Option<ChannelKey> {
        self.unaccepted.pop_front()
    }

    /// Closes a channel in both directions: CLOSE follows the written data. Received data can still
    /// be read.
    pub fn close(&mut self, key: ChannelKey, now: Timestamp) {
        let deadline = now + self.config.timeouts.linger;
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && channel.phase == Phase::Open
        {
            channel.phase = Phase::Closing { deadline };
            // No more data is accepted, so nothing needs pausing. If the peer closes as well, its
            // CLOSE waits for our RESUME, as ours waits for the peer's.
            channel.flow.desired_pause = false;
            if std::mem::take(&mut channel.reader_blocked) {
                self.events.push_back(Event::Readable(key));
            }
            if std::mem::take(&mut channel.writer_blocked) {
                self.events.push_back(Event::Writable(key));
            }
            self.timers.arm_linger(deadline);
            self.queue_flow_update(key);
            self.schedule(key);
        }
    }

    /// Closes a channel, drops the received data and invalidates the key.
    pub fn release(&mut self, key: ChannelKey, now: Timestamp) {
        self.close(key, now);
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            channel.owned = false;
            self.received -= channel.recv.clear();
            if channel.phase == Phase::Closed {
                self.remove(key);
            }
        }
    }

    /// Closes every channel behind its data and refuses new ones. [`Mux::is_drained`] returns true
    /// once everything is sent; [`Mux::handle_timeout`] ends the connection after
    /// [`Timeouts::drain`](crate::Timeouts::drain).
    pub fn drain(&mut self, now: Timestamp) {
        if self.timers.is_draining() {
            return;
        }
        self.timers.drain(now);
        for key in self.keys() {
            self.close(key, now);
            if let Some(channel) = channel_mut(&mut self.slots, key) {
                channel.failure = channel.failure.or(Some(ChannelError::TunnelClosed));
            }
        }
        self.resume_deferred(now);
        self.resume_paced(now);
        self.release_unaccepted(now);
    }

    /// Returns whether nothing is left to send after [`Mux::drain`].
    pub fn is_drained(&self) -> bool {
        self.timers.is_draining() && self.by_id.is_empty() && self.control.is_empty()
    }

    /// Handles the end of the connection. Readers get the received data, then the error.
    pub fn end(&mut self, now: Timestamp) {
        self.ended = true;
        self.control.clear();
        for key in self.keys() {
            self.finish(key, Some(ChannelError::TunnelClosed));
        }
        self.ready.clear();
        self.deferred.clear();
        self.paced.clear();
        self.release_unaccepted(now);
    }

    fn release_unaccepted(&mut self, now: Timestamp) {
        while let Some(key) = self.unaccepted.pop_front() {
            self.release(key, now);
        }
    }

    /// Closes a channel at once because of an error: sends CLOSE and drops both queues.
    pub(super) fn abort(
        &mut self,
        key: ChannelKey,
        failure: ChannelError,
    ) -> Result<(), CloseReason> {
        let refused = self.fail(key, failure);
        self.discard(key);
        refused
    }

    /// Closes a channel at a limit of received data: sends CLOSE. What was received before can
    /// still be read, then the error.
    pub(super) fn overrun(&mut self, key: ChannelKey) -> Result<(), CloseReason> {
        self.stats.channels_overrun += 1;
        self.overrun = self.channel(key).map(|channel| Overrun {
            caller: channel.caller,
            unread: channel.recv.len(),
        });
        self.fail(key, ChannelError::Overrun)
    }

    /// Drops the received data of a channel.
    pub(super) fn discard(&mut self, key: ChannelKey) {
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            self.received -= channel.recv.clear();
        }
    }

    /// Closes a channel at once because of an error, which its reader gets after the received data:
    /// sends CLOSE and drops the data to send.
    fn fail(&mut self, key: ChannelKey, failure: ChannelError) -> Result<(), CloseReason> {
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Ok(());
        };
        channel.failure = Some(failure);
        if channel.phase == Phase::Closed {
            return Ok(());
        }
        let id = channel.id;
        let refused = self.refuse(id);
        self.finish(key, Some(failure));
        refused
    }

    /// Handles the end of a channel on the wire: its id becomes free.
    pub(super) fn finish(&mut self, key: ChannelKey, failure: Option<ChannelError>) {
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return;
        };
        if channel.phase == Phase::Closed {
            return;
        }
        channel.phase = Phase::Closed;
        channel.failure = channel.failure.or(failure);
        let cleared = channel.send.clear(&mut self.pool);
        self.by_id.remove(&channel.id);
        if std::mem::take(&mut channel.reader_blocked) {
            self.events.push_back(Event::Readable(key));
        }
        if std::mem::take(&mut channel.writer_blocked) {
            self.events.push_back(Event::Writable(key));
        }
        if !channel.owned {
            self.remove(key);
        }
        self.make_room(cleared);
    }

    /// Frees the slot of a channel that neither the wire nor the application uses.
    pub(super) fn remove(&mut self, key: ChannelKey) {
        if let Some(slot) = self.slots.get_mut(key.index)
            && slot.generation == key.generation
            && let Some(channel) = slot.channel.take()
        {
            self.received -= channel.recv.len();
            if channel.blocked_on_total {
                self.blocked_on_total.retain(|waiting| *waiting != key);
            }
            if self.by_id.get(&channel.id) == Some(&key) {
                self.by_id.remove(&channel.id);
            }
            slot.generation += 1;
            self.free.push(key.index);
            // Otherwise entries accumulate when a peer opens and closes channels without reading.
            if channel.scheduled {
                self.ready.retain(|waiting| *waiting != key);
                self.deferred.retain(|waiting| *waiting != key);
                self.paced.retain(|(_, waiting)| *waiting != key);
            }
        }
    }
}
