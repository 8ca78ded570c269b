//! What comes in, and what it does to the channels.
//!
//! Nothing here waits and nothing here fails because of one channel: a frame for a channel that is gone is ignored, one
//! that is too much closes its own channel.

use crate::moment::Moment;
use std::net::IpAddr;

use bytes::BytesMut;

use super::channel::{Barrier, Phase};
use super::transmit::Control;
use super::{ChannelKey, Event, Mux, channel_mut};
use crate::cipher::Role;
use crate::close::{ChannelError, CloseReason};
use crate::decoder::Incoming;
use crate::frame::ChannelId;

/// Refusals (CLOSE for a channel that we do not take, or that ran over its limit) that may wait to be written. A peer that
/// makes more than this without reading them is ended.
const MAX_REFUSALS: usize = 256;
/// Answers to pings that may wait to be written, 17 bytes each; further pings are ignored until some are. A peer of our own
/// kind may ask once for each channel that it closes.
const MAX_PONGS: usize = 4096;
/// Frames ahead of data that may wait to be written, beside two for each channel (it is opened, and paused or resumed). Only
/// notes of channels that are gone can add up to this: the peer opens, fills and closes them without reading.
const MAX_CONTROL: usize = 8192;

impl Mux {
    /// Takes a frame that came in.
    ///
    /// # Errors
    /// [`CloseReason::Flooded`]; the connection is to be ended.
    pub fn handle(&mut self, incoming: Incoming, now: Moment) -> Result<(), CloseReason> {
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
            Incoming::Pong { id } => {
                if self.window.answered(id, now) {
                    self.return_held_back(now);
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
            // The peer's mistake: neither of the two can be told apart any more.
            return self.cut(key, ChannelError::OpenedAgain);
        }
        let welcome = self.config.role == Role::Client
            && !self.ended
            && !self.timers.is_draining()
            && self.unaccepted.len() < self.config.limits.max_unaccepted;
        match self.insert(id, caller) {
            Ok(key) if welcome => {
                self.unaccepted.push_back(key);
                self.events.push_back(Event::Acceptable);
                Ok(())
            }
            Ok(key) => {
                self.stats.channels_opened -= 1;
                self.stats.channels_refused += 1;
                self.forget(key);
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
            limits.crowded_mark()
        } else {
            limits.pause_mark(self.by_id.len())
        };
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Ok(());
        };
        // Once we have closed it, its reader may have seen the end, and nothing may follow that.
        if !channel.held || channel.phase != Phase::Open {
            return Ok(());
        }
        if channel.recv.len() + data.len() > self.config.limits.receive_per_channel {
            return self.cut(key, ChannelError::Overrun);
        }
        self.received += data.len();
        self.stats.bytes_received += data.len() as u64;
        let reader_waits = std::mem::take(&mut channel.reader_waits);
        channel.recv.push(data, reader_waits);
        if reader_waits {
            self.events.push_back(Event::Readable(key));
        }
        if self.config.version.has_flow_control() && channel.recv.len() > pause_mark {
            channel.flow.desired_pause = true;
            self.note_flow(key);
        }
        while self.received > self.config.limits.receive_total {
            let Some(fullest) = self.fullest() else { break };
            self.cut(fullest, ChannelError::Overrun)?;
        }
        Ok(())
    }

    /// The channel that holds most of what is received and not read.
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

    /// The peer has answered a ping that a closing channel sent.
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
