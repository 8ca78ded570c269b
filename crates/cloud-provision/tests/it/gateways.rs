//! Responses as gateways, other platforms and text editors shape them.

use std::io::Write;

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use cloud_pki::key::{KeyError, KeyType};
use cloud_provision::{MAX_BODY, MalformedResponse, ProvisionError, Provisioned};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{Api, KEY, granted, key, ok, outcome, pair, with_status};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cloud-pki/tests/keys/");

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{KEYS}{name}")).unwrap()
}

async fn registered(
    response: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> Provisioned {
    let api = Api::start(move |_| Some(response())).await;
    let provisioned = api.client().register("SN0001", &key()).await.unwrap();
    assert_eq!(api.received(0).headers["accept-encoding"], "identity");
    provisioned
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn encoded(status: u16, coding: &'static str, body: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_ENCODING, coding),
        (CONTENT_TYPE, "application/json"),
    ];
    with_status(status, (headers, body))
}

#[tokio::test]
async fn compressed_response_is_decoded() {
    let body = granted().to_string();
    for (coding, encoded_body) in [
        ("gzip", gzip(body.as_bytes())),
        ("deflate", deflate(body.as_bytes())),
    ] {
        let response = move || encoded(200, coding, encoded_body.clone());
        assert_eq!(registered(response).await.iot.thing_name, "SN0001");
    }
}

#[tokio::test]
async fn decompressed_body_is_bounded() {
    let bomb = gzip(&vec![b' '; 200 * MAX_BODY]);
    assert!(bomb.len() < MAX_BODY, "{}", bomb.len());
    let (error, requests) = outcome(move || encoded(200, "gzip", bomb.clone())).await;
    assert!(matches!(error, ProvisionError::TooLarge { .. }), "{error}");
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn byte_order_mark_before_json_is_ignored() {
    let body = format!("\u{feff}{}", granted());
    registered(move || body.clone().into_response()).await;
    let refusal = format!(
        "\u{feff}{}",
        json!({"registration": {"error": "unknown device"}})
    );
    let (error, _) = outcome(move || refusal.clone().into_response()).await;
    assert!(matches!(error, ProvisionError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn pem_in_any_layout_is_taken_and_returned_in_one_that_others_read() {
    let layouts: [fn(&str) -> String; 4] = [
        |pem| format!("\u{feff}{pem}"),
        |pem| pem.lines().map(|line| format!("  {line}\n")).collect(),
        |pem| pem.replace('\n', " "),
        |pem| pem.replace('\n', "\\n"),
    ];
    for layout in layouts {
        let plain = granted();
        let mut thing = plain.clone();
        for path in [
            "/registration/thing/iot/certificates/device_certificate",
            "/registration/thing/iot/certificates/root_ca",
            "/registration/thing/iot/keyPair/privateKey",
            "/registration/thing/remote/cert",
            "/registration/thing/remote/pkey",
        ] {
            let text = thing.pointer_mut(path).unwrap();
            *text = json!(layout(text.as_str().unwrap()));
        }
        let provisioned = registered(move || ok(&thing)).await;
        let sent = |path: &str| {
            plain
                .pointer(path)
                .unwrap()
                .as_str()
                .unwrap()
                .replace("\r\n", "\n")
        };
        assert_eq!(
            provisioned.iot.device_certificate,
            sent("/registration/thing/iot/certificates/device_certificate")
        );
        assert_eq!(
            provisioned.remote.private_key.expose_secret(),
            sent("/registration/thing/remote/pkey")
        );
    }
}

#[tokio::test]
async fn whole_set_of_public_roots_is_taken() {
    let roots: String = (0..150)
        .map(|n| pair(&format!("ca{n}.example")).0)
        .collect();
    let mut thing = granted();
    thing["registration"]["thing"]["iot"]["certificates"]["root_ca"] = json!(roots);
    let provisioned = registered(move || ok(&thing)).await;
    assert_eq!(provisioned.iot.root_ca.matches("BEGIN").count(), 150);
}

#[tokio::test]
async fn many_and_folded_header_fields_are_taken() {
    let body = granted().to_string();
    let many = body.clone();
    registered(move || {
        let mut response = many.clone().into_response();
        for n in 0..150 {
            let name: HeaderName = format!("x-field-{n}").parse().unwrap();
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static("1"));
        }
        response
    })
    .await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\nX-Space : 1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
    });
    let client = crate::common::quick(cloud_provision::Client::builder(&url))
        .build()
        .unwrap();
    client.register("SN0001", &key()).await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn unsuccessful_status_shows_the_words_of_the_platform() {
    let words = |error: &ProvisionError| match error {
        ProvisionError::Unauthorized { message, .. }
        | ProvisionError::Status { message, .. }
        | ProvisionError::Server { message, .. } => message.as_ref().map(ToString::to_string),
        other => panic!("{other}"),
    };
    for (status, body, expected) in [
        (403, json!({"message": "Forbidden"}), "Forbidden"),
        (
            409,
            json!({"error": {"code": 7, "message": "already registered"}}),
            "already registered",
        ),
        (
            422,
            json!({"title": "Invalid", "detail": "sn is too short"}),
            "sn is too short",
        ),
        (400, json!("bad request"), "bad request"),
        (
            401,
            json!({"detail": format!("key {KEY} is used up")}),
            "key [redacted] is used up",
        ),
        (
            404,
            json!({"reason": "no such \u{1b}[31mthing"}),
            r"no such \u{1b}[31mthing",
        ),
        (
            503,
            json!({"message": "maintenance until noon"}),
            "maintenance until noon",
        ),
    ] {
        for coding in ["identity", "gzip"] {
            let text = body.to_string().into_bytes();
            let text = if coding == "gzip" { gzip(&text) } else { text };
            let (error, _) = outcome(move || encoded(status, coding, text.clone())).await;
            assert_eq!(
                words(&error).as_deref(),
                Some(expected),
                "{status} {coding}"
            );
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    let (error, _) = outcome(|| with_status(409, "thing exists\n")).await;
    assert_eq!(words(&error).as_deref(), Some("thing exists"));
    for silent in [
        "",
        "<html>Conflict</html>",
        "{}",
        "[1]",
        r#"{"message": ""}"#,
    ] {
        let (error, _) = outcome(move || with_status(409, silent)).await;
        assert_eq!(words(&error), None, "{silent}");
        assert!(
            error.to_string().contains("is the API's URL right?"),
            "{error}"
        );
    }
}

fn with_remote_pair(certificate: &str, key: &str) -> Value {
    let mut thing = granted();
    let remote = &mut thing["registration"]["thing"]["remote"];
    remote["cert"] = json!(file(certificate));
    remote["pkey"] = json!(file(key));
    thing
}

#[tokio::test]
async fn ec_keys_without_public_part_are_taken() {
    for (certificate, key) in [
        ("ec-certificate.pem", "ec-key-without-public-part.pkcs8.pem"),
        ("ec-certificate.pem", "ec-key-without-public-part.sec1.pem"),
        ("p384.cert.pem", "p384-bare.sec1.pem"),
    ] {
        let thing = with_remote_pair(certificate, key);
        let provisioned = registered(move || ok(&thing)).await;
        // Other programs read it as it is.
        assert_eq!(provisioned.remote.private_key.expose_secret(), file(key));
    }
}

#[tokio::test]
async fn key_that_tls_cannot_use_is_named_as_the_platforms() {
    for (name, key_type) in [
        ("p521", KeyType::Ec("P-521")),
        ("rsa1024", KeyType::Rsa(1024)),
        ("explicit", KeyType::EcExplicitParameters),
    ] {
        let thing = with_remote_pair(&format!("{name}.cert.pem"), &format!("{name}.key.pem"));
        let (error, _) = outcome(move || ok(&thing)).await;
        let message = error.to_string();
        assert!(error.may_have_registered());
        let ProvisionError::Malformed {
            what: MalformedResponse::UnusableKey { field, error },
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(field, "registration.thing.remote.pkey");
        assert_eq!(error, KeyError::Unsupported(key_type.clone()));
        assert!(message.contains(&key_type.to_string()), "{message}");
        assert!(message.contains("report this to the platform"), "{message}");
    }
}
