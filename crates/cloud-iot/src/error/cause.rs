//! Causes of a lost connection or a failed attempt.
//!
//! Each [`Cause`] says what happened and what to do. None of them ends a session: the device must
//! reconnect by itself when the cause is gone, however long that takes.

mod tls;

use std::io;
use std::time::Duration;

use cloud_net::{ConnectError, ProxyError, ProxyFailure, UntrustedText};
use thiserror::Error;

pub use self::tls::TlsCause;

use crate::core::backoff::Retry;
use crate::mqtt::reason_code::ReasonCode;
use crate::mqtt::topic::TopicFilter;

/// Why a connection failed, or was lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server name has no address: no network, a DNS failure, or a wrong endpoint.
    #[error("the server's name cannot be resolved; check the network, DNS and the endpoint")]
    NameNotFound,
    /// No service listens on the server's port.
    #[error("the server refused the TCP connection; check the endpoint's port")]
    Refused,
    /// The network has no route to the server.
    #[error("the server cannot be reached; check the network")]
    Unreachable,
    /// TCP, TLS and CONNACK together took longer than allowed.
    #[error("no connection was made within the time limit; the server or the network is too slow")]
    ConnectTimeout,
    /// The proxy does not provide a connection.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(#[from] TlsCause),
    /// The server answered CONNECT with a refusal.
    #[error("{}", refused_connection(*.reason, .message.as_ref()))]
    NotAccepted {
        /// Reason code in the CONNACK.
        reason: ReasonCode,
        /// Reason string in the CONNACK.
        message: Option<UntrustedText>,
    },
    /// The server answered CONNECT with a CONNACK of MQTT 3.1.1.
    #[error("the broker speaks MQTT 3.1.1 only; it has to be configured for MQTT 5")]
    Mqtt311Only,
    /// The server refused a subscription that is [required](crate::Subscription::required).
    #[error("{}", refused_subscription(.filter, *.reason, .message.as_ref()))]
    SubscriptionRefused {
        /// Filter of the subscription.
        filter: TopicFilter,
        /// Reason code in the SUBACK.
        reason: ReasonCode,
        /// Reason string in the SUBACK.
        message: Option<UntrustedText>,
    },
    /// A SUBSCRIBE was not answered in time.
    #[error("the server did not answer a SUBSCRIBE within the time limit")]
    SubscribeTimeout,
    /// A QoS 1 message was not acknowledged in time.
    #[error("the server did not acknowledge a message within the time limit")]
    AcknowledgeTimeout,
    /// A PINGREQ was not answered in time.
    #[error("the server no longer answers; the connection is dead")]
    KeepAlive,
    /// The clock jumped ahead: the device was suspended, or its clock was set. The state of the
    /// connection on the server is unknown.
    #[error("the clock jumped ahead by {0:?}; reconnecting")]
    ClockJump(Duration),
    /// The device reconnects with other TLS settings; see
    /// [`Session::reconnect_with`](crate::Session::reconnect_with).
    #[error("reconnecting with other TLS settings")]
    Reconnect,
    /// No data was written or read: even a PINGREQ could not be written.
    #[error("the connection stalled; the server no longer receives data")]
    WriteStalled,
    /// The server sent DISCONNECT with a reason.
    #[error("the server disconnected: {}", with_message(*.reason, .message.as_ref()))]
    Disconnected {
        /// Reason code in the DISCONNECT.
        reason: ReasonCode,
        /// Reason string in the DISCONNECT.
        message: Option<UntrustedText>,
    },
    /// The server ended the connection because its policy does not permit the device a topic. The
    /// DISCONNECT does not name the topic.
    #[error(
        "the broker does not permit this device one of the topics {}, which it used last: {POLICY} ({disconnected})",
        .topics.join(", ")
    )]
    NotPermitted {
        /// The filters of the unanswered SUBSCRIBE, or else the topics that were published to last.
        topics: Vec<String>,
        /// The DISCONNECT.
        disconnected: Box<Cause>,
    },
    /// The connection ended without a reason.
    #[error("the connection was closed{}", if *.soon { " right after it was made; another client may use the same client id, or the broker's policy may not permit this device its topics" } else { "" })]
    Closed {
        /// Whether it ended so soon that another client with the same ID is likely.
        soon: bool,
    },
    /// The server violated the protocol.
    #[error("the server violated the MQTT protocol: {0}")]
    Protocol(String),
    /// Another network error.
    #[error("the network failed: {0}")]
    Io(String),
    /// An internal error; a defect of this program.
    #[error("internal error of the connection: {0}")]
    Internal(String),
}

impl Cause {
    /// Returns whether the same attempt may succeed later without a change to the device's
    /// configuration. The session retries in any case, because the server's side may change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::Tls(TlsCause::UnknownIssuer | TlsCause::WrongName | TlsCause::BadCertificate(_))
                | Self::Tls(TlsCause::ClientCertificateRejected(_))
                | Self::Proxy(ProxyError {
                    failure: ProxyFailure::Authentication,
                    ..
                })
                | Self::Mqtt311Only
                | Self::SubscriptionRefused { .. }
                | Self::NotPermitted { .. }
        ) && !matches!(
            self,
            Self::NotAccepted {
                reason: ReasonCode(0x84..=0x87 | 0x8A | 0x8C),
                ..
            } | Self::Disconnected {
                reason: ReasonCode(0x87),
                ..
            }
        )
    }

    /// Returns a short name for metrics, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NameNotFound => "name_not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::Proxy(_) => "proxy",
            Self::Tls(_) => "tls",
            Self::NotAccepted { .. } => "not_accepted",
            Self::Mqtt311Only => "mqtt_311_only",
            Self::SubscriptionRefused { .. } => "subscription_refused",
            Self::SubscribeTimeout => "subscribe_timeout",
            Self::AcknowledgeTimeout => "acknowledge_timeout",
            Self::KeepAlive => "keep_alive",
            Self::ClockJump(_) => "clock_jump",
            Self::Reconnect => "renewed",
            Self::WriteStalled => "stalled",
            Self::Disconnected { .. } => "disconnected",
            Self::NotPermitted { .. } => "not_permitted",
            Self::Closed { .. } => "closed",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
            Self::Internal(_) => "internal",
        }
    }

    /// Returns whether another client with the same client ID is the likely cause.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        self.is_session_taken_over() || matches!(self, Self::Closed { soon: true })
    }

    /// Returns whether the server reports a session takeover.
    pub(crate) fn is_session_taken_over(&self) -> bool {
        matches!(
            self,
            Self::Disconnected {
                reason: ReasonCode::SESSION_TAKEN_OVER,
                ..
            }
        )
    }

    /// Returns whether the server refuses the device itself: another attempt has the same result
    /// until the platform changes.
    #[must_use]
    pub fn is_device_refusal(&self) -> bool {
        matches!(self, Self::NotAccepted { .. }) && self.retry() == Retry::Persistent
    }

    /// Returns whether the server's policy does not permit the device a topic.
    #[must_use]
    pub fn is_topic_refusal(&self) -> bool {
        matches!(
            self,
            Self::NotPermitted { .. }
                | Self::SubscriptionRefused {
                    reason: ReasonCode::NOT_AUTHORIZED,
                    ..
                }
        )
    }

    /// Adds the topics in question to a DISCONNECT that reports a missing permission.
    pub(crate) fn about_topics(self, topics: Vec<String>) -> Self {
        match self {
            Self::Disconnected {
                reason: ReasonCode::NOT_AUTHORIZED,
                ..
            } if !topics.is_empty() => Self::NotPermitted {
                topics,
                disconnected: Box::new(self),
            },
            other => other,
        }
    }

    /// Returns the class of the failure for the back-off.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Disconnected {
                reason: ReasonCode::SESSION_TAKEN_OVER,
                ..
            } => Retry::Persistent,
            // Server busy, message rate too high, quota exceeded, connection rate exceeded.
            Self::NotAccepted {
                reason: ReasonCode(0x89 | 0x96 | 0x97 | 0x9F),
                ..
            }
            | Self::Disconnected {
                reason: ReasonCode(0x89 | 0x96 | 0x97 | 0x9F),
                ..
            } => Retry::Busy,
            // A device without a clock of its own recovers when it receives the time from the
            // network.
            Self::Tls(TlsCause::Expired | TlsCause::NotYetValid) => Retry::Transient,
            other if other.is_retryable() => Retry::Transient,
            _ => Retry::Persistent,
        }
    }

    /// Returns whether the server's port is unreachable, so that another port may help.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Unreachable
                | Self::ConnectTimeout
                // Many proxies allow connections to port 443 only.
                | Self::Proxy(ProxyError {
                    failure: ProxyFailure::Refused { .. }
                        | ProxyFailure::ServerUnreachable { .. }
                        | ProxyFailure::Closed
                        | ProxyFailure::TimedOut,
                    ..
                })
                // Some firewalls allow TCP and abort or answer everything that is not web traffic.
                | Self::Tls(TlsCause::HandshakeAborted | TlsCause::NotTls)
        )
    }

    /// Returns whether another service may have answered: a firewall that aborts TLS or answers
    /// itself, or a web server.
    pub(crate) fn may_be_another_service(&self) -> bool {
        matches!(
            self,
            Self::Tls(_) | Self::Closed { .. } | Self::Protocol(_) | Self::Io(_)
        )
    }

    /// Returns whether the server may accept the device with other TLS settings.
    pub(crate) fn is_identity_related(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::NotAccepted { .. } => self.is_device_refusal(),
            _ => false,
        }
    }

    /// Returns whether the device's network may be the cause.
    pub(crate) fn is_network_related(&self) -> bool {
        match self {
            Self::NameNotFound
            | Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::Proxy(_)
            | Self::SubscribeTimeout
            | Self::AcknowledgeTimeout
            | Self::KeepAlive
            | Self::ClockJump(_)
            | Self::WriteStalled
            | Self::Closed { soon: false }
            | Self::Io(_) => true,
            // A captive portal, or a clock that only the network can correct.
            Self::Tls(tls) => !matches!(tls, TlsCause::ClientCertificateRejected(_)),
            Self::NotAccepted { .. }
            | Self::Mqtt311Only
            | Self::SubscriptionRefused { .. }
            | Self::Disconnected { .. }
            | Self::NotPermitted { .. }
            | Self::Closed { soon: true }
            | Self::Reconnect
            | Self::Protocol(_)
            | Self::Internal(_) => false,
        }
    }

    /// Creates the cause for a DISCONNECT with this reason.
    pub(crate) fn disconnected(reason: ReasonCode, message: Option<UntrustedText>) -> Self {
        if reason == ReasonCode::SUCCESS {
            return Self::Closed { soon: false };
        }
        Self::Disconnected { reason, message }
    }
}

/// What to do about a topic that is not permitted.
pub(crate) const POLICY: &str = "the platform's policy for this device has to allow it";

/// Appends the server's words to a reason code.
fn with_message(reason: ReasonCode, message: Option<&UntrustedText>) -> String {
    match message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_string(),
    }
}

fn refused_connection(reason: ReasonCode, message: Option<&UntrustedText>) -> String {
    let reported = with_message(reason, message);
    if reason == ReasonCode::NOT_AUTHORIZED {
        format!("the broker does not permit this device to connect: {POLICY} ({reported})")
    } else {
        format!("the server did not accept the session: {reported}")
    }
}

pub(crate) fn refused_subscription(
    filter: &TopicFilter,
    reason: ReasonCode,
    message: Option<&UntrustedText>,
) -> String {
    let reported = with_message(reason, message);
    if reason == ReasonCode::NOT_AUTHORIZED {
        format!(
            "the broker does not permit this device to subscribe to {filter}: {POLICY} ({reported})"
        )
    } else {
        format!("the server refused the subscription to {filter}: {reported}")
    }
}

impl From<ConnectError> for Cause {
    fn from(error: ConnectError) -> Self {
        tracing::debug!(%error, "no connection");
        match error {
            ConnectError::NameNotFound { .. } => Self::NameNotFound,
            ConnectError::Tcp { kind, reason, .. } => Self::from(&io::Error::new(kind, reason)),
            ConnectError::Proxy(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        if let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return TlsCause::from(tls).into();
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Closed { soon: false },
            _ => Self::Io(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_errors_have_distinct_causes() {
        for (kind, cause) in [
            (io::ErrorKind::ConnectionRefused, Cause::Refused),
            (io::ErrorKind::NetworkUnreachable, Cause::Unreachable),
            (
                io::ErrorKind::ConnectionReset,
                Cause::Closed { soon: false },
            ),
        ] {
            assert_eq!(Cause::from(&io::Error::from(kind)), cause);
        }
    }

    #[test]
    fn each_cause_has_its_retry_class() {
        let disconnected = |code| Cause::Disconnected {
            reason: ReasonCode(code),
            message: None,
        };
        let not_accepted = |code| Cause::NotAccepted {
            reason: ReasonCode(code),
            message: None,
        };
        let proxy = |failure| Cause::Proxy(ProxyError::new("server:8883", "proxy:3128", failure));
        for (cause, retry) in [
            (Cause::Unreachable, Retry::Transient),
            (Cause::NameNotFound, Retry::Transient),
            (Cause::KeepAlive, Retry::Transient),
            (Cause::Closed { soon: true }, Retry::Transient),
            (proxy(ProxyFailure::Closed), Retry::Transient),
            (proxy(ProxyFailure::Authentication), Retry::Persistent),
            // Server shutting down.
            (disconnected(0x8B), Retry::Transient),
            (disconnected(0x97), Retry::Busy),
            (not_accepted(0x9F), Retry::Busy),
            (not_accepted(0x96), Retry::Busy),
            // Codes that the standard does not have.
            (not_accepted(0xA3), Retry::Transient),
            (disconnected(0xA3), Retry::Transient),
            (Cause::Mqtt311Only, Retry::Persistent),
            (disconnected(0x8E), Retry::Persistent),
            (disconnected(0x87), Retry::Persistent),
            (not_accepted(0x87), Retry::Persistent),
            (Cause::Tls(TlsCause::NotYetValid), Retry::Transient),
            (Cause::Tls(TlsCause::Expired), Retry::Transient),
            (Cause::Tls(TlsCause::UnknownIssuer), Retry::Persistent),
            (
                Cause::Tls(TlsCause::ClientCertificateRejected(String::new())),
                Retry::Persistent,
            ),
        ] {
            assert_eq!(cause.retry(), retry, "{cause}");
        }
    }

    #[test]
    fn takeover_is_recognized() {
        let taken_over = Cause::Disconnected {
            reason: ReasonCode::SESSION_TAKEN_OVER,
            message: None,
        };
        assert!(taken_over.is_takeover());
        assert!(Cause::Closed { soon: true }.is_takeover());
        assert!(
            Cause::Closed { soon: true }
                .to_string()
                .contains("same client id")
        );
    }
}
