//! Connecting the tunnel, and taking note of its end.

use std::time::SystemTime;

use snitun::client::{ClientConfig, Tunnel};

use super::{Id, Manager};
use crate::planner::Event;
use crate::source::{CertificateSource, CertificateStore, TokenSource};
use crate::status::RemoteEvent;
use crate::tunnel::{self, TunnelError};

impl<T, C, S> Manager<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(super) fn connect(&mut self, id: Id) {
        let Some(held) = &self.held else { return };
        let mut config = ClientConfig::new(held.answer.token().clone(), held.key.clone());
        config.version = held.answer.protocol_version();
        config.cipher = held.answer.cipher();
        config.throttling = held.answer.throttling();
        let (host, port) = (
            self.parts.config.relay_host.clone(),
            self.parts.config.relay_port,
        );
        tracing::debug!(host, port, "connecting the tunnel");
        self.connecting = Some((
            id,
            Box::pin(async move { tunnel::connect(&host, port, config).await }),
        ));
    }

    pub(super) fn connected(&mut self, id: Id, result: Result<Tunnel, TunnelError>) {
        match result {
            Ok(tunnel) => {
                let url = self.parts.config.url();
                tracing::info!(url, "the tunnel is connected");
                self.tunnel = Some((id, tunnel));
                self.connected_since = SystemTime::now();
                self.cause = None;
                self.step(Event::TunnelUp { id });
                self.publish_status();
                self.emit(RemoteEvent::Connected { url });
            }
            Err(error) => {
                let fault = error.fault();
                self.connect_failed(error.to_string());
                self.step(Event::TunnelFailed { id, fault });
            }
        }
    }

    pub(super) fn connect_failed(&mut self, reason: String) {
        tracing::warn!(
            reason,
            "the tunnel could not be connected; it will be tried again"
        );
        self.cause = Some(reason.clone());
        self.emit(RemoteEvent::ConnectFailed { reason });
    }

    pub(super) async fn tunnel_ended(&mut self, id: Id) {
        let Some((_, tunnel)) = self.tunnel.take() else {
            return;
        };
        // It has ended, so this does not wait.
        let reason = tunnel.handle().closed().await.to_string();
        tracing::info!(reason, "the tunnel has ended");
        self.cause = Some(reason.clone());
        self.step(Event::TunnelLost { id });
        self.publish_status();
        self.emit(RemoteEvent::Disconnected { reason });
    }
}
