//! One HTTP request and its response, without retries.
//!
//! The body is limited to [`MAX_BODY`] while it arrives, and the time by a connect timeout and an
//! attempt timeout. Redirects are not followed. Request and response contain secrets, so both
//! buffers are zeroized and neither is logged.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use cloud_net::{Proxy, UntrustedText, root_cause};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use rustls::CertificateError;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::attempt_state::AttemptTracker;
use crate::clock_skew::ClockSkew;
use crate::error::{MalformedResponse, ProvisionError};
use crate::provisioned::{InvalidResponse, Provisioned};
use crate::proxy;
use crate::request::Registration;
use crate::response;

/// Maximum response body in bytes. A real one has about 15 KiB: five PEM texts, one of them a
/// chain.
pub const MAX_BODY: usize = 256 * 1024;

/// Result of [`Client::probe`](crate::Client::probe).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiProbe {
    /// The HTTP status. A platform that accepts only POST returns an error status here, which is
    /// fine.
    pub status: u16,
    /// Deviation of this device's clock from the platform's. `None` if the response has no `Date`.
    pub clock_skew: Option<ClockSkew>,
}

/// Sends single requests to the registration URL.
#[derive(Debug)]
pub(crate) struct ApiClient {
    pub(crate) http: reqwest::Client,
    pub(crate) url: Url,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) connect_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) tracker: AttemptTracker,
}

impl ApiClient {
    pub(crate) async fn send(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        self.tracker.start_attempt();
        let limit = self.attempt_timeout;
        let result = match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(Err(error)) => Err(self.explain(error).await),
            Ok(result) => result,
            Err(_) => Err(ProvisionError::TimedOut {
                url: self.url(),
                limit,
            }),
        };
        self.tracker.finish_attempt(&result);
        result
    }

    /// See [`Client::probe`](crate::Client::probe).
    pub(crate) async fn probe(&self) -> Result<ApiProbe, ProvisionError> {
        let (sent, started) = (SystemTime::now(), Instant::now());
        let unreachable = |reason| ProvisionError::Unreachable {
            url: self.url(),
            reason,
        };
        let request = self.http.get(self.url.clone()).send();
        let response = match tokio::time::timeout(self.attempt_timeout, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(match self.request_error(&error) {
                    // A GET has no effect that could be lost.
                    ProvisionError::Interrupted { reason, .. } => unreachable(reason),
                    other => self.explain(other).await,
                });
            }
            Err(_) => return Err(self.connect_timed_out(self.attempt_timeout)),
        };
        let status = response.status();
        match self.failed(status, retry_after(&response), None) {
            _ if status.is_redirection() => Err(self.redirect_error(&response)),
            // A web page with status 200 is not from the API.
            _ if status.is_success() && is_html(&response) => {
                Err(ProvisionError::WebPage { url: self.url() })
            }
            // A GET cannot have registered the device.
            error if error.may_have_registered() => Err(unreachable(
                format!("a gateway responded with {status}").into(),
            )),
            error @ (ProvisionError::CaptivePortal { .. } | ProvisionError::Server { .. }) => {
                Err(error)
            }
            _ => {
                let probe = ApiProbe {
                    status: status.as_u16(),
                    clock_skew: clock_skew(&response, sent, started.elapsed()),
                };
                // Any web server answers so; the other statuses show that the path is known.
                let is_of_any =
                    status.is_success() || status == StatusCode::NOT_FOUND || is_html(&response);
                if is_of_any && !self.is_platform().await {
                    return Err(ProvisionError::NotPlatform {
                        url: self.url(),
                        status: probe.status,
                    });
                }
                Ok(probe)
            }
        }
    }

    /// Returns whether the URL takes registrations: it answers one without a device and a key,
    /// which has no effect, in JSON.
    async fn is_platform(&self) -> bool {
        let exchange = async {
            let response = self.post("{}").await.ok()?;
            let status = response.status();
            let is_unknown = status == StatusCode::NOT_FOUND
                || status == StatusCode::METHOD_NOT_ALLOWED
                || status.is_redirection();
            let body = self.read(response).await.ok()?;
            Some(!is_unknown && response::is_object(&body))
        };
        let answer = tokio::time::timeout(self.attempt_timeout, exchange).await;
        matches!(answer, Ok(Some(true)))
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Result<Response> {
        self.http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .body(body)
            .send()
            .await
    }

    async fn exchange(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        let (sent, started) = (SystemTime::now(), Instant::now());
        let response = self.post(request.body).await;
        let response = response.map_err(|error| self.request_error(&error))?;
        let clock_skew = clock_skew(&response, sent, started.elapsed());
        let status = response.status();
        if status.is_redirection() {
            return Err(self.redirect_error(&response));
        }
        let retry_after = retry_after(&response);
        let is_html = is_html(&response);
        let body = self.read(response).await;
        if let Ok(body) = &body
            && let Some(message) = response::refusal(body, &request.key)
        {
            return Err(ProvisionError::Refused {
                url: self.url(),
                status: status.as_u16(),
                message,
            });
        }
        if !status.is_success() {
            let said = body.as_ref().ok().filter(|_| !is_html);
            let message = said.and_then(|body| response::message(body, &request.key));
            return Err(self.failed(status, retry_after, message));
        }
        let body = body?;
        let malformed = |what| ProvisionError::Malformed {
            url: self.url(),
            what,
        };
        let thing = response::thing(&body).map_err(|what| {
            malformed(if is_html {
                MalformedResponse::Html
            } else {
                what
            })
        })?;
        Provisioned::check(thing, request.keys.as_deref(), clock_skew).map_err(|invalid| {
            match invalid {
                InvalidResponse::Malformed(what) => malformed(what),
                InvalidResponse::CertificateMismatch(field) => {
                    ProvisionError::CertificateMismatch {
                        url: self.url(),
                        field,
                    }
                }
                InvalidResponse::KeyMismatch(field) => ProvisionError::KeyMismatch {
                    url: self.url(),
                    field,
                },
            }
        })
    }

    /// Reads the body up to the limit into one allocation, which never moves and leaves no copy of
    /// a secret.
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
                        reason: UntrustedText::of(&root_cause(&error)),
                    });
                }
            }
        }
    }

    fn failed(
        &self,
        status: StatusCode,
        retry_after: Option<Duration>,
        message: Option<UntrustedText>,
    ) -> ProvisionError {
        let (url, code) = (self.url(), status.as_u16());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ProvisionError::Unauthorized {
                url,
                status: code,
                message,
            },
            StatusCode::NETWORK_AUTHENTICATION_REQUIRED => ProvisionError::CaptivePortal { url },
            StatusCode::TOO_MANY_REQUESTS => ProvisionError::RateLimited { url, retry_after },
            _ if status.is_server_error() => ProvisionError::Server {
                url,
                status: code,
                message,
                retry_after,
            },
            _ => ProvisionError::Status {
                url,
                status: code,
                message,
            },
        }
    }

    fn redirect_error(&self, response: &Response) -> ProvisionError {
        let location = response.headers().get(LOCATION);
        ProvisionError::Redirected {
            url: self.url(),
            status: response.status().as_u16(),
            location: location.map_or_else(
                || "an unspecified location".into(),
                |value| UntrustedText::from_bytes(value.as_bytes()),
            ),
        }
    }

    /// Classifies an error: no connection was made, or the connection broke with the request in
    /// flight.
    fn request_error(&self, error: &reqwest::Error) -> ProvisionError {
        let (url, reason) = (self.url(), UntrustedText::of(&root_cause(error)));
        if !error.is_connect() {
            return ProvisionError::Interrupted { url, reason };
        }
        if error.is_timeout() {
            return self.connect_timed_out(self.connect_timeout);
        }
        match tls_error(error) {
            Some(error) => tls_failure(url, error),
            None => ProvisionError::Unreachable { url, reason },
        }
    }

    /// Finds out whether the proxy is why there was no connection.
    async fn explain(&self, error: ProvisionError) -> ProvisionError {
        let (Some(proxy), ProvisionError::Unreachable { url, reason }) = (&self.proxy, &error)
        else {
            return error;
        };
        let url = url.clone();
        match proxy::refusal(proxy, &self.url, self.connect_timeout).await {
            Some(error) => ProvisionError::Proxy { url, error },
            None => {
                let proxy = self.proxy_address().unwrap_or_default();
                let reason = format!("through the proxy {proxy}: {reason}").into();
                ProvisionError::Unreachable { url, reason }
            }
        }
    }

    fn connect_timed_out(&self, limit: Duration) -> ProvisionError {
        ProvisionError::ConnectTimedOut {
            url: self.url(),
            proxy: self.proxy_address(),
            limit,
        }
    }

    fn proxy_address(&self) -> Option<String> {
        self.proxy.as_ref()?.address_for(proxy::host(&self.url))
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

/// Parses `Retry-After` in both forms: seconds or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // Relative to the response's own date, because this device's clock may be wrong.
    let now = date(response).unwrap_or_else(SystemTime::now);
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

fn date(response: &Response) -> Option<SystemTime> {
    let value = response.headers().get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(value).ok()
}

/// Returns the TLS error in the source chain, if any.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut causes = std::iter::successors(error.source(), |&cause| {
        let wrapped = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            // `io::Error::source` skips the wrapped error and returns that error's source.
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    });
    causes.find_map(|cause| cause.downcast_ref())
}

fn tls_failure(url: String, error: &rustls::Error) -> ProvisionError {
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

/// Measures the clock skew by the response's `Date`.
fn clock_skew(response: &Response, sent: SystemTime, took: Duration) -> Option<ClockSkew> {
    let skew = ClockSkew::measure(date(response)?, sent, took);
    if skew.is_significant() {
        tracing::warn!(clock = %skew, "the clock of this device is wrong");
    }
    Some(skew)
}
