//! The whole client: over an in-memory bus with a fake cloud, and over a mocked bus that fails.

mod memory_bus;
mod qualification;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use memory_bus::MemoryBus;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::*;
use crate::bus::{BoxedBus, BusError, BusMessage, BusSubscription, MockMessageBus};
use crate::error::RejectionCode;
use crate::in_flight_limit::MAX_IN_FLIGHT;
use crate::limits::InvalidState;
use crate::test_support::{DeltaForm, FakeCloud, Sent, object};
use crate::topic::{MessageKind, Operation};

async fn eventually<T: Clone>(watch: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) -> T {
    timeout(Duration::from_secs(600), watch.wait_for(wanted))
        .await
        .expect("in time")
        .expect("the client is there")
        .clone()
}

#[tokio::test(start_paused = true)]
async fn get_on_start_and_after_each_connect() {
    let bus = MemoryBus::new();
    bus.external_update(&json!({"desired": {"a": 1}}));
    let client = bus.start().await;
    let mut deltas = client.deltas();
    assert_eq!(deltas.next().await.unwrap().state, object(json!({"a": 1})));

    bus.set_drop_messages(true);
    bus.external_update(&json!({"desired": {"a": 2}}));
    bus.set_drop_messages(false);
    client.connected().await;
    assert_eq!(deltas.next().await.unwrap().state, object(json!({"a": 2})));
    assert_eq!(client.document().borrow().as_ref().unwrap().version, 2);
}

#[tokio::test(start_paused = true)]
async fn requests_receive_responses() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    assert!(client.get().await.unwrap_err().is_not_found());
    assert_eq!(client.update_desired(json!({"a": 1})).await.unwrap(), 1);
    assert_eq!(
        client
            .update_reported(json!({"a": 1, "b": 2}))
            .await
            .unwrap(),
        2
    );
    let document = client.get().await.unwrap();
    assert_eq!(document.reported, object(json!({"a": 1, "b": 2})));
    assert!(document.delta().is_empty());
    assert_eq!(client.document().borrow().as_ref(), Some(&document));

    let stale = Update::new().reported(Value::Null).if_version(1);
    assert!(client.update(stale).await.unwrap_err().is_conflict());
    assert_eq!(client.update_reported(Value::Null).await.unwrap(), 3);
    assert_eq!(
        client.report(object(json!({"x": null}))).await.unwrap(),
        None
    );

    client.delete().await.unwrap();
    assert_eq!(*client.document().borrow(), None);
    let error = client.delete().await.unwrap_err();
    assert!(
        matches!(error, RequestError::Rejected(rejection) if rejection.code == RejectionCode::NotFound)
    );
}

#[tokio::test(start_paused = true)]
async fn invalid_requests_are_not_sent() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    eventually(&mut client.delta(), Delta::is_empty).await;
    let before = bus.requests().len();
    let large = json!({ "a": "x".repeat(9000) });
    let deep = json!({"1": {"2": {"3": {"4": {"5": {"6": 0}}}}}});
    for (state, wanted) in [
        (large.clone(), "bytes"),
        (deep, "levels deep"),
        (json!({"a": [null]}), "null"),
        (json!(5), "must be a JSON object"),
    ] {
        let error = client.update_reported(state).await.unwrap_err();
        assert!(matches!(error, RequestError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(client.report(object(large)).await.is_err());
    assert!(matches!(
        client.update(Update::new()).await,
        Err(RequestError::Invalid(InvalidState::Empty))
    ));
    let updates = bus.requests().split_off(before);
    assert!(
        updates
            .iter()
            .all(|(operation, _)| *operation == Operation::Get),
        "{updates:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn unanswered_request_times_out_alone() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client.update_reported(json!({"a": 1})).await.unwrap();
    bus.set_drop_messages(true);
    let before = Instant::now();
    let error = client.update_reported(json!({"a": 2})).await.unwrap_err();
    assert!(
        matches!(error, RequestError::TimedOut(Operation::Update)),
        "{error:?}"
    );
    assert_eq!(before.elapsed().as_secs(), 30);
    bus.set_drop_messages(false);
    client.connected().await;
    let mut document = client.document();
    let document = eventually(&mut document, |it| {
        it.as_ref().is_some_and(|it| it.version == 2)
    })
    .await;
    assert_eq!(document.unwrap().reported, object(json!({"a": 2})));
}

#[tokio::test(start_paused = true)]
async fn dropped_queued_request_is_not_sent() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client.update_reported(json!({"a": 1})).await.unwrap();
    bus.set_drop_messages(true);
    let (first, second) = (client.clone(), client.clone());
    let first = tokio::spawn(async move { first.update_reported(json!({"a": 2})).await });
    tokio::task::yield_now().await;
    let limit = Duration::from_secs(1);
    assert!(
        timeout(limit, second.update_reported(json!({"dropped": 1})))
            .await
            .is_err()
    );
    assert!(first.await.unwrap().is_err());
    bus.set_drop_messages(false);
    client.update_reported(json!({"a": 3})).await.unwrap();
    let sent = bus.requests();
    assert!(
        sent.iter()
            .all(|(_, request)| request["state"]["reported"].get("dropped").is_none()),
        "{sent:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn modify_retries_on_version_conflict() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client.update_desired(json!({"n": 1})).await.unwrap();
    let mut seen = Vec::new();
    let version = client
        .modify(|document| {
            let n = document?.desired["n"].as_u64()?;
            seen.push(n);
            if seen.len() < 3 {
                bus.external_update(&json!({"desired": {"n": n + 1}}));
            }
            Some(Update::new().desired(json!({ "n": n * 10 })))
        })
        .await
        .unwrap();
    assert_eq!((seen, version), (vec![1, 2, 3], Some(4)));

    let mut attempts = 0;
    let error = client
        .modify(|_| {
            attempts += 1;
            bus.external_update(&json!({"desired": {"x": attempts}}));
            Some(Update::new().desired(json!({"n": 0})))
        })
        .await
        .unwrap_err();
    assert!(error.is_conflict());
    assert_eq!(attempts, MODIFY_ATTEMPTS);
    assert_eq!(client.modify(|_| None).await.unwrap(), None);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_cert_sn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<u32>,
}

#[tokio::test(start_paused = true)]
async fn typed_shadow_uses_the_application_types() {
    let bus = MemoryBus::new();
    let config = bus.start().await.typed::<Config>();
    let mut deltas = config.deltas();
    let wanted = Config {
        remote_cert_sn: Some("42".to_owned()),
        interval: None,
    };
    config.update_desired(&wanted).await.unwrap();
    assert_eq!(deltas.next().await.unwrap().unwrap(), wanted);
    assert_eq!(config.report(&wanted).await.unwrap(), Some(2));
    assert_eq!(config.report(&wanted).await.unwrap(), None);
    let document = config.get().await.unwrap();
    assert_eq!((&document.desired, &document.reported), (&wanted, &wanted));
    assert_eq!(config.document().unwrap(), Some(document));

    bus.external_update(&json!({"desired": {"interval": "often"}}));
    let error = deltas.next().await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::Shape {
                section: "delta",
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn stop_fails_open_requests() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client.update_reported(json!({"a": 1})).await.unwrap();
    bus.set_drop_messages(true);
    let open = tokio::spawn({
        let client = client.clone();
        async move { client.get().await }
    });
    tokio::task::yield_now().await;
    client.stop().await;
    assert!(matches!(open.await.unwrap(), Err(RequestError::Closed)));
    assert!(matches!(client.get().await, Err(RequestError::Closed)));
    assert_eq!(client.deltas().next().await, None);
    client.stop().await;
    assert_eq!(Arc::strong_count(&bus.0), 1, "the task still holds the bus");
}

#[tokio::test(start_paused = true)]
async fn driver_ends_with_last_handle_or_bus() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    let mut delta = client.delta();
    drop(client);
    while delta.changed().await.is_ok() {}

    let client = bus.start().await;
    bus.0.subscribers.lock().unwrap().pop();
    client.commands.closed().await;
}

#[tokio::test(start_paused = true)]
async fn in_flight_limit_is_shared_by_all_shadows() {
    let bus = MemoryBus::new();
    bus.set_drop_messages(true);
    let in_flight_limit = InFlightLimit::default();
    let mut clients = Vec::new();
    for _ in 0..MAX_IN_FLIGHT + 2 {
        let config = ShadowConfig::new(bus.0.id.clone()).in_flight_limit(in_flight_limit.clone());
        clients.push(ShadowClient::start(bus.clone(), config).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bus.requests().len(), MAX_IN_FLIGHT);
    clients.pop();
    clients.remove(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bus.requests().len(), MAX_IN_FLIGHT + 1);
}

#[tokio::test(start_paused = true)]
async fn subscription_failure_is_reported() {
    let mut bus = MockMessageBus::new();
    bus.expect_subscribe()
        .withf(|filter| filter == "$aws/things/SN1/shadow/+/accepted")
        .returning(|_| Box::pin(async { Err(BusError::permanent("not authorised")) }));
    let config = ShadowConfig::new(ShadowId::classic("SN1").unwrap());
    let error = ShadowClient::start(bus, config).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Subscribe { filter, .. } if filter.ends_with("/accepted"))
    );
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn subscription_timeout_is_reported() {
    let mut bus = MockMessageBus::new();
    bus.expect_subscribe()
        .returning(|_| Box::pin(std::future::pending()));
    let config =
        ShadowConfig::new(ShadowId::classic("SN1").unwrap()).time_limit(Duration::from_secs(3));
    let error = ShadowClient::start(bus, config).await.unwrap_err();
    assert!(matches!(error, StartError::TimedOut { .. }));
    assert!(error.is_retryable());
}

/// A mocked bus whose subscriptions stay silent.
fn silent_bus() -> MockMessageBus {
    let mut bus = MockMessageBus::new();
    bus.expect_subscribe()
        .times(4)
        .returning(|_| Box::pin(async { Ok(BusSubscription::new(stream::pending())) }));
    bus
}

#[tokio::test(start_paused = true)]
async fn publish_failure_fails_the_request() {
    let mut bus = silent_bus();
    bus.expect_publish()
        .returning(|_, _| Box::pin(async { Err(BusError::temporary("queue full")) }));
    let config = ShadowConfig::new(ShadowId::classic("SN1").unwrap());
    let client = ShadowClient::start(BoxedBus::new(bus), config)
        .await
        .unwrap();
    let error = client.update_reported(json!({"a": 1})).await.unwrap_err();
    assert!(matches!(error, RequestError::Bus(_)), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn hanging_bus_does_not_block_the_client() {
    let mut bus = silent_bus();
    bus.expect_publish()
        .returning(|_, _| Box::pin(std::future::pending()));
    let config =
        ShadowConfig::new(ShadowId::classic("SN1").unwrap()).time_limit(Duration::from_secs(3));
    let client = ShadowClient::start(bus, config).await.unwrap();
    let result = client.get().await;
    assert!(matches!(
        result,
        Err(RequestError::TimedOut(Operation::Get))
    ));
    client.stop().await;
}

#[tokio::test(start_paused = true)]
async fn accepts_duration_max_as_time_limit() {
    let bus = MemoryBus::new();
    let config = ShadowConfig::new(bus.0.id.clone()).time_limit(Duration::MAX);
    let client = ShadowClient::start(bus.clone(), config).await.unwrap();
    client.connected().await;
    client.report(object(json!({"x": 1}))).await.unwrap();
}
