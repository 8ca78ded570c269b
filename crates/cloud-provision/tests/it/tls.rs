//! Authentication of the platform.

use axum::http::Version;
use cloud_provision::{Client, ProvisionError};

use crate::common::tls::{Ca, Dates, api, ca};
use crate::common::{Api, granted, key, ok, quick};

fn client(api: &Api, ca: &Ca) -> Client {
    let url = format!("https://127.0.0.1:{}", api.address.port());
    quick(Client::builder(&url))
        .additional_roots_pem(ca.pem())
        .build()
        .unwrap()
}

#[tokio::test]
async fn trusted_server_is_used_with_its_best_http_version() {
    let ca = ca();
    for (alpn, version) in [
        (
            &[b"h2".as_slice(), b"http/1.1"] as &[&[u8]],
            Version::HTTP_2,
        ),
        (&[b"http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let api = api(&ca, "127.0.0.1", Dates::Now, alpn).await;
        client(&api, &ca).register("SN0001", &key()).await.unwrap();
        assert_eq!(api.received(0).version, version);
    }
}

#[tokio::test]
async fn untrusted_server_receives_no_key() {
    let (trusted, foreign) = (ca(), ca());
    for (api, what) in [
        (
            api(&foreign, "127.0.0.1", Dates::Now, &[]).await,
            "foreign CA",
        ),
        (
            api(&trusted, "other.example", Dates::Now, &[]).await,
            "other name",
        ),
    ] {
        let error = client(&api, &trusted)
            .register("SN0001", &key())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ProvisionError::Untrusted { .. }),
            "{what}: {error}"
        );
        assert!(!error.is_retryable() && !error.may_have_registered());
        assert_eq!(api.requests(), 0, "{what}");
        println!("{what}: {error}");
    }
}

#[tokio::test]
async fn server_without_tls_receives_no_plain_text() {
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let error = client(&api, &ca())
        .register("SN0001", &key())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ProvisionError::Untrusted { .. } | ProvisionError::Unreachable { .. }
        ),
        "{error}"
    );
    assert_eq!(api.requests(), 0);
}

#[tokio::test]
async fn certificate_outside_validity_receives_no_key_and_suggests_clock() {
    let ca = ca();
    let expired = api(&ca, "127.0.0.1", Dates::Past, &[]).await;
    let error = client(&expired, &ca)
        .register("SN0001", &key())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ProvisionError::Expired { .. }) && !error.is_retryable(),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("until Wed, 01 Jan 2020 00:00:00 GMT"),
        "{text}"
    );

    let early = api(&ca, "127.0.0.1", Dates::Future, &[]).await;
    let error = client(&early, &ca)
        .register("SN0001", &key())
        .await
        .unwrap_err();
    // A corrected clock lets a retry succeed.
    assert!(
        matches!(error, ProvisionError::NotValidYet { .. }) && error.is_retryable(),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("the clock is wrong by at least"), "{text}");
    assert!(
        text.contains("from Wed, 01 Jan 2098 00:00:00 GMT"),
        "{text}"
    );
    assert!(!error.may_have_registered());
    assert_eq!((expired.requests(), early.requests()), (0, 0));
}
