//! The request policy: checks that each request passes before the application gets it, in process
//! or at a local address.
//!
//! - It names one host, which this device serves: RFC 9110 §7.2 and §7.4, RFC 9112 §3.2, RFC 9113
//!   §8.3.1.
//! - It has one length: RFC 9110 §8.6, RFC 9112 §6.3.
//! - Its body is in no transfer coding but `chunked`: RFC 9112 §6.1.
//! - It has no header that only a trusted proxy may set.
//!
//! Invariant: the application reads what was checked. `Host` is present once with the checked
//! value, even if the request had `:authority` or an absolute URL.

mod content_length;
pub(crate) mod host;
pub(crate) mod options;
mod proxy_headers;
mod transfer_coding;

use cloud_net::{LogThrottle, UntrustedText, warn_throttled};
use http::{Method, Request, Response, StatusCode};

pub(crate) use self::content_length::normalize as normalize_content_length;
use self::host::{AllowedHosts, HostError};
use self::options::{AllowedHost, HttpOptions, PassedHeader};
use self::proxy_headers::PassedHeaders;
pub(crate) use self::proxy_headers::with_hyphens;
pub(crate) use self::transfer_coding::transfer_codings;
use crate::access_record;
use crate::application::ResponseBody;
use crate::config::RemoteConfig;
use crate::server::error_page::{self, error_page};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct RequestPolicy {
    hosts: AllowedHosts,
    headers: PassedHeaders,
    refused_hosts: LogThrottle,
}

/// The reason for which a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A CONNECT request without a protocol.
    Connect,
    /// No host, several hosts, or a malformed one.
    MalformedHost,
    /// A host that this device does not serve.
    OtherHost,
    /// Different lengths, or a malformed one.
    ContentLength,
    /// A transfer coding that is not undone here.
    TransferCoding,
}

impl Refusal {
    /// Returns its kind, for the record of the request.
    pub(crate) fn kind(&self) -> access_record::Refusal {
        match self {
            Self::OtherHost => access_record::Refusal::Host,
            _ => access_record::Refusal::Malformed,
        }
    }

    pub(crate) fn response(&self) -> Response<ResponseBody> {
        let (status, text) = match self {
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, error_page::NOT_A_PROXY),
            Self::MalformedHost => (StatusCode::BAD_REQUEST, error_page::MALFORMED_HOST),
            Self::OtherHost => (StatusCode::MISDIRECTED_REQUEST, error_page::OTHER_HOST),
            Self::ContentLength => (StatusCode::BAD_REQUEST, error_page::MALFORMED_LENGTH),
            Self::TransferCoding => (StatusCode::NOT_IMPLEMENTED, error_page::UNKNOWN_CODING),
        };
        error_page(status, text)
    }
}

impl RequestPolicy {
    /// Returns `None` if the access point is not a host name.
    pub(crate) fn new(config: &RemoteConfig, options: HttpOptions) -> Option<Self> {
        let hosts = options.hosts.into_iter().map(|AllowedHost(host)| host);
        let headers = options.headers.into_iter().map(|PassedHeader(name)| name);
        Some(Self {
            hosts: AllowedHosts::new(&config.access_point, hosts)?,
            headers: PassedHeaders::new(headers.collect()),
            refused_hosts: LogThrottle::new(),
        })
    }

    /// Checks the request, and normalizes it for the application.
    pub(crate) fn apply<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        // With a protocol it starts a WebSocket (RFC 8441).
        if request.method() == Method::CONNECT
            && request.extensions().get::<hyper::ext::Protocol>().is_none()
        {
            return Err(Refusal::Connect);
        }
        let host = match self.hosts.check(request) {
            Ok(host) => host,
            Err(HostError::Malformed) => return Err(Refusal::MalformedHost),
            Err(HostError::NotAllowed(host)) => {
                warn_throttled!(
                    self.refused_hosts,
                    host = %UntrustedText::from_bytes(host.as_bytes()),
                    "refused a request for another host with status 421; to serve it too, add the name to the allowed hosts \
                     (HttpOptions::allow_host)"
                );
                return Err(Refusal::OtherHost);
            }
        };
        let headers = request.headers_mut();
        headers.insert(http::header::HOST, host);
        if !transfer_coding::is_decoded(headers) {
            return Err(Refusal::TransferCoding);
        }
        normalize_content_length(headers).map_err(|_| Refusal::ContentLength)?;
        self.headers.remove_others(headers);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
