//! Reading and writing of channel data.
//!
//! No call waits: a blocked read or write gets an event when it can continue.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::BytesMut;

use super::channel::Phase;
use super::queue::{MAX_FRAME_DATA, SendQueue};
use super::{ChannelKey, Event, Mux, Read, Write, channel_mut};

impl Mux {
    /// Returns the next piece of received data.
    pub fn read(&mut self, key: ChannelKey) -> Read {
        let resume_mark = self.config.limits.resume_mark(self.by_id.len());
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return Read::End;
        };
        if let Some(data) = channel.recv.pop() {
            self.received -= data.len();
            channel.read_balance.add(data.len());
            if channel.flow.desired_pause && channel.recv.len() < resume_mark {
                channel.flow.desired_pause = false;
                self.queue_flow_update(key);
            }
            return Read::Data(data);
        }
        if let Some(failure) = channel.failure {
            return Read::Failed(failure);
        }
        if channel.phase == Phase::Open {
            channel.reader_blocked = true;
            return Read::Blocked;
        }
        Read::End
    }

    /// Appends received data to `pieces`, up to about `enough` bytes. When there is none, returns
    /// what [`Mux::read`] would.
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

    /// Queues data to send, as much as there is room for.
    pub fn write(&mut self, key: ChannelKey, data: &[u8]) -> Write {
        self.write_vectored(key, &[IoSlice::new(data)])
    }

    /// Queues the data of several slices in order, as much as there is room for, as a single write.
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
            return Write::Accepted(0);
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
        Write::Accepted(taken)
    }

    /// Writes a buffer from [`Mux::take_buffer`]: a mostly full one becomes a frame without
    /// copying. Accepted bytes are removed from the buffer; a rest remains only if the channel's
    /// whole share is smaller than a frame.
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
                // All of it fits once the channel's own queue shrinks.
                return self.wait_for_room(key, buffer.len());
            }
            let written = self.write(key, buffer);
            if let Write::Accepted(count) = written {
                buffer.drain(..count);
            }
            return written;
        }
        let taken = buffer.len();
        let buffer = std::mem::take(buffer);
        if SendQueue::should_queue_whole(&buffer) {
            channel.send.push_buffer(buffer);
        } else {
            channel.send.push(&buffer, taken, &mut self.pool);
            self.pool.put(buffer);
        }
        self.unsent += taken;
        self.schedule(key);
        Write::Accepted(taken)
    }

    /// Registers the channel's writer as blocked until `wanted` bytes fit: on its own queue, or, if
    /// that has room already, on the total of all channels.
    fn wait_for_room(&mut self, key: ChannelKey, wanted: usize) -> Write {
        let share = self.config.limits.send_share(self.by_id.len());
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            channel.writer_blocked = true;
            if channel.send.len() + wanted <= share && !channel.blocked_on_total {
                channel.blocked_on_total = true;
                self.blocked_on_total.push(key);
            }
        }
        Write::Blocked
    }

    /// Subtracts sent or dropped bytes from the total, and wakes the writers that were blocked on
    /// it once there is room.
    pub(super) fn make_room(&mut self, freed: usize) {
        self.unsent -= freed;
        if self.blocked_on_total.is_empty() || !self.config.limits.send_total_has_room(self.unsent)
        {
            return;
        }
        for key in self.blocked_on_total.drain(..) {
            let Some(channel) = channel_mut(&mut self.slots, key) else {
                continue;
            };
            channel.blocked_on_total = false;
            if std::mem::take(&mut channel.writer_blocked) {
                self.events.push_back(Event::Writable(key));
            }
        }
    }

    /// Returns an empty buffer for one frame, for [`Mux::write_buffer`].
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.pool.get(MAX_FRAME_DATA)
    }

    /// Returns an unused buffer to the pool.
    pub fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::codec::encoder::Encoder;
    use crate::codec::frame::ChannelId;
    use crate::codec::write_batch::WriteBatch;
    use crate::crypto::cipher::{Cipher, Role, Sealer};
    use crate::crypto::key::SessionKey;
    use crate::limits::{Limits, Timeouts};
    use crate::mux::MuxConfig;
    use crate::time::Timestamp;
    use crate::version::ProtocolVersion;

    fn mux(limits: Limits) -> Mux {
        let config = MuxConfig {
            role: Role::Server,
            version: ProtocolVersion::V1,
            throttling: None,
            limits,
            timeouts: Timeouts::default(),
        };
        Mux::new(config, Timestamp::START)
    }

    fn open(mux: &mut Mux, id: u8) -> ChannelKey {
        mux.open(ChannelId([id; 16]), None).unwrap()
    }

    /// Channels come and go while others use the whole total.
    #[test]
    fn released_channel_leaves_the_room_waiters() {
        let limits = Limits {
            send_per_channel: 200_000,
            send_total: 200_000,
            ..Limits::default()
        };
        let now = Timestamp::START;
        let mut mux = mux(limits);
        let greedy = open(&mut mux, 0);
        assert_eq!(mux.write(greedy, &[0; 200_000]), Write::Accepted(200_000));
        for id in 1..=100 {
            let key = open(&mut mux, id);
            assert_eq!(mux.write(key, &[0; 50_000]), Write::Accepted(16 * 1024));
            assert_eq!(mux.write(key, &[0; 50_000]), Write::Blocked);
            assert_eq!(mux.blocked_on_total, [key]);
            mux.release(key, now);
            mux.finish(key, None);
            assert!(mux.blocked_on_total.is_empty());
        }
        assert_eq!(mux.bytes_unsent(), 200_000);
    }

    #[test]
    fn idle_tunnel_keeps_no_buffers() {
        let mut mux = mux(Limits::default());
        let key = open(&mut mux, 0);
        let now = Timestamp::START;
        let idle = mux.poll_timeout();
        let session_key = SessionKey::new([3; 32], [4; 16]);
        let sealer = Sealer::new(&session_key, Cipher::AesCbc, Role::Server);
        let entropy = Box::new(|dest: &mut [u8]| dest.fill(2));
        let mut encoder = Encoder::new(sealer, ProtocolVersion::V1, entropy);
        let mut batch = WriteBatch::new();
        for size in [100, 16_000, MAX_FRAME_DATA] {
            assert_eq!(mux.write(key, &vec![0; size]), Write::Accepted(size));
            mux.poll_transmit(&mut encoder, &mut batch, now).unwrap();
            batch.advance(batch.len());
        }
        mux.poll_transmit(&mut encoder, &mut batch, now).unwrap();
        assert!(!mux.pool.is_empty());
        let expiry = mux.poll_timeout().unwrap();
        assert!(expiry - now <= Duration::from_secs(60));
        mux.handle_timeout(expiry).unwrap();
        assert!(mux.pool.is_empty());
        assert_eq!(mux.poll_timeout(), idle, "no wake-ups without buffers");
    }
}
