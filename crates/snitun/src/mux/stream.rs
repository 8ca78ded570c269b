//! A channel's bytes, from and for the application: reading and writing as far as the queues go.
//!
//! Nothing here waits: whoever is told to do so gets an event once that helps.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::BytesMut;

use super::channel::Phase;
use super::queue::{FRAME_UP_TO, SendQueue};
use super::{ChannelKey, Event, Mux, Read, Write, channel_mut};

impl Mux {
    /// Takes received bytes, whatever piece is at hand.
    pub fn read(&mut self, key: ChannelKey) -> Read {
        let resume_mark = self.config.limits.resume_mark(self.by_id.len());
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Read::End;
        };
        if let Some(data) = channel.recv.pop() {
            self.received -= data.len();
            if channel.flow.desired_pause && channel.recv.len() < resume_mark {
                channel.flow.desired_pause = false;
                self.note_flow(key);
            }
            return Read::Data(data);
        }
        if let Some(failure) = channel.failure {
            return Read::Failed(failure);
        }
        if channel.phase == Phase::Open {
            channel.reader_waits = true;
            return Read::Wait;
        }
        Read::End
    }

    /// Takes received bytes like [`Mux::read`], in as many pieces as there are, up to about `enough` bytes: they are appended
    /// to `pieces`. When there are none, yields what [`Mux::read`] would.
    pub fn read_pieces(
        &mut self,
        key: ChannelKey,
        pieces: &mut VecDeque<BytesMut>,
        enough: usize,
    ) -> Option<Read> {
        let mut taken = 0;
        while taken < enough {
            let waiting =
                channel_mut(&mut self.slots, key).is_some_and(|channel| channel.recv.len() > 0);
            if taken > 0 && !waiting {
                break;
            }
            match self.read(key) {
                Read::Data(data) => {
                    taken += data.len();
                    pieces.push_back(data);
                }
                other => return Some(other),
            }
        }
        None
    }

    /// Queues bytes to be sent, as many as there is room for.
    pub fn write(&mut self, key: ChannelKey, data: &[u8]) -> Write {
        self.write_vectored(key, &[IoSlice::new(data)])
    }

    /// Queues the bytes of several slices in order, as many as there is room for: one write, however many there are.
    pub fn write_vectored(&mut self, key: ChannelKey, data: &[IoSlice<'_>]) -> Write {
        let (limits, channels) = (&self.config.limits, self.by_id.len());
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Write::Closed;
        };
        if channel.phase != Phase::Open {
            return Write::Closed;
        }
        let offered = data.iter().map(|slice| slice.len()).sum::<usize>();
        if offered == 0 {
            return Write::Taken(0);
        }
        let room = limits.send_room(channels, channel.send.len(), self.unsent);
        let taken = offered.min(room);
        if taken == 0 {
            return self.wait_for_room(key, 1);
        }
        let mut left = taken;
        for slice in data {
            let now = slice.len().min(left);
            channel.send.push(&slice[..now], left, &mut self.pool);
            left -= now;
        }
        self.unsent += taken;
        self.schedule(key);
        Write::Taken(taken)
    }

    /// Like [`Mux::write`], for a buffer of [`Mux::take_buffer`]: a mostly full one becomes a frame as it is, without copying.
    /// What was taken is gone from the buffer; there is a rest only where a channel's whole room is less than a frame.
    pub fn write_buffer(&mut self, key: ChannelKey, buffer: &mut Vec<u8>) -> Write {
        let (limits, channels) = (&self.config.limits, self.by_id.len());
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Write::Closed;
        };
        if channel.phase != Phase::Open {
            return Write::Closed;
        }
        let queued = channel.send.len();
        if buffer.len() > limits.send_room(channels, queued, self.unsent) {
            if queued > 0 && buffer.len() <= limits.send_share(channels) {
                // There will be room for all of it, or nothing of this channel's own to wait for any more.
                return self.wait_for_room(key, buffer.len());
            }
            let written = self.write(key, buffer);
            if let Write::Taken(count) = written {
                buffer.drain(..count);
            }
            return written;
        }
        let taken = buffer.len();
        let buffer = std::mem::take(buffer);
        if SendQueue::is_worth_keeping(&buffer) {
            channel.send.push_whole(buffer);
        } else {
            channel.send.push(&buffer, taken, &mut self.pool);
            self.pool.put(buffer);
        }
        self.unsent += taken;
        self.schedule(key);
        Write::Taken(taken)
    }

    /// Makes a note that the channel's writer waits for room for so many bytes: for its own channel's, which comes as that is
    /// sent, and where the channel has it already, for what others leave.
    fn wait_for_room(&mut self, key: ChannelKey, wanted: usize) -> Write {
        let share = self.config.limits.send_share(self.by_id.len());
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            channel.writer_waits = true;
            if channel.send.len() + wanted <= share && !channel.wants_total {
                channel.wants_total = true;
                self.want_total.push(key);
            }
        }
        Write::Wait
    }

    /// So many bytes are no longer queued: tells the writers that waited for others to leave room, once there is some.
    pub(super) fn make_room(&mut self, freed: usize) {
        self.unsent -= freed;
        if self.want_total.is_empty() || !self.config.limits.send_total_has_room(self.unsent) {
            return;
        }
        for key in self.want_total.drain(..) {
            let Some(channel) = channel_mut(&mut self.slots, key) else {
                continue;
            };
            channel.wants_total = false;
            if std::mem::take(&mut channel.writer_waits) {
                self.events.push_back(Event::Writable(key));
            }
        }
    }

    /// An empty buffer with room for one frame, for [`Mux::write_buffer`].
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.pool.get(FRAME_UP_TO)
    }

    /// Takes back a buffer that was not needed.
    pub fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }
}

#[cfg(test)]
mod tests {
    use crate::moment::Moment;

    use super::*;
    use crate::cipher::Role;
    use crate::frame::ChannelId;
    use crate::limits::{Limits, Timeouts};
    use crate::mux::MuxConfig;
    use crate::version::ProtocolVersion;

    /// Channels that come and go while others hold all the room there is.
    #[test]
    fn nobody_waits_for_room_who_is_gone() {
        let limits = Limits {
            send_per_channel: 200_000,
            send_total: 200_000,
            ..Limits::default()
        };
        let now = Moment::START;
        let config = MuxConfig {
            role: Role::Server,
            version: ProtocolVersion::V1,
            throttling: None,
            limits,
            timeouts: Timeouts::default(),
        };
        let mut mux = Mux::new(config, now);
        let open = |mux: &mut Mux, id| mux.open(ChannelId([id; 16]), None).unwrap();
        let greedy = open(&mut mux, 0);
        assert_eq!(mux.write(greedy, &[0; 200_000]), Write::Taken(200_000));
        for id in 1..=100 {
            let key = open(&mut mux, id);
            assert_eq!(mux.write(key, &[0; 50_000]), Write::Taken(16 * 1024));
            assert_eq!(mux.write(key, &[0; 50_000]), Write::Wait);
            assert_eq!(mux.want_total, [key]);
            mux.release(key, now);
            mux.finish(key, None);
            assert!(mux.want_total.is_empty());
        }
        assert_eq!(mux.bytes_unsent(), 200_000);
    }
}
