//! Receive buffers of the connection.
//!
//! Large data is not copied but cut out of the buffer, and stays in a channel's queue until it is
//! read. Reception then continues in another buffer, and a retired one is reused once no piece of
//! it is left: allocating 64 KiB several thousand times a second makes the allocator return memory
//! to the system and fetch it again, page by page.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Size of a buffer. A system call for 64 KiB is cheap enough, and an unread piece pins no more
/// than that.
const BUFFER_SIZE: usize = 64 * 1024;
/// Minimum free room; below it, reception moves to the next buffer.
const MIN_ROOM: usize = 16 * 1024;
/// Maximum retired buffers: 4 MiB, the data that a channel holds by the time its peer obeys PAUSE.
/// They are released every minute or two.
const MAX_RETIRED: usize = 64;

/// Received bytes that are not yet decoded, and room for more.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    current: BytesMut,
    /// Empty handles to the previous buffers, the oldest first.
    retired: VecDeque<BytesMut>,
}

impl ReadBuffer {
    /// Returns the undecoded bytes, with room to receive more.
    pub(super) fn with_room(&mut self) -> &mut BytesMut {
        if self.current.capacity() - self.current.len() < MIN_ROOM
            && !self.current.try_reclaim(BUFFER_SIZE)
        {
            self.rotate();
        }
        &mut self.current
    }

    /// Returns the undecoded bytes.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    /// Releases the retired buffers.
    pub(super) fn release_unused(&mut self) {
        self.retired = VecDeque::new();
    }

    fn rotate(&mut self) {
        // The most recent one is most likely in the processor's cache.
        let free = self
            .retired
            .iter_mut()
            .rposition(|buffer| buffer.try_reclaim(BUFFER_SIZE));
        let reused = free.and_then(|at| self.retired.remove(at));
        let mut next = reused.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_SIZE));
        // Part of a header at most.
        next.extend_from_slice(&self.current);
        self.current.clear();
        let current = std::mem::replace(&mut self.current, next);
        if current.capacity() > 0 {
            if self.retired.len() == MAX_RETIRED {
                self.retired.pop_front();
            }
            self.retired.push_back(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a buffer and cuts off all but ten bytes; returns the cut piece and the buffer's
    /// address.
    fn fill(input: &mut ReadBuffer) -> (BytesMut, *const u8) {
        let bytes = input.with_room();
        let carried = bytes.len();
        let room = bytes.capacity() - carried;
        bytes.extend((0..room).map(|n| n as u8));
        let place = bytes.as_ptr();
        (bytes.split_to(carried + room - 10), place)
    }

    #[test]
    fn free_buffers_are_reused() {
        let mut input = ReadBuffer::default();
        let mut places = Vec::new();
        for _ in 0..20 {
            let (cut, place) = fill(&mut input);
            let (other, _) = fill(&mut input);
            drop((cut, other));
            places.push(place);
        }
        places.sort();
        places.dedup();
        assert!(places.len() <= 3, "{} buffers", places.len());
        // The undecoded rest was carried over.
        assert_eq!(input.bytes().len(), 10);
        let rest = input.bytes();
        assert_eq!(rest[9], rest[8].wrapping_add(1));
    }

    #[test]
    fn slow_reader_pins_only_its_data() {
        let mut input = ReadBuffer::default();
        let held: Vec<_> = (0..100).map(|_| fill(&mut input).0).collect();
        assert!(input.retired.len() <= MAX_RETIRED);
        for (index, piece) in held.iter().enumerate() {
            let fresh = piece.len() - if index == 0 { 0 } else { 10 };
            assert_eq!(piece[piece.len() - 1], (fresh - 1) as u8, "piece {index}");
        }
        input.release_unused();
        assert_eq!(input.retired.len(), 0);
    }
}
