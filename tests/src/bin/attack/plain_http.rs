//! HTTP/1.1 without TLS to a local port, byte by byte as it is given: for the APIs that listen on
//! loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends `request` and reads the answer. Returns its status and body.
pub(crate) async fn exchange(
    address: SocketAddr,
    request: &[u8],
    limit: Duration,
) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(limit, exchange)
        .await
        .context("no answer in time")??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = status(&text).context("the answer is not HTTP")?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// The status of an answer in HTTP/1.1.
pub(crate) fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// A request with these lines of header beside what every request has.
pub(crate) fn request(method: &str, path: &str, host: &str, header: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
