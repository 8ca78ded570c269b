//! One request and its answer, without a second try.
//!
//! Everything that the other side sends is bounded: the body by [`MAX_BODY`] while it arrives, the time by a limit on
//! connecting and one on the whole. Redirects are not followed. What goes out and what comes in carries secrets, so both
//! buffers are wiped and neither is ever logged.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::answer::{self, printable};
use crate::error::{Malformed, ProvisionError};
use crate::provisioned::{Doubt, Provisioned};
use crate::secret::ProvisioningKey;

/// Longest answer read, in bytes. A real one has about 15 KiB: five PEM texts, of which one is a chain.
pub const MAX_BODY: usize = 256 * 1024;

/// What is sent, as often as needed. Clones share the body, which is wiped with the last of them.
#[derive(Clone)]
pub(crate) struct Registration {
    body: Bytes,
    key: ProvisioningKey,
}

#[derive(Serialize)]
struct Body<'a> {
    sn: &'a str,
    token: &'a str,
}

impl Registration {
    /// The request for a serial number that was checked.
    pub(crate) fn new(serial: &str, key: &ProvisioningKey) -> Self {
        let body = Body {
            sn: serial,
            token: key.expose(),
        };
        // Room for an escape at every character of the key, so that the buffer does not move and leave a copy behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(
            64 + serial.len() + 2 * key.expose().len(),
        ));
        // Two strings into memory: this has no way to fail.
        let _ = serde_json::to_writer(&mut *buffer, &body);
        Self {
            body: Bytes::from_owner(Wiped(buffer)),
            key: key.clone(),
        }
    }
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Where and how to ask.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) http: reqwest::Client,
    pub(crate) url: Url,
    pub(crate) connect_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
}

impl Exchange {
    pub(crate) async fn send(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        match tokio::time::timeout(self.attempt_timeout, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(ProvisionError::TimedOut {
                url: self.url(),
                limit: self.attempt_timeout,
            }),
        }
    }

    async fn exchange(&self, request: Registration) -> Result<Provisioned, ProvisionError> {
        let response = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(request.body)
            .send()
            .await
            .map_err(|error| self.not_sent_or_lost(&error))?;
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
        Provisioned::check(thing).map_err(|doubt| match doubt {
            Doubt::Malformed(what) => malformed(what),
            Doubt::Mismatched(field) => ProvisionError::Mismatched {
                url: self.url(),
                field,
            },
        })
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
                        reason: innermost(&error),
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
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        ProvisionError::Redirected {
            url: self.url(),
            status: response.status().as_u16(),
            location: location.map_or_else(|| "nowhere".to_owned(), printable),
        }
    }

    /// Tells a connection that was never made from one that broke with the request on its way.
    fn not_sent_or_lost(&self, error: &reqwest::Error) -> ProvisionError {
        let (url, reason) = (self.url(), innermost(error));
        if !error.is_connect() {
            return ProvisionError::Interrupted { url, reason };
        }
        if error.is_timeout() {
            return ProvisionError::ConnectTimedOut {
                url,
                limit: self.connect_timeout,
            };
        }
        match tls_error(error) {
            Some(reason) => ProvisionError::Untrusted { url, reason },
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
    let at = httpdate::parse_http_date(value).ok()?;
    Some(
        at.duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO),
    )
}

/// The cause at the end of the chain, which is what a person can act on; the links before it say "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut current: &dyn Error = error;
    while let Some(next) = current.source() {
        current = next;
    }
    printable(&current.to_string())
}

/// What TLS had against the server, if it was TLS.
fn tls_error(error: &reqwest::Error) -> Option<String> {
    let mut current: Option<&dyn Error> = error.source();
    while let Some(link) = current {
        if let Some(tls) = link.downcast_ref::<rustls::Error>() {
            return Some(printable(&tls.to_string()));
        }
        current = match link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            // An I/O error names as its source the source of what it wraps, and so passes over the wrapped error itself.
            Some(wrapped) => Some(wrapped),
            None => link.source(),
        };
    }
    None
}
