//! The request policy: hosts, lengths and headers of requests, over both versions of HTTP and for
//! both kinds of application; and callers with unknown addresses.

use axum::Router;
use axum::http::HeaderMap;
use bytes::Bytes;
use cloud_remote::{AccessRules, Application, HttpOptions, RemoteAccess, UnknownCallers};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snitun::{Cipher, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Cloud, NAME, within};

/// Responds with the request's headers, one per line.
fn echo() -> Router {
    Router::new().fallback(|headers: HeaderMap| async move {
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
            .collect::<String>()
    })
}

/// A device that serves [`echo`], in process or at a local address.
struct Device {
    cloud: Cloud,
    _remote: RemoteAccess,
    local: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            local.abort();
        }
    }
}

impl Device {
    async fn in_process(options: HttpOptions) -> Self {
        Self::start(Application::service(echo()), options, None).await
    }

    async fn forwarding(options: HttpOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = Application::forward(listener.local_addr().unwrap());
        let local = tokio::spawn(async move { axum::serve(listener, echo()).await.unwrap() });
        Self::start(application, options, Some(local)).await
    }

    async fn both(options: HttpOptions) -> [Self; 2] {
        [
            Self::in_process(options.clone()).await,
            Self::forwarding(options).await,
        ]
    }

    async fn start(
        application: Application,
        options: HttpOptions,
        local: Option<tokio::task::JoinHandle<()>>,
    ) -> Self {
        let cloud = Cloud::start().await;
        let builder = cloud.builder().application(application).http(options);
        let _remote = cloud.connected_device(builder).await;
        Self {
            cloud,
            _remote,
            local,
        }
    }

    /// Sends the lines of an HTTP/1 request without a body. Returns status and body.
    async fn http1(&self, lines: &[&str]) -> (u16, String) {
        let head = format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
        http1(&self.cloud, &head).await
    }

    async fn http2(&self, request: http::request::Builder) -> (u16, String) {
        http2(&self.cloud, request, "").await.unwrap()
    }
}

async fn http1(cloud: &Cloud, request: &str) -> (u16, String) {
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    // The connection may close without a TLS close_notify.
    let _ = within(stream.read_to_end(&mut seen)).await;
    let seen = String::from_utf8(seen).unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn http2(
    cloud: &Cloud,
    request: http::request::Builder,
    body: &'static str,
) -> hyper::Result<(u16, String)> {
    let stream = TokioIo::new(cloud.open(&["h2"]).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = within(handshake).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = within(sender.send_request(request)).await?;
    let status = response.status().as_u16();
    let body = within(response.into_body().collect()).await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8(body.into()).unwrap()))
}

fn lines_of<'a>(seen: &'a str, name: &str) -> Vec<&'a str> {
    seen.lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
        .collect()
}

#[tokio::test]
async fn equal_lengths_over_http2_reach_upstream_once() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = Application::forward(listener.local_addr().unwrap());
    let _remote = cloud.device(forward).await;
    for second in ["5", "05"] {
        let upstream = async {
            let (mut stream, _) = within(listener.accept()).await.unwrap();
            let mut seen = String::new();
            while !seen.ends_with("hello") {
                seen.push(char::from(within(stream.read_u8()).await.unwrap()));
            }
            let response = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            stream.write_all(response).await.unwrap();
            seen
        };
        let request = Request::post(format!("https://{NAME}/"))
            .header("content-length", "5")
            .header("content-length", second);
        let (seen, response) = tokio::join!(upstream, http2(&cloud, request, "hello"));
        assert_eq!(response.unwrap().0, 204);
        assert_eq!(lines_of(&seen, "content-length"), ["5"], "{seen}");
    }
}

#[tokio::test]
async fn equal_lengths_reach_service_once() {
    let device = Device::in_process(HttpOptions::new()).await;
    for second in ["5", "05"] {
        let request = Request::post(format!("https://{NAME}/"))
            .header("content-length", second)
            .header("content-length", "5");
        let (status, seen) = http2(&device.cloud, request, "hello").await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(lines_of(&seen, "content-length"), ["5"], "{seen}");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {second}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        );
        let (status, seen) = http1(&device.cloud, &request).await;
        assert_eq!(status, 200);
        assert_eq!(lines_of(&seen, "content-length"), ["5"], "{seen}");
    }
}

#[tokio::test]
async fn different_and_malformed_lengths_are_refused() {
    for device in Device::both(HttpOptions::new()).await {
        for lengths in [&["5", "6"][..], &["5, 6"], &["+5"], &["five"], &["5", ""]] {
            let mut request = Request::post(format!("https://{NAME}/"));
            let mut head = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n");
            for length in lengths {
                request = request.header("content-length", *length);
                head.push_str(&format!("Content-Length: {length}\r\n"));
            }
            // Over HTTP/2 the stream may be reset instead (RFC 9113 §8.1.1).
            if let Ok((status, seen)) = http2(&device.cloud, request, "hello").await {
                assert_eq!(status, 400, "{lengths:?}: {seen}");
            }
            let (status, _) = http1(&device.cloud, &format!("{head}\r\nhello")).await;
            assert_eq!(status, 400, "{lengths:?}");
        }
    }
}

#[tokio::test]
async fn request_for_another_host_is_misdirected() {
    for device in Device::both(HttpOptions::new()).await {
        for host in [
            "evil.example.com",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
        ] {
            let line = format!("Host: {host}");
            let (status, page) = device.http1(&["GET / HTTP/1.1", &line]).await;
            assert_eq!(status, 421, "{host}: {page}");
            let line = format!("GET http://{host}/ HTTP/1.1");
            let named = format!("Host: {NAME}");
            assert_eq!(device.http1(&[&line, &named]).await.0, 421, "{host}");
            let request = Request::get(format!("https://{host}/"));
            assert_eq!(device.http2(request).await.0, 421, "{host}");
        }
    }
}

#[tokio::test]
async fn access_point_is_answered_however_it_is_written() {
    for device in Device::both(HttpOptions::new()).await {
        for host in [
            NAME,
            "SN0001.UI.Example.com",
            "sn0001.ui.example.com.",
            "sn0001.ui.example.com:8443",
        ] {
            let line = format!("Host: {host}");
            let (status, seen) = device.http1(&["GET / HTTP/1.1", &line]).await;
            assert_eq!((status, lines_of(&seen, "host")), (200, vec![host]));
            let request = Request::get(format!("https://{host}/"));
            let (status, seen) = device.http2(request).await;
            assert_eq!((status, lines_of(&seen, "host")), (200, vec![host]));
        }
    }
}

#[tokio::test]
async fn authority_and_host_of_http2_have_to_agree() {
    for device in Device::both(HttpOptions::new()).await {
        let url = format!("https://{NAME}/");
        let (status, seen) = device.http2(Request::get(&url).header("host", NAME)).await;
        assert_eq!((status, lines_of(&seen, "host")), (200, vec![NAME]));
        for hosts in [&["evil.example.com"][..], &[NAME, NAME]] {
            let request = hosts.iter().fold(Request::get(&url), |request, host| {
                request.header("host", *host)
            });
            let (status, seen) = device.http2(request).await;
            assert_eq!(status, 400, "{hosts:?}: {seen}");
        }
    }
}

#[tokio::test]
async fn added_hosts_are_answered() {
    let options = HttpOptions::new()
        .allow_host("device.example.com".parse().unwrap())
        .allow_host("192.0.2.1".parse().unwrap());
    for device in Device::both(options).await {
        for (host, expected) in [
            (NAME, 200),
            ("Device.example.com:8443", 200),
            ("192.0.2.1", 200),
            ("192.0.2.2", 421),
        ] {
            let line = format!("Host: {host}");
            let (status, _) = device.http1(&["GET / HTTP/1.1", &line]).await;
            assert_eq!(status, expected, "{host}");
            let request = Request::get(format!("https://{host}/"));
            assert_eq!(device.http2(request).await.0, expected, "{host}");
        }
    }
}

#[tokio::test]
async fn http_1_0_without_host_is_for_the_access_point() {
    for device in Device::both(HttpOptions::new()).await {
        let (status, seen) = device.http1(&["GET / HTTP/1.0"]).await;
        assert_eq!((status, lines_of(&seen, "host")), (200, vec![NAME]));
        let (status, _) = device.http1(&["GET / HTTP/1.0", "Host: localhost"]).await;
        assert_eq!(status, 421);
        assert_eq!(device.http1(&["GET / HTTP/1.1"]).await.0, 400);
    }
}

#[tokio::test]
async fn connect_is_refused() {
    for device in Device::both(HttpOptions::new()).await {
        let target = "CONNECT evil.example.com:443 HTTP/1.1";
        let host = format!("Host: {NAME}");
        assert_eq!(device.http1(&[target, &host]).await.0, 405);
    }
}

const UNTRUSTED: &[&str] = &[
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "remote-user",
    "x-remote-user",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "x-forwarded",
    "x-forwarded-user",
    "forwarded-for",
    "fastly-client-ip",
    "x-ssl-client-cert",
    "x-client-cert",
    "x-arr-clientcert",
    "x-appengine-user-ip",
    "content_length",
    "transfer_encoding",
    "x_real_ip",
    "api.key",
];

#[tokio::test]
async fn trusted_proxy_headers_are_removed() {
    for device in Device::both(HttpOptions::new()).await {
        let lines: Vec<String> = UNTRUSTED
            .iter()
            .map(|name| format!("{name}: forged"))
            .chain([format!("Host: {NAME}"), "X-Requested-With: kept".to_owned()])
            .collect();
        let request: Vec<&str> = std::iter::once("GET / HTTP/1.1")
            .chain(lines.iter().map(String::as_str))
            .collect();
        let (_, over_http1) = device.http1(&request).await;
        let request = UNTRUSTED
            .iter()
            .fold(Request::get(format!("https://{NAME}/")), |request, name| {
                request.header(*name, "forged")
            })
            .header("x-requested-with", "kept");
        let (_, over_http2) = device.http2(request).await;
        for seen in [over_http1, over_http2] {
            assert!(!seen.contains("forged"), "{seen}");
            assert_eq!(lines_of(&seen, "x-requested-with"), ["kept"], "{seen}");
        }
    }
}

#[tokio::test]
async fn allowed_proxy_headers_pass() {
    let options = HttpOptions::new()
        .pass_header("CF-Connecting-IP".parse().unwrap())
        .pass_header("Api_Key".parse().unwrap());
    for device in Device::both(options).await {
        let request = Request::get(format!("https://{NAME}/"))
            .header("cf-connecting-ip", "192.0.2.1")
            .header("api_key", "key")
            .header("x-real-ip", "forged");
        let (_, seen) = device.http2(request).await;
        assert_eq!(lines_of(&seen, "cf-connecting-ip"), ["192.0.2.1"]);
        assert_eq!(lines_of(&seen, "api_key"), ["key"]);
        assert!(!seen.contains("forged"), "{seen}");
    }
}

/// Protocol version 0 does not carry IPv6 addresses.
#[tokio::test]
async fn unknown_callers_follow_rules_and_setting() {
    let cloud = Cloud::over_ipv6(ProtocolVersion::V0, Cipher::AesCbc).await;
    let remote = cloud.device(Application::service(echo())).await;
    let deny = |range: &str| AccessRules::new([], [range.parse().unwrap()]);
    let allow = |range: &str| AccessRules::new([range.parse().unwrap()], []);
    for (rules, permitted) in [
        (deny("192.0.2.0/24"), true),
        (deny("::1/128"), false),
        (deny("2001:db8::/32"), false),
        (allow("::1/128"), false),
    ] {
        for (rules, permitted) in [
            (rules.clone(), permitted),
            (rules.clone().unknown_callers(UnknownCallers::Allow), true),
            (rules.unknown_callers(UnknownCallers::Deny), false),
        ] {
            remote.set_access(rules.clone());
            let opened = cloud.open(&["http/1.1"]).await;
            assert_eq!(opened.is_ok(), permitted, "{rules:?}");
        }
    }
}

/// Protocol version 2 carries the address, so the setting for unknown callers has no effect.
#[tokio::test]
async fn known_ipv6_callers_follow_the_rules_alone() {
    let cloud = Cloud::over_ipv6(ProtocolVersion::V2, Cipher::AesGcmSiv).await;
    let remote = cloud.device(Application::service(echo())).await;
    let deny = |range: &str| AccessRules::new([], [range.parse().unwrap()]);
    for (rules, permitted) in [(deny("2001:db8::/32"), true), (deny("::1/128"), false)] {
        for unknown in [UnknownCallers::Allow, UnknownCallers::Deny] {
            remote.set_access(rules.clone().unknown_callers(unknown));
            let opened = cloud.open(&["http/1.1"]).await;
            assert_eq!(opened.is_ok(), permitted, "{rules:?}");
        }
    }
}
