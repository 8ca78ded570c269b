//! What a caller may have passed on to the application: addresses that the rules deny, lengths and
//! hosts of its own choice, headers in which proxies name callers, and requests hidden in others.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::Context;
use crate::caller::Alpn;
use crate::h2::{self, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, frame, literal};
use crate::report::Row;
use crate::scene::{Scene, Settings};

/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// For what comes behind an answer, which is nothing but for a smuggled one.
const REST: Duration = Duration::from_millis(300);

/// Headers in which other proxies name the caller or the target, and names that CGI reads as
/// others.
const VENDOR_HEADERS: &[&str] = &[
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "remote-user",
    "x-remote-user",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
    "x-forwarded",
    "forwarded-for",
    "fastly-client-ip",
    "x-ssl-client-verify",
    "x-ssl-client-cert",
    "x-client-cert",
    "x-arr-clientcert",
    "x-appengine-user-ip",
    "proxy",
    "content_length",
    "transfer_encoding",
    "x_forwarded_for",
    "remote_user",
];

/// A caller over IPv6 although a range of IPv6 is denied; protocol version 0 does not say its
/// address.
pub(crate) async fn deny_unknown(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (protocol, denied) in [(0, "2001:db8::/32"), (0, "::/0"), (2, "2001:db8::/32")] {
        let settings = Settings {
            protocol,
            proxy_relay: true,
            arguments: &["--deny", denied],
            ..Settings::default()
        };
        let scene = Scene::start(context, settings).await?;
        let denied_caller: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        let answer = scene.caller(denied_caller).get("/").await;
        let other = scene.caller([192, 0, 2, 7]).get("/").await;
        rows.push(Row::new(
            format!("a caller from 2001:db8::1, `--deny {denied}`, protocol version {protocol}"),
            "is refused; one over IPv4 is served",
            match (&answer, &other) {
                (Ok(status), _) => format!("served with status {status}"),
                (Err(_), Ok(status)) => format!("refused; over IPv4 {status}"),
                (Err(_), Err(error)) => format!("refused, and over IPv4 too: {error:#}"),
            },
            answer.is_err() && other.is_ok_and(|status| status == 200),
        ));
    }
    Ok(rows)
}

/// The same length twice, in one spelling and in two.
pub(crate) async fn content_length(context: &Context) -> Result<Vec<Row>> {
    let scene = Scene::start(context, Settings::default()).await?;
    let caller = scene.honest();
    let mut rows = Vec::new();
    for lengths in [["5", "5"], ["5", "05"], ["5", "6"], ["5", "+5"]] {
        let mut connection = Connection::open(&caller, 65_535).await?;
        let mut block = h2::pseudo_header("POST", caller.host(), "/length");
        for length in lengths {
            block.extend(literal("content-length", length.as_bytes()));
        }
        scene.application.take_heads();
        connection
            .send(
                &[
                    frame(HEADERS, END_HEADERS, 1, &block),
                    frame(DATA, END_STREAM, 1, b"hello"),
                ]
                .concat(),
            )
            .await?;
        let status = connection.status(1, ANSWER).await;
        let heads = scene.application.take_heads();
        let received: Vec<&str> = heads
            .iter()
            .flat_map(|head| head.lines())
            .filter(|line| line.to_ascii_lowercase().starts_with("content-length"))
            .collect();
        rows.push(Row::new(
            format!("Content-Length `{}` over HTTP/2", lengths.join("`, `")),
            "the application gets one, or no request",
            format!("status {}, the application got {received:?}", shown(status)),
            received.len() <= 1 && !received.iter().any(|line| line.contains(',')),
        ));
    }
    Ok(rows)
}

fn shown(status: Option<u16>) -> String {
    status.map_or_else(|| "none".to_owned(), |status| status.to_string())
}

/// A request for another host than the device's, as a page that rebinds its name would send it.
pub(crate) async fn host(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for page in [false, true] {
        let settings = Settings {
            page,
            ..Settings::default()
        };
        let scene = Scene::start(context, settings).await?;
        let caller = scene.honest();
        for host in ["evil.example", "127.0.0.1", "localhost"] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let over_http1 = caller.send(request.as_bytes()).await.ok();
            let mut connection = Connection::open(&caller, 65_535).await?;
            let block = h2::pseudo_header("GET", host, "/");
            connection
                .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
                .await?;
            let over_http2 = connection.status(1, ANSWER).await;
            let served = if page {
                "the built-in page"
            } else {
                "--forward"
            };
            rows.push(Row::new(
                format!("a request for the host {host}, {served}"),
                "421 over HTTP/1.1 and HTTP/2",
                format!("{} and {}", shown(over_http1), shown(over_http2)),
                over_http1 == Some(421) && over_http2 == Some(421),
            ));
        }
    }
    Ok(rows)
}

/// Headers that give the caller another address or identity.
pub(crate) async fn vendor_headers(context: &Context) -> Result<Vec<Row>> {
    let scene = Scene::start(context, Settings::default()).await?;
    let caller = scene.honest();
    let mut header = String::new();
    for name in VENDOR_HEADERS {
        header.push_str(&format!("{name}: spoofed\r\n"));
    }
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\n{header}Connection: close\r\n\r\n",
        caller.host()
    );
    let status = caller.send(request.as_bytes()).await?;
    ensure!(status < 500, "status {status}");
    let mut connection = Connection::open(&caller, 65_535).await?;
    let mut block = h2::pseudo_header("GET", caller.host(), "/");
    for name in VENDOR_HEADERS {
        block.extend(literal(name, b"spoofed"));
    }
    connection
        .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .await?;
    connection
        .status(1, ANSWER)
        .await
        .context("no answer over HTTP/2")?;
    let heads = scene.application.take_heads();
    let mut passed: Vec<&str> = heads
        .iter()
        .flat_map(|head| head.lines())
        .filter_map(|line| line.strip_suffix(": spoofed"))
        .collect();
    passed.sort_unstable();
    passed.dedup();
    Ok(vec![Row::new(
        format!(
            "{} headers in which other proxies name the caller",
            VENDOR_HEADERS.len()
        ),
        "none reaches the application",
        match passed.as_slice() {
            [] => "none".to_owned(),
            some => format!("{}: {}", some.len(), some.join(", ")),
        },
        passed.is_empty(),
    )])
}

/// Requests that hide another one in their body, for a proxy and an application that disagree on
/// where it ends.
pub(crate) async fn smuggling(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "requests hidden in others, HTTP/1.1 and HTTP/2";
    let scene = Scene::start(context, Settings::default()).await?;
    let caller = scene.honest();
    let host = caller.host();
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = hidden.len();
    let attempts: Vec<(String, String)> = [
        ("Content-Length: 0\r\nContent-Length: {n}", "{h}"),
        ("Content-Length: {n}\r\nContent-Length: 0", "{h}"),
        ("Content-Length: +{n}", "{h}"),
        ("Content-Length: 0{n}", "{h}"),
        ("Content-Length: 0x0", "{h}"),
        ("Content-Length : {n}", "{h}"),
        ("Content-Length: {n}\r\nTransfer-Encoding: chunked", "0\r\n\r\n{h}"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n{h}"),
        ("Transfer-Encoding: xchunked\r\nContent-Length: 0", "{h}"),
        ("Transfer-Encoding: chunked, identity\r\nContent-Length: 0", "{h}"),
        ("Transfer-Encoding: identity, chunked", "0\r\n\r\n{h}"),
        ("Transfer-Encoding:\u{b}chunked\r\nContent-Length: 0", "{h}"),
        ("Transfer-Encoding\t: chunked\r\nContent-Length: 0", "{h}"),
        (" Transfer-Encoding: chunked\r\nContent-Length: 0", "{h}"),
        ("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0", "{h}"),
        ("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0", "{h}"),
        ("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 0", "0\r\n\r\n{h}"),
        ("Transfer-Encoding: chunked", "0;a=\n{h}\r\n\r\n"),
        ("Transfer-Encoding: chunked", "0 \r\n\r\n{h}"),
        ("Transfer-Encoding: chunked", "-1\r\n{h}"),
        ("Transfer-Encoding: chunked", "10000000000000000\r\n{h}"),
        ("Transfer-Encoding: chunked", "0\r\nX: y\r\n\r\n{h}"),
        ("Connection: content-length\r\nContent-Length: {n}", "{h}"),
        ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n{h}"),
        ("Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "{h}"),
        ("Expect: 100-continue\r\nContent-Length: {n}", "{h}"),
    ]
    .iter()
    .map(|(header, body)| {
        let fill = |text: &str| text.replace("{n}", &length.to_string()).replace("{h}", hidden);
        (fill(header), fill(body))
    })
    .collect();
    for (header, body) in &attempts {
        let mut stream = caller.connect(Alpn::Http1).await?;
        let request = format!("POST /outer HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while timeout(REST, stream.read_buf(&mut answer))
            .await
            .is_ok_and(|read| read.is_ok_and(|read| read > 0))
        {}
    }
    let over_http2: [&[(&str, &[u8])]; 6] = [
        &[("content-length", b"0")],
        &[("transfer-encoding", b"chunked")],
        &[
            ("te", b"trailers, chunked"),
            ("transfer-encoding", b"chunked"),
        ],
        &[("x", b"y\r\nTransfer-Encoding: chunked")],
        &[("x: y\r\ntransfer-encoding", b"chunked")],
        &[("connection", b"upgrade"), ("upgrade", b"h2c")],
    ];
    for fields in over_http2 {
        let mut connection = Connection::open(&caller, 65_535).await?;
        let mut block = h2::pseudo_header("POST", host, "/outer");
        for (name, value) in fields {
            block.extend(literal(name, value));
        }
        let data = format!("0\r\n\r\n{hidden}");
        let request = [
            frame(HEADERS, END_HEADERS, 1, &block),
            frame(DATA, END_STREAM, 1, data.as_bytes()),
        ];
        connection.send(&request.concat()).await?;
        connection.status(1, REST).await;
    }
    let path = format!("/outer HTTP/1.1\r\nHost: {host}\r\n\r\n{hidden}");
    let mut connection = Connection::open(&caller, 65_535).await?;
    let block = h2::pseudo_header("GET", host, &path);
    connection
        .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .await?;
    connection.status(1, REST).await;

    // A request that the proxy itself has read is one of the caller's, and says so.
    let heads = scene.application.take_heads();
    let smuggled = heads
        .iter()
        .filter(|head| {
            head.starts_with("GET /hidden")
                && !head.to_ascii_lowercase().contains("x-forwarded-for")
        })
        .count();
    ensure!(!heads.is_empty(), "no request reached the application");
    let number = attempts.len() + over_http2.len() + 1;
    Ok(vec![Row::new(
        format!("{NAME}: {number} variants"),
        "none reaches the application unseen",
        smuggled.to_string(),
        smuggled == 0,
    )])
}
