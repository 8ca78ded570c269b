//! A device against the simulator, over real sockets.

use std::time::Duration;

use cloud_facade::config::{LockError, Store};
use cloud_facade::iot::Message;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::{ClesydeCloud, Event, InitializeError, Registered};
use cloud_sim::{Fault, TokenAnswer};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::public;
use serde_json::json;
use testkit::wait::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_registers_connects_serves_and_rotates() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let seen = pair
        .seen_when("the device to be online", |seen| seen.online && seen.tunnel)
        .await;
    assert_eq!(seen.status_history, ["ONLINE"]);
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    let first = pair.served_serial().await?;
    assert_eq!(first, seen.remote_cert_serial);

    let mut events = pair.cloud.events();
    let second = pair.simulator.control().rotate(SERIAL).await?;
    assert_ne!(first, second);
    let rotated = async {
        loop {
            if let Event::RemoteCertificateRotated { serial, .. } = events.recv().await? {
                return anyhow::Ok(serial);
            }
        }
    };
    assert_eq!(
        timeout("the certificate to be rotated", rotated).await?,
        second
    );
    assert_eq!(pair.served_serial().await?, second);
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    pair.seen_when("the rotation to be reported", |seen| {
        seen.reported
            .as_ref()
            .is_some_and(|reported| reported["remoteCertSn"] == second.as_str())
    })
    .await;
    let stored = Store::new(pair.base.path()).load()?.device.remote;
    assert_eq!(
        stored.info().serial,
        second,
        "what is served is what is stored"
    );

    pair.cloud.stop().await;
    // The platform reads its messages in a task of its own.
    let seen = pair
        .seen_when("the second state", |seen| seen.status_history.len() == 2)
        .await;
    assert_eq!(seen.status_history, ["ONLINE", "OFFLINE"]);
    assert!(!pair.cloud.status().running);
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_messages_arrive_in_order_after_online() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let control = pair.simulator.control();
    let mut status = pair.cloud.watch_status();
    control.fault(Fault::DropMqtt { sn: None }).await?;
    timeout(
        "the loss to be noticed",
        status.wait_for(|status| !status.iot.connected),
    )
    .await?;
    let topic = format!("c/d/{SERIAL}/status");
    let states: Vec<String> = (0..20).map(|n| format!("N{n}")).collect();
    let mut receipts = Vec::new();
    for state in &states {
        let payload = json!({ "state": state }).to_string();
        receipts.push(pair.cloud.publish(Message::new(topic.clone(), payload))?);
    }
    for receipt in receipts {
        timeout("a message to be acknowledged", receipt).await?;
    }
    let expected: Vec<&str> = ["ONLINE", "OFFLINE", "ONLINE"]
        .into_iter()
        .chain(states.iter().map(String::as_str))
        .collect();
    pair.seen_when("everything to have arrived", |seen| {
        seen.status_history == expected
    })
    .await;
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_tunnel_is_reopened() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let mut status = pair.cloud.watch_status();
    pair.simulator
        .control()
        .fault(Fault::DropTunnel { sn: None })
        .await?;
    timeout(
        "the loss to be noticed",
        status.wait_for(|status| !status.remote.connected),
    )
    .await?;
    let lost = status.borrow_and_update().remote.clone();
    assert!(lost.reason.is_some(), "the reason is reported");
    pair.reachable().await?;
    let back = status.borrow().remote.clone();
    assert!(
        lost.since.is_some() && lost.since <= back.since,
        "and since when"
    );
    assert_eq!(back.reason, None);
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrequested_token_is_ignored() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let mut events = pair.cloud.events();
    let control = pair.simulator.control();
    control
        .fault(Fault::SendToken {
            sn: SERIAL.to_owned(),
        })
        .await?;
    // The broadcast comes behind the token on the same connection.
    control.broadcast(b"marker".to_vec()).await?;
    loop {
        match timeout("the marker", events.recv()).await? {
            Event::PlatformMessageReceived { topic, payload } => {
                assert_eq!(
                    (topic.as_str(), &payload[..]),
                    ("c/platform", &b"marker"[..]),
                    "secrets are not handed on"
                );
                break;
            }
            event => assert!(
                !matches!(
                    event,
                    Event::RemoteTokenReceived { .. } | Event::RemoteDisconnected { .. }
                ),
                "{event:?}"
            ),
        }
    }
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_or_refused_token_is_requested_again() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let control = pair.simulator.control();
    control
        .fault(Fault::Token {
            answer: TokenAnswer::Malformed,
            times: 1,
        })
        .await?;
    control
        .fault(Fault::Token {
            answer: TokenAnswer::Foreign,
            times: 1,
        })
        .await?;
    pair.cloud.initialize().await?;
    pair.reachable().await?;
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_tls_or_sni_are_refused() -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pair = TestDevice::running().await?;
    let mut plain = tokio::net::TcpStream::connect(pair.simulator.relay_addr()).await?;
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut rest = Vec::new();
    // Closed, be it with a reset.
    let _ = timeout("the relay to hang up", plain.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());

    // An address is not sent as a server name.
    let nameless = public::connect(
        pair.simulator.relay_addr(),
        "127.0.0.1",
        pair.simulator.ca_pem(),
    );
    assert!(timeout("the relay to hang up", nameless).await.is_err());
    assert_eq!(
        pair.fetch("").await?,
        "hello, 127.0.0.1",
        "everybody else is served"
    );
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_request_affects_no_other_caller() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let (relay, ca) = (
        pair.simulator.relay_addr(),
        pair.simulator.ca_pem().to_owned(),
    );
    let host = pair.seen().await?.access_point;
    let client = public::http_client(relay, &host, &ca)?;
    let mut download = client
        .get(format!("https://{host}:{}/slow", relay.port()))
        .send()
        .await?;
    timeout("the first half", download.chunk()).await?;
    drop((download, client));
    pair.go_on.notify_one();
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    assert!(pair.cloud.status().remote.connected);
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_and_stop_work_in_any_order() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    pair.cloud.stop().await;
    pair.cloud.initialize().await?;
    assert!(matches!(
        pair.cloud.initialize().await,
        Err(InitializeError::Running)
    ));

    // Another instance on the same directory gets the process that has it.
    let other =
        ClesydeCloud::builder(SERIAL.parse()?, pair.base.path(), pair.simulator.api_url()).build();
    match other.initialize().await {
        Err(InitializeError::Lock(LockError::InUse { pid, .. })) => {
            assert_eq!(pid, Some(std::process::id()))
        }
        otherwise => panic!("{otherwise:?}"),
    }
    assert!(
        pair.cloud.remove_configuration().await.is_err(),
        "not under a running device"
    );

    // Twice at once, and again.
    tokio::join!(pair.cloud.stop(), pair.cloud.stop());
    pair.cloud.initialize().await?;
    pair.reachable().await?;
    pair.cloud.stop().await;
    assert!(pair.cloud.remove_configuration().await?);
    let error = pair.cloud.initialize().await.unwrap_err();
    assert!(error.is_not_provisioned(), "{error}");
    assert!(
        !pair.base.path().join(".clesydecloud").exists(),
        "nothing is made by trying"
    );
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_does_not_wait_for_unreachable_platform() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let TestDevice {
        simulator,
        cloud,
        base,
        ..
    } = pair;
    simulator.stop().await;
    let mut events = cloud.events();
    cloud.initialize().await?;
    loop {
        if let Event::IotDisconnected { reason, retry_in } =
            timeout("the failure", events.recv()).await?
        {
            assert!(
                !reason.is_empty() && retry_in <= Duration::from_secs(60),
                "{reason}, {retry_in:?}"
            );
            break;
        }
    }
    timeout("the stop", cloud.stop()).await;
    drop(base);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioned_device_is_not_registered_again() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let again = pair
        .cloud
        .provision(&ProvisioningKey::new("used up")?)
        .await?;
    assert_eq!(again, Registered::AlreadyProvisioned);
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_can_be_read_and_reported() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let state = json!({ "firmware": { "version": "1.2.3" } });
    pair.cloud
        .report(state.as_object().cloned().unwrap_or_default())?
        .await?;
    let seen = pair.seen().await?;
    assert_eq!(
        seen.reported.unwrap_or_default()["firmware"]["version"],
        "1.2.3"
    );

    let mut events = pair.cloud.events();
    let wanted = json!({ "brightness": 7 });
    pair.simulator
        .control()
        .set_desired(SERIAL, wanted.as_object().cloned().unwrap_or_default())
        .await?;
    loop {
        if let Event::ShadowDeltaReceived { state } = timeout("the delta", events.recv()).await? {
            assert_eq!(state["brightness"], 7);
            break;
        }
    }
    pair.stop().await;
    Ok(())
}
