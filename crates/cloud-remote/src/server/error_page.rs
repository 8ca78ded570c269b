//! Error pages: responses of the device itself.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};

use crate::application::ResponseBody;

/// Returns an error page.
pub(crate) fn error_page(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{status}</title><h1>{status}</h1><p>{text}\n"
    );
    let body = Full::new(Bytes::from(html))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
