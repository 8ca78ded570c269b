//! Connects the tunnel, hands over to the next one, and handles its end.

use std::sync::Arc;
use std::time::SystemTime;

use cloud_net::{info_throttled, warn_throttled};
use snitun::CloseReason;
use snitun::client::{ClientConfig, Tunnel};

use super::{Driver, Id};
use crate::core::{Event, IDLE_CHECK_INTERVAL};
use crate::status::RemoteEvent;
use crate::traits::{CertificateSource, CertificateStore, TokenSource};
use crate::tunnel::reconnect_cause::ReconnectCause;
use crate::tunnel::running::RunningTunnel;
use crate::tunnel::{self, TunnelError};

/// Maximum memory for callers' bodies that the application has not read. Version 0 of the protocol
/// has no flow control towards the relay, so that applications that do not read let several uploads
/// reach this limit; with overhead it takes a third more memory. One upload may use 64 MiB of it.
const RECEIVE_TOTAL: usize = 96 * 1024 * 1024;

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(super) fn connect(&mut self, id: Id) {
        let Some(config) = self.client_config() else {
            return;
        };
        let (host, port) = self.relay();
        let connector = self.context.connector.get();
        tracing::debug!(host, port, "connecting the tunnel");
        self.connecting = Some((
            id,
            Box::pin(async move {
                let stream = tunnel::dial(&connector, &host, port).await?;
                tunnel::open(stream, config()?).await
            }),
        ));
    }

    /// Connects a tunnel that replaces the running one. The relay ends the running tunnel as soon
    /// as it has checked the new tunnel's token and response. So all data of the running tunnel
    /// must have arrived before these are sent; a ping response confirms that.
    pub(super) fn hand_over(&mut self, id: Id, forced: bool) {
        let (Some(config), Some((_, running))) = (self.client_config(), &self.tunnel) else {
            return;
        };
        let running = running.handle().clone();
        let (host, port) = self.relay();
        let connector = self.context.connector.get();
        tracing::debug!(host, port, forced, "handing over to a new tunnel");
        self.connecting = Some((
            id,
            Box::pin(async move {
                let stream = tunnel::dial(&connector, &host, port).await?;
                let pong = tokio::time::timeout(IDLE_CHECK_INTERVAL, running.ping()).await;
                let idle = matches!(pong, Ok(Ok(_))) && running.open_channels() == 0;
                if !idle && !forced {
                    return Err(TunnelError::Busy);
                }
                tunnel::open(stream, config()?).await
            }),
        ));
    }

    fn relay(&self) -> (String, u16) {
        let config = &self.context.config;
        (config.relay_host.clone(), config.relay_port)
    }

    /// Returns a function that creates the tunnel's configuration. It is called only when the relay
    /// has been reached, because it uses up a single-use key.
    fn client_config(
        &self,
    ) -> Option<impl FnOnce() -> Result<ClientConfig, TunnelError> + Send + 'static> {
        let token_with_keys = self.token.as_ref()?;
        let (keys, token) = (
            token_with_keys.keys.clone(),
            token_with_keys.response.token().clone(),
        );
        let version = token_with_keys.response.protocol_version();
        let throttling = token_with_keys.response.throttling();
        let ping = self.context.timeouts.dead_link / 2;
        let malformed_log = Arc::clone(&self.throttles.malformed_address);
        let overrun_log = Arc::clone(&self.throttles.overrun);
        let paced_log = Arc::clone(&self.throttles.paced);
        Some(move || {
            let mut config = ClientConfig::new(token, keys.next_key()?);
            config.limits.receive_total = RECEIVE_TOTAL;
            config.version = version;
            config.throttling = throttling;
            config.malformed_log = malformed_log;
            config.overrun_log = overrun_log;
            config.paced_log = paced_log;
            config.timeouts.ping_interval = ping;
            config.timeouts.ping_answer = ping;
            Ok(config)
        })
    }

    pub(super) fn connected(&mut self, id: Id, result: Result<Tunnel, TunnelError>) {
        match result {
            Ok(tunnel) => {
                let handed_over = self.is_handover();
                self.ended_early = None;
                let context = &self.context;
                let server = Arc::clone(&context.server);
                let tunnel =
                    RunningTunnel::start(tunnel, server, context.tasks.clone(), &context.tunnels);
                self.retiring = self.tunnel.replace((id, tunnel));
                self.connected_since = SystemTime::now();
                self.cause = None;
                self.step(Event::TunnelUp { id });
                self.publish_status();
                let url = self.context.config.url();
                if handed_over {
                    info_throttled!(self.throttles.renewed, url, "the tunnel was renewed");
                    self.emit(RemoteEvent::TunnelRenewed);
                } else {
                    info_throttled!(self.throttles.connected, url, "the tunnel is connected");
                    self.emit(RemoteEvent::Connected { url });
                }
            }
            Err(error) => {
                let fault = error.fault();
                if matches!(error, TunnelError::Busy) {
                    tracing::debug!("the tunnel is in use again; the handover is postponed");
                } else {
                    self.connect_failed(error.to_string(), (&error).into());
                }
                self.step(Event::TunnelFailed { id, fault });
            }
        }
    }

    pub(super) fn connect_failed(&mut self, reason: String, cause: ReconnectCause) {
        if self.is_handover() {
            warn_throttled!(
                self.throttles.renewal_failed,
                reason,
                "the handover to a new tunnel failed; the old one stays, and the handover is retried"
            );
            return;
        }
        warn_throttled!(
            self.throttles.connect_failed,
            reason,
            "the tunnel could not be connected; it is retried"
        );
        self.context.reconnects.count(cause);
        self.cause = Some(reason.clone());
        self.emit(RemoteEvent::ConnectFailed { reason });
    }

    /// Returns whether the pending connection replaces another tunnel.
    fn is_handover(&self) -> bool {
        self.tunnel.is_some() || self.ended_early.is_some()
    }

    pub(super) async fn tunnel_ended(&mut self, id: Id) {
        if self.retiring.take_if(|(old, _)| *old == id).is_some() {
            tracing::debug!("the replaced tunnel has ended");
            return;
        }
        let Some((_, tunnel)) = self.tunnel.take() else {
            return;
        };
        // The tunnel has ended, so this does not wait.
        let reason = tunnel.handle().closed().await;
        if self.connecting.is_some() {
            self.ended_early = Some((id, reason));
        } else {
            self.tunnel_lost(id, reason);
        }
    }

    fn tunnel_lost(&mut self, id: Id, reason: Arc<CloseReason>) {
        self.context.reconnects.count(reason.as_ref().into());
        let reason = reason.to_string();
        info_throttled!(self.throttles.ended, reason, "the tunnel has ended");
        self.cause = Some(reason.clone());
        self.step(Event::TunnelLost { id });
        self.publish_status();
        self.emit(RemoteEvent::Disconnected { reason });
    }

    /// Finishes a handover: closes a replaced tunnel that the relay keeps, and reports a tunnel
    /// that ended without a replacement.
    pub(super) fn finish_handover(&mut self) {
        if let Some((_, tunnel)) = &self.retiring
            && tunnel.handle().open_channels() == 0
        {
            tunnel.handle().close();
        }
        if self.connecting.is_none()
            && let Some((id, reason)) = self.ended_early.take()
        {
            self.tunnel_lost(id, reason);
        }
    }
}
