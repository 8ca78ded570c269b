//! Why the application answers 400 to a caller: many trust only the proxies and the host names that
//! they are configured with. Home Assistant, which is behind many devices, is recognized.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::report::CheckResult;

/// Time limit for the application's answer to a request that comes from this machine.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Maximum size of the manifest. Home Assistant's has 2 KiB.
const MAX_MANIFEST: usize = 64 * 1024;

/// The network of Home Assistant's Supervisor, in which an add-on gets an address at each start.
const ADD_ONS: ([u8; 4], u8) = ([172, 30, 33, 0], 24);

/// Returns the finding for a page that answers 400, with the application at this address.
pub(super) async fn finding(url: &str, address: &str) -> CheckResult {
    let found = timeout(TIME_LIMIT, proxy_of_home_assistant(address)).await;
    match found.ok().flatten() {
        Some(proxy) => CheckResult::failed(
            format!(
                "{url} is reachable, but Home Assistant at {address} answers 400: it does not trust this device as a proxy"
            ),
            format!(
                "put this into Home Assistant's configuration.yaml and restart it: http: {{use_x_forwarded_for: true, trusted_proxies: [\"{proxy}\"]}}"
            ),
        ),
        None => CheckResult::warning(
            format!("{url} is reachable, and the application at {address} answers 400 Bad Request"),
            "if it does so for its start page only through this device, name this device among its trusted proxies \
             and the public host among its hosts",
        ),
    }
}

/// Returns the proxy that Home Assistant has to trust, if it is what answers at this address.
///
/// Its manifest needs no login. Without a header that names a caller, it answers any client.
async fn proxy_of_home_assistant(address: &str) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let own_address = stream.local_addr().ok()?.ip().to_canonical();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Closes the connection when it is dropped.
    let mut task = JoinSet::new();
    task.spawn(connection);
    let request = Request::get("/manifest.json").header(header::HOST, address);
    let request = request.body(Body::empty()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(response.into_body(), MAX_MANIFEST);
    let manifest = body.collect().await.ok()?.to_bytes();
    let manifest: Value = serde_json::from_slice(&manifest).ok()?;
    (manifest["name"] == "Home Assistant").then(|| trusted_proxy(own_address))
}

fn trusted_proxy(own_address: IpAddr) -> String {
    let (network, length) = ADD_ONS;
    match IpNet::new(network.into(), length) {
        Ok(network) if network.contains(&own_address) => network.to_string(),
        _ => own_address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_add_on_stands_for_its_network() {
        for (own, proxy) in [
            ("172.30.33.7", "172.30.33.0/24"),
            ("172.30.32.2", "172.30.32.2"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(trusted_proxy(own.parse().unwrap()), proxy);
        }
    }
}
