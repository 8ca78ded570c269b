//! Endpoint selection: the port, the preferred address family, and which endpoint the next attempt
//! uses when this one is unreachable.
//!
//! Ports alternate. Address families alternate when attempts on all ports have failed and one of
//! them timed out: over a path that loses large packets, as some IPv6 tunnels do, TCP connects at
//! once, wins against the other family, and TLS never completes. An endpoint that works is kept.

use cloud_net::AddressFamily;

use crate::error::cause::{Cause, TlsCause};

/// The port to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Main,
    /// Connects with the ALPN name that distinguishes MQTT from the other services on this port.
    Fallback(u16),
}

/// The endpoint of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) port: Port,
    pub(crate) first_family: AddressFamily,
}

#[derive(Debug)]
pub(super) struct EndpointSelector {
    current: Endpoint,
    main: u16,
    fallback: Option<u16>,
    /// Whether an attempt with this family timed out.
    timed_out: bool,
}

impl EndpointSelector {
    /// Creates a selector that starts with `preferred` if that is the fallback port.
    pub(super) fn new(main: u16, fallback: Option<u16>, preferred: Option<u16>) -> Self {
        let port = match fallback.filter(|port| preferred == Some(*port)) {
            Some(port) => Port::Fallback(port),
            None => Port::Main,
        };
        let first_family = AddressFamily::Preferred;
        Self {
            current: Endpoint { port, first_family },
            main,
            fallback,
            timed_out: false,
        }
    }

    /// Returns the endpoint of the current connection, or of the next attempt.
    pub(super) fn current(&self) -> Endpoint {
        self.current
    }

    /// Returns the port of that endpoint.
    pub(super) fn port(&self) -> u16 {
        match self.current.port {
            Port::Main => self.main,
            Port::Fallback(port) => port,
        }
    }

    /// Records a successful connection.
    pub(super) fn on_connected(&mut self) {
        self.timed_out = false;
    }

    /// Records a failed attempt, and selects another endpoint if this one is unreachable. Returns
    /// whether another service may have answered on the fallback port.
    pub(super) fn on_failure(&mut self, cause: &Cause) -> bool {
        let on_fallback = matches!(self.current.port, Port::Fallback(_));
        let another_service = on_fallback && cause.may_be_another_service();
        if !(cause.is_unreachable() || another_service) {
            return false;
        }
        self.timed_out |= matches!(
            cause,
            Cause::ConnectTimeout | Cause::Tls(TlsCause::HandshakeAborted)
        );
        match self.fallback {
            Some(fallback) if !on_fallback => self.current.port = Port::Fallback(fallback),
            _ => {
                self.current.port = Port::Main;
                if std::mem::take(&mut self.timed_out) {
                    self.current.first_family = match self.current.first_family {
                        AddressFamily::Preferred => AddressFamily::Other,
                        AddressFamily::Other => AddressFamily::Preferred,
                    };
                }
            }
        }
        // Another service does not check the device's certificate.
        another_service && !matches!(cause, Cause::Tls(TlsCause::ClientCertificateRejected(_)))
    }
}
