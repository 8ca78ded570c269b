//! Handling of received frames.
//!
//! A single channel never blocks or fails the connection: a frame for an unknown channel is
//! ignored, and one that exceeds a limit closes its own channel.

use std::net::IpAddr;

use bytes::BytesMut;

use super::channel::{Barrier, Phase};
use super::transmit::Control;
use super::{ChannelKey, Event, Mux, channel_mut};
use crate::close::{ChannelError, CloseReason};
use crate::codec::decoder::Incoming;
use crate::codec::frame::ChannelId;
use crate::crypto::cipher::Role;
use crate::time::Timestamp;

/// Maximum pending refusals (CLOSE for a channel that is rejected or over its limit). A peer that
/// causes more without reading them is disconnected.
const MAX_REFUSALS: usize = 256;
/// Maximum pending answers to pings, 17 bytes each; further pings are ignored. A peer with this
/// implementation may ping once for each channel that it closes.
const MAX_PONGS: usize = 4096;
/// Maximum pending control frames, besides two for each channel (NEW, and PAUSE or RESUME). Only
/// entries of removed channels can reach it: the peer opens, fills and closes channels without
/// reading.
const MAX_CONTROL: usize = 8192;

impl Mux {
    /// Handles a received frame.
    ///
    /// # Errors
    /// [`CloseReason::Flooded`]; end the connection.
    pub fn handle(&mut self, incoming: Incoming, now: Timestamp) -> Result<(), CloseReason> {
        let of_channels = self.config.limits.max_channels.saturating_mul(2);
        if self.control.len() > of_channels.saturating_add(MAX_CONTROL) {
            return Err(CloseReason::Flooded);
        }
        match incoming {
            Incoming::Data { id, data } => return self.handle_data(id, data),
            Incoming::New { id, caller } => return self.handle_new(id, caller),
            Incoming::Close { id } => {
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.finish(key, None);
                }
            }
            Incoming::Ping { id } => {
                if self.pongs < MAX_PONGS {
                    self.pongs += 1;
                    self.control.push_back(Control::Pong(id));
                }
            }
            Incoming::Pong {
                id,
                has_backpressure,
            } => {
                self.peer_has_backpressure |= has_backpressure;
                if self.in_flight.on_pong(id, now) {
                    self.resume_deferred(now);
                } else if !self.handle_pong(id, now) {
                    self.step_barrier(id);
                }
            }
            Incoming::Pause { id } => self.set_peer_paused(id, true),
            Incoming::Resume { id } => self.set_peer_paused(id, false),
            Incoming::MalformedNew { .. } => {}
        }
        Ok(())
    }

    fn handle_new(&mut self, id: ChannelId, caller: Option<IpAddr>) -> Result<(), CloseReason> {
        if let Some(key) = self.by_id.get(&id).copied() {
            // An error of the peer: the data of the two channels cannot be distinguished.
            return self.abort(key, ChannelError::DuplicateOpen);
        }
        let can_accept = self.config.role == Role::Client
            && !self.ended
            && !self.timers.is_draining()
            && self.unaccepted.len() < self.config.limits.max_unaccepted;
        match self.insert(id, caller) {
            Ok(key) if can_accept => {
                self.unaccepted.push_back(key);
                self.events.push_back(Event::Opened);
                Ok(())
            }
            Ok(key) => {
                self.stats.channels_opened -= 1;
                self.stats.channels_refused += 1;
                self.remove(key);
                self.refuse(id)
            }
            Err(_) => self.refuse(id),
        }
    }

    pub(super) fn refuse(&mut self, id: ChannelId) -> Result<(), CloseReason> {
        if self.refusals >= MAX_REFUSALS {
            return Err(CloseReason::Flooded);
        }
        self.refusals += 1;
        self.control.push_back(Control::Refuse(id));
        Ok(())
    }

    fn handle_data(&mut self, id: ChannelId, data: BytesMut) -> Result<(), CloseReason> {
        let Some(key) = self.find(id) else {
            return Ok(());
        };
        let limits = &self.config.limits;
        let pause_mark = if self.received > limits.receive_total / 2 {
            limits.pause_mark_under_pressure()
        } else {
            limits.pause_mark(self.by_id.len())
        };
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Ok(());
        };
        // After a local close, the reader may have seen the end, and no data may follow it.
        if !channel.owned || channel.phase != Phase::Open {
            return Ok(());
        }
        if channel.recv.len() + data.len() > self.config.limits.receive_per_channel {
            return self.overrun(key);
        }
        let count = data.len();
        self.received += count;
        self.stats.bytes_received += count as u64;
        let reader_blocked = std::mem::take(&mut channel.reader_blocked);
        channel.recv.push(data, reader_blocked);
        if reader_blocked {
            self.events.push_back(Event::Readable(key));
        }
        if self.config.version.has_flow_control() && channel.recv.len() > pause_mark {
            channel.flow.desired_pause = true;
            self.queue_flow_update(key);
        }
        self.note_received(key, count);
        while self.received > self.config.limits.receive_total {
            let Some(fullest) = self.fullest() else { break };
            self.overrun(fullest)?;
            self.discard(fullest);
        }
        Ok(())
    }

    /// Returns the channel with the most unread data.
    fn fullest(&self) -> Option<ChannelKey> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| {
                let len = slot.channel.as_ref()?.recv.len();
                let generation = slot.generation;
                (len > 0).then_some((len, ChannelKey { index, generation }))
            })
            .max_by_key(|(len, _)| *len)
            .map(|(_, key)| key)
    }

    fn set_peer_paused(&mut self, id: ChannelId, paused: bool) {
        if let Some(key) = self.by_id.get(&id).copied()
            && let Some(channel) = channel_mut(&mut self.slots, key)
        {
            channel.flow.peer_paused = paused;
            self.stats.pauses_received += u64::from(paused);
            if !paused {
                channel.flow.sent = 0;
            }
            self.schedule(key);
        }
    }

    /// Handles the answer to a ping of a closing channel.
    fn step_barrier(&mut self, id: ChannelId) {
        if let Some(key) = self.by_id.get(&id).copied()
            && let Some(channel) = channel_mut(&mut self.slots, key)
            && let Barrier::Waiting(rounds) = channel.flow.barrier
        {
            if rounds > 1 {
                channel.flow.barrier = Barrier::Waiting(rounds - 1);
                self.control.push_back(Control::Ping(id));
            } else {
                channel.flow.barrier = Barrier::Passed;
                self.schedule(key);
            }
        }
    }
}
