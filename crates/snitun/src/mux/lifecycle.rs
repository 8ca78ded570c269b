//! How channels begin and end, one by one and all together.
//!
//! A channel has two lives, on the wire and with the application, which end each for itself: its id is free again once the
//! wire is done with it, its slot once the application is as well.

use crate::moment::Moment;
use std::net::IpAddr;

use super::channel::{ChannelState, Phase};
use super::transmit::Control;
use super::{ChannelKey, Event, Mux, Slot, channel_mut};
use crate::close::{ChannelError, CloseReason, OpenError};
use crate::frame::ChannelId;

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

    /// The next channel that the peer has opened.
    pub fn accept(&mut self) -> Option<ChannelKey> {
        self.unaccepted.pop_front()
    }

    /// Closes a channel in both directions: CLOSE goes out behind what was written. What was received can still be read.
    pub fn close(&mut self, key: ChannelKey, now: Moment) {
        let give_up = now + self.config.timeouts.linger;
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && channel.phase == Phase::Open
        {
            channel.phase = Phase::Closing { give_up };
            // Nothing more is taken from the peer, so there is nothing to hold it back for; and if it closes as well, its
            // CLOSE waits for our RESUME as ours does for its.
            channel.flow.desired_pause = false;
            if std::mem::take(&mut channel.reader_waits) {
                self.events.push_back(Event::Readable(key));
            }
            if std::mem::take(&mut channel.writer_waits) {
                self.events.push_back(Event::Writable(key));
            }
            self.timers.lingers(give_up);
            self.note_flow(key);
            self.schedule(key);
        }
    }

    /// The application is done with a channel: closes it, drops what was received, and makes the key invalid.
    pub fn release(&mut self, key: ChannelKey, now: Moment) {
        self.close(key, now);
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            channel.held = false;
            self.received -= channel.recv.clear();
            if channel.phase == Phase::Closed {
                self.forget(key);
            }
        }
    }

    /// Closes every channel behind its data and refuses new ones; the connection has until
    /// [`Timeouts::drain`](crate::Timeouts::drain) to get rid of that, and [`Mux::is_drained`] tells when it has.
    pub fn drain(&mut self, now: Moment) {
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
        self.return_held_back(now);
        self.release_unaccepted(now);
    }

    /// Whether, after [`Mux::drain`], nothing is left to send.
    pub fn is_drained(&self) -> bool {
        self.timers.is_draining() && self.by_id.is_empty() && self.control.is_empty()
    }

    /// The connection is gone: nothing more comes or goes. Readers get what was received, then the failure.
    pub fn end(&mut self, now: Moment) {
        self.ended = true;
        self.control.clear();
        for key in self.keys() {
            self.finish(key, Some(ChannelError::TunnelClosed));
        }
        self.ring.clear();
        self.held_back.clear();
        self.release_unaccepted(now);
    }

    fn release_unaccepted(&mut self, now: Moment) {
        while let Some(key) = self.unaccepted.pop_front() {
            self.release(key, now);
        }
    }

    /// Closes a channel at once because of a failure: tells the peer, drops what is queued either way.
    pub(super) fn cut(
        &mut self,
        key: ChannelKey,
        failure: ChannelError,
    ) -> Result<(), CloseReason> {
        if failure == ChannelError::Overrun {
            self.stats.channels_overrun += 1;
        }
        let mut told = Ok(());
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && channel.phase != Phase::Closed
        {
            let id = channel.id;
            told = self.refuse(id);
            self.finish(key, Some(failure));
        }
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            self.received -= channel.recv.clear();
            channel.failure = Some(failure);
        }
        told
    }

    /// A channel is over on the wire: its id may be used again.
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
        if std::mem::take(&mut channel.reader_waits) {
            self.events.push_back(Event::Readable(key));
        }
        if std::mem::take(&mut channel.writer_waits) {
            self.events.push_back(Event::Writable(key));
        }
        if !channel.held {
            self.forget(key);
        }
        self.make_room(cleared);
    }

    /// Frees the slot of a channel that neither the wire nor the application knows any more.
    pub(super) fn forget(&mut self, key: ChannelKey) {
        if let Some(slot) = self.slots.get_mut(key.index)
            && slot.generation == key.generation
            && let Some(channel) = slot.channel.take()
        {
            self.received -= channel.recv.len();
            if channel.wants_total {
                self.want_total.retain(|waiting| *waiting != key);
            }
            if self.by_id.get(&channel.id) == Some(&key) {
                self.by_id.remove(&channel.id);
            }
            slot.generation += 1;
            self.free.push(key.index);
            // Otherwise a peer that opens and closes without reading would make them pile up.
            if channel.scheduled {
                self.ring.retain(|waiting| *waiting != key);
                self.held_back.retain(|waiting| *waiting != key);
            }
        }
    }
}
