//! The body of a request to the application.
//!
//! It records its [progress](UploadProgress), for the response timeout: a large upload over a slow
//! line takes long, and most applications respond after it. So the timeout counts from the last
//! frame of the request, and a caller that stops in the middle is not taken for an application that
//! does not respond.
//!
//! Trailers end it and are not passed on: an application could take a field in them for one that
//! the [policy](crate::request_policy) has removed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

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

/// How far the caller's upload is. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct UploadProgress {
    timer: ActivityTimer,
    caller: Arc<AtomicU8>,
}

/// What the caller does.
mod caller {
    /// It has sent all that the application has read.
    pub(super) const IN_TIME: u8 = 0;
    /// The application waits for more.
    pub(super) const AWAITED: u8 = 1;
    /// Its upload is malformed, or has ended early.
    pub(super) const FAILED: u8 = 2;
}

impl UploadProgress {
    /// Starts the response timeout.
    pub(super) fn touch(&self) {
        self.timer.touch();
    }

    /// Waits until there has been no progress for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        self.timer.idle_for(limit).await;
    }

    /// Returns whether the application waits for the rest of the upload.
    pub(super) fn awaits_caller(&self) -> bool {
        self.caller.load(Ordering::Relaxed) == caller::AWAITED
    }

    /// Returns whether the upload cannot be completed.
    pub(super) fn has_failed(&self) -> bool {
        self.caller.load(Ordering::Relaxed) == caller::FAILED
    }
}

/// A request body that records its progress.
#[derive(Debug)]
pub(super) struct TrackedBody<B> {
    body: B,
    progress: UploadProgress,
}

impl<B> TrackedBody<B> {
    pub(super) fn new(body: B, progress: UploadProgress) -> Self {
        Self { body, progress }
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
        let caller = match &frame {
            Poll::Pending => caller::AWAITED,
            Poll::Ready(Some(Err(_))) => caller::FAILED,
            Poll::Ready(_) => caller::IN_TIME,
        };
        self.progress.caller.store(caller, Ordering::Relaxed);
        if frame.is_ready() {
            self.progress.touch();
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
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timeout_counts_from_last_frame() {
        let progress = UploadProgress::default();
        let start = Instant::now();
        let pieces = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            let piece = Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"piece")));
            (sent < 10).then_some((piece, sent + 1))
        });
        let upload = TrackedBody::new(Box::pin(StreamBody::new(pieces)), progress.clone());
        let reading = tokio::spawn(upload.collect());
        progress.idle_for(Duration::from_secs(60)).await;
        // Ten frames and the end, 50 s apart.
        assert_eq!(start.elapsed(), Duration::from_secs(11 * 50 + 60));
        assert_eq!(reading.await.unwrap().unwrap().to_bytes().len(), 50);
    }
}
