//! Why there is no connection: the errors of the layers below, told apart.
//!
//! Each [`Cause`] says what happened and what to do about it. None of them ends a session: the
//! device must come back by itself once the cause is gone, however long that takes.

mod proxy;
mod tls;

use std::io;
use std::time::Duration;

use cloud_net::UntrustedText;
use thiserror::Error;

pub use self::proxy::ProxyCause;
pub use self::tls::TlsCause;

use crate::backoff::Retry;
use crate::reason::ReasonCode;
use crate::topic::TopicFilter;

/// Why a connection could not be made, or was lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server's name has no address: no network, a DNS fault, or a wrong endpoint.
    #[error("the server's name cannot be resolved; check the network, DNS and the endpoint")]
    NameNotFound,
    /// Nothing listens on the server's port.
    #[error("the server refused the TCP connection; check the endpoint's port")]
    Refused,
    /// There is no way to the server's network.
    #[error("the server cannot be reached; check the network")]
    Unreachable,
    /// TCP, TLS and CONNACK together took longer than allowed.
    #[error(
        "no connection was made within the time limit; the server or the way to it is too slow"
    )]
    ConnectTimeout,
    /// There is no way through the HTTP proxy.
    #[error("no way through the proxy: {0}")]
    Proxy(#[from] ProxyCause),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(#[from] TlsCause),
    /// The server answered CONNECT with a refusal.
    #[error("the server did not accept the session: {0}")]
    NotAccepted(ReasonCode),
    /// The server refused a subscription.
    #[error("{}", refused_subscription(.filter, *.reason))]
    SubscriptionRefused {
        /// What was asked for.
        filter: TopicFilter,
        /// The code in the SUBACK.
        reason: ReasonCode,
    },
    /// A SUBSCRIBE was not answered in time.
    #[error("the server did not answer a SUBSCRIBE within the time limit")]
    SubscribeTimeout,
    /// A QoS 1 message was not acknowledged in time.
    #[error("the server did not acknowledge a message within the time limit")]
    AcknowledgeTimeout,
    /// A ping was not answered in time.
    #[error("the server no longer answers; the connection is dead")]
    KeepAlive,
    /// The clock jumped ahead: the device was suspended, or its clock was set. What the server thinks
    /// of the connection is not known any more.
    #[error("the clock jumped ahead by {0:?}; the connection is made anew")]
    ClockJump(Duration),
    /// The device itself makes the connection anew, with other TLS settings; see
    /// [`SessionHandle::reconnect_with`](crate::SessionHandle::reconnect_with).
    #[error("the connection is made anew, with other TLS settings")]
    Renewed,
    /// Neither reading nor writing got ahead: not even a ping could be written.
    #[error("the connection stalled; the server takes nothing any more")]
    Stalled,
    /// The server said goodbye with a reason.
    #[error("the server disconnected: {reason}{}", .message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Disconnected {
        /// The code in the DISCONNECT.
        reason: ReasonCode,
        /// The reason string in the DISCONNECT.
        message: Option<UntrustedText>,
    },
    /// The server ended the connection because its policy does not permit the device a topic. It does not say which.
    #[error(
        "the broker does not permit this device one of the topics {}, which it used last: {POLICY} ({disconnected})",
        .topics.join(", ")
    )]
    NotPermitted {
        /// The filters of the SUBSCRIBE that was not answered, or else the topics that were published to last.
        topics: Vec<String>,
        /// The DISCONNECT.
        disconnected: Box<Cause>,
    },
    /// The connection ended without a reason being given.
    #[error("the connection was closed{}", if *.soon { " right after it was made; another client may use the same client id, or the broker's policy may not permit this device its topics" } else { "" })]
    Closed {
        /// Whether it ended so soon that another client with the same id is likely.
        soon: bool,
    },
    /// The server broke the protocol.
    #[error("the server sent something that is not proper MQTT: {0}")]
    Protocol(String),
    /// Another error of the network.
    #[error("the network failed: {0}")]
    Io(String),
    /// The connection's own task failed; a defect of this program.
    #[error("the connection failed inside: {0}")]
    Internal(String),
}

impl Cause {
    /// Whether the same attempt may succeed later without anybody changing the device's
    /// configuration. The session tries again in any case, because the change may be made on the
    /// server's side.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::Tls(TlsCause::UnknownIssuer | TlsCause::WrongName | TlsCause::BadCertificate(_))
                | Self::Tls(TlsCause::ClientCertificateRejected(_))
                | Self::Proxy(ProxyCause::Authentication)
                | Self::SubscriptionRefused { .. }
                | Self::NotPermitted { .. }
        ) && !matches!(
            self,
            Self::NotAccepted(ReasonCode(0x84..=0x87 | 0x8A | 0x8C))
                | Self::Disconnected {
                    reason: ReasonCode(0x87),
                    ..
                }
        )
    }

    /// A short name for counting: the variant's own, in small letters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NameNotFound => "name_not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::Proxy(_) => "proxy",
            Self::Tls(_) => "tls",
            Self::NotAccepted(_) => "not_accepted",
            Self::SubscriptionRefused { .. } => "subscription_refused",
            Self::SubscribeTimeout => "subscribe_timeout",
            Self::AcknowledgeTimeout => "acknowledge_timeout",
            Self::KeepAlive => "keep_alive",
            Self::ClockJump(_) => "clock_jump",
            Self::Renewed => "renewed",
            Self::Stalled => "stalled",
            Self::Disconnected { .. } => "disconnected",
            Self::NotPermitted { .. } => "not_permitted",
            Self::Closed { .. } => "closed",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
            Self::Internal(_) => "internal",
        }
    }

    /// Whether another client with the same client id is the likely reason.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        self.is_session_taken_over() || matches!(self, Self::Closed { soon: true })
    }

    /// Whether the server says that another client has taken the session.
    pub(crate) fn is_session_taken_over(&self) -> bool {
        matches!(
            self,
            Self::Disconnected {
                reason: ReasonCode::SESSION_TAKEN_OVER,
                ..
            }
        )
    }

    /// Whether the server's policy does not permit the device a topic.
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

    /// The same cause, if a DISCONNECT says that something is not permitted, with the topics that it may be about.
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

    /// How this failure delays the next attempt.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Disconnected {
                reason: ReasonCode::SESSION_TAKEN_OVER,
                ..
            } => Retry::Stubborn,
            // Server busy, message rate too high, quota exceeded, connection rate exceeded.
            Self::NotAccepted(ReasonCode(0x89 | 0x96 | 0x97 | 0x9F))
            | Self::Disconnected {
                reason: ReasonCode(0x89 | 0x96 | 0x97 | 0x9F),
                ..
            } => Retry::Busy,
            // A device without a clock of its own is right as soon as the network has told it the time.
            Self::Tls(TlsCause::Expired | TlsCause::NotYetValid) => Retry::Ordinary,
            other if other.is_retryable() => Retry::Ordinary,
            _ => Retry::Stubborn,
        }
    }

    /// Whether the way to the server's port is blocked, so that another port may help.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Unreachable
                | Self::ConnectTimeout
                // Many proxies open a way to 443 and to nothing else.
                | Self::Proxy(
                    ProxyCause::Refused { .. }
                        | ProxyCause::ServerUnreachable { .. }
                        | ProxyCause::Closed
                )
                // Some firewalls let TCP through and break off what is no web traffic, or answer it themselves.
                | Self::Tls(TlsCause::BrokenOff | TlsCause::NotTls)
        )
    }

    /// Whether an attempt that ended so may have met something else than the server: a firewall that breaks TLS off
    /// or answers itself, or a web server where MQTT was meant.
    pub(crate) fn is_by_a_stranger(&self) -> bool {
        matches!(
            self,
            Self::Tls(_) | Self::Closed { .. } | Self::Protocol(_) | Self::Io(_)
        )
    }

    /// Whether the server may take the device with other TLS settings.
    pub(crate) fn is_of_the_identity(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::NotAccepted(_) => self.retry() == Retry::Stubborn,
            _ => false,
        }
    }

    /// Whether the fault may be with the network that the device is on.
    pub(crate) fn is_of_the_network(&self) -> bool {
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
            | Self::Stalled
            | Self::Closed { soon: false }
            | Self::Io(_) => true,
            // A captive portal, and a clock that only the network can set right.
            Self::Tls(tls) => !matches!(tls, TlsCause::ClientCertificateRejected(_)),
            Self::NotAccepted(_)
            | Self::SubscriptionRefused { .. }
            | Self::Disconnected { .. }
            | Self::NotPermitted { .. }
            | Self::Closed { soon: true }
            | Self::Renewed
            | Self::Protocol(_)
            | Self::Internal(_) => false,
        }
    }

    /// The server said goodbye with this reason.
    pub(crate) fn disconnected(reason: ReasonCode, message: Option<String>) -> Self {
        if reason == ReasonCode::SUCCESS {
            return Self::Closed { soon: false };
        }
        let message = message.map(UntrustedText::from);
        Self::Disconnected { reason, message }
    }
}

/// What has to be done about a topic that is not permitted.
pub(crate) const POLICY: &str = "the platform's policy for this device has to allow it";

fn refused_subscription(filter: &TopicFilter, reason: ReasonCode) -> String {
    if reason == ReasonCode::NOT_AUTHORIZED {
        format!(
            "the broker does not permit this device to subscribe to {filter}: {POLICY} ({reason})"
        )
    } else {
        format!("the server refused the subscription to {filter}: {reason}")
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
    fn tells_network_errors_apart() {
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
    fn each_cause_has_its_own_pace() {
        let disconnected = |code| Cause::Disconnected {
            reason: ReasonCode(code),
            message: None,
        };
        for (cause, retry) in [
            (Cause::Unreachable, Retry::Ordinary),
            (Cause::NameNotFound, Retry::Ordinary),
            (Cause::KeepAlive, Retry::Ordinary),
            (Cause::Closed { soon: true }, Retry::Ordinary),
            (
                Cause::Proxy(ProxyCause::Refused { status: 403 }),
                Retry::Ordinary,
            ),
            (Cause::Proxy(ProxyCause::Authentication), Retry::Stubborn),
            // Server shutting down.
            (disconnected(0x8B), Retry::Ordinary),
            (disconnected(0x97), Retry::Busy),
            (Cause::NotAccepted(ReasonCode(0x9F)), Retry::Busy),
            (disconnected(0x8E), Retry::Stubborn),
            (disconnected(0x87), Retry::Stubborn),
            (
                Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED),
                Retry::Stubborn,
            ),
            (Cause::Tls(TlsCause::NotYetValid), Retry::Ordinary),
            (Cause::Tls(TlsCause::Expired), Retry::Ordinary),
            (Cause::Tls(TlsCause::UnknownIssuer), Retry::Stubborn),
            (
                Cause::Tls(TlsCause::ClientCertificateRejected(String::new())),
                Retry::Stubborn,
            ),
        ] {
            assert_eq!(cause.retry(), retry, "{cause}");
        }
    }

    #[test]
    fn a_takeover_is_recognised() {
        let told = Cause::Disconnected {
            reason: ReasonCode::SESSION_TAKEN_OVER,
            message: None,
        };
        assert!(told.is_takeover());
        assert!(Cause::Closed { soon: true }.is_takeover());
        assert!(
            Cause::Closed { soon: true }
                .to_string()
                .contains("same client id")
        );
    }
}
