//! A running tunnel, whose public connections are accepted in a task of its own.

use std::sync::Arc;

use snitun::client::{Tunnel, TunnelHandle};
use tokio::task::JoinHandle;

use crate::server::Server;
use crate::task_group::TaskGroup;
use crate::tunnel::totals::{CountedTunnel, TunnelTotals};

/// See the [module](self). Dropping it closes the tunnel.
pub(crate) struct RunningTunnel {
    handle: TunnelHandle,
    acceptor: JoinHandle<()>,
    _counted: CountedTunnel,
}

impl RunningTunnel {
    /// Starts to accept connections, until [`TaskGroup::drain`]; then they are refused.
    pub(crate) fn start(
        tunnel: Tunnel,
        server: Arc<Server>,
        tasks: TaskGroup,
        totals: &TunnelTotals,
    ) -> Self {
        Self {
            handle: tunnel.handle(),
            _counted: totals.add(tunnel.handle()),
            // Not in the task group, which it would keep from ending.
            acceptor: tokio::spawn(accept(tunnel, server, tasks)),
        }
    }

    pub(crate) fn handle(&self) -> &TunnelHandle {
        &self.handle
    }
}

impl Drop for RunningTunnel {
    fn drop(&mut self) {
        self.handle.close();
        self.acceptor.abort();
    }
}

async fn accept(mut tunnel: Tunnel, server: Arc<Server>, tasks: TaskGroup) {
    loop {
        tokio::select! {
            biased;
            () = tasks.draining() => break,
            channel = tunnel.accept() => match channel {
                Some(channel) => server.accept_channel(channel),
                None => return,
            },
        }
    }
    drop(server);
    while tunnel.accept().await.is_some() {}
}
