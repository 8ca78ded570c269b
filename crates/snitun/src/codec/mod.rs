//! The wire format: frame headers, encoder, decoder and write batches.

pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod frame;
pub(crate) mod write_batch;
