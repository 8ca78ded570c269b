//! Errors of the builder and of a registration, distinguished by cause and by whether a retry
//! helps.
//!
//! No message contains the provisioning key or part of a private key; text from the platform is
//! [`UntrustedText`].

use std::time::{Duration, SystemTime};

use cloud_net::{InvalidProxy, ProxyError, ProxyFailure, UntrustedText};
use cloud_pki::key::KeyError;
use cloud_pki::pem::PemError;

use crate::clock_skew::HumanDuration;
use crate::keys::{KeyPurpose, KeySourceError};
use crate::serial::SerialNumberError;

/// The next step in every error that [may have registered](ProvisionError::may_have_registered) the
/// device.
const MAY_HAVE_REGISTERED: &str = "it may have registered the device, which then needs a new key";

/// The configuration is invalid. A retry cannot help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The base URL is not usable.
    #[error("the API's URL is not usable: {reason}")]
    Url {
        /// The problem.
        reason: &'static str,
    },
    /// A plain `http` URL of another machine, which would expose secrets.
    #[error("{url} is not encrypted; use https:// (http:// is for this machine only)")]
    NotEncrypted {
        /// The URL.
        url: String,
    },
    /// An additional root certificate cannot be used.
    #[error("the text with the additional root certificate {0}")]
    Root(#[source] PemError),
    /// An additional root certificate is not one that TLS can use.
    #[error("the additional root certificate cannot be used as a root")]
    UnusableRoot,
    /// The system has no root certificates, and none is configured.
    #[error(
        "no trusted root certificates on this system; install them (ca-certificates) or configure one"
    )]
    NoRoots,
    /// The proxy's URL is not usable. The message omits it, because it may contain a password.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    /// A time limit or number of attempts is out of range.
    #[error("{0}")]
    Limit(&'static str),
    /// The HTTP client or TLS rejected its configuration.
    #[error("cannot set up the HTTPS client: {0}")]
    Http(String),
}

/// The registration failed. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The serial number is not 1 to 128 of `A-Z a-z 0-9 _ - . :`. Nothing was sent.
    #[error("the serial number {0}")]
    SerialNumber(SerialNumberError),
    /// The platform refused and gave a reason.
    #[error("{url} refused the registration (HTTP {status}): {message}")]
    Refused {
        /// The request URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The platform's reason.
        message: UntrustedText,
    },
    /// Like [`Refused`](Self::Refused) or [`Unauthorized`](Self::Unauthorized), but after an
    /// ambiguous attempt of the same call, which may have registered the device and used up the
    /// key, and so caused this refusal.
    #[error(
        "{url} refused the registration (HTTP {status}): {message}; the attempt before ended with HTTP {earlier} and may have registered the device, which then needs a new key"
    )]
    RefusedAfterRetry {
        /// The request URL.
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
        "{url} does not accept the provisioning key (HTTP {status}{}); get a new one for this device",
        words(message)
    )]
    Unauthorized {
        /// The request URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the response says, if it says anything.
        message: Option<UntrustedText>,
    },
    /// 429 with a longer `Retry-After` than permitted.
    #[error("{url} limits the request rate (HTTP 429); {}", wait(*.retry_after))]
    RateLimited {
        /// The request URL.
        url: String,
        /// The response's `Retry-After`, if any.
        retry_after: Option<Duration>,
    },
    /// 5xx on every attempt.
    #[error("{url} has a server error (HTTP {status}{}); try again later{}", words(message), may_have_registered_suffix(*status))]
    Server {
        /// The request URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the response says, if it says anything.
        message: Option<UntrustedText>,
        /// The response's `Retry-After`, if any.
        retry_after: Option<Duration>,
    },
    /// Another unsuccessful status. Without a message it is most likely not the platform's API.
    #[error(
        "{url} answered HTTP {status}{}",
        words_or(message, "; is the API's URL right?")
    )]
    Status {
        /// The request URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the response says, if it says anything.
        message: Option<UntrustedText>,
    },
    /// The server redirected. Not followed: the key goes to the configured address only.
    #[error(
        "{url} redirects (HTTP {status}) to {location}; a captive portal, or the API's URL is wrong"
    )]
    Redirected {
        /// The request URL.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The redirect's target.
        location: UntrustedText,
    },
    /// No connection: unknown host, refused, no route. Nothing was sent.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The request URL.
        url: String,
        /// The operating system's message.
        reason: UntrustedText,
    },
    /// TLS could not authenticate the server. Nothing was sent.
    #[error(
        "{url} cannot be trusted: {reason}; check the URL, whether the API needs an additional root certificate, and whether a captive portal or a TLS-inspecting proxy intercepts the connection"
    )]
    Untrusted {
        /// The request URL.
        url: String,
        /// The TLS error.
        reason: UntrustedText,
    },
    /// The server's certificate is not valid yet by this device's clock. Nothing was sent.
    /// Retryable, because the clock may be set over the network.
    #[error(
        "{url} cannot be trusted: by the clock of this device it is {}, and the certificate is valid from {}; the clock is wrong by at least {}, or the certificate is not in use yet",
        httpdate::fmt_http_date(*.clock), httpdate::fmt_http_date(*.valid_from), between(*.clock, *.valid_from)
    )]
    NotValidYet {
        /// The request URL.
        url: String,
        /// The time by this device's clock.
        clock: SystemTime,
        /// The start of the certificate's validity.
        valid_from: SystemTime,
    },
    /// The server's certificate has expired by this device's clock. Nothing was sent.
    #[error(
        "{url} cannot be trusted: by the clock of this device it is {}, and the certificate was valid until {}; it has expired, or the clock is wrong by at least {}",
        httpdate::fmt_http_date(*.clock), httpdate::fmt_http_date(*.valid_until), between(*.valid_until, *.clock)
    )]
    Expired {
        /// The request URL.
        url: String,
        /// The time by this device's clock.
        clock: SystemTime,
        /// The end of the certificate's validity.
        valid_until: SystemTime,
    },
    /// The proxy is unreachable or refused the connection. Nothing was sent.
    #[error("{url} cannot be reached through the proxy {}: {}", .error.proxy, .error.failure)]
    Proxy {
        /// The request URL.
        url: String,
        /// What the proxy answered.
        error: ProxyError,
    },
    /// 511: the network requires a sign-in first. Nothing reached the platform.
    #[error("a captive portal blocks {url} (HTTP 511); sign in to the network first")]
    CaptivePortal {
        /// The request URL.
        url: String,
    },
    /// [`Client::probe`](crate::Client::probe) received a web page. Nothing was sent.
    #[error("{url} is a web page; a captive portal, or the API's URL is wrong")]
    WebPage {
        /// The request URL.
        url: String,
    },
    /// [`Client::probe`](crate::Client::probe) reached a server that answers, but not to
    /// registrations. No key was sent.
    #[error(
        "{url} answers with status {status}, but not as a Clesyde platform does: the API's URL is wrong"
    )]
    NotPlatform {
        /// The request URL.
        url: String,
        /// The HTTP status of the response to a GET.
        status: u16,
    },
    /// No connection within the time limit. Nothing was sent.
    #[error("{url} cannot be reached{} within {} s", through(.proxy), limit.as_secs_f32())]
    ConnectTimedOut {
        /// The request URL.
        url: String,
        /// The proxy's host and port, if one is used.
        proxy: Option<String>,
        /// The limit.
        limit: Duration,
    },
    /// Connected, but no complete response within the time limit. See
    /// [`ProvisionError::may_have_registered`].
    #[error("{url} did not answer within {} s; {MAY_HAVE_REGISTERED}", limit.as_secs_f32())]
    TimedOut {
        /// The request URL.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke after the request was sent. See
    /// [`ProvisionError::may_have_registered`].
    #[error(
        "the connection to {url} broke before the response arrived ({reason}); {MAY_HAVE_REGISTERED}"
    )]
    Interrupted {
        /// The request URL.
        url: String,
        /// Why the connection broke.
        reason: UntrustedText,
    },
    /// The response does not follow the protocol.
    #[error("{url} sent a response that cannot be used: {what}; {MAY_HAVE_REGISTERED}")]
    Malformed {
        /// The request URL.
        url: String,
        /// The problem.
        what: MalformedResponse,
    },
    /// A private key does not belong to its certificate.
    #[error(
        "{url} sent a private key at `{field}` that does not belong to its certificate; report this to the platform; {MAY_HAVE_REGISTERED}"
    )]
    KeyMismatch {
        /// The request URL.
        url: String,
        /// The key's path in the response.
        field: &'static str,
    },
    /// A certificate is for a different key than the one in the signing request.
    #[error(
        "{url} sent a certificate at `{field}` that is not for the key that this device generated; report this to the platform; {MAY_HAVE_REGISTERED}"
    )]
    CertificateMismatch {
        /// The request URL.
        url: String,
        /// The certificate's path in the response.
        field: &'static str,
    },
    /// A key cannot be generated on this device or is not usable. Nothing was sent.
    #[error("this device cannot generate its own key for {purpose}: {error}")]
    DeviceKey {
        /// The key's purpose.
        purpose: KeyPurpose,
        /// The reason.
        error: KeySourceError,
    },
    /// The keys were not generated within the total time limit. Nothing was sent.
    #[error("this device did not generate its own keys within {} s", .0.as_secs_f32())]
    DeviceKeysTimedOut(Duration),
    /// The response exceeds [`crate::MAX_BODY`]; the rest was not read.
    #[error(
        "{url} sent a response of more than {limit} bytes; is the API's URL right? {MAY_HAVE_REGISTERED}"
    )]
    TooLarge {
        /// The request URL.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Reason that a response is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedResponse {
    /// A web page: a captive portal or a wrong URL.
    #[error("it is a web page; a captive portal, or the API's URL is wrong")]
    Html,
    /// An empty body.
    #[error("it is empty")]
    Empty,
    /// Truncated JSON.
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
    /// JSON other than an object.
    #[error("it must be an object, not {found}")]
    NotAnObject {
        /// The actual type.
        found: &'static str,
    },
    /// A value is of the wrong type.
    #[error("`{field}` must be {expected}, not {found}")]
    WrongType {
        /// The value's path in the response.
        field: &'static str,
        /// The expected type.
        expected: &'static str,
        /// The actual type.
        found: &'static str,
    },
    /// An object has a duplicate key.
    #[error("it contains a duplicate key (line {line}, column {column})")]
    RepeatedKey {
        /// Line of the second occurrence, from 1.
        line: usize,
        /// Column of the second occurrence, from 1.
        column: usize,
    },
    /// A key is absent or null.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A certificate or private key cannot be read.
    #[error("`{field}` {error}; report this to the platform, which made it")]
    DamagedPem {
        /// The value's path in the response.
        field: &'static str,
        /// The problem.
        error: PemError,
    },
    /// TLS cannot use a private key.
    #[error("`{field}` {error}; report this to the platform, which made it")]
    UnusableKey {
        /// The value's path in the response.
        field: &'static str,
        /// The problem.
        error: KeyError,
    },
    /// A value is present but invalid.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The value's path in the response.
        field: &'static str,
        /// The problem.
        problem: &'static str,
    },
}

fn words(message: &Option<UntrustedText>) -> String {
    words_or(message, "")
}

fn words_or(message: &Option<UntrustedText>, otherwise: &str) -> String {
    match message {
        Some(message) => format!(": {message}"),
        None => otherwise.to_owned(),
    }
}

fn through(proxy: &Option<String>) -> String {
    let text = |proxy| format!(" through the proxy {proxy}");
    proxy.as_ref().map_or_else(String::new, text)
}

fn wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) => format!("try again in {} s", time.as_secs()),
        None => "try again later".to_owned(),
    }
}

/// Reports whether the status is from a gateway that does not know the outcome of the forwarded
/// request.
fn is_gateway(status: u16) -> bool {
    matches!(status, 502 | 504)
}

fn may_have_registered_suffix(status: u16) -> String {
    match is_gateway(status) {
        true => format!("; {MAY_HAVE_REGISTERED}"),
        false => String::new(),
    }
}

fn between(earlier: SystemTime, later: SystemTime) -> HumanDuration {
    HumanDuration(later.duration_since(earlier).unwrap_or_default())
}

impl ProvisionError {
    /// Reports whether the same call may succeed later without a change on this device.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // A repeated wrong password may lock the account.
            Self::Proxy { error, .. } => error.failure != ProxyFailure::Authentication,
            other => matches!(
                other,
                Self::RateLimited { .. }
                    | Self::Server { .. }
                    | Self::Unreachable { .. }
                    | Self::ConnectTimedOut { .. }
                    | Self::NotValidYet { .. }
                    | Self::CaptivePortal { .. }
            ),
        }
    }

    /// Reports whether the platform may have registered the device although no valid response
    /// arrived. The provisioning key may then be used up; a retry is harmless and is refused in
    /// that case. This refers to the attempt that the error describes: the last one of the call.
    ///
    /// The error's message says so too, and that the device then needs a new key.
    #[must_use]
    pub fn may_have_registered(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::RefusedAfterRetry { .. }
            | Self::Malformed { .. }
            | Self::KeyMismatch { .. }
            | Self::CertificateMismatch { .. }
            | Self::TooLarge { .. } => true,
            Self::Server { status, .. } => is_gateway(*status),
            _ => false,
        }
    }
}
