//! A request on its way to the application: its body, and the body of its response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::limits::connection_activity::RequestGuard;
use crate::limits::exchange::Exchange;
use crate::limits::request_limit::RequestPermit;
use crate::server::request_monitor::{RequestMonitor, RequestMonitorGuard};

/// Maximum length of a response's last frame. HTTP/2 accepts a last frame without flow control, so
/// the device could not detect a caller that does not read it; the rest of the response waits for
/// the caller.
const TAIL: usize = 1_024;

/// The body of a request, as the caller sends it.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
    monitor: Option<Arc<RequestMonitor>>,
}

impl RequestBody {
    pub(crate) fn new(
        body: Incoming,
        exchange: Arc<Exchange>,
        monitor: Option<Arc<RequestMonitor>>,
    ) -> Self {
        Self {
            body,
            exchange,
            monitor,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let (Some(monitor), Poll::Ready(Some(Ok(frame)))) = (&self.monitor, &polled) {
            monitor.count_received(frame.data_ref().map_or(0, Bytes::len));
        }
        if self.exchange.has_response() {
            return polled;
        }
        match &polled {
            Poll::Pending => self.exchange.wait_for_caller(),
            Poll::Ready(Some(Ok(frame))) => {
                self.exchange
                    .transferred(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(_) => self.exchange.transferred(0),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, with guards that are held until the caller has received it.
#[derive(Debug)]
pub(crate) struct GuardedBody<B> {
    body: B,
    /// The rest of the last frame.
    tail: Option<Bytes>,
    /// The size of the frame that the caller has to receive.
    last_size: usize,
    exchange: Arc<Exchange>,
    _permit: Option<Arc<RequestPermit>>,
    _request: RequestGuard,
    monitor: Option<RequestMonitorGuard>,
}

impl<B> GuardedBody<B> {
    /// `permit` is `None` for a response of the device to a request without a place.
    pub(crate) fn new(
        body: B,
        exchange: Arc<Exchange>,
        permit: Option<Arc<RequestPermit>>,
        request: RequestGuard,
        monitor: Option<RequestMonitorGuard>,
    ) -> Self {
        Self {
            body,
            tail: None,
            last_size: 0,
            exchange,
            _permit: permit,
            _request: request,
            monitor,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // A poll means that the caller has received the previous frame.
        let last_size = std::mem::take(&mut self.last_size);
        self.exchange.transferred(last_size);
        let mut frame = match self.tail.take() {
            Some(tail) => Frame::data(tail),
            None => match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => {
                    if let (Some(monitor), Poll::Ready(None)) = (&self.monitor, &other) {
                        monitor.set_complete();
                    }
                    return other;
                }
            },
        };
        if let Some(data) = frame.data_mut() {
            if self.exchange.is_http2() && data.len() > TAIL && self.body.is_end_stream() {
                self.tail = Some(data.split_off(data.len() - TAIL));
            }
            self.last_size = data.len();
        }
        if let Some(monitor) = &self.monitor {
            monitor.count_sent(self.last_size);
            if self.is_end_stream() {
                monitor.set_complete();
            }
        }
        self.exchange.wait_for_caller();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if let Some(tail) = &self.tail {
            let tail = tail.len() as u64;
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + tail);
            }
            hint.set_lower(hint.lower() + tail);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tokio::time::advance;

    use super::*;
    use crate::limits::connection_activity::ConnectionActivity;
    use crate::limits::fair_share::{Claim, Holder, STALLED};

    fn exchange() -> Arc<Exchange> {
        Arc::new(Exchange::new(true, Arc::default()))
    }

    fn body(text: Vec<u8>, exchange: &Arc<Exchange>) -> GuardedBody<Full<Bytes>> {
        let request = Arc::<ConnectionActivity>::default().start_request();
        GuardedBody::new(
            Full::new(text.into()),
            Arc::clone(exchange),
            None,
            request,
            None,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn response_is_held_until_all_but_its_tail_is_taken() {
        let exchange = exchange();
        let mut large = body(vec![7; 100_000], &exchange);
        assert_eq!(large.size_hint().exact(), Some(100_000));
        let first = large.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), 100_000 - TAIL);
        assert!(!large.is_end_stream());
        assert_eq!(large.size_hint().exact(), Some(TAIL as u64));
        advance(STALLED).await;
        assert_eq!(exchange.claim(), Claim::Stalled(STALLED));
        let rest = large.collect().await.unwrap().to_bytes();
        assert_eq!(rest.len(), TAIL);

        let mut small = body(vec![7; TAIL], &exchange);
        let whole = small.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(whole.len(), TAIL);
        assert!(small.is_end_stream());
    }
}
