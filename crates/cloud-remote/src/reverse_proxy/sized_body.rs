//! The body of a response whose end HTTP does not recognize: `Content-Length` beside the obsolete
//! `Transfer-Encoding: identity`, which RFC 9112 §6.3 reads as "until the connection ends".

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;

/// Ends after the given number of bytes, and fails if there are fewer.
#[derive(Debug)]
pub(super) struct SizedBody<B> {
    body: B,
    left: u64,
}

impl<B> SizedBody<B> {
    pub(super) fn new(body: B, length: u64) -> Self {
        Self { body, left: length }
    }
}

impl<B> Body for SizedBody<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(frame) => frame?,
            None => return Poll::Ready(Some(Err("the response is too short".into()))),
        };
        if let Some(data) = frame.data_mut() {
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
