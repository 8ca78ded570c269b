//! Shutdown: graceful until the deadline, then forced.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::pending;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::reachability::ReachabilityCheck;
use super::{Context, Driver, Id, ended};
use crate::status::{RemoteEvent, TunnelStatus};
use crate::task_group::TaskGroup;
use crate::traits::{CertificateSource, CertificateStore, TokenSource};
use crate::tunnel::running::RunningTunnel;

/// The time for the tunnel to end after `kill`, and then for tasks to end: all that they wait for
/// is on this device. Twice this time is less than a quarter of the shortest deadline.
pub(crate) const CUT_TIMEOUT: Duration = Duration::from_millis(180);

/// The time that an application has for closing its WebSockets when remote access stops.
pub(crate) const UPGRADED_GRACE: Duration = Duration::from_secs(1);

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    /// Lets open connections finish until [`kill`](super::Commands::kill), then closes them.
    /// Returns when nothing is open.
    pub(super) async fn shut_down(mut self) {
        let kill = self.commands.kill.clone();
        // New connections and requests end here, and the secrets are dropped.
        self.token_request = None;
        self.connecting = None;
        self.reachability = ReachabilityCheck::default();
        self.token = None;
        let Context {
            server,
            rotation,
            tasks,
            status,
            events,
            ..
        } = self.context;
        drop(rotation);
        // The server drops its pooled connections (of the reverse proxy) once its connections have
        // ended.
        drop(server);
        tasks.drain();
        tokio::select! {
            biased;
            () = kill.cancelled() => tracing::debug!(left = tasks.count(), "closing the remaining connections"),
            () = tasks.ended() => {}
            _ = ended(self.tunnel.as_ref()) => {}
            never = cut_upgraded(&tasks) => match never {},
        }
        tasks.kill();
        let ended_early = self
            .ended_early
            .take()
            .map(|(_, reason)| reason.to_string());
        let (reason, _) = tokio::join!(
            close(self.tunnel.take(), &kill),
            close(self.retiring.take(), &kill)
        );
        if let Some(reason) = reason.or(ended_early) {
            tracing::info!(reason, "the tunnel has ended");
            let _ = events.send(RemoteEvent::Disconnected { reason });
        }
        if timeout(CUT_TIMEOUT, tasks.ended()).await.is_err() {
            tracing::warn!(
                left = tasks.count(),
                "the application still holds closed connections"
            );
        }
        status.send_modify(|status| {
            status.tunnel = TunnelStatus::Stopped;
            status.token_valid = None;
        });
    }
}

/// Closes a tunnel and waits for its end, with a short limit after `kill`. Returns the reason of
/// the end.
async fn close(tunnel: Option<(Id, RunningTunnel)>, kill: &CancellationToken) -> Option<String> {
    let (_, tunnel) = tunnel?;
    let handle = tunnel.handle();
    handle.close();
    let cut = async {
        kill.cancelled().await;
        sleep(CUT_TIMEOUT).await;
    };
    Some(tokio::select! {
        reason = handle.closed() => reason.to_string(),
        () = cut => "the tunnel was closed on this side".to_owned(),
    })
}

/// Closes upgraded connections (WebSockets) after their grace period.
async fn cut_upgraded(tasks: &TaskGroup) -> Infallible {
    sleep(UPGRADED_GRACE).await;
    tasks.cut_upgraded();
    pending().await
}
