//! The page that `run` serves through the tunnel when nothing else is asked for: who this device is, and how it is connected.
//!
//! It tells only what a visitor who has come this far may know: the visitor speaks to the device over TLS that ends
//! on it, and has been sent its certificate. No script, no foreign resource, nothing that can be changed from outside.
//! `/` is HTML for browsers and text for everybody else, such as curl; `/status.json` is for programs.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use cloud_facade::Event;
use cloud_facade::config::{CertificateInfo, DeviceConfig, SerialNumber};
use serde::Serialize;

use crate::moment::rfc3339;

/// The page of one device, kept up to date with the device's events. Clones show the same.
#[derive(Debug, Clone)]
pub(crate) struct Page(Arc<Mutex<Snapshot>>);

/// What the page shows, at one moment.
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

impl Page {
    /// The page of a device that is not connected yet. If it has no certificate, nobody sees its page before it gets one.
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

    /// Takes note of what has happened to the device.
    pub(crate) fn note(&self, event: &Event) {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::IotConnected => snapshot.iot_connected = true,
            Event::IotDisconnected { .. } => snapshot.iot_connected = false,
            Event::RemoteConnected { .. } => snapshot.remote_connected = true,
            Event::RemoteDisconnected { .. } => snapshot.remote_connected = false,
            Event::RemoteCertificate { serial, not_after } => {
                snapshot.certificate_serial.clone_from(serial);
                snapshot.certificate_not_after = rfc3339((*not_after).into());
            }
            _ => {}
        }
    }

    /// The page as a web application.
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

/// Seconds after which a browser asks again.
const REFRESH: u32 = 15;

const STYLE: &str = include_str!("style.css");

/// On every answer. What is not the page's own is refused by the browser.
const HEADERS: &[(HeaderName, &str)] = &[
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::VARY, "accept"),
];

/// The web application; `snapshot` is asked at each visit.
fn application(snapshot: impl Fn() -> Snapshot + Send + Sync + 'static) -> Router {
    let snapshot = Arc::new(snapshot);
    let for_programs = Arc::clone(&snapshot);
    let root = async move |headers: HeaderMap| {
        let snapshot = snapshot();
        guarded(if is_browser(&headers) {
            Html(html(&snapshot)).into_response()
        } else {
            text(&snapshot).into_response()
        })
    };
    Router::new()
        .route("/", get(root))
        .route(
            "/status.json",
            get(async move || guarded(Json(for_programs()))),
        )
        .route(
            "/style.css",
            get(async || guarded(([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE))),
        )
        .fallback(async || guarded((StatusCode::NOT_FOUND, "not found\n")))
}

fn guarded(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Browsers name HTML among what they take; curl and its like take anything.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("text/html"))
    })
}

/// What is shown, and whether it is something that is up or down.
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
<meta http-equiv="refresh" content="{REFRESH}">
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

/// Text for HTML, in an element or in a quoted attribute.
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
        for (name, value) in HEADERS {
            assert_eq!(response.headers()[name], value, "{path}");
        }
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn browsers_get_html_with_everything_escaped() {
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
    async fn others_get_text_and_json() {
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
