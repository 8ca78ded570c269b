//! What the reader receives into.
//!
//! Large data is not copied out of the input but cut from it, and waits in a channel's queue until it is read. So the input goes
//! on in another buffer, and the one before is used again once nothing of it is left anywhere: asking the allocator for 64 KiB
//! several thousand times a second makes it hand memory back to the system and fetch it again, page by page.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Size of a buffer. A system call for 64 KiB is cheap enough, and a piece of it that waits to be read pins no more.
const CHUNK: usize = 64 * 1024;
/// With less room than this left, the next buffer is begun.
const LEAST: usize = 16 * 1024;
/// Buffers behind the current one that are remembered: as much as a channel holds by the time that its peer heeds PAUSE, 4 MiB.
/// Given back every minute or two.
const REMEMBERED: usize = 64;

/// The bytes that are received and not decoded, and room for more.
#[derive(Debug, Default)]
pub(super) struct Input {
    current: BytesMut,
    /// Empty handles to the buffers before, the oldest first.
    before: VecDeque<BytesMut>,
}

impl Input {
    /// What is to be decoded, with room to receive into.
    pub(super) fn with_room(&mut self) -> &mut BytesMut {
        if self.current.capacity() - self.current.len() < LEAST && !self.current.try_reclaim(CHUNK)
        {
            self.turn_over();
        }
        &mut self.current
    }

    /// What is to be decoded.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.current
    }

    /// Gives back the memory that is not in use.
    pub(super) fn forget(&mut self) {
        self.before = VecDeque::new();
    }

    fn turn_over(&mut self) {
        // The one used last is the one most likely in the processor's cache.
        let free = self
            .before
            .iter_mut()
            .rposition(|buffer| buffer.try_reclaim(CHUNK));
        let reused = free.and_then(|at| self.before.remove(at));
        let mut next = reused.unwrap_or_else(|| BytesMut::with_capacity(CHUNK));
        // Part of a header at most.
        next.extend_from_slice(&self.current);
        self.current.clear();
        let current = std::mem::replace(&mut self.current, next);
        if current.capacity() > 0 {
            if self.before.len() == REMEMBERED {
                self.before.pop_front();
            }
            self.before.push_back(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives a whole buffer and cuts all but ten bytes off; yields what was cut and where the buffer is.
    fn fill(input: &mut Input) -> (BytesMut, *const u8) {
        let bytes = input.with_room();
        let carried = bytes.len();
        let room = bytes.capacity() - carried;
        bytes.extend((0..room).map(|n| n as u8));
        let place = bytes.as_ptr();
        (bytes.split_to(carried + room - 10), place)
    }

    #[test]
    fn buffers_are_used_again_once_they_are_free() {
        let mut input = Input::default();
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
        // What was not decoded has come along.
        assert_eq!(input.bytes().len(), 10);
        let rest = input.bytes();
        assert_eq!(rest[9], rest[8].wrapping_add(1));
    }

    #[test]
    fn a_slow_reader_pins_no_more_than_what_it_holds() {
        let mut input = Input::default();
        let held: Vec<_> = (0..100).map(|_| fill(&mut input).0).collect();
        assert!(input.before.len() <= REMEMBERED);
        for (index, piece) in held.iter().enumerate() {
            let fresh = piece.len() - if index == 0 { 0 } else { 10 };
            assert_eq!(piece[piece.len() - 1], (fresh - 1) as u8, "piece {index}");
        }
        input.forget();
        assert_eq!(input.before.len(), 0);
    }
}
