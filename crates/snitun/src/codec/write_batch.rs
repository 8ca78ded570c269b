//! A batch of frames for one vectored write.
//!
//! Headers and small data are copied into one scratch buffer; large data is chained without
//! copying. A single vectored write then carries many frames: a system call for each frame costs
//! far more than copying a small one.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Data up to this size is copied behind its header; above it, chained. A slice of a vectored write
/// costs about as much as copying this many bytes.
pub(crate) const COPY_THRESHOLD: usize = 4096;
/// Size at which a batch is full: enough to make the system call cheap, little enough that urgent
/// frames do not wait long.
const MAX_BYTES: usize = 128 * 1024;
/// Maximum pieces of one batch; vectored writes accept up to 1024 on Linux, more than 64 gain
/// nothing at these sizes.
const MAX_PIECES: usize = 62;

/// Sealed frames in wire order.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// Headers and small data, in order.
    scratch: Vec<u8>,
    /// Offset of the next scratch piece in `scratch`.
    scratch_start: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    written: usize,
    len: usize,
    /// Chained buffers that are written and can be reused.
    recycled: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Piece {
    Scratch { len: usize },
    Chained(Vec<u8>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Scratch { len } => *len,
            Self::Chained(bytes) => bytes.len(),
        }
    }
}

impl WriteBatch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of bytes left to write.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether all bytes are written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns all bytes left to write, if they are contiguous.
    pub fn single(&self) -> Option<&[u8]> {
        if self.pieces.len() != 1 {
            return None;
        }
        let bytes = match self.pieces.front()? {
            Piece::Scratch { len } => &self.scratch[self.scratch_start..][..*len],
            Piece::Chained(bytes) => bytes,
        };
        Some(&bytes[self.written..])
    }

    /// Fills `slices` with the pieces to write and returns how many were used.
    pub fn slices<'batch>(&'batch self, slices: &mut [IoSlice<'batch>]) -> usize {
        let mut offset = self.scratch_start;
        let mut skip = self.written;
        let mut count = 0;
        for (piece, slice) in self.pieces.iter().zip(slices) {
            let bytes = match piece {
                Piece::Scratch { len } => {
                    let bytes = &self.scratch[offset..offset + len];
                    offset += len;
                    bytes
                }
                Piece::Chained(bytes) => bytes.as_slice(),
            };
            *slice = IoSlice::new(&bytes[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// Records that the first `count` bytes are written.
    pub fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.pieces.front() {
            let len = first.len();
            if self.written < len {
                break;
            }
            self.written -= len;
            match self.pieces.pop_front() {
                Some(Piece::Scratch { len }) => self.scratch_start += len,
                Some(Piece::Chained(bytes)) => self.recycled.push(bytes),
                None => {}
            }
        }
        if self.pieces.is_empty() {
            self.scratch.clear();
            self.scratch_start = 0;
            self.written = 0;
        }
    }

    /// Returns whether to write the batch before adding to it.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= MAX_BYTES || self.pieces.len() >= MAX_PIECES
    }

    /// Lets `write` append to the scratch buffer.
    pub(crate) fn append<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.scratch.len();
        write(&mut self.scratch)?;
        let added = self.scratch.len() - before;
        self.len += added;
        match self.pieces.back_mut() {
            Some(Piece::Scratch { len }) => *len += added,
            _ => self.pieces.push_back(Piece::Scratch { len: added }),
        }
        Ok(())
    }

    /// Chains a buffer without copying.
    pub(crate) fn chain(&mut self, bytes: Vec<u8>) {
        self.len += bytes.len();
        self.pieces.push_back(Piece::Chained(bytes));
    }

    /// Returns a chained buffer that was written.
    pub(crate) fn take_written(&mut self) -> Option<Vec<u8>> {
        self.recycled.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(batch: &WriteBatch) -> Vec<u8> {
        if let Some(single) = batch.single() {
            assert_eq!(batch.pieces.len(), 1);
            return single.to_vec();
        }
        let mut slices = [IoSlice::new(&[]); 8];
        let count = batch.slices(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn partial_writes_keep_order() {
        let add = |batch: &mut WriteBatch, bytes: &[u8]| {
            batch
                .append(|scratch| {
                    scratch.extend_from_slice(bytes);
                    Ok::<_, ()>(())
                })
                .unwrap();
        };
        for step in 1..=9 {
            let mut batch = WriteBatch::new();
            add(&mut batch, b"ab");
            add(&mut batch, b"c");
            batch.chain(b"DEF".to_vec());
            batch.chain(b"G".to_vec());
            add(&mut batch, b"hi");
            let mut written = Vec::new();
            while !batch.is_empty() {
                let now = rest(&batch);
                assert_eq!(now.len(), batch.len());
                let count = step.min(now.len());
                written.extend_from_slice(&now[..count]);
                batch.advance(count);
            }
            assert_eq!(written, b"abcDEFGhi");
            assert_eq!(batch.take_written().unwrap(), b"G");
        }
    }
}
