//! What goes through each tunnel, with any peers at its ends.

use std::net::SocketAddr;

use anyhow::ensure;
use integration_tests::origin::{digest, pattern};
use integration_tests::public::http_client;
use testkit::wait::timeout;
use tokio::task::JoinSet;

/// Channels open at the same time.
pub(crate) const VISITORS: usize = 50;

/// Down and up.
const BYTES: usize = 10_000_000;

/// 10 MB each way with equal digests, then [`VISITORS`] connections at once, none of which is
/// answered before all are there.
pub(crate) async fn exchange(relay: SocketAddr, host: &str, ca_pem: &str) -> anyhow::Result<()> {
    let base = format!("https://{host}:{}", relay.port());
    let client = http_client(relay, host, ca_pem)?;
    let sent = pattern(BYTES);
    let expected = digest(&sent);

    let down = timeout("the download", async {
        client
            .get(format!("{base}/bytes/{BYTES}"))
            .send()
            .await?
            .bytes()
            .await
    })
    .await?;
    ensure!(
        digest(&down) == expected,
        "what came down is not what was sent: {} of {BYTES} bytes",
        down.len()
    );

    let up = client.post(format!("{base}/digest")).body(sent);
    let up = timeout("the upload", async { up.send().await?.text().await }).await?;
    ensure!(up == expected, "what went up is not what was sent");

    let mut visitors = JoinSet::new();
    for _ in 0..VISITORS {
        // A client each, so that each has a connection, and so a channel, of its own.
        let (client, url) = (http_client(relay, host, ca_pem)?, format!("{base}/meet"));
        visitors.spawn(async move { client.get(url).send().await?.text().await });
    }
    for met in timeout("all visitors to meet", visitors.join_all()).await {
        ensure!(met? == "met");
    }
    Ok(())
}
