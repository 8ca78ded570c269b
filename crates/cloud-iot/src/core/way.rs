//! The way to the server: by which port, and by which family of addresses first; and where the next attempt goes when there
//! was no way through.
//!
//! The ports take turns. The families do when the attempts by all ports have failed and one of them had met silence: a TCP
//! connection over a path that loses large packets, as some tunnels for IPv6 do, is made at once, wins over the other family,
//! and never gets TLS through. What works is kept.

use crate::cause::{Cause, TlsCause};
use crate::config::SessionConfig;

/// Which port to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Main,
    /// With the ALPN name that tells MQTT from what else is served there.
    Fallback(u16),
}

/// Whose addresses are tried first, where the server has some of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Of the one that the system prefers.
    Preferred,
    Other,
}

/// Where an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) port: Port,
    pub(crate) first: Family,
}

#[derive(Debug)]
pub(super) struct Ways {
    current: Way,
    main: u16,
    fallback: Option<u16>,
    /// An attempt by this family has met silence.
    silence: bool,
}

impl Ways {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let fallback = config.fallback_port.beside(config.port);
        let port = match fallback.filter(|port| config.last_port == Some(*port)) {
            Some(port) => Port::Fallback(port),
            None => Port::Main,
        };
        let first = Family::Preferred;
        Self {
            current: Way { port, first },
            main: config.port,
            fallback,
            silence: false,
        }
    }

    /// The way of the connection that there is, or of the next one.
    pub(super) fn current(&self) -> Way {
        self.current
    }

    /// Its port.
    pub(super) fn port(&self) -> u16 {
        match self.current.port {
            Port::Main => self.main,
            Port::Fallback(port) => port,
        }
    }

    /// A connection was made.
    pub(super) fn led_through(&mut self) {
        self.silence = false;
    }

    /// An attempt has failed: if there was no way through, the next one takes another. Tells whether it was a stranger that
    /// was met: on the other port something else may listen, which is no way to the server either.
    pub(super) fn failed(&mut self, cause: &Cause) -> bool {
        let on_fallback = matches!(self.current.port, Port::Fallback(_));
        let stray = on_fallback && cause.is_by_a_stranger();
        if !(cause.is_unreachable() || stray) {
            return false;
        }
        self.silence |= matches!(
            cause,
            Cause::ConnectTimeout | Cause::Tls(TlsCause::BrokenOff)
        );
        match self.fallback {
            Some(fallback) if !on_fallback => self.current.port = Port::Fallback(fallback),
            _ => {
                self.current.port = Port::Main;
                if std::mem::take(&mut self.silence) {
                    self.current.first = match self.current.first {
                        Family::Preferred => Family::Other,
                        Family::Other => Family::Preferred,
                    };
                }
            }
        }
        // Strangers do not look at the device's certificate.
        stray && !matches!(cause, Cause::Tls(TlsCause::ClientCertificateRejected(_)))
    }
}
