//! The provisioning API: what it answers, and what it answers wrongly on purpose.

use cloud_sim::{ApiAnswer, Fault, Service, SimConfig, SimError, Simulator};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::common::{self, call_register, register, start, text};

/// Whether a key belongs to the first certificate of a chain.
fn matches(chain: &str, key: &str) -> bool {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    rustls::sign::CertifiedKey::new(chain, signer)
        .keys_match()
        .is_ok()
}

async fn api_fault(sim: &Simulator, answer: ApiAnswer) {
    sim.control()
        .fault(Fault::Api { answer, times: 1 })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_device_gets_everything_that_it_needs() {
    let sim = start().await;
    let thing = register(&sim, "SN0001").await;
    assert_eq!(thing["iot"]["thing_name"], "SN0001");
    assert_eq!(
        thing["iot"]["endpoint"],
        format!("localhost:{}", sim.mqtt_addr().port())
    );
    assert_eq!(
        thing["remote"]["endpoint"],
        format!("localhost:{}", sim.relay_addr().port())
    );
    assert_eq!(thing["remote"]["access_point"], "sn0001.ui.localhost");
    let (chain, key) = common::identity(&thing);
    assert!(matches(chain, key));
    assert!(matches(
        text(&thing["remote"]["cert"]),
        text(&thing["remote"]["pkey"])
    ));
    assert_eq!(
        text(&thing["remote"]["cert"])
            .matches("BEGIN CERTIFICATE")
            .count(),
        2
    );

    let device = sim.control().device("SN0001").await.unwrap();
    assert!(device.registered && !device.online && !device.tunnel);
    assert_eq!((device.tokens_issued, device.status_history.len()), (0, 0));
    sim.stop().await;
}

#[tokio::test]
async fn the_key_works_for_any_serial_number_once() {
    let sim = start().await;
    for sn in ["a:b.c_d-E", ".", "cert:1", &"x".repeat(128)] {
        register(&sim, sn).await;
        let again = call_register(&sim, sn, sim.provisioning_key()).await;
        assert_eq!(again.status(), 409);
        let body: Value = again.json().await.unwrap();
        assert!(
            text(&body["registration"]["error"]).contains("already"),
            "{body}"
        );
        assert_eq!(body["registration"]["thing"], Value::Null);
    }
    sim.control().forget(".").await.unwrap();
    register(&sim, ".").await;
    sim.stop().await;
}

#[tokio::test]
async fn refusals_say_why() {
    let sim = start().await;
    let refused = call_register(&sim, "SN1", "wrong").await;
    assert_eq!(refused.status(), 401);
    let body: Value = refused.json().await.unwrap();
    assert!(text(&body["registration"]["error"]).contains("key"));
    assert_eq!(
        call_register(&sim, "a/b#", sim.provisioning_key())
            .await
            .status(),
        400
    );
    let url = format!("{}/device/register", sim.api_url());
    let no_json = common::http(&sim)
        .post(&url)
        .header("content-type", "application/json")
        .body("{")
        .send()
        .await
        .unwrap();
    assert_eq!(no_json.status(), 400);
    let huge = common::http(&sim)
        .post(&url)
        .header("content-type", "application/json")
        .body(vec![b'x'; 1 << 20])
        .send()
        .await;
    assert!(huge.is_err() || huge.unwrap().status() == 413);
    assert!(sim.control().devices().await.is_empty());
    sim.stop().await;
}

#[tokio::test]
async fn bare_endpoints_have_no_ports() {
    let mut config = SimConfig::default();
    config.bare_endpoints = true;
    let sim = Simulator::start(config).await.unwrap();
    let thing = register(&sim, "SN1").await;
    assert_eq!(
        (&thing["iot"]["endpoint"], &thing["remote"]["endpoint"]),
        (&json!("localhost"), &json!("localhost"))
    );
    sim.stop().await;
}

#[tokio::test]
async fn wrong_answers_come_once_and_use_no_key_up() {
    let sim = start().await;
    let key = sim.provisioning_key().to_owned();
    let ask = async || call_register(&sim, "SN1", &key).await;

    api_fault(
        &sim,
        ApiAnswer::Status {
            code: 503,
            retry_after: Some(7),
        },
    )
    .await;
    let answer = ask().await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"7".parse().unwrap())
    );

    for wrong in [ApiAnswer::BrokenJson, ApiAnswer::CutJson, ApiAnswer::Html] {
        api_fault(&sim, wrong.clone()).await;
        let answer = ask().await;
        assert_eq!(answer.status(), 200);
        let body = answer.text().await.unwrap();
        assert!(
            serde_json::from_str::<Value>(&body).is_err(),
            "{wrong:?}: {body}"
        );
    }

    api_fault(&sim, ApiAnswer::CutBody).await;
    assert!(
        ask().await.bytes().await.is_err(),
        "the connection breaks in the body"
    );

    api_fault(&sim, ApiAnswer::Huge { bytes: 3_000_000 }).await;
    assert!(ask().await.bytes().await.unwrap().len() > 3_000_000);

    api_fault(
        &sim,
        ApiAnswer::Error {
            message: "no such order".into(),
        },
    )
    .await;
    let body: Value = ask().await.json().await.unwrap();
    assert_eq!(body["registration"]["error"], "no such order");

    api_fault(
        &sim,
        ApiAnswer::MissingKey {
            key: "iot.keyPair.privateKey".into(),
        },
    )
    .await;
    let body: Value = ask().await.json().await.unwrap();
    assert_eq!(body["registration"]["thing"]["iot"]["keyPair"], json!({}));

    for service in [Service::Iot, Service::Remote] {
        api_fault(&sim, ApiAnswer::MismatchedKey { service }).await;
        let body: Value = ask().await.json().await.unwrap();
        let thing = &body["registration"]["thing"];
        let (chain, key) = common::identity(thing);
        assert_eq!(matches(chain, key), service != Service::Iot);
        assert_eq!(
            matches(
                text(&thing["remote"]["cert"]),
                text(&thing["remote"]["pkey"])
            ),
            service != Service::Remote
        );
    }

    api_fault(&sim, ApiAnswer::Delay { ms: 1 }).await;
    assert_eq!(ask().await.status(), 200);
    assert_eq!(sim.control().devices().await.len(), 1);
    sim.stop().await;
}

#[tokio::test]
async fn a_data_directory_brings_devices_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = SimConfig::default();
    config.data_dir = Some(directory.path().to_owned());
    let first = Simulator::start(config.clone()).await.unwrap();
    let thing = register(&first, "SN1").await;
    let serial = first.control().rotate("SN1").await.unwrap();
    let (key, roots) = (
        first.provisioning_key().to_owned(),
        first.ca_pem().to_owned(),
    );
    assert_eq!(first.ca_file(), directory.path().join("ca.pem"));
    let public_root = std::fs::read_to_string(directory.path().join("public-root.pem")).unwrap();
    assert_eq!(public_root.matches("BEGIN").count(), 1);
    assert!(roots.ends_with(&public_root));
    let addresses = |sim: &Simulator| {
        let (mqtt, relay) = (sim.mqtt_addr(), sim.relay_addr());
        (sim.api_url(), mqtt, relay, sim.control_url())
    };
    let before = addresses(&first);
    first.stop().await;

    let second = Simulator::start(config.clone()).await.unwrap();
    assert_eq!(addresses(&second), before);
    assert_eq!(
        (second.provisioning_key(), second.ca_pem()),
        (key.as_str(), roots.as_str())
    );
    assert_eq!(
        second
            .control()
            .device("SN1")
            .await
            .unwrap()
            .remote_cert_serial,
        serial
    );
    assert_eq!(call_register(&second, "SN1", &key).await.status(), 409);
    common::Device::connect(&second, &thing).await;
    second.stop().await;

    let taken = tokio::net::TcpListener::bind(before.2).await.unwrap();
    let error = Simulator::start(config.clone()).await.err().unwrap();
    assert!(matches!(error, SimError::KeptPort { port, .. } if port == before.2.port()));
    assert!(error.is_retryable(), "{error}");
    // A port that is given takes precedence.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.relay_port = free.local_addr().unwrap().port();
    drop(free);
    let third = Simulator::start(config).await.unwrap();
    assert_ne!(third.relay_addr(), taken.local_addr().unwrap());
    third.stop().await;
}

#[tokio::test]
async fn device_with_own_keys_gets_certificates_only() {
    let sim = start().await;
    let (iot, remote) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let request = |key: &KeyPair| {
        let params = CertificateParams::default();
        params.serialize_request(key).unwrap().pem().unwrap()
    };
    let ask = async |csr: Value| {
        let body = json!({ "sn": "SN1", "token": sim.provisioning_key(), "csr": csr });
        let url = format!("{}/device/register", sim.api_url());
        let call = common::http(&sim).post(url).json(&body);
        call.send().await.unwrap()
    };

    let broken = request(&iot).replace("A", "B");
    for damaged in ["hello", &broken] {
        let refused = ask(json!({ "iot": damaged, "remote": request(&remote) })).await;
        assert_eq!(refused.status(), 400);
    }
    assert!(
        sim.control().devices().await.is_empty(),
        "no key is used up"
    );

    let answer = ask(json!({ "iot": request(&iot), "remote": request(&remote) })).await;
    assert_eq!(answer.status(), 200);
    let body: Value = answer.json().await.unwrap();
    let mut thing = body["registration"]["thing"].clone();
    assert!(!thing.to_string().contains("PRIVATE KEY"), "{thing}");
    let certificate = text(&thing["iot"]["certificates"]["device_certificate"]);
    assert!(matches(certificate, &iot.serialize_pem()));
    assert!(matches(
        text(&thing["remote"]["cert"]),
        &remote.serialize_pem()
    ));
    // And the certificate is as good as any other.
    thing["iot"]["keyPair"] = json!({ "privateKey": iot.serialize_pem() });
    common::Device::connect(&sim, &thing).await;
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_can_be_lost_after_it_used_the_key_up() {
    let sim = start().await;
    let key = sim.provisioning_key().to_owned();
    api_fault(&sim, ApiAnswer::Lost).await;
    let answer = call_register(&sim, "SN1", &key).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "the connection breaks");
    assert_eq!(sim.control().devices().await.len(), 1);
    assert_eq!(call_register(&sim, "SN1", &key).await.status(), 409);
    sim.stop().await;
}
