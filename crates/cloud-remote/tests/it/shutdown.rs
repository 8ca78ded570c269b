//! Shutdown: graceful, in time, without leaks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud_remote::{Application, RemoteAccess, RemoteEvent, TunnelStatus};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite;

use crate::serving::web;
use crate::streams::{counting, websocket_over_http2};
use crate::support::{Cloud, NAME, TokenFault, event, eventually, within};

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Stops with a deadline in seconds, and fails the test if that takes `most` seconds.
async fn stops_within(most: u64, remote: &RemoteAccess, deadline: u64) {
    let start = Instant::now();
    remote.stop(Duration::from_secs(deadline)).await.unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(most), "{took:?}");
}

#[tokio::test]
async fn stop_leaves_nothing_behind() {
    let cloud = Cloud::start().await;
    // The relay's own task.
    let before = tasks();
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    assert_eq!(cloud.page("http/1.1").await, "hello");
    remote.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(remote.status().borrow().tunnel, TunnelStatus::Stopped);
    event(&mut events, |event| {
        matches!(event, RemoteEvent::Disconnected { .. }).then_some(())
    })
    .await;
    eventually(|| tasks() <= before).await;
    remote.stop(Duration::ZERO).await.unwrap();
    remote.set_messaging_online(true);
    remote.set_desired_serial("2").unwrap();
    assert_eq!(remote.status().borrow().tunnel, TunnelStatus::Stopped);
    eventually(|| !cloud.relay.is_connected(NAME)).await;
}

#[tokio::test]
async fn stop_closes_pooled_upstream_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let local = axum::Router::new().route("/", axum::routing::get(|| async { "local" }));
    let serving = tokio::spawn(async move { axum::serve(listener, local).await.unwrap() });
    let cloud = Cloud::start().await;
    let remote = cloud.device(Application::forward(address)).await;
    let browser = cloud.browser(&["h2"]);
    for _ in 0..3 {
        let page = browser.get(cloud.url("/")).send().await.unwrap();
        assert_eq!(page.text().await.unwrap(), "local");
    }
    drop(browser);
    stops_within(10, &remote, 30).await;
    serving.abort();
}

#[tokio::test]
async fn stop_lets_request_finish() {
    let cloud = Cloud::start().await;
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = axum::Router::new().route(
        "/",
        axum::routing::get({
            let (arrived, go_on) = (Arc::clone(&arrived), Arc::clone(&go_on));
            || async move {
                arrived.notify_one();
                go_on.notified().await;
                "slow"
            }
        }),
    );
    let remote = cloud.device(Application::service(slow)).await;
    let browser = cloud.browser(&["h2"]);
    let url = cloud.url("/");
    let page =
        tokio::spawn(async move { browser.get(url).send().await.unwrap().text().await.unwrap() });
    within(arrived.notified()).await;
    // The handler continues only after the stop has started.
    let (stopped, ()) = tokio::join!(remote.stop(Duration::from_secs(30)), async {
        go_on.notify_one();
    });
    stopped.unwrap();
    assert_eq!(within(page).await.unwrap(), "slow");
}

#[tokio::test]
async fn stop_cuts_open_connections_at_deadline() {
    let cloud = Cloud::start().await;
    let before = tasks();
    let remote = cloud.device(web()).await;
    let mut socket = cloud.websocket().await;
    socket
        .send(tungstenite::Message::text("hello"))
        .await
        .unwrap();
    within(socket.next()).await.unwrap().unwrap();
    let mut endless = cloud.open(&["http/1.1"]).await.unwrap();
    endless
        .write_all(format!("GET /endless HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    within(endless.read_exact(&mut [0; 50_000])).await.unwrap();

    stops_within(3, &remote, 2).await;
    assert_eq!(remote.open_connections(), 0);
    drop((socket, endless));
    eventually(|| tasks() <= before).await;
}

#[tokio::test]
async fn open_websocket_does_not_delay_stop() {
    let cloud = Cloud::start().await;
    let before = tasks();
    let remote = cloud.device(counting().0).await;
    let mut over_http1 = cloud.websocket().await;
    let mut over_http2 = websocket_over_http2(&cloud).await;
    let hello = || tungstenite::Message::text("hello");
    over_http1.send(hello()).await.unwrap();
    within(over_http1.next()).await.unwrap().unwrap();
    over_http2.send(hello()).await.unwrap();
    within(over_http2.next()).await.unwrap().unwrap();

    stops_within(10, &remote, 30).await;
    assert_eq!(remote.open_connections(), 0);
    drop((over_http1, over_http2));
    eventually(|| tasks() <= before).await;
}

#[tokio::test]
async fn stop_cuts_tcp_forward() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let remote = cloud.device(Application::forward_tcp(address, None)).await;
    let _stream = cloud.open(&[]).await.unwrap();
    let (mut application, _) = within(listener.accept()).await.unwrap();
    remote.stop(Duration::from_secs(1)).await.unwrap();
    let mut seen = Vec::new();
    let _ = within(application.read_to_end(&mut seen)).await;
    assert_eq!(seen, b"");
}

#[tokio::test]
async fn stop_while_waiting_for_token_is_immediate() {
    let cloud = Cloud::start().await;
    let before = tasks();
    cloud
        .platform
        .token_faults
        .lock()
        .unwrap()
        .push_back(TokenFault::Silent);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    remote.set_messaging_online(true);
    eventually(|| !cloud.platform.requested_keys.lock().unwrap().is_empty()).await;
    stops_within(5, &remote, 30).await;
    eventually(|| tasks() <= before).await;
}

#[tokio::test]
async fn dropping_the_last_handle_ends_everything() {
    let cloud = Cloud::start().await;
    let before = tasks();
    let remote = cloud.device(web()).await;
    let other = remote.clone();
    let open = cloud.open(&["http/1.1"]).await.unwrap();
    drop(remote);
    assert!(other.status().borrow().is_connected());
    drop(other);
    eventually(|| !cloud.relay.is_connected(NAME)).await;
    drop(open);
    eventually(|| tasks() <= before).await;
}
