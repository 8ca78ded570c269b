//! Error pages: responses of the device itself, and their texts.
//!
//! [`error_page`] states what happened; [`ErrorFormat`] gives it the form that the caller accepts:
//! a page for browsers, RFC 9457 for programs, else plain text. A page about a temporary error
//! loads itself again until the application answers. An event stream is reset instead, because a
//! browser does not reconnect after a response with an error status (HTML Standard, "Server-sent
//! events").

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};

use crate::application::ResponseBody;

/// The application does not accept connections.
pub(crate) const NOT_RUNNING: &str = "The application on this device is not running.";
/// The application does not respond in time.
pub(crate) const NO_ANSWER: &str = "The application on this device does not answer.";
/// The application closed its connection, or its response is not HTTP/1.1.
pub(crate) const UNUSABLE_ANSWER: &str = "The application on this device gave no usable answer.";
/// The application in this process returned an error.
pub(crate) const FAILED: &str = "The application on this device has failed.";
/// There is no place for the request.
pub(crate) const BUSY: &str = "The application on this device is busy. Try again in a moment.";
/// The request is below the minimum data rate.
const SLOW: &str = "The request took too long to arrive.";
/// The rest of the request is malformed, or did not come.
pub(crate) const INCOMPLETE: &str = "The request is not complete.";
/// The request's path is missing or malformed.
pub(crate) const NO_PATH: &str = "The request does not name a path.";
/// A request that was not passed on by a connection; a fault of this crate.
pub(crate) const NO_CONNECTION: &str = "The request came over no connection.";
/// A CONNECT request without a protocol.
pub(crate) const NOT_A_PROXY: &str = "This device is not a proxy.";
/// No host, several hosts, or a malformed one.
pub(crate) const MALFORMED_HOST: &str = "The request does not name one host.";
/// A host that this device does not serve.
pub(crate) const OTHER_HOST: &str =
    "This device does not answer for the host that the request names.";
/// Different lengths, or a malformed one.
pub(crate) const MALFORMED_LENGTH: &str = "The request does not have one length.";
/// A transfer coding that is not undone here.
pub(crate) const UNKNOWN_CODING: &str = "This device does not know the request's transfer coding.";
/// The path may be for another application, or for a part with another rule.
pub(crate) const AMBIGUOUS_PATH: &str =
    "The path of the request is ambiguous: it has dots, slashes or encoded characters.";
/// The request has too many header fields.
pub(crate) const TOO_MANY_FIELDS: &str = "The request has too many header fields.";
/// The request has no user name and password.
pub(crate) const NO_PASSWORD: &str = "This device asks for a user name and a password.";
/// The user name or the password is wrong.
pub(crate) const WRONG_PASSWORD: &str = "The user name or the password is wrong.";
/// The caller has sent too many wrong passwords.
pub(crate) const TOO_MANY_PASSWORDS: &str = "Too many wrong passwords. Try again later.";
/// Too many passwords are being checked.
pub(crate) const BUSY_WITH_PASSWORDS: &str =
    "The device has too many passwords to check. Try again in a moment.";
/// The client has shown no certificate.
pub(crate) const NO_CERTIFICATE: &str = "This device asks for a client certificate.";
/// The client's certificate is not accepted, or no longer.
pub(crate) const WRONG_CERTIFICATE: &str = "The client certificate is not accepted here.";

/// After this time a temporary error may be over, in seconds.
const RETRY_AFTER: u32 = 5;
/// The same for a busy application.
const RETRY_AFTER_BUSY: u32 = 1;
/// No scripts, and nothing from elsewhere.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
const STYLE: &str = ":root{color-scheme:light dark}\
    body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto 0;padding:0 1.2rem}\
    h1{font-size:1.4rem;text-wrap:balance}small{opacity:.7}";

/// The text of a response of the device itself; an extension until the response has its form.
#[derive(Debug, Clone, Copy)]
struct ErrorText(&'static str);

/// Returns a response of the device itself.
pub(crate) fn error_page(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(empty_body());
    *response.status_mut() = status;
    response.extensions_mut().insert(ErrorText(text));
    response
}

/// Returns the response to a caller that is too slow. The rest of its request is not read.
pub(crate) fn slow_request() -> Response<ResponseBody> {
    let mut response = error_page(StatusCode::REQUEST_TIMEOUT, SLOW);
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

fn empty_body() -> ResponseBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// An event stream that is reset instead of a response.
#[derive(Debug, thiserror::Error)]
#[error("an event stream is reset, so that the caller connects again")]
pub(crate) struct ResetEventStream;

/// The form in which a caller gets the responses of the device itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorFormat {
    kind: Kind,
    method: FormatMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FormatMethod {
    Get,
    Head,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Html,
    Json,
    Text,
    EventStream,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Self {
        let accepted: Vec<String> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter(|range| !is_refused(range))
            .filter_map(|range| range.split(';').next())
            .map(|range| range.trim().to_ascii_lowercase())
            .collect();
        let accepts = |wanted: &[&str]| accepted.iter().any(|range| wanted.contains(&&**range));
        if accepts(&["text/event-stream"]) {
            Self::EventStream
        } else if accepts(&["text/html", "application/xhtml+xml"]) {
            Self::Html
        } else if accepts(&["application/json", "application/problem+json"]) {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Returns whether a media range has the weight 0 (RFC 9110 §12.4.2).
fn is_refused(range: &str) -> bool {
    let parameters = range.split(';').skip(1).map(str::trim);
    parameters
        .filter_map(|parameter| parameter.strip_prefix("q="))
        .any(|weight| weight.parse::<f32>() == Ok(0.0))
}

impl ErrorFormat {
    /// Returns the form that the caller accepts.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            kind: Kind::of(request.headers()),
            method: match *request.method() {
                Method::GET => FormatMethod::Get,
                Method::HEAD => FormatMethod::Head,
                _ => FormatMethod::Other,
            },
        }
    }

    /// Gives a response of the device itself its form, and removes the body of each response to
    /// HEAD (RFC 9110 §9.3.2).
    ///
    /// # Errors
    /// The response is temporary, and the caller wants an event stream.
    pub(crate) fn apply(
        self,
        mut response: Response<ResponseBody>,
    ) -> Result<Response<ResponseBody>, ResetEventStream> {
        if let Some(ErrorText(text)) = response.extensions_mut().remove() {
            if self.kind == Kind::EventStream && response.status().is_server_error() {
                return Err(ResetEventStream);
            }
            self.fill(&mut response, text);
        }
        if self.method == FormatMethod::Head && !response.body().is_end_stream() {
            let length = response.body().size_hint().exact();
            if let Some(length) = length {
                let headers = response.headers_mut();
                headers
                    .entry(header::CONTENT_LENGTH)
                    .or_insert_with(|| length.into());
            }
            *response.body_mut() = empty_body();
        }
        Ok(response)
    }

    fn fill(self, response: &mut Response<ResponseBody>, text: &str) {
        let status = response.status();
        let retry_after = match status {
            StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_AFTER_BUSY),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Some(RETRY_AFTER),
            _ => None,
        };
        // Another method's request must not be repeated as GET.
        let reloads =
            retry_after.is_some() && self.kind == Kind::Html && self.method != FormatMethod::Other;
        let (media_type, body) = match self.kind {
            Kind::Html => ("text/html; charset=utf-8", html(status, text, reloads)),
            Kind::Json => ("application/problem+json", json(status, text)),
            Kind::Text | Kind::EventStream => {
                ("text/plain; charset=utf-8", format!("{status}: {text}\n"))
            }
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY_POLICY),
        );
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if reloads {
            headers.insert(header::REFRESH, RETRY_AFTER.into());
        }
        *response.body_mut() = Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed_unsync();
    }
}

fn html(status: StatusCode, text: &str, reloads: bool) -> String {
    let again = if reloads {
        "<p><small>This page loads itself again until the application answers.</small>"
    } else {
        ""
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <title>{status}</title><style>{STYLE}</style>\
         <main><h1>{text}</h1>{again}<p><small>{status}</small></main></html>\n"
    )
}

/// Returns the problem details of RFC 9457.
fn json(status: StatusCode, text: &str) -> String {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = serde_json::json!({
        "title": title, "status": status.as_u16(), "detail": text,
    });
    format!("{problem}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(method: Method, accept: &str) -> ErrorFormat {
        let request = Request::builder().method(method).header("accept", accept);
        ErrorFormat::of(&request.body(()).unwrap())
    }

    async fn filled(method: Method, accept: &str) -> (Response<()>, String) {
        let page = error_page(StatusCode::BAD_GATEWAY, NOT_RUNNING);
        let response = format(method, accept).apply(page).unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(parts, ()), text)
    }

    #[tokio::test]
    async fn browser_gets_a_page_that_loads_itself_again() {
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let (response, page) = filled(Method::GET, accept).await;
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()["refresh"], "5");
        assert_eq!(response.headers()["cache-control"], "no-store");
        for part in [
            "<html lang=en>",
            "width=device-width",
            "color-scheme:light dark",
            NOT_RUNNING,
            "502 Bad Gateway",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        assert!(!page.contains("script"), "{page}");

        // A form is not sent again.
        let (response, page) = filled(Method::POST, accept).await;
        assert!(!response.headers().contains_key("refresh"));
        assert!(!page.contains("again"), "{page}");
    }

    #[tokio::test]
    async fn program_gets_json_or_text() {
        for accept in ["application/json, */*", "application/json,text/html;q=0"] {
            let (response, text) = filled(Method::GET, accept).await;
            assert_eq!(
                response.headers()["content-type"],
                "application/problem+json"
            );
            let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(problem["status"], 502);
            assert_eq!(problem["detail"], NOT_RUNNING);
        }
        for accept in ["*/*", "", "image/png"] {
            let (_, text) = filled(Method::GET, accept).await;
            assert_eq!(text, format!("502 Bad Gateway: {NOT_RUNNING}\n"));
        }
    }

    #[tokio::test]
    async fn head_gets_no_body() {
        let (get, page) = filled(Method::GET, "text/html").await;
        let (head, body) = filled(Method::HEAD, "text/html").await;
        assert_eq!(body, "");
        assert_eq!(head.headers()["content-length"], page.len().to_string());
        assert_eq!(
            head.headers()["content-type"],
            get.headers()["content-type"]
        );

        let page = Response::new(
            Full::new(Bytes::from("page"))
                .map_err(Into::into)
                .boxed_unsync(),
        );
        let response = format(Method::HEAD, "*/*").apply(page).unwrap();
        assert_eq!(response.headers()["content-length"], "4");
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn event_stream_is_reset_unless_it_must_not_come_back() {
        let format = format(Method::GET, "text/event-stream");
        for status in [500, 502, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(
                format.apply(error_page(status, FAILED)).is_err(),
                "{status}"
            );
        }
        for status in [StatusCode::BAD_REQUEST, StatusCode::MISDIRECTED_REQUEST] {
            assert!(format.apply(error_page(status, FAILED)).is_ok(), "{status}");
        }
        // The application's own errors pass.
        let mut own = Response::new(empty_body());
        *own.status_mut() = StatusCode::BAD_GATEWAY;
        assert!(format.apply(own).is_ok());
    }
}
