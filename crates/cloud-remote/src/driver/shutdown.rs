//! The end: in good order as far as there is time, and in any case.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::pending;
use snitun::client::Tunnel;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::reachability::ReachabilityCheck;
use super::{Context, Driver, Id};
use crate::status::{RemoteEvent, TunnelStatus};
use crate::task_group::TaskGroup;
use crate::traits::{CertificateSource, CertificateStore, TokenSource};

/// After everything was cut, tasks only have to notice.
const CUT_TIMEOUT: Duration = Duration::from_millis(400);

/// At the end, an application has this long to say goodbye over its WebSockets, if it knows of the end.
const UPGRADED_GRACE: Duration = Duration::from_secs(1);

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    /// Gives open connections time to end, until `kill`; then cuts them. Returns when nothing is left.
    pub(super) async fn shut_down(mut self, kill: &CancellationToken) {
        // New connections and requests are over; so are the secrets.
        self.token_request = None;
        self.connecting = None;
        self.probing = ReachabilityCheck::default();
        self.held = None;
        let Context {
            server,
            rotation,
            tasks,
            status,
            events,
            ..
        } = self.context;
        drop(rotation);
        // With the server goes what it keeps open (the reverse proxy's idle connections), once its connections are done.
        drop(server);
        tasks.drain();
        tokio::select! {
            biased;
            () = kill.cancelled() => tracing::debug!(left = tasks.count(), "open connections are cut"),
            () = tasks.ended() => {}
            () = refuse_channels(&mut self.tunnel) => {}
            never = cut_upgraded(&tasks) => match never {},
        }
        tasks.kill();
        let ended_early = self.ended_early.take().map(|(_, reason)| reason);
        let (reason, _) = tokio::join!(
            close(self.tunnel.take(), kill),
            close(self.retiring.take(), kill)
        );
        if let Some(reason) = reason.or(ended_early) {
            tracing::info!(reason, "the tunnel has ended");
            let _ = events.send(RemoteEvent::Disconnected { reason });
        }
        if timeout(CUT_TIMEOUT, tasks.ended()).await.is_err() {
            tracing::warn!(
                left = tasks.count(),
                "the application holds on to connections that are cut"
            );
        }
        status.send_modify(|status| {
            status.tunnel = TunnelStatus::Stopped;
            status.token_valid = None;
        });
    }
}

/// Closes a tunnel and waits for its end, soon after `kill` no longer. Returns why it has ended.
async fn close(tunnel: Option<(Id, Tunnel)>, kill: &CancellationToken) -> Option<String> {
    let (_, tunnel) = tunnel?;
    let handle = tunnel.handle();
    handle.close();
    let cut = async {
        kill.cancelled().await;
        sleep(CUT_TIMEOUT).await;
    };
    Some(tokio::select! {
        reason = handle.closed() => reason.to_string(),
        () = cut => "the tunnel was cut on this side".to_owned(),
    })
}

/// Cuts WebSockets and the like once their grace is over.
async fn cut_upgraded(tasks: &TaskGroup) -> Infallible {
    sleep(UPGRADED_GRACE).await;
    tasks.cut_upgraded();
    pending().await
}

/// Closes each channel that still comes. Ends with the tunnel; waits for ever without one.
async fn refuse_channels(tunnel: &mut Option<(Id, Tunnel)>) {
    let Some((_, tunnel)) = tunnel else {
        return pending().await;
    };
    while tunnel.accept().await.is_some() {}
}
