//! What goes through each tunnel, from the callers' side.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use integration_tests::origin::pattern;
use snitun::ProtocolVersion;
use testkit::tls::client_hello;
use testkit::wait::{eventually, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::HOST;
use super::device::Device;
use super::relay::Relay;
use super::service::{
    BULK, DOWNLOAD, ECHO, MEET, MEETING, SAME, SLOW_DOWNLOAD, SLOW_UPLOAD, Service, UPLOAD,
};

/// Round trips beside a connection whose caller does not read.
const BESIDE_A_SLOW_READER: usize = 50;

/// Both ends of a tunnel.
pub(super) struct Ends<'a> {
    pub(super) device: &'a Device,
    pub(super) relay: &'a Relay,
    pub(super) version: ProtocolVersion,
}

impl Ends<'_> {
    /// Whether the device has paused a channel, as far as ends of ours have seen it.
    fn paused_by_device(&self) -> bool {
        let sent = self.device.stats().is_none_or(|it| it.pauses_sent > 0);
        sent && self.relay.stats().is_none_or(|it| it.pauses_received > 0)
    }

    fn paused_by_relay(&self) -> bool {
        let sent = self.relay.stats().is_none_or(|it| it.pauses_sent > 0);
        sent && self.device.stats().is_none_or(|it| it.pauses_received > 0)
    }

    /// Waits until there was a pause, where the version has such a thing.
    async fn pause(&self, what: &str, paused: impl Fn(&Self) -> bool) {
        if self.version != ProtocolVersion::V0 {
            eventually(what, async || paused(self).then_some(())).await;
        }
    }
}

/// 20 MB each way, a slow reader at each end, 200 connections at once, and a close from each side.
pub(super) async fn everything(ends: &Ends<'_>, service: &Service) -> anyhow::Result<()> {
    let relay = ends.relay.address;
    let mut stream = call(relay, DOWNLOAD).await?;
    ensure!(read_all(&mut stream).await? == pattern(BULK), "download");
    upload(relay, UPLOAD, BULK).await.context("upload")?;
    slow_service(ends, service)
        .await
        .context("a device that reads late")?;
    slow_caller(ends, service)
        .await
        .context("a caller that reads late")?;
    meeting(relay).await.context("200 callers at once")?;
    // Those of the two uploads.
    eventually("the service to see that callers have gone", async || {
        (service.closed_by_caller.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    Ok(())
}

/// Bytes there and back, one at a time.
pub(super) async fn round_trips(relay: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut stream = call(relay, ECHO).await?;
    for number in 0..count {
        let byte = number as u8;
        stream.write_u8(byte).await?;
        let back = timeout("a byte to come back", stream.read_u8()).await?;
        ensure!(back == byte);
    }
    Ok(())
}

async fn call(relay: SocketAddr, purpose: u8) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(relay).await?;
    stream.set_nodelay(true)?;
    let mut begin = client_hello(HOST);
    begin.push(purpose);
    stream.write_all(&begin).await?;
    Ok(stream)
}

async fn read_all(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut received = Vec::new();
    timeout("the end of a download", stream.read_to_end(&mut received)).await?;
    Ok(received)
}

async fn upload(relay: SocketAddr, purpose: u8, count: usize) -> anyhow::Result<()> {
    let mut stream = call(relay, purpose).await?;
    timeout("an upload", stream.write_all(&pattern(count))).await?;
    let mut answer = [0; SAME.len()];
    timeout("an upload's answer", stream.read_exact(&mut answer)).await?;
    ensure!(answer == *SAME);
    Ok(())
}

async fn slow_service(ends: &Ends<'_>, service: &Service) -> anyhow::Result<()> {
    let relay = ends.relay.address;
    let upload = tokio::spawn(upload(relay, SLOW_UPLOAD, service.slow));
    round_trips(relay, BESIDE_A_SLOW_READER).await?;
    ends.pause("the device to pause the upload", Ends::paused_by_device)
        .await;
    service.release.notify_one();
    upload.await?
}

async fn slow_caller(ends: &Ends<'_>, service: &Service) -> anyhow::Result<()> {
    let relay = ends.relay.address;
    let mut slow = call(relay, SLOW_DOWNLOAD).await?;
    // From here on bytes wait for it.
    timeout("the first bytes", slow.readable()).await?;
    round_trips(relay, BESIDE_A_SLOW_READER).await?;
    ends.pause("the relay to pause the download", Ends::paused_by_relay)
        .await;
    ensure!(read_all(&mut slow).await? == pattern(service.slow));
    Ok(())
}

/// None of the callers is answered before all are there.
async fn meeting(relay: SocketAddr) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for _ in 0..MEETING {
        callers.spawn(async move {
            let mut stream = call(relay, MEET).await?;
            read_all(&mut stream).await
        });
    }
    for met in callers.join_all().await {
        ensure!(met? == b"met");
    }
    Ok(())
}
