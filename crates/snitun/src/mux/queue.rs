//! The byte queues of a channel, in and out, and the buffers they share.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::batch::COPY_UP_TO;

/// Data of one frame that we send, at most. Large enough that the header is nothing beside it, small enough that other
/// channels get their turn after some tens of microseconds.
pub(crate) const FRAME_UP_TO: usize = 64 * 1024;

/// A buffer for one TLS record, which is what most writes of some size are: four times as large, and it would be mostly empty.
const RECORD: usize = 17 * 1024;

/// Pieces below this size that nobody waits for are copied out of the input buffer, so that a few bytes waiting to be read do
/// not keep 64 KiB alive; what is kept is at most four times what is queued.
const SHARE_FROM: usize = 16 * 1024;

/// Room in a buffer that collects small pieces.
const COLLECT: usize = 4 * 1024;

/// What has been received and not read.
#[derive(Debug, Default)]
pub(super) struct RecvQueue {
    pieces: VecDeque<BytesMut>,
    bytes: usize,
}

impl RecvQueue {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Takes a piece of the input buffer. One for which a reader `waits` will be read at once, and is passed on as it is.
    pub(super) fn push(&mut self, piece: BytesMut, waits: bool) {
        self.bytes += piece.len();
        if piece.len() >= SHARE_FROM || waits {
            self.pieces.push_back(piece);
            return;
        }
        match self.pieces.back_mut() {
            Some(tail) if tail.capacity() - tail.len() >= piece.len() => {
                tail.extend_from_slice(&piece);
            }
            _ => {
                // Alone in the queue, a piece is likely to be read at once; behind others, more will follow it.
                let room = if self.pieces.is_empty() { 0 } else { COLLECT };
                let mut copy = BytesMut::with_capacity(piece.len().max(room));
                copy.extend_from_slice(&piece);
                self.pieces.push_back(copy);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<BytesMut> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Drops everything and gives the memory back; returns how much it was.
    pub(super) fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

/// What has been written and not sent: buffers that each become one frame.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl SendQueue {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Copies `data` in; fills the last buffer before it takes another one. `coming` bytes, `data` included, are about to be
    /// pushed: the next buffer is chosen for them, and for more of the like where others wait already, so that what is kept is
    /// about four times what is queued at most.
    pub(super) fn push(&mut self, mut data: &[u8], mut coming: usize, pool: &mut Pool) {
        let before = self.bytes;
        self.bytes += data.len();
        if let Some(tail) = self.chunks.back_mut() {
            let (now, later) = data.split_at(data.len().min(tail.capacity() - tail.len()));
            tail.extend_from_slice(now);
            coming = coming.saturating_sub(now.len());
            data = later;
        }
        while !data.is_empty() {
            let more = if coming > COPY_UP_TO { before } else { 0 };
            let mut chunk = pool.get(coming + more);
            let (now, later) = data.split_at(data.len().min(chunk.capacity()));
            chunk.extend_from_slice(now);
            self.chunks.push_back(chunk);
            coming = coming.saturating_sub(now.len());
            data = later;
        }
    }

    /// Whether a buffer of [`FRAME_UP_TO`] is better queued as it is than copied: half full, so that frames stay large, and
    /// what is kept is at most twice what is queued.
    pub(super) fn is_worth_keeping(buffer: &Vec<u8>) -> bool {
        buffer.capacity() == FRAME_UP_TO && buffer.len() >= FRAME_UP_TO / 2
    }

    /// Queues a buffer as it is.
    pub(super) fn push_whole(&mut self, chunk: Vec<u8>) {
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// How much the next frame carries.
    pub(super) fn front_len(&self) -> usize {
        self.chunks.front().map_or(0, Vec::len)
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Drops everything; returns how much it was.
    #[must_use]
    pub(super) fn clear(&mut self, pool: &mut Pool) -> usize {
        for chunk in self.chunks.drain(..) {
            pool.put(chunk);
        }
        self.chunks = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

/// Buffers to be used again, in three sizes: for small frames, which are copied into the batch, and for those of a record
/// and for large ones, which are chained.
#[derive(Debug, Default)]
pub(super) struct Pool {
    small: Vec<Vec<u8>>,
    record: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Pool {
    /// Kept for later: 256 KiB, 136 KiB and 512 KiB, so that a quiet tunnel holds less than a megabyte.
    const KEEP_SMALL: usize = 64;
    const KEEP_RECORD: usize = 8;
    const KEEP_LARGE: usize = 8;

    pub(super) fn get(&mut self, wanted: usize) -> Vec<u8> {
        let (kept, size) = if wanted <= COPY_UP_TO {
            (&mut self.small, COPY_UP_TO)
        } else if wanted <= RECORD {
            (&mut self.record, RECORD)
        } else {
            (&mut self.large, FRAME_UP_TO)
        };
        kept.pop().unwrap_or_else(|| Vec::with_capacity(size))
    }

    pub(super) fn put(&mut self, mut chunk: Vec<u8>) {
        chunk.clear();
        let (kept, keep) = match chunk.capacity() {
            COPY_UP_TO => (&mut self.small, Self::KEEP_SMALL),
            RECORD => (&mut self.record, Self::KEEP_RECORD),
            FRAME_UP_TO => (&mut self.large, Self::KEEP_LARGE),
            _ => return,
        };
        if kept.len() < keep {
            kept.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_collected_and_large_ones_shared() {
        let mut queue = RecvQueue::default();
        for _ in 0..100 {
            queue.push(BytesMut::from(&[1; 30][..]), false);
        }
        queue.push(BytesMut::zeroed(SHARE_FROM), false);
        assert_eq!(queue.len(), 3000 + SHARE_FROM);
        assert!(queue.pieces.len() <= 3);
        let mut total = 0;
        while let Some(piece) = queue.pop() {
            total += piece.len();
        }
        assert_eq!((total, queue.len()), (3000 + SHARE_FROM, 0));
    }

    #[test]
    fn what_is_kept_for_sending_is_about_four_times_what_is_queued_at_most() {
        let mut pool = Pool::default();
        for size in [1, 4095, 4097, 8192, 16_406, 17_500, 40_000, 65_536] {
            let mut queue = SendQueue::default();
            for _ in 0..20 {
                queue.push(&vec![0; size], size, &mut pool);
                let kept: usize = queue.chunks.iter().map(Vec::capacity).sum();
                let queued = queue.len();
                assert!(
                    kept <= (queued * 43 / 10).max(COPY_UP_TO),
                    "{kept} for {queued} of {size}"
                );
            }
            assert_eq!(queue.clear(&mut pool), 20 * size);
        }
    }

    #[test]
    fn writes_become_full_frames() {
        let mut pool = Pool::default();
        let mut queue = SendQueue::default();
        let data: Vec<u8> = (0..FRAME_UP_TO * 2 + 10).map(|n| n as u8).collect();
        queue.push(&data[..5], 5, &mut pool);
        queue.push(&data[5..], data.len() - 5, &mut pool);
        assert_eq!(queue.len(), data.len());
        let mut seen = Vec::new();
        while let Some(chunk) = queue.pop() {
            assert!(chunk.len() <= FRAME_UP_TO);
            seen.extend_from_slice(&chunk);
            pool.put(chunk);
        }
        assert_eq!(seen, data);
        assert!(!pool.large.is_empty() && !pool.small.is_empty());
    }
}
