//! Reports of the host: queued until the session is connected, and sent in order.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use cloud_iot::SessionState;
use cloud_shadow::{RequestError, ShadowClient};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::error::{NotRunning, ReportError};

/// Reports that may wait. Each is a part of one shadow document, which has 8 KiB.
const CAPACITY: usize = 64;

type ReportResult = Result<(), ReportError>;

/// A future of a report's result; see [`ClesydeCloud::report`](crate::ClesydeCloud::report).
/// Dropping it has no effect on the report.
#[derive(Debug)]
#[must_use = "a receipt may be dropped, but then the result of the report is lost"]
pub struct ReportReceipt(oneshot::Receiver<ReportResult>);

impl ReportReceipt {
    /// Creates the receipt of a completed report: for tests of code that reports.
    pub fn resolved(result: Result<(), ReportError>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(result);
        Self(receiver)
    }
}

impl Future for ReportReceipt {
    type Output = Result<(), ReportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.0).poll(cx));
        // The queue ends with the session.
        Poll::Ready(result.unwrap_or(Err(NotRunning.into())))
    }
}

struct Report {
    state: Map<String, Value>,
    result: oneshot::Sender<ReportResult>,
}

/// The queue and its task. Dropping it ends the task; waiting reports fail.
pub(crate) struct ReportQueue {
    queue: mpsc::Sender<Report>,
    _task: JoinSet<()>,
}

impl ReportQueue {
    pub(crate) fn start(shadow: ShadowClient, session: watch::Receiver<SessionState>) -> Self {
        let (queue, reports) = mpsc::channel(CAPACITY);
        let mut task = JoinSet::new();
        task.spawn(send_reports(shadow, session, reports));
        Self { queue, _task: task }
    }

    pub(crate) fn report(&self, state: Map<String, Value>) -> Result<ReportReceipt, ReportError> {
        let (result, receiver) = oneshot::channel();
        let full = |_| ReportError::QueueFull(CAPACITY);
        self.queue
            .try_send(Report { state, result })
            .map_err(full)?;
        Ok(ReportReceipt(receiver))
    }
}

/// Sends the reports, each once the session is connected, and again if the connection was lost
/// meanwhile: a report contains the whole state of its keys.
async fn send_reports(
    shadow: ShadowClient,
    mut session: watch::Receiver<SessionState>,
    mut reports: mpsc::Receiver<Report>,
) {
    while let Some(Report { state, result }) = reports.recv().await {
        let reported = loop {
            if session.wait_for(SessionState::is_online).await.is_err() {
                return;
            }
            match shadow.report(state.clone()).await {
                Err(error) if lost(&error) && !session.borrow().is_online() => {}
                reported => break reported,
            }
        };
        // An error means that the receipt was dropped.
        let _ = result.send(reported.map(drop).map_err(Into::into));
    }
}

fn lost(error: &RequestError) -> bool {
    matches!(error, RequestError::Bus(_) | RequestError::TimedOut(_))
}
