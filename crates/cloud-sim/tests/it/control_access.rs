//! Who may control a simulator: its owner, and no web page, no foreign host name and no other user
//! of the machine.

use std::os::unix::fs::PermissionsExt;

use cloud_sim::{SimConfig, Simulator};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::common::{control, http, register, start};

async fn status(request: RequestBuilder) -> StatusCode {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    if !status.is_success() {
        let body: Value = answer.json().await.unwrap();
        assert!(body["error"].is_string(), "{body}");
    }
    status
}

#[tokio::test]
async fn control_from_a_web_page_is_refused() {
    let sim = start().await;
    register(&sim, "SN1").await;
    let before = sim
        .control()
        .device("SN1")
        .await
        .unwrap()
        .remote_cert_serial;
    let rotate = format!("{}/devices/SN1/rotate", sim.control_url());
    let faults = format!("{}/faults", sim.control_url());
    let client = http(&sim);
    // What a browser sends without asking first.
    let page = |request: RequestBuilder| request.header("origin", "https://evil.example");
    let forbidden = StatusCode::FORBIDDEN;
    assert_eq!(status(page(client.post(&rotate))).await, forbidden);
    let plain = client
        .post(&faults)
        .header("content-type", "text/plain")
        .body(r#"{"fault":"drop_mqtt"}"#);
    assert_eq!(status(page(plain)).await, forbidden);
    assert_eq!(
        status(page(client.request(Method::OPTIONS, &rotate))).await,
        forbidden
    );
    // As from a page whose browser sends no origin.
    let plain = client
        .post(&faults)
        .header("content-type", "text/plain")
        .body(r#"{"fault":"drop_mqtt"}"#);
    assert_eq!(status(plain).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let after = sim
        .control()
        .device("SN1")
        .await
        .unwrap()
        .remote_cert_serial;
    assert_eq!(after, before);
    sim.stop().await;
}

#[tokio::test]
async fn control_under_another_host_name_is_refused() {
    let sim = start().await;
    let port = sim.control_url().rsplit(':').next().unwrap().to_owned();
    for (host, expected) in [
        (format!("evil.example:{port}"), 421),
        ("127.0.0.1:1".to_owned(), 421),
        (format!("localhost:{port}"), 200),
    ] {
        let request = control(&sim, Method::GET, "/devices").header("host", &host);
        assert_eq!(status(request).await, expected, "{host}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn control_token_is_private_and_not_in_ready_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = SimConfig::default();
    config.data_dir = Some(directory.path().join("cloud"));
    let mut before = None;
    // The second one finds the file of the first.
    for _ in 0..2 {
        let sim = Simulator::start(config.clone()).await.unwrap();
        let ready = serde_json::to_value(sim.ready()).unwrap();
        let file = directory.path().join("cloud/control-token");
        assert_eq!(ready["control_token_file"], json!(file));
        assert!(!ready.to_string().contains(sim.control_token()));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = std::fs::read_to_string(&file).unwrap();
        let url = format!("{}/devices", sim.control_url());
        let request = http(&sim).get(&url).bearer_auth(token.trim());
        assert_eq!(status(request).await, StatusCode::OK);
        // A connection of its own user says enough, but a wrong token is wrong.
        if cfg!(target_os = "linux") {
            assert_eq!(status(http(&sim).get(&url)).await, StatusCode::OK);
        }
        let request = http(&sim).get(&url).bearer_auth("0000");
        assert_eq!(status(request).await, StatusCode::UNAUTHORIZED);
        if let Some(earlier) = before.replace(token) {
            let request = http(&sim).get(&url).bearer_auth(earlier.trim());
            assert_eq!(status(request).await, StatusCode::UNAUTHORIZED);
        }
        sim.stop().await;
    }
}
