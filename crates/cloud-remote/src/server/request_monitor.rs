//! Collects the record of a request or connection, and passes it to the observer at the end.
//!
//! Without an observer there is no monitor, and nothing is collected.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cloud_net::UntrustedText;
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::access_record::{
    AccessRecord, ConnectionRecord, Observer, Refusal, RefusedRecord, RequestRecord,
};
use crate::auth::REMOTE_USER;
use crate::limits::connection_activity::ConnectionActivity;

/// The record of a request in progress.
#[derive(Debug)]
pub(crate) struct RequestMonitor {
    observer: Observer,
    started: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// Whether the whole response was sent.
    complete: AtomicBool,
    record: Mutex<RequestRecord>,
    /// The length of the response's body, if it is known.
    length: Mutex<Option<u64>>,
}

impl RequestMonitor {
    /// Starts the record of a request as the caller has sent it. The guard reports it when dropped.
    pub(crate) fn start<B>(
        observer: &Observer,
        request: &Request<B>,
        address: Option<IpAddr>,
    ) -> RequestMonitorGuard {
        let headers = request.headers();
        let uri = request.uri();
        // HTTP/2 has the host in the URI.
        let host = uri
            .authority()
            .map(|host| UntrustedText::new(host.as_str()));
        let record = RequestRecord {
            address,
            user: None,
            started: SystemTime::now(),
            duration: Duration::ZERO,
            method: UntrustedText::new(request.method().as_str()),
            path: UntrustedText::new(uri.path()),
            query: uri.query().map(UntrustedText::new),
            version: request.version(),
            host: host.or_else(|| text(headers, header::HOST)),
            user_agent: text(headers, header::USER_AGENT),
            referer: text(headers, header::REFERER),
            status: None,
            received: 0,
            sent: 0,
            upstream: None,
            refused: None,
            cut: false,
        };
        RequestMonitorGuard(Arc::new(Self {
            observer: observer.clone(),
            started: Instant::now(),
            received: AtomicU64::default(),
            sent: AtomicU64::default(),
            complete: AtomicBool::default(),
            record: Mutex::new(record),
            length: Mutex::default(),
        }))
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_upstream(&self, upstream: String) {
        self.record().upstream = Some(upstream);
    }

    pub(crate) fn set_refused(&self, reason: Refusal) {
        self.record().refused = Some(reason);
    }

    /// Records the user of a request that the guard has admitted: it removes names of others.
    pub(crate) fn set_user(&self, headers: &HeaderMap) {
        self.record().user = text(headers, REMOTE_USER);
    }

    /// Records the head of the response.
    pub(crate) fn set_response<B: Body>(&self, response: &Response<B>) {
        let status = response.status();
        let mut record = self.record();
        record.status = Some(status);
        let has_body = record.method.as_str() != Method::HEAD.as_str()
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_body || response.body().is_end_stream() {
            self.set_complete();
        }
        // With a length in the header, the body is dropped once that much was sent.
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        *self.length.lock().unwrap_or_else(PoisonError::into_inner) = length;
    }

    fn record(&self) -> MutexGuard<'_, RequestRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) {
        let mut record = self.record().clone();
        record.duration = self.started.elapsed();
        record.received = self.received.load(Ordering::Relaxed);
        record.sent = self.sent.load(Ordering::Relaxed);
        let length = *self.length.lock().unwrap_or_else(PoisonError::into_inner);
        record.cut = !self.complete.load(Ordering::Relaxed) && length != Some(record.sent);
        self.observer
            .record(&AccessRecord::Request(Box::new(record)));
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<UntrustedText> {
    let value = headers.get(name)?;
    Some(UntrustedText::from_bytes(value.as_bytes()))
}

/// Reports the record of a request when dropped.
#[derive(Debug)]
pub(crate) struct RequestMonitorGuard(Arc<RequestMonitor>);

impl RequestMonitorGuard {
    pub(crate) fn monitor(&self) -> Arc<RequestMonitor> {
        Arc::clone(&self.0)
    }

    /// Reports the record of an upgrade when its connection is closed, with the bytes since.
    pub(crate) fn report_on_close(self, connection: &ConnectionActivity) {
        let before = connection.traffic();
        connection.on_close(move |connection| {
            let after = connection.traffic();
            let received = after.received.saturating_sub(before.received);
            self.received.store(received, Ordering::Relaxed);
            let sent = after.sent.saturating_sub(before.sent);
            self.sent.store(sent, Ordering::Relaxed);
            let is_complete = connection.end_reason().is_none();
            self.complete.store(is_complete, Ordering::Relaxed);
        });
    }
}

impl Deref for RequestMonitorGuard {
    type Target = RequestMonitor;

    fn deref(&self) -> &RequestMonitor {
        &self.0
    }
}

impl Drop for RequestMonitorGuard {
    fn drop(&mut self) {
        self.0.report();
    }
}

/// Reports the record of a connection without HTTP when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionMonitor {
    observer: Observer,
    activity: Arc<ConnectionActivity>,
    started: SystemTime,
    upstream: String,
    complete: bool,
}

impl ConnectionMonitor {
    pub(crate) fn start(
        observer: &Observer,
        activity: Arc<ConnectionActivity>,
        upstream: String,
    ) -> Self {
        Self {
            observer: observer.clone(),
            activity,
            started: SystemTime::now(),
            upstream,
            complete: false,
        }
    }

    /// Records that both sides have ended the connection.
    pub(crate) fn set_complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for ConnectionMonitor {
    fn drop(&mut self) {
        let traffic = self.activity.traffic();
        self.observer
            .record(&AccessRecord::Connection(ConnectionRecord {
                address: traffic.address,
                started: self.started,
                duration: traffic.open_for,
                received: traffic.received,
                sent: traffic.sent,
                upstream: std::mem::take(&mut self.upstream),
                cut: !self.complete,
            }));
    }
}

impl Observer {
    pub(crate) fn refused(&self, address: Option<IpAddr>, reason: Refusal) {
        self.record(&AccessRecord::Refused(RefusedRecord { address, reason }));
    }
}
