//! Token requests with missing or malformed responses, tokens for other keys, and lost tunnels.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_remote::{Application, Limits, Probe, RemoteEvent, SourceError, Timeouts, TunnelStatus};

use crate::serving::web;
use crate::support::{Cloud, TokenFault, connected, event, eventually, within};

fn faults(cloud: &Cloud, list: &[TokenFault]) {
    cloud.platform.token_faults.lock().unwrap().extend(list);
}

fn requests(cloud: &Cloud) -> usize {
    cloud.platform.requested_keys.lock().unwrap().len()
}

#[tokio::test]
async fn tunnel_connects_within_a_second_of_online() {
    let cloud = Cloud::start().await;
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    assert_eq!(
        remote.status().borrow().tunnel,
        TunnelStatus::WaitingForToken { cause: None }
    );
    assert_eq!(requests(&cloud), 0);
    remote.set_messaging_online(true);
    event(&mut events, |event| {
        matches!(event, RemoteEvent::TokenReceived { .. }).then_some(())
    })
    .await;
    let url = event(&mut events, |event| match event {
        RemoteEvent::Connected { url } => Some(url),
        _ => None,
    });
    let port = cloud.address.port();
    assert_eq!(url.await, format!("https://sn0001.ui.example.com:{port}/"));
    assert!(cloud.relay.is_connected(crate::support::NAME));
    assert!(remote.status().borrow().is_connected());
}

#[tokio::test]
async fn malformed_token_response_is_reported_and_retried() {
    let cloud = Cloud::start().await;
    faults(&cloud, &[TokenFault::Malformed]);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    remote.set_messaging_online(true);
    let error = event(&mut events, |event| match event {
        RemoteEvent::TokenFailed { error } => Some(error),
        _ => None,
    })
    .await;
    assert!(matches!(&*error, SourceError::Answer(_)), "{error}");
    connected(&remote).await;
    assert_eq!(requests(&cloud), 2);
}

/// No sockets are involved until the response arrives, so virtual time works.
#[tokio::test(start_paused = true)]
async fn token_timeout_retries_with_fresh_keys() {
    let cloud = Cloud::start().await;
    faults(&cloud, &[TokenFault::Silent; 4]);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    let start = tokio::time::Instant::now();
    remote.set_messaging_online(true);
    for round in 1..=3 {
        let RemoteEvent::TokenFailed { error } = events.recv().await.unwrap() else {
            panic!("nothing else can have happened")
        };
        assert!(matches!(&*error, SourceError::TimedOut), "{error}");
        let least = Duration::from_secs(60) * round;
        assert!(
            start.elapsed() >= least && start.elapsed() <= least * 2,
            "{:?}",
            start.elapsed()
        );
    }
    let keys = cloud.platform.requested_keys.lock().unwrap().clone();
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
}

#[tokio::test]
async fn session_loss_cancels_token_request_and_return_retries() {
    let cloud = Cloud::start().await;
    faults(&cloud, &[TokenFault::Silent]);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    remote.set_messaging_online(true);
    eventually(|| requests(&cloud) == 1).await;
    remote.set_messaging_online(false);
    // The session is back before the driver looks: the response is lost all the same.
    remote.set_messaging_online(true);
    connected(&remote).await;
    assert_eq!(requests(&cloud), 2);
}

#[tokio::test]
async fn panicking_source_is_a_failed_request() {
    let cloud = Cloud::start().await;
    faults(&cloud, &[TokenFault::Panic]);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    remote.set_messaging_online(true);
    let error = event(&mut events, |event| match event {
        RemoteEvent::TokenFailed { error } => Some(error),
        _ => None,
    })
    .await;
    assert!(matches!(&*error, SourceError::Unavailable(_)), "{error}");
    connected(&remote).await;
}

#[tokio::test]
async fn token_for_other_keys_is_replaced() {
    let cloud = Cloud::start().await;
    faults(&cloud, &[TokenFault::ForeignKeys]);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    remote.set_messaging_online(true);
    event(&mut events, |event| {
        matches!(event, RemoteEvent::ConnectFailed { .. }).then_some(())
    })
    .await;
    connected(&remote).await;
    assert_eq!(requests(&cloud), 2);
}

#[tokio::test]
async fn fast_clock_does_not_keep_tunnel_down() {
    let cloud = Cloud::start().await;
    // The platform's clock is a day behind the device's. The relay uses the platform's.
    *cloud.platform.valid_for.lock().unwrap() = (-86_400, 86_400);
    let remote = cloud.device(web()).await;
    assert!(remote.status().borrow().token_valid.is_some());
    assert_eq!(requests(&cloud), 1);
}

/// The platform's clock is 100 days behind the device's, and the relay uses its own.
#[tokio::test]
async fn platform_time_corrects_wrong_clock() {
    let cloud = Cloud::start().await;
    let error: i64 = -100 * 86_400;
    *cloud.platform.valid_for.lock().unwrap() = (error + 86_400, 86_400);
    let mut timeouts = Timeouts::default();
    timeouts.check_interval = Duration::from_millis(500);
    timeouts.refresh_before = Duration::from_secs(86_398);
    let builder = cloud.builder().application(web()).timeouts(timeouts);
    let remote = cloud.device_from(builder).await;
    remote.set_platform_time(SystemTime::now() - Duration::from_secs(error.unsigned_abs()));
    let start = tokio::time::Instant::now();
    remote.set_messaging_online(true);
    connected(&remote).await;
    // A token of a day is refreshed at its time: not at the fallback interval of an hour, and not
    // at once.
    eventually(|| requests(&cloud) >= 3).await;
    assert!(start.elapsed() > Duration::from_secs(2), "a loop");
    assert!(remote.status().borrow().is_connected());
}

#[tokio::test]
async fn lost_tunnel_reconnects_with_same_token() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    assert!(cloud.relay.disconnect(crate::support::NAME));
    event(&mut events, |event| {
        matches!(event, RemoteEvent::Disconnected { .. }).then_some(())
    })
    .await;
    assert!(matches!(
        remote.status().borrow().tunnel,
        TunnelStatus::Waiting { .. }
    ));
    connected(&remote).await;
    assert_eq!(requests(&cloud), 1);
    assert_eq!(cloud.page("h2").await, "hello");
}

#[tokio::test]
async fn unreachable_relay_is_reported() {
    let cloud = Cloud::start().await;
    let port = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = cloud_remote::RemoteConfig::new("127.0.0.1", port, crate::support::NAME);
    let remote = cloud
        .device_from(cloud_remote::RemoteAccess::builder(config).application(web()))
        .await;
    let mut status = remote.status();
    remote.set_messaging_online(true);
    let status =
        within(status.wait_for(|status| matches!(status.tunnel, TunnelStatus::Waiting { .. })))
            .await
            .unwrap();
    let TunnelStatus::Waiting { cause, .. } = &status.tunnel else {
        unreachable!()
    };
    assert!(cause.contains("cannot be reached"), "{cause}");
}

#[tokio::test]
async fn invalid_start_parameters_are_refused() {
    let cloud = Cloud::start().await;
    let platform = || Arc::clone(&cloud.platform);
    let error = cloud
        .builder()
        .start(platform(), platform(), platform())
        .await
        .unwrap_err();
    assert!(
        matches!(error, cloud_remote::StartError::NoApplication),
        "{error}"
    );
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    *cloud.platform.stored.lock().unwrap() = cloud_remote::CertificatePem::new("", String::new());
    let builder = cloud.builder().application(Application::forward(address));
    let error = builder
        .start(platform(), platform(), platform())
        .await
        .unwrap_err();
    assert!(
        matches!(error, cloud_remote::StartError::Certificate(_)),
        "{error}"
    );
}

#[tokio::test]
async fn accepts_unbounded_durations() {
    let cloud = Cloud::start().await;
    let (mut timeouts, mut limits, mut probe) =
        (Timeouts::default(), Limits::default(), Probe::default());
    for span in [
        &mut timeouts.check_interval,
        &mut timeouts.refresh_before,
        &mut timeouts.relay_check,
        &mut timeouts.dead_link,
        &mut limits.tls_handshake,
        &mut limits.request_header,
        &mut limits.idle,
        &mut probe.interval,
    ] {
        *span = Duration::MAX;
    }
    probe.host = Some("127.0.0.1".to_owned());
    probe.port = cloud.address.port();
    let builder = cloud.builder().application(web()).timeouts(timeouts);
    let remote = cloud.device_from(builder.limits(limits).probe(probe)).await;
    let mut events = remote.events();
    remote.set_messaging_online(true);
    event(&mut events, |event| {
        matches!(event, RemoteEvent::Reachable).then_some(())
    })
    .await;
    for protocol in ["h2", "http/1.1"] {
        assert_eq!(cloud.page(protocol).await, "hello");
    }
    assert!(remote.status().borrow().is_connected());
    remote.stop(Duration::MAX).await.unwrap();
}
