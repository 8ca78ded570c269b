//! Probes reachability from outside while the tunnel is connected.

use std::sync::Arc;
use std::time::Duration;

use cloud_net::{info_throttled, warn_throttled};
use futures_util::future::pending;
use tokio::time::{Instant, sleep_until};

use super::Driver;
use crate::status::RemoteEvent;
use crate::traits::{CertificateSource, CertificateStore, TokenSource};
use crate::tunnel::probe::{self, ProbeError};

/// The interval after a failure, so that the end of an outage is reported soon.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The last result and the pending probe.
#[derive(Default)]
pub(super) struct ReachabilityCheck {
    next: Option<Instant>,
    call: Option<futures_util::future::BoxFuture<'static, Result<(), ProbeError>>>,
    /// The result of the last probe of this tunnel.
    reachable: Option<bool>,
}

impl ReachabilityCheck {
    /// Returns the result of a probe, or `None` when the next one is due. Waits forever if none is
    /// scheduled. Cancel safe.
    pub(super) async fn next_event(&mut self) -> Option<Result<(), ProbeError>> {
        if let Some(call) = &mut self.call {
            let result = call.await;
            self.call = None;
            return Some(result);
        }
        match self.next {
            Some(next) => sleep_until(next).await,
            None => pending().await,
        }
        None
    }
}

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    /// Schedules probes while the tunnel is connected.
    pub(super) fn watch_reachability(&mut self) {
        if self.context.probe.is_none() {
            return;
        }
        if self.tunnel.is_none() {
            self.reachability = ReachabilityCheck::default();
        } else if self.reachability.next.is_none() && self.reachability.call.is_none() {
            self.reachability.next = Some(Instant::now());
        }
    }

    pub(super) fn probed(&mut self, event: Option<Result<(), ProbeError>>) {
        let Some(probe) = self.context.probe.clone() else {
            return;
        };
        let Some(result) = event else {
            let access_point = self.context.config.access_point.clone();
            let served = Arc::clone(&self.context.served);
            self.reachability.next = None;
            let connector = self.context.connector.get();
            let call = probe::call(connector, probe, access_point, served);
            self.reachability.call = Some(Box::pin(call));
            return;
        };
        let reachable = result.is_ok();
        let wait = if reachable {
            probe.interval
        } else {
            probe.interval.min(RETRY_INTERVAL)
        };
        self.reachability.next = Some(Instant::now() + wait);
        if self.reachability.reachable.replace(reachable) == Some(reachable) {
            return;
        }
        match result {
            Ok(()) => {
                info_throttled!(
                    self.throttles.reachable,
                    "the device is reachable from outside"
                );
                self.emit(RemoteEvent::Reachable);
            }
            Err(error) => {
                warn_throttled!(self.throttles.probe_failed, %error, "the tunnel is connected, but the device does not seem reachable from outside");
                let reason = error.to_string();
                self.emit(RemoteEvent::ProbeFailed { reason });
            }
        }
    }
}
