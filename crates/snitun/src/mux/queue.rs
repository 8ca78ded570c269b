//! The receive and send queues of a channel, and their buffers.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::codec::write_batch::COPY_THRESHOLD;

/// Maximum data in one frame that we send. Large enough to make the header negligible, small enough
/// that other channels get their turn after some tens of microseconds.
pub(crate) const MAX_FRAME_DATA: usize = 64 * 1024;

/// Size of a buffer for one TLS record, the most common larger write. A 64 KiB buffer would be
/// mostly empty.
const TLS_RECORD_BUFFER: usize = 17 * 1024;

/// Pieces below this size are copied out of the input buffer unless a reader waits for them, so
/// that a few unread bytes do not keep 64 KiB alive; memory is at most four times the queued data.
const ZERO_COPY_MIN: usize = 16 * 1024;

/// Size of a buffer that collects small pieces.
const SMALL_PIECE_BUFFER: usize = 4 * 1024;

/// Received and unread data.
#[derive(Debug, Default)]
pub(super) struct RecvQueue {
    pieces: VecDeque<BytesMut>,
    bytes: usize,
}

impl RecvQueue {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Appends a piece of the input buffer. If a reader waits, the piece is read at once and is not
    /// copied.
    pub(super) fn push(&mut self, piece: BytesMut, waits: bool) {
        self.bytes += piece.len();
        if piece.len() >= ZERO_COPY_MIN || waits {
            self.pieces.push_back(piece);
            return;
        }
        match self.pieces.back_mut() {
            Some(tail) if tail.capacity() - tail.len() >= piece.len() => {
                tail.extend_from_slice(&piece);
            }
            _ => {
                // A single piece is likely to be read at once; behind others, more will follow.
                let room = if self.pieces.is_empty() {
                    0
                } else {
                    SMALL_PIECE_BUFFER
                };
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

    /// Drops all data and its memory; returns the number of bytes.
    pub(super) fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

/// Written and unsent data: buffers that each become one frame.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl SendQueue {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Copies `data`, filling the last buffer first. `coming` bytes, including `data`, are about to
    /// be pushed: the next buffer's size is chosen for them, and for more of the same where data is
    /// already queued, so that memory is at most about four times the queued data.
    pub(super) fn push(&mut self, mut data: &[u8], mut coming: usize, pool: &mut BufferPool) {
        let before = self.bytes;
        self.bytes += data.len();
        if let Some(tail) = self.chunks.back_mut() {
            let (now, later) = data.split_at(data.len().min(tail.capacity() - tail.len()));
            tail.extend_from_slice(now);
            coming = coming.saturating_sub(now.len());
            data = later;
        }
        while !data.is_empty() {
            let more = if coming > COPY_THRESHOLD { before } else { 0 };
            let mut chunk = pool.get(coming + more);
            let (now, later) = data.split_at(data.len().min(chunk.capacity()));
            chunk.extend_from_slice(now);
            self.chunks.push_back(chunk);
            coming = coming.saturating_sub(now.len());
            data = later;
        }
    }

    /// Returns whether to queue a buffer of [`MAX_FRAME_DATA`] as it is instead of copying it. It
    /// must be half full, which keeps frames large and memory at most twice the queued data.
    pub(super) fn should_queue_whole(buffer: &Vec<u8>) -> bool {
        buffer.capacity() == MAX_FRAME_DATA && buffer.len() >= MAX_FRAME_DATA / 2
    }

    /// Queues a buffer without copying.
    pub(super) fn push_buffer(&mut self, chunk: Vec<u8>) {
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Returns the size of the next frame.
    pub(super) fn front_len(&self) -> usize {
        self.chunks.front().map_or(0, Vec::len)
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Drops all data; returns the number of bytes.
    #[must_use]
    pub(super) fn clear(&mut self, pool: &mut BufferPool) -> usize {
        for chunk in self.chunks.drain(..) {
            pool.put(chunk);
        }
        self.chunks = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

/// Reusable buffers in three sizes: for small frames, which are copied into the batch, and for TLS
/// records and full frames, which are chained.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    small: Vec<Vec<u8>>,
    record: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl BufferPool {
    /// Retained buffers: 256 KiB, 136 KiB and 512 KiB. They are dropped every 20 seconds,
    /// so that an idle tunnel holds none.
    const KEEP_SMALL: usize = 64;
    const KEEP_RECORD: usize = 8;
    const KEEP_LARGE: usize = 8;

    pub(super) fn get(&mut self, wanted: usize) -> Vec<u8> {
        let (kept, size) = if wanted <= COPY_THRESHOLD {
            (&mut self.small, COPY_THRESHOLD)
        } else if wanted <= TLS_RECORD_BUFFER {
            (&mut self.record, TLS_RECORD_BUFFER)
        } else {
            (&mut self.large, MAX_FRAME_DATA)
        };
        kept.pop().unwrap_or_else(|| Vec::with_capacity(size))
    }

    pub(super) fn put(&mut self, mut chunk: Vec<u8>) {
        chunk.clear();
        let (kept, keep) = match chunk.capacity() {
            COPY_THRESHOLD => (&mut self.small, Self::KEEP_SMALL),
            TLS_RECORD_BUFFER => (&mut self.record, Self::KEEP_RECORD),
            MAX_FRAME_DATA => (&mut self.large, Self::KEEP_LARGE),
            _ => return,
        };
        if kept.len() < keep {
            kept.push(chunk);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.record.is_empty() && self.large.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_copied_large_ones_shared() {
        let mut queue = RecvQueue::default();
        for _ in 0..100 {
            queue.push(BytesMut::from(&[1; 30][..]), false);
        }
        queue.push(BytesMut::zeroed(ZERO_COPY_MIN), false);
        assert_eq!(queue.len(), 3000 + ZERO_COPY_MIN);
        assert!(queue.pieces.len() <= 3);
        let mut total = 0;
        while let Some(piece) = queue.pop() {
            total += piece.len();
        }
        assert_eq!((total, queue.len()), (3000 + ZERO_COPY_MIN, 0));
    }

    #[test]
    fn send_queue_memory_is_bounded() {
        let mut pool = BufferPool::default();
        for size in [1, 4095, 4097, 8192, 16_406, 17_500, 40_000, 65_536] {
            let mut queue = SendQueue::default();
            for _ in 0..20 {
                queue.push(&vec![0; size], size, &mut pool);
                let kept: usize = queue.chunks.iter().map(Vec::capacity).sum();
                let queued = queue.len();
                assert!(
                    kept <= (queued * 43 / 10).max(COPY_THRESHOLD),
                    "{kept} for {queued} of {size}"
                );
            }
            assert_eq!(queue.clear(&mut pool), 20 * size);
        }
    }

    #[test]
    fn writes_fill_whole_frames() {
        let mut pool = BufferPool::default();
        let mut queue = SendQueue::default();
        let data: Vec<u8> = (0..MAX_FRAME_DATA * 2 + 10).map(|n| n as u8).collect();
        queue.push(&data[..5], 5, &mut pool);
        queue.push(&data[5..], data.len() - 5, &mut pool);
        assert_eq!(queue.len(), data.len());
        let mut seen = Vec::new();
        while let Some(chunk) = queue.pop() {
            assert!(chunk.len() <= MAX_FRAME_DATA);
            seen.extend_from_slice(&chunk);
            pool.put(chunk);
        }
        assert_eq!(seen, data);
        assert!(!pool.large.is_empty() && !pool.small.is_empty());
    }
}
