//! The body of a request to the application.
//!
//! It records activity, for the response timeout: a large upload over a slow line takes long, and
//! most applications respond after it. So the timeout counts from the last frame of the request.
//!
//! Trailers end it and are not passed on: an application could take a field in them for one that
//! the [policy](crate::request_policy) has removed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::limits::idle_timeout::ActivityTimer;
use crate::server::request::RequestBody;

/// The body of a request to the application.
#[derive(Debug)]
pub(super) enum OutgoingBody {
    Empty,
    Caller(TrackedBody<RequestBody>),
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Caller(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Caller(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Caller(body) => body.size_hint(),
        }
    }
}

/// A request body that records each read frame as activity.
#[derive(Debug)]
pub(super) struct TrackedBody<B> {
    body: B,
    timer: ActivityTimer,
}

impl<B> TrackedBody<B> {
    pub(super) fn new(body: B, timer: ActivityTimer) -> Self {
        Self { body, timer }
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.timer.touch();
        }
        match frame {
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => Poll::Ready(None),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, StreamBody};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timeout_counts_from_last_frame() {
        let timer = ActivityTimer::default();
        let start = Instant::now();
        let pieces = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            let piece = Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"piece")));
            (sent < 10).then_some((piece, sent + 1))
        });
        let upload = TrackedBody::new(Box::pin(StreamBody::new(pieces)), timer.clone());
        let reading = tokio::spawn(upload.collect());
        timer.idle_for(Duration::from_secs(60)).await;
        // Ten frames and the end, 50 s apart.
        assert_eq!(start.elapsed(), Duration::from_secs(11 * 50 + 60));
        assert_eq!(reading.await.unwrap().unwrap().to_bytes().len(), 50);
    }
}
