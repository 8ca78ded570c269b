//! The shadow cases of AWS's own device qualification (Device Advisor), named after them; see
//! docs/device-qualification.md.

use super::*;

fn reported(request: &(Operation, Value)) -> &Value {
    assert_eq!(request.0, Operation::Update);
    &request.1["state"]["reported"]
}

#[tokio::test(start_paused = true)]
async fn shadow_publish_reported_state() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client.connected().await;
    let version = client
        .report(object(json!({"color": "red"})))
        .await
        .unwrap();
    assert_eq!(version, Some(1));
    // First the get, then the report.
    let requests = bus.requests();
    assert_eq!(requests.first().unwrap().0, Operation::Get);
    assert_eq!(reported(requests.last().unwrap()), &json!({"color": "red"}));
    let state = bus.0.cloud.lock().unwrap().document().unwrap();
    assert_eq!(state.reported, object(json!({"color": "red"})));
}

#[tokio::test(start_paused = true)]
async fn shadow_update_reported_state() {
    let bus = MemoryBus::new();
    let client = bus.start().await;
    client
        .report(object(json!({"color": "red", "on": true})))
        .await
        .unwrap();
    let mut deltas = client.deltas();
    // Another client requests another colour; the device applies and reports it.
    bus.external_update(&json!({"desired": {"color": "green"}}));
    let wanted = deltas.next().await.unwrap();
    assert_eq!(wanted.state, object(json!({"color": "green"})));
    client.report(wanted.state).await.unwrap();
    assert_eq!(
        reported(bus.requests().last().unwrap()),
        &json!({"color": "green"}),
        "only changes"
    );
    let state = bus.0.cloud.lock().unwrap().document().unwrap();
    assert_eq!(
        state.reported,
        object(json!({"color": "green", "on": true}))
    );
    assert!(state.delta().is_empty(), "no difference is left");
}
