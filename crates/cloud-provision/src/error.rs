//! What can go wrong with a registration, told apart by whose fault it was and whether trying again helps.
//!
//! No message contains the provisioning key or anything of a private key; what the platform says is [`UntrustedText`].

use std::time::{Duration, SystemTime};

use cloud_net::UntrustedText;

use crate::clock::Rough;
use crate::keys::{KeyPurpose, KeySourceError};

/// What every error says that [may have registered](ProvisionError::may_have_registered) the device.
const PERHAPS: &str = "it may have registered the device all the same, and then needs a new key";

/// The client could not be set up. A mistake in the configuration; trying again cannot help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The base URL is not usable.
    #[error("the API's URL is not usable: {reason}")]
    Url {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A plain `http` URL that leads to another machine, which would give secrets away.
    #[error("{url} is not encrypted; use https:// (http:// is for this machine alone)")]
    NotEncrypted {
        /// The URL.
        url: String,
    },
    /// An additional root certificate cannot be used.
    #[error("the additional root certificate {0}")]
    Root(&'static str),
    /// The system has no root certificates, and none was given.
    #[error(
        "no trusted root certificates on this system; install them (ca-certificates) or give one"
    )]
    NoRoots,
    /// The proxy's URL is not usable. It is not repeated, as it may contain a password.
    #[error("the proxy's URL {0}")]
    Proxy(&'static str),
    /// A time limit or a number of attempts that makes no sense.
    #[error("{0}")]
    Limit(&'static str),
    /// The HTTP client or TLS did not accept its configuration.
    #[error("cannot set up the HTTPS client: {0}")]
    Http(String),
}

/// The registration did not succeed. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The serial number is not 1 to 128 of `A-Z a-z 0-9 _ - . :`. Nothing was sent.
    #[error("the serial number {0}")]
    SerialNumber(SerialProblem),
    /// The platform said no, in words of its own.
    #[error("{url} refused the registration (HTTP {status}): {message}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The platform's reason.
        message: UntrustedText,
    },
    /// As [`Refused`](Self::Refused) or [`Unauthorized`](Self::Unauthorized), but after an attempt of the same call that
    /// ended without a clear answer: it may have registered the device and used up the key, and be why this one was refused.
    #[error(
        "{url} refused the registration (HTTP {status}): {message}; an attempt just before ended with HTTP {earlier} and may have registered the device, which then needs a new key"
    )]
    RefusedLater {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The platform's reason.
        message: UntrustedText,
        /// The HTTP status of the attempt before.
        earlier: u16,
    },
    /// 401 or 403: the key is wrong, used up, or not for this device.
    #[error(
        "{url} does not accept the provisioning key (HTTP {status}); get a new one for this device"
    )]
    Unauthorized {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// 429, longer than we are ready to wait.
    #[error("{url} is asked too often (HTTP 429); {}", wait(*.retry_after))]
    RateLimited {
        /// What was asked.
        url: String,
        /// How long it wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// 5xx, several times.
    #[error("{url} has a problem of its own (HTTP {status}); try again later{}", perhaps(*status))]
    Server {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long it wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// Another status that is not success: most likely not the platform's API.
    #[error("{url} answered HTTP {status}; is the API's URL right?")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// It sent us elsewhere. Not followed: the key goes to the address that was configured and to no other.
    #[error(
        "{url} redirects (HTTP {status}) to {location}; a captive portal, or the API's URL is wrong"
    )]
    Redirected {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Where to.
        location: UntrustedText,
    },
    /// No connection: name not found, refused, no route. Nothing was sent.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The operating system's words.
        reason: UntrustedText,
    },
    /// There is a server, and it could not prove that it is the right one. Nothing was sent.
    #[error(
        "{url} cannot be trusted: {reason}; check the URL, whether the API needs a root certificate of its own, and whether a captive portal or an inspecting proxy stands in between"
    )]
    Untrusted {
        /// What was asked.
        url: String,
        /// What TLS says.
        reason: UntrustedText,
    },
    /// The server's certificate is not valid yet at the time that our clock shows. Nothing was sent. A clock that starts
    /// wrong and is set over the network makes this pass.
    #[error(
        "{url} cannot be trusted: by the clock of this device it is {}, and the certificate is valid from {}; the clock is wrong by at least {}, or the certificate is not meant for use yet",
        httpdate::fmt_http_date(*.clock), httpdate::fmt_http_date(*.valid_from), between(*.clock, *.valid_from)
    )]
    NotValidYet {
        /// What was asked.
        url: String,
        /// What our clock showed.
        clock: SystemTime,
        /// When the certificate begins to be valid.
        valid_from: SystemTime,
    },
    /// The server's certificate is not valid any more at the time that our clock shows. Nothing was sent.
    #[error(
        "{url} cannot be trusted: by the clock of this device it is {}, and the certificate was valid until {}; it has run out, or the clock is wrong by at least {}",
        httpdate::fmt_http_date(*.clock), httpdate::fmt_http_date(*.valid_until), between(*.valid_until, *.clock)
    )]
    Expired {
        /// What was asked.
        url: String,
        /// What our clock showed.
        clock: SystemTime,
        /// When the certificate ceased to be valid.
        valid_until: SystemTime,
    },
    /// The proxy could not be reached, or does not let us through. Nothing was sent.
    #[error(
        "no way to {url} through the proxy: {reason}; check its address, its rules, and the password"
    )]
    Proxy {
        /// What was asked.
        url: String,
        /// What happened.
        reason: UntrustedText,
    },
    /// 511: the network wants somebody to sign in first. Nothing got to the platform.
    #[error("a captive portal stands before {url} (HTTP 511); sign in to the network first")]
    CaptivePortal {
        /// What was asked.
        url: String,
    },
    /// Where [`Client::reach`](crate::Client::reach) looked for the API, there is a web page. Nothing was sent.
    #[error("{url} is a web page; a captive portal, or the API's URL is wrong")]
    WebPage {
        /// What was asked.
        url: String,
    },
    /// No connection within the time limit. Nothing was sent.
    #[error("{url} cannot be reached within {} s", limit.as_secs_f32())]
    ConnectTimedOut {
        /// What was asked.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// Connected, and no whole answer within the time limit. See [`ProvisionError::may_have_registered`].
    #[error("{url} did not answer within {} s; {PERHAPS}", limit.as_secs_f32())]
    TimedOut {
        /// What was asked.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke after the request was sent. See [`ProvisionError::may_have_registered`].
    #[error("the connection to {url} broke before the answer was there ({reason}); {PERHAPS}")]
    Interrupted {
        /// What was asked.
        url: String,
        /// What happened to the connection.
        reason: UntrustedText,
    },
    /// The answer is not what it should be.
    #[error("{url} gave an answer that cannot be used: {what}; {PERHAPS}")]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        what: Malformed,
    },
    /// A private key does not belong to its certificate.
    #[error(
        "{url} sent a private key at `{field}` that does not belong to its certificate; report this to the platform; {PERHAPS}"
    )]
    Mismatched {
        /// What was asked.
        url: String,
        /// The key's place in the answer.
        field: &'static str,
    },
    /// A certificate is for another key than the one that it was asked for.
    #[error(
        "{url} sent a certificate at `{field}` that is not for the key that this device made; report this to the platform; {PERHAPS}"
    )]
    ForeignCertificate {
        /// What was asked.
        url: String,
        /// The certificate's place in the answer.
        field: &'static str,
    },
    /// A key cannot be made on this device, or not be used. Nothing was sent.
    #[error("this device cannot make its own key for {purpose}: {error}")]
    OwnKey {
        /// Which key.
        purpose: KeyPurpose,
        /// Why.
        error: KeySourceError,
    },
    /// The keys were not made within the time limit for the whole. Nothing was sent.
    #[error("this device did not make its own keys within {} s", .0.as_secs_f32())]
    OwnKeysTimedOut(Duration),
    /// The answer is longer than [`crate::MAX_BODY`]; the rest was not read.
    #[error("{url} gave an answer of more than {limit} bytes; is the API's URL right? {PERHAPS}")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// What is wrong with a serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerialProblem {
    /// There is none.
    #[error("is empty")]
    Empty,
    /// More than 128 characters.
    #[error("is longer than 128 characters")]
    TooLong,
    /// One that is not allowed.
    #[error("contains {0:?}; allowed are letters and digits of ASCII and _ - . :")]
    Character(char),
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A web page: something stands between us and the platform.
    #[error("it is a web page; a captive portal, or the API's URL is wrong")]
    Html,
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// JSON that stops too early.
    #[error("it is cut off")]
    CutOff,
    /// Not JSON.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// JSON, and not an object.
    #[error("it must be an object, not {found}")]
    NotAnObject {
        /// The type that it has instead.
        found: &'static str,
    },
    /// A value is of the wrong type.
    #[error("`{field}` must be {expected}, not {found}")]
    WrongType {
        /// Its place in the answer.
        field: &'static str,
        /// The type that it should have.
        expected: &'static str,
        /// The type that it has.
        found: &'static str,
    },
    /// An object has a key twice.
    #[error("a key in it is given twice (line {line}, column {column})")]
    RepeatedKey {
        /// Line of the second one, from 1.
        line: usize,
        /// Column of the second one, from 1.
        column: usize,
    },
    /// A key is absent or null.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A value is there and not valid.
    #[error("`{field}` {problem}")]
    Invalid {
        /// Its place in the answer.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) => format!("try again in {} s", time.as_secs()),
        None => "try again later".to_owned(),
    }
}

/// Whether a status is a gateway's that does not know what became of the request behind it.
fn is_gateway(status: u16) -> bool {
    matches!(status, 502 | 504)
}

fn perhaps(status: u16) -> String {
    match is_gateway(status) {
        true => format!("; {PERHAPS}"),
        false => String::new(),
    }
}

/// The distance between two times, as people say it.
fn between(earlier: SystemTime, later: SystemTime) -> Rough {
    Rough(later.duration_since(earlier).unwrap_or_default())
}

impl ProvisionError {
    /// Whether the same call, made later, may succeed without anyone having changed anything here.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Server { .. }
                | Self::Unreachable { .. }
                | Self::ConnectTimedOut { .. }
                | Self::NotValidYet { .. }
                | Self::Proxy { .. }
                | Self::CaptivePortal { .. }
        )
    }

    /// Whether the platform may have registered the device although its answer did not arrive. The provisioning key may
    /// then be used up; trying again does no harm, and is refused in that case. This is about the attempt that the error tells
    /// of, the last one of the call.
    ///
    /// The error's own words say so, too, and that a new key is needed then.
    #[must_use]
    pub fn may_have_registered(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::RefusedLater { .. }
            | Self::Malformed { .. }
            | Self::Mismatched { .. }
            | Self::ForeignCertificate { .. }
            | Self::TooLarge { .. } => true,
            Self::Server { status, .. } => is_gateway(*status),
            _ => false,
        }
    }
}
