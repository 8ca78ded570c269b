//! One request and its answer, without a second try.
//!
//! Everything that the other side sends is bounded: the body by [`MAX_BODY`] while it arrives, the time by a limit on
//! connecting and one on the whole. Redirects are not followed. What goes out and what comes in carries secrets, so both
//! buffers are wiped and neither is ever logged.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use cloud_net::UntrustedText;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use rustls::CertificateError;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::answer;
use crate::clock::ClockSkew;
use crate::error::{Malformed, ProvisionError};
use crate::provisioned::{Doubt, Provisioned};
use crate::request::Registration;
use crate::stage::Progress;

/// Longest answer read, in bytes. A real one has about 15 KiB: five PEM texts, of which one is a chain.
pub const MAX_BODY: usize = 256 * 1024;

/// What [`Client::reach`](crate::Client::reach) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reached {
    /// The HTTP status of the answer. It is not success on any platform that takes nothing but POST, which does not matter.
    pub status: u16,
    /// How far this device's clock is from the platform's. `None` if the answer had no date.
    pub clock_skew: Option<ClockSkew>,
}

/// Where and how to ask.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) http: reqwest::Client,
    pub(crate) url: Url,
    pub(crate) connect_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) progress: Progress,
}

impl Exchange {
    pub(crate) async fn send(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        self.progress.ask();
        let limit = self.attempt_timeout;
        let result = match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(ProvisionError::TimedOut {
                url: self.url(),
                limit,
            }),
        };
        self.progress.end(&result);
        result
    }

    /// See [`Client::reach`](crate::Client::reach).
    pub(crate) async fn reach(&self) -> Result<Reached, ProvisionError> {
        let (sent, begun) = (SystemTime::now(), Instant::now());
        let unreachable = |reason| ProvisionError::Unreachable {
            url: self.url(),
            reason,
        };
        let response =
            tokio::time::timeout(self.attempt_timeout, self.http.get(self.url.clone()).send())
                .await
                .map_err(|_| ProvisionError::ConnectTimedOut {
                    url: self.url(),
                    limit: self.attempt_timeout,
                })?
                .map_err(|error| match self.not_sent_or_lost(&error) {
                    // There was nothing in it that could have been lost.
                    ProvisionError::Interrupted { reason, .. } => unreachable(reason),
                    other => other,
                })?;
        let status = response.status();
        match self.failed(status, retry_after(&response)) {
            _ if status.is_redirection() => Err(self.redirected(&response)),
            // A browser's page with status 200 is no API's answer.
            _ if status.is_success() && is_html(&response) => {
                Err(ProvisionError::WebPage { url: self.url() })
            }
            // There was no request behind it that could have come to something.
            error if error.may_have_registered() => {
                Err(unreachable(format!("a gateway says {status}").into()))
            }
            error @ (ProvisionError::CaptivePortal { .. } | ProvisionError::Server { .. }) => {
                Err(error)
            }
            _ => Ok(Reached {
                status: status.as_u16(),
                clock_skew: clock_skew(&response, sent, begun.elapsed()),
            }),
        }
    }

    async fn exchange(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        let (sent, begun) = (SystemTime::now(), Instant::now());
        let response = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(request.body)
            .send()
            .await
            .map_err(|error| self.not_sent_or_lost(&error))?;
        let clock_skew = clock_skew(&response, sent, begun.elapsed());
        let status = response.status();
        if status.is_redirection() {
            return Err(self.redirected(&response));
        }
        let retry_after = retry_after(&response);
        let is_html = is_html(&response);
        let body = self.read(response).await;
        if let Ok(body) = &body
            && let Some(message) = answer::refusal(body, &request.key)
        {
            return Err(ProvisionError::Refused {
                url: self.url(),
                status: status.as_u16(),
                message,
            });
        }
        if !status.is_success() {
            return Err(self.failed(status, retry_after));
        }
        let body = body?;
        let malformed = |what| ProvisionError::Malformed {
            url: self.url(),
            what,
        };
        let thing = answer::thing(&body)
            .map_err(|what| malformed(if is_html { Malformed::Html } else { what }))?;
        Provisioned::check(thing, request.keys.as_deref(), clock_skew).map_err(
            |doubt| match doubt {
                Doubt::Malformed(what) => malformed(what),
                Doubt::Foreign(field) => ProvisionError::ForeignCertificate {
                    url: self.url(),
                    field,
                },
                Doubt::Mismatched(field) => ProvisionError::Mismatched {
                    url: self.url(),
                    field,
                },
            },
        )
    }

    /// The body, up to the limit, in one allocation that does not move.
    async fn read(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, ProvisionError> {
        let too_large = || ProvisionError::TooLarge {
            url: self.url(),
            limit: MAX_BODY,
        };
        if response
            .content_length()
            .is_some_and(|length| length > MAX_BODY as u64)
        {
            return Err(too_large());
        }
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY => return Err(too_large()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) => {
                    return Err(ProvisionError::Interrupted {
                        url: self.url(),
                        reason: innermost(&error).into(),
                    });
                }
            }
        }
    }

    fn failed(&self, status: StatusCode, retry_after: Option<Duration>) -> ProvisionError {
        let (url, code) = (self.url(), status.as_u16());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ProvisionError::Unauthorized { url, status: code }
            }
            StatusCode::NETWORK_AUTHENTICATION_REQUIRED => ProvisionError::CaptivePortal { url },
            StatusCode::TOO_MANY_REQUESTS => ProvisionError::RateLimited { url, retry_after },
            _ if status.is_server_error() => ProvisionError::Server {
                url,
                status: code,
                retry_after,
            },
            _ => ProvisionError::Status { url, status: code },
        }
    }

    fn redirected(&self, response: &Response) -> ProvisionError {
        let location = response.headers().get(LOCATION);
        ProvisionError::Redirected {
            url: self.url(),
            status: response.status().as_u16(),
            location: location.map_or_else(
                || "nowhere".into(),
                |value| UntrustedText::from_bytes(value.as_bytes()),
            ),
        }
    }

    /// Tells a connection that was never made from one that broke with the request on its way.
    fn not_sent_or_lost(&self, error: &reqwest::Error) -> ProvisionError {
        let (url, reason) = (self.url(), UntrustedText::from(innermost(error)));
        if !error.is_connect() {
            return ProvisionError::Interrupted { url, reason };
        }
        if error.is_timeout() {
            return ProvisionError::ConnectTimedOut {
                url,
                limit: self.connect_timeout,
            };
        }
        if let Some(reason) = proxy_error(error) {
            return ProvisionError::Proxy { url, reason };
        }
        match tls_error(error) {
            Some(error) => untrusted(url, error),
            None => ProvisionError::Unreachable { url, reason },
        }
    }

    fn url(&self) -> String {
        self.url.to_string()
    }
}

fn is_html(response: &Response) -> bool {
    let media_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| {
        media_type
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("text/html")
    })
}

/// `Retry-After` in either of its forms: seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // Against the answer's own date, since our clock may be wrong.
    let now = date(response).unwrap_or_else(SystemTime::now);
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

fn date(response: &Response) -> Option<SystemTime> {
    let value = response.headers().get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(value).ok()
}

/// The cause at the end of the chain, which is what a person can act on; the links before it say "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut current: &dyn Error = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}

/// Each error that led to this one, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |&link| {
        match link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            // An I/O error names as its source the source of what it wraps, and so passes over the wrapped error itself.
            Some(wrapped) => Some(wrapped),
            None => link.source(),
        }
    })
}

/// What went wrong between us and a proxy, if that is where it went wrong.
fn proxy_error(error: &reqwest::Error) -> Option<UntrustedText> {
    // The type is not public; its words are.
    let at = |link: &&(dyn Error + 'static)| link.to_string().starts_with("tunnel error: ");
    let tunnel = causes(error).find(at)?.to_string();
    let tunnel = tunnel.trim_start_matches("tunnel error: ");
    Some(match innermost(error) {
        cause if cause.ends_with(tunnel) => tunnel.into(),
        cause => format!("{tunnel} ({cause})").into(),
    })
}

/// What TLS had against the server, if it was TLS.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|link| link.downcast_ref())
}

fn untrusted(url: String, error: &rustls::Error) -> ProvisionError {
    let at = |time: UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time,
            not_before,
        }) => ProvisionError::NotValidYet {
            url,
            clock: at(*time),
            valid_from: at(*not_before),
        },
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            ProvisionError::Expired {
                url,
                clock: at(*time),
                valid_until: at(*not_after),
            }
        }
        other => ProvisionError::Untrusted {
            url,
            reason: UntrustedText::of(other),
        },
    }
}

/// Our clock against the answer's `Date`.
fn clock_skew(response: &Response, sent: SystemTime, took: Duration) -> Option<ClockSkew> {
    let skew = ClockSkew::measure(date(response)?, sent, took);
    if skew.is_significant() {
        tracing::warn!(clock = %skew, "the clock of this device is wrong");
    }
    Some(skew)
}
