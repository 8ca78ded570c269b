//! The status page that `run` serves through the tunnel by default: the device's identity and
//! connections.
//!
//! It shows only what any visitor may know, who already has the device's certificate from the TLS
//! handshake. It has no scripts, no external resources, and nothing that can be changed from
//! outside. `/` is HTML for browsers and text for other clients such as curl; `/status.json` is for
//! programs.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use cloud_facade::Event;
use cloud_facade::config::{CertificateInfo, DeviceConfig, SerialNumber};
use serde::Serialize;

use crate::time_fmt::rfc3339;

/// The page of one device, updated by the device's events. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StatusPage(Arc<Mutex<Snapshot>>);

/// The content of the page at one time.
#[derive(Debug, Clone, Serialize)]
struct Snapshot {
    sn: String,
    access_point: String,
    iot_connected: bool,
    remote_connected: bool,
    certificate_serial: String,
    /// RFC 3339.
    certificate_not_after: String,
    version: &'static str,
}

impl StatusPage {
    /// Creates the page of a device that is not connected yet. Without a certificate, the page is
    /// unreachable.
    pub(crate) fn new<R>(
        sn: &SerialNumber,
        config: &DeviceConfig<R>,
        certificate: Option<&CertificateInfo>,
    ) -> Self {
        Self(Arc::new(Mutex::new(Snapshot {
            sn: sn.to_string(),
            access_point: config.access_point.to_string(),
            iot_connected: false,
            remote_connected: false,
            certificate_serial: certificate
                .map(|info| info.serial.clone())
                .unwrap_or_default(),
            certificate_not_after: certificate
                .map(|info| rfc3339(info.not_after))
                .unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
        })))
    }

    /// Updates the page after an event.
    pub(crate) fn update(&self, event: &Event) {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::IotConnected => snapshot.iot_connected = true,
            Event::IotDisconnected { .. } => snapshot.iot_connected = false,
            Event::RemoteConnected { .. } => snapshot.remote_connected = true,
            Event::RemoteDisconnected { .. } => snapshot.remote_connected = false,
            Event::RemoteCertificateRotated { serial, not_after } => {
                snapshot.certificate_serial.clone_from(serial);
                snapshot.certificate_not_after = rfc3339(*not_after);
            }
            _ => {}
        }
    }

    /// Returns the page as a web application.
    pub(crate) fn application(&self) -> Router {
        let page = self.clone();
        application(move || {
            page.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        })
    }
}

/// Interval at which a browser reloads the page, in seconds.
const REFRESH_SECONDS: u32 = 15;

const STYLE: &str = include_str!("style.css");

/// Headers of every response. The browser refuses resources that are not the page's own.
const SECURITY_HEADERS: &[(HeaderName, &str)] = &[
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::VARY, "accept"),
];

/// Returns the web application; it calls `snapshot` for each request.
fn application(snapshot: impl Fn() -> Snapshot + Send + Sync + 'static) -> Router {
    let snapshot = Arc::new(snapshot);
    let json_snapshot = Arc::clone(&snapshot);
    let root = async move |headers: HeaderMap| {
        let snapshot = snapshot();
        with_security_headers(if is_browser(&headers) {
            Html(html(&snapshot)).into_response()
        } else {
            text(&snapshot).into_response()
        })
    };
    Router::new()
        .route("/", get(root))
        .route(
            "/status.json",
            get(async move || with_security_headers(Json(json_snapshot()))),
        )
        .route(
            "/style.css",
            get(async || {
                with_security_headers(([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE))
            }),
        )
        .fallback(async || with_security_headers((StatusCode::NOT_FOUND, "not found\n")))
}

fn with_security_headers(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Browsers accept HTML explicitly; curl and similar clients accept anything.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("text/html"))
    })
}

/// The rows of the page: name, value, and whether a connection is up.
fn rows(snapshot: &Snapshot) -> [(&'static str, &str, Option<bool>); 6] {
    let state = |up: bool| if up { "connected" } else { "not connected" };
    [
        ("Serial number", &snapshot.sn, None),
        (
            "Messaging",
            state(snapshot.iot_connected),
            Some(snapshot.iot_connected),
        ),
        (
            "Remote access",
            state(snapshot.remote_connected),
            Some(snapshot.remote_connected),
        ),
        ("Address", &snapshot.access_point, None),
        ("Certificate", &snapshot.certificate_serial, None),
        ("Valid until", &snapshot.certificate_not_after, None),
    ]
}

fn text(snapshot: &Snapshot) -> String {
    rows(snapshot)
        .iter()
        .map(|(name, value, _)| format!("{name:<15}{value}\n"))
        .collect()
}

fn html(snapshot: &Snapshot) -> String {
    let mut list = String::new();
    for (name, value, up) in rows(snapshot) {
        let class = match up {
            None => "",
            Some(true) => r#" class="up""#,
            Some(false) => r#" class="down""#,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            list,
            "<div><dt>{name}</dt><dd{class}>{}</dd></div>",
            escape(value)
        );
    }
    let sn = escape(&snapshot.sn);
    let version = snapshot.version;
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}">
<title>{sn}</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
<main>
<h1>{sn}</h1>
<p>This page comes from the device itself.</p>
<dl>
{list}</dl>
<footer>clesyde-cloud {version}</footer>
</main>
</body>
</html>
"#
    )
}

/// Escapes text for an HTML element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            sn: "SN<1>".to_owned(),
            access_point: "sn1.example.com".to_owned(),
            iot_connected: true,
            remote_connected: false,
            certificate_serial: "1234567890".to_owned(),
            certificate_not_after: "2027-01-01T00:00:00Z".to_owned(),
            version: "0.0.0",
        }
    }

    async fn fetch(path: &str, accept: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, accept)
            .body(Body::empty())
            .unwrap();
        let response = application(snapshot).oneshot(request).await.unwrap();
        for (name, value) in SECURITY_HEADERS {
            assert_eq!(response.headers()[name], value, "{path}");
        }
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn browsers_get_escaped_html() {
        let (status, page) = fetch("/", "text/html,application/xhtml+xml,*/*;q=0.8").await;
        assert_eq!(status, StatusCode::OK);
        for part in [
            "SN&lt;1&gt;",
            "1234567890",
            "2027-01-01",
            ">connected<",
            ">not connected<",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("SN<1>"));
    }

    #[tokio::test]
    async fn other_clients_get_text_and_json() {
        let (_, page) = fetch("/", "*/*").await;
        assert!(
            page.starts_with("Serial number  SN<1>\nMessaging      connected\n"),
            "{page}"
        );
        let (_, body) = fetch("/status.json", "*/*").await;
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["iot_connected"], true);
        assert_eq!(fetch("/style.css", "*/*").await.1, STYLE);
        assert_eq!(fetch("/other", "*/*").await.0, StatusCode::NOT_FOUND);
    }
}
