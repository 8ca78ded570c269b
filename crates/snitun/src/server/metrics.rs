//! What a server has done so far, for whoever watches it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::TunnelHandle;
use crate::stats::TunnelStats;

use super::public::Rejection;
use super::token::TokenError;
use super::tunnel::Refusal;

/// Declares the counters once, as numbers to look at and as atomics to count with.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the server was made, and what is there at the moment. It can be serialized.
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
            /// Tunnels that are up now.
            pub tunnels_up: u64,
            /// What all tunnels have carried, those that have ended included.
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
    /// Connections closed at once because too many were open, in all or in flight.
    refused_busy,
    /// Connections closed at once because too many of their address were in flight.
    refused_address,
    /// Connections that sent nothing, something else than the port is for, or no usable PROXY header.
    refused_unknown,
    /// Devices that were let in.
    devices_connected,
    /// Devices with a token that is none of ours, or that says nothing usable.
    devices_bad_token,
    /// Devices with a token that has run out.
    devices_expired_token,
    /// Devices whose token could not be checked, because the authenticator was unavailable.
    devices_unchecked_token,
    /// Devices whose `aes-gcm` key was used before, or could not be remembered.
    devices_spent_key,
    /// Devices that gave a wrong answer to their challenge.
    devices_wrong_answer,
    /// Devices that went away, or took too long, before they were let in.
    devices_gave_up,
    /// Callers that were connected to a device.
    callers_connected,
    /// Callers whose ClientHello was none, or named no host.
    callers_bad_hello,
    /// Callers for whose host name no device is connected.
    callers_no_device,
    /// Callers whose device takes no further channel.
    callers_no_channel,
    /// Callers closed because too many of their address were being served.
    callers_refused_address,
    /// Callers that went away, or took too long, before their ClientHello was complete.
    callers_gave_up,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) counters: Counters,
    carried: Mutex<Carried>,
}

#[derive(Debug, Default)]
struct Carried {
    running: HashMap<u64, TunnelHandle>,
    next: u64,
    ended: TunnelStats,
}

/// A tunnel's place in the metrics. When it is dropped, what the tunnel has carried stays.
#[derive(Debug)]
pub(super) struct Carrying {
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

    pub(super) fn carry(metrics: &Arc<Self>, tunnel: TunnelHandle) -> Carrying {
        let mut carried = metrics.lock();
        let number = carried.next;
        carried.next += 1;
        carried.running.insert(number, tunnel);
        drop(carried);
        Carrying {
            metrics: Arc::clone(metrics),
            number,
        }
    }

    pub(super) fn refusal(&self, refusal: &Refusal) {
        let counters = &self.counters;
        match refusal {
            Refusal::Token(TokenError::Expired) => count(&counters.devices_expired_token),
            Refusal::Token(TokenError::Unavailable) => count(&counters.devices_unchecked_token),
            Refusal::Token(_) => count(&counters.devices_bad_token),
            Refusal::Key(_) => count(&counters.devices_spent_key),
            Refusal::Handshake(_) => count(&counters.devices_wrong_answer),
            Refusal::TimedOut | Refusal::Io(_) => count(&counters.devices_gave_up),
            // Not the device's doing.
            Refusal::Stopping | Refusal::NoRandomness(_) => {}
        }
    }

    pub(super) fn rejection(&self, rejection: &Rejection) {
        let counters = &self.counters;
        match rejection {
            Rejection::Sni(_) => count(&counters.callers_bad_hello),
            Rejection::NoDevice(_) => count(&counters.callers_no_device),
            Rejection::Open(_) => count(&counters.callers_no_channel),
            Rejection::TimedOut | Rejection::Gone | Rejection::Hello(_) => {
                count(&counters.callers_gave_up);
            }
            Rejection::TooMany => count(&counters.callers_refused_address),
            // It was connected before, or it is not the caller's doing.
            Rejection::Relay(_) | Rejection::Stopping => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let mut carried = self.metrics.lock();
        if let Some(tunnel) = carried.running.remove(&self.number) {
            carried.ended.add(&tunnel.stats());
        }
    }
}
