//! Metrics of a server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::TunnelHandle;
use crate::stats::TunnelStats;

use super::rejection::{CallerRejection, DeviceRejection};
use super::token::TokenError;

/// Declares the counters once, as a snapshot and as atomics.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the server was created, and its current state. It can be serialized.
        ///
        /// ```
        /// # use snitun::server::{FernetKeys, Server, ServerConfig};
        /// let server = Server::new(FernetKeys::generate(), ServerConfig::default());
        /// let metrics = server.handle().metrics();
        /// assert_eq!((metrics.devices_connected, metrics.tunnels.bytes_sent), (0, 0));
        /// println!("{}", serde_json::to_string(&metrics)?);
        /// # Ok::<(), serde_json::Error>(())
        /// ```
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct ServerMetrics {
            $($(#[$doc])* pub $name: u64,)*
            /// Tunnels that are up.
            pub tunnels_up: u64,
            /// Traffic of all tunnels, including those that have ended.
            pub tunnels: TunnelStats,
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            fn snapshot(&self) -> ServerMetrics {
                ServerMetrics {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ..ServerMetrics::default()
                }
            }
        }
    };
}

counters! {
    /// Connections that were accepted.
    connections,
    /// Connections closed at once because too many were open, in total or in flight.
    refused_busy,
    /// Connections closed at once because too many of their address were in flight.
    refused_address,
    /// Connections that sent nothing, the wrong protocol for the listener, or no valid PROXY
    /// header.
    refused_unknown,
    /// Devices that were accepted.
    devices_connected,
    /// Devices with an invalid or malformed token.
    devices_bad_token,
    /// Devices with an expired token.
    devices_expired_token,
    /// Devices whose token could not be checked, because the authenticator was unavailable.
    devices_unchecked_token,
    /// Devices whose `aes-gcm` key was used before, or could not be remembered.
    devices_spent_key,
    /// Devices that answered their challenge wrongly.
    devices_wrong_answer,
    /// Devices that disconnected, or timed out, before they were accepted.
    devices_gave_up,
    /// Callers that were connected to a device.
    callers_connected,
    /// Callers whose ClientHello was invalid, or contained no host name.
    callers_bad_hello,
    /// Callers for a host name without a connected device.
    callers_no_device,
    /// Callers whose device accepts no further channel.
    callers_no_channel,
    /// Callers closed because too many of their address were being served.
    callers_refused_address,
    /// Callers that disconnected, or timed out, before their ClientHello was complete.
    callers_gave_up,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) counters: Counters,
    carried: Mutex<TunnelTotals>,
}

#[derive(Debug, Default)]
struct TunnelTotals {
    running: HashMap<u64, TunnelHandle>,
    next: u64,
    ended: TunnelStats,
}

/// Includes a tunnel in the metrics. Dropping it keeps the tunnel's traffic.
#[derive(Debug)]
pub(super) struct TunnelMetricsGuard {
    metrics: Arc<Metrics>,
    number: u64,
}

impl Metrics {
    pub(super) fn snapshot(&self) -> ServerMetrics {
        let carried = self.lock();
        let mut tunnels = carried.ended;
        for tunnel in carried.running.values() {
            tunnels.add(&tunnel.stats());
        }
        ServerMetrics {
            tunnels_up: carried.running.len() as u64,
            tunnels,
            ..self.counters.snapshot()
        }
    }

    pub(super) fn track(metrics: &Arc<Self>, tunnel: TunnelHandle) -> TunnelMetricsGuard {
        let mut carried = metrics.lock();
        let number = carried.next;
        carried.next += 1;
        carried.running.insert(number, tunnel);
        drop(carried);
        TunnelMetricsGuard {
            metrics: Arc::clone(metrics),
            number,
        }
    }

    pub(super) fn count_device_rejection(&self, refusal: &DeviceRejection) {
        let counters = &self.counters;
        match refusal {
            DeviceRejection::Token(TokenError::Expired) => count(&counters.devices_expired_token),
            DeviceRejection::Token(TokenError::Unavailable) => {
                count(&counters.devices_unchecked_token)
            }
            DeviceRejection::Token(_) => count(&counters.devices_bad_token),
            DeviceRejection::Key(_) => count(&counters.devices_spent_key),
            DeviceRejection::Handshake(_) => count(&counters.devices_wrong_answer),
            DeviceRejection::TimedOut | DeviceRejection::Io(_) => count(&counters.devices_gave_up),
            // Not caused by the device.
            DeviceRejection::Stopping | DeviceRejection::Entropy(_) => {}
        }
    }

    pub(super) fn count_caller_rejection(&self, rejection: &CallerRejection) {
        let counters = &self.counters;
        match rejection {
            CallerRejection::Sni(_) => count(&counters.callers_bad_hello),
            CallerRejection::NoDevice(_) => count(&counters.callers_no_device),
            CallerRejection::Open(_) => count(&counters.callers_no_channel),
            CallerRejection::TimedOut | CallerRejection::Gone | CallerRejection::Hello(_) => {
                count(&counters.callers_gave_up);
            }
            CallerRejection::TooMany => count(&counters.callers_refused_address),
            // It was connected before, or the caller is not the cause.
            CallerRejection::Relay(_) | CallerRejection::Stopping => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, TunnelTotals> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TunnelMetricsGuard {
    fn drop(&mut self) {
        let mut carried = self.metrics.lock();
        if let Some(tunnel) = carried.running.remove(&self.number) {
            carried.ended.add(&tunnel.stats());
        }
    }
}
