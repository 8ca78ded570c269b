//! Connecting, hooks, stopping.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloud_iot::{
    ConfigError, DeliveryError, Message, PublishError, Session, SessionEvent, SessionState,
    Subscription,
};

use crate::common::*;
use crate::support::peer::no_properties;
use crate::support::pki::Pki;

#[tokio::test]
async fn order_on_the_wire() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = (0..9)
        .map(|n| Subscription::new(format!("in/{n}")).unwrap())
        .collect();
    config.birth = Some(at_most_once("status", "ONLINE"));
    config.goodbye = Some(at_most_once("status", "OFFLINE"));
    let hooked = Arc::new(AtomicUsize::new(0));
    let hook = Arc::clone(&hooked);
    let session = Session::builder(config)
        .on_connect(move || {
            let hook = Arc::clone(&hook);
            async move {
                hook.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .start()
        .unwrap();
    let mut events = session.events();
    let _one = session.publish(Message::new("t", "1")).unwrap();
    let _two = session.publish(at_most_once("t", "2")).unwrap();

    let mut link = peer.subscribed().await;
    assert_eq!(hooked.load(Ordering::SeqCst), 0, "not all is granted yet");
    link.suback(None).await;
    assert_eq!(link.summary().await, "publish ONLINE");
    assert_eq!(hooked.load(Ordering::SeqCst), 1);
    assert_eq!(
        link.publish(Some(rumqttc::v5::mqttbytes::v5::PubAckReason::Success))
            .await,
        "1"
    );
    assert_eq!(link.summary().await, "publish 2");
    assert_eq!(soon(events.recv()).await.unwrap(), SessionEvent::Connected);
    assert!(session.state().borrow().is_online());

    let stop = tokio::spawn(async move { session.stop(STOP).await });
    assert_eq!(link.summary().await, "publish OFFLINE");
    assert_eq!(link.summary().await, "disconnect");
    assert_eq!(link.summary().await, "end");
    let report = soon(stop).await.unwrap();
    assert!(report.clean);
    assert_eq!(report.undelivered, 0);
}

#[tokio::test]
async fn failing_hooks_are_isolated() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.timeouts.hook = Duration::from_millis(50);
    let reported = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&reported);
    let session = Session::builder(config)
        .on_connect(|| async { Err("no".into()) })
        .on_connect(|| async { panic!("a hook of a test panics") })
        .on_connect(std::future::pending)
        .on_disconnect(move |cause| {
            let recorder = Arc::clone(&recorder);
            async move {
                recorder
                    .lock()
                    .unwrap()
                    .push(cause.map(|cause| cause.to_string()));
                Ok(())
            }
        })
        .start()
        .unwrap();
    let mut events = session.events();
    online(&session).await;
    site.broker.cut();
    lost(&mut events).await;
    online(&session).await;
    assert!(soon(session.stop(STOP)).await.clean);
    let reported = reported.lock().unwrap();
    assert_eq!(reported.len(), 2);
    assert!(reported[0].is_some());
    assert_eq!(reported[1], None, "a stop has no cause");
}

#[tokio::test]
async fn will_after_killed_connection_goodbye_after_stop() {
    let site = Site::new().await;
    let (watcher, mut seen) = site.watcher().await;
    let mut config = site.config("device");
    config.will = Some(at_most_once("status", "WILL"));
    config.birth = Some(at_most_once("status", "ONLINE"));
    config.goodbye = Some(at_most_once("status", "OFFLINE"));
    let session = Session::builder(config).start().unwrap();
    assert_eq!(next(&mut seen).await, "ONLINE");
    site.broker.cut();
    assert_eq!(next(&mut seen).await, "WILL");
    assert_eq!(next(&mut seen).await, "ONLINE");
    assert!(soon(session.stop(STOP)).await.clean);
    assert_eq!(next(&mut seen).await, "OFFLINE");
    // A will after the goodbye message would arrive before this.
    soon(watcher.publish(at_most_once("end", "END")).unwrap())
        .await
        .unwrap();
    assert_eq!(next(&mut seen).await, "END");
    watcher.stop(STOP).await;
}

#[tokio::test]
async fn stop_during_the_back_off_ends_at_once() {
    let pki = Pki::new();
    // Port 1 has no listener.
    let mut config = config(&pki, 1, "device");
    config.backoff.base_delay = Duration::from_secs(100);
    let session = Session::builder(config).start().unwrap();
    let receipt = session.publish(Message::new("t", "1")).unwrap();
    let mut state = session.state();
    soon(state.wait_for(|state| matches!(state, SessionState::Waiting { .. })))
        .await
        .unwrap();
    let started = Instant::now();
    let report = session.stop(Duration::from_secs(60)).await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(report.undelivered, 1);
    assert_eq!(receipt.await, Err(DeliveryError::Stopped));
    assert_eq!(*session.state().borrow(), SessionState::Stopped);
    assert_eq!(
        session.publish(Message::new("t", "")).unwrap_err(),
        PublishError::Stopped
    );
    assert_eq!(
        session.stop(STOP).await,
        report,
        "a second call returns the same report"
    );
}

#[tokio::test]
async fn stop_keeps_deadline_against_frozen_peer() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.goodbye = Some(at_most_once("status", "OFFLINE"));
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    site.broker.freeze(true);
    let receipt = session.publish(Message::new("t", "1")).unwrap();
    let started = Instant::now();
    let report = session.stop(Duration::from_millis(300)).await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(report.undelivered, 1);
    assert_eq!(receipt.await, Err(DeliveryError::Stopped));
}

#[tokio::test]
async fn no_task_is_left_after_a_stop_or_a_drop() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let (pki, peer) = scripted().await;
    for drop_it in [false, true] {
        let before = metrics.num_alive_tasks();
        let router = cloud_iot::Router::new()
            .route(
                "in/#",
                tower::service_fn(|_| async { Ok::<_, cloud_iot::BoxError>(()) }),
            )
            .unwrap();
        let session = Session::builder(config(&pki, peer.port, "device"))
            .router(router)
            .start()
            .unwrap();
        let mut link = peer.online(&session).await;
        let mut state = session.state();
        if drop_it {
            drop(session);
        } else {
            session.stop(STOP).await;
        }
        soon(state.wait_for(|state| *state == SessionState::Stopped))
            .await
            .unwrap();
        assert_eq!(link.summary().await, "disconnect");
        // The driver's task ends right after its last report.
        soon(async {
            while metrics.num_alive_tasks() > before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_bad_configuration_is_refused() {
    let pki = Pki::new();
    let refused = |change: fn(&mut cloud_iot::SessionConfig)| {
        let mut config = config(&pki, 8883, "device");
        change(&mut config);
        Session::builder(config).start().expect_err("refused")
    };
    assert!(matches!(
        refused(|c| c.host = "mqtts://x".into()),
        ConfigError::Host(_)
    ));
    assert!(matches!(
        refused(|c| c.host = String::new()),
        ConfigError::Host(_)
    ));
    assert_eq!(refused(|c| c.port = 0), ConfigError::Port);
    assert!(matches!(
        refused(|c| c.client_id = String::new()),
        ConfigError::ClientId { .. }
    ));
    assert!(matches!(
        refused(|c| c.client_id = "x".repeat(129)),
        ConfigError::ClientId { .. }
    ));
    for keep_alive in [
        Duration::from_secs(4),
        Duration::from_millis(5500),
        Duration::from_secs(65_536),
    ] {
        let mut config = config(&pki, 8883, "device");
        config.keep_alive = keep_alive;
        let error = Session::builder(config).start().unwrap_err();
        assert_eq!(error, ConfigError::KeepAlive(keep_alive));
    }
    assert!(matches!(
        refused(|c| c.will = Some(Message::new("a/+", ""))),
        ConfigError::Topic {
            message: "will",
            ..
        }
    ));
    assert!(matches!(
        refused(|c| c.birth = Some(Message::new("a", vec![0; 200_000]))),
        ConfigError::TooLarge {
            message: "birth",
            ..
        }
    ));
    assert!(matches!(
        refused(|c| c.subscriptions.push(Subscription::new("in/#").unwrap())),
        ConfigError::DuplicateSubscription(_)
    ));
    assert!(matches!(
        refused(|c| c.limits.in_flight = 0),
        ConfigError::OutOfRange {
            name: "limits.in_flight",
            ..
        }
    ));
    assert!(matches!(
        refused(|c| c.timeouts.connect = Duration::ZERO),
        ConfigError::OutOfRange {
            name: "timeouts.connect",
            ..
        }
    ));
    assert!(matches!(
        refused(|c| c.backoff.max_delay = Duration::MAX),
        ConfigError::OutOfRange {
            name: "backoff.max_delay",
            ..
        }
    ));
    let outside = std::thread::spawn({
        let config = config(&pki, 8883, "device");
        move || Session::builder(config).start().unwrap_err()
    });
    assert_eq!(outside.join().unwrap(), ConfigError::NoRuntime);
}

#[tokio::test]
async fn uses_latest_tls_reports_settings_of_the_connection() {
    let (pki, peer) = scripted().await;
    let config = config(&pki, peer.port, "device");
    let tls = std::sync::Arc::clone(&config.tls);
    let session = Session::builder(config).start().unwrap();
    assert!(!session.uses_latest_tls(), "not online yet");
    let mut first = peer.connected().await;
    // This connection started with other settings.
    session.reconnect_with(tls);
    let mut events = session.events();
    first.suback(None).await;
    let connected = soon(events.recv()).await.unwrap();
    assert!(matches!(connected, cloud_iot::SessionEvent::Connected));
    assert!(!session.uses_latest_tls());
    assert_eq!(*lost(&mut events).await, cloud_iot::Cause::Reconnect);
    assert!(!session.uses_latest_tls());
    let mut second = peer.connected().await;
    second.suback(None).await;
    let connected = soon(events.recv()).await.unwrap();
    assert!(matches!(connected, cloud_iot::SessionEvent::Connected));
    assert!(session.uses_latest_tls());
    session.stop(Duration::from_millis(100)).await;
}

/// The settings hold a private key.
#[tokio::test]
async fn replaced_tls_settings_leave_memory() {
    let (pki, peer) = scripted().await;
    let config = config(&pki, peer.port, "device");
    let replaced = std::sync::Arc::downgrade(&config.tls);
    let newest = std::sync::Arc::new(rustls::ClientConfig::clone(&config.tls));
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let mut first = peer.connected().await;
    first.suback(None).await;
    online(&session).await;
    assert!(replaced.upgrade().is_some(), "it is in use");
    session.reconnect_with(newest);
    assert_eq!(*lost(&mut events).await, cloud_iot::Cause::Reconnect);
    let mut second = peer.connected().await;
    second.suback(None).await;
    online(&session).await;
    assert!(replaced.upgrade().is_none());
    session.stop(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn stop_accepts_maximum_duration() {
    let (_peer, session) = started(|config| config).await;
    assert!(session.stop(Duration::MAX).await.clean);
}

#[tokio::test]
async fn extreme_server_keep_alive_is_bounded() {
    let (peer, session) = started(|config| config).await;
    for seconds in [0, 1] {
        let mut link = peer.accept().await;
        let mut properties = no_properties();
        properties.server_keep_alive = Some(seconds);
        link.connack(Some(properties)).await;
        link.suback(None).await;
        online(&session).await;
        let receipt = session.publish(Message::new("t", "1")).unwrap();
        // One missing response is enough; a storm of them would be a fault.
        let mut pings = 0;
        while link.summary().await == "ping" {
            pings += 1;
        }
        assert!(pings <= 2, "{pings} pings");
        drop((link, receipt));
    }
    session.stop(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn the_fallback_port_is_used_with_its_alpn_name() {
    let pki = Pki::new();
    let peer =
        crate::support::peer::Peer::listen_with_alpn(&pki, cloud_iot::tls::ALPN_AWS_MQTT).await;
    // Port 1 has no listener.
    let mut config = config(&pki, 1, "device");
    config.fallback_port = cloud_iot::FallbackPort::Port(peer.port);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    assert_eq!(*lost(&mut events).await, cloud_iot::Cause::Refused);
    for _ in 0..2 {
        let mut link = peer.connected().await;
        assert_eq!(link.alpn(), Some(cloud_iot::tls::ALPN_AWS_MQTT));
        link.suback(None).await;
        online(&session).await;
        drop(link);
        // And again there, at once.
        let cause = lost(&mut events).await;
        assert!(
            matches!(*cause, cloud_iot::Cause::Closed { .. }),
            "{cause:?}"
        );
    }
    session.stop(STOP).await;
}
