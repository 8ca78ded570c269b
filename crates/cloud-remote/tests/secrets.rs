//! No log line at any level contains a secret. This is a separate binary because tracing caches the
//! enabled levels per process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test fails by panicking, in its helpers too.

#[allow(dead_code)] // Shared with the other tests, which need more of it.
#[path = "it/support.rs"]
mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_remote::{Application, CertificatePem, RemoteEvent};
use tracing_subscriber::filter::LevelFilter;

use crate::support::{Cloud, Issue, TokenFault, event};

/// Collects the log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the base64 lines of a private key, which are unique.
fn key_lines(pem: &CertificatePem) -> Vec<String> {
    pem.key()
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn no_secret_logged_over_a_full_life() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The runtime of this test has one thread, so all of its tasks log here.
    let guard = tracing::subscriber::set_default(subscriber);

    let cloud = Cloud::start().await;
    let web = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    cloud
        .platform
        .token_faults
        .lock()
        .unwrap()
        .push_back(TokenFault::Malformed);
    let mut secrets = key_lines(&cloud.platform.stored.lock().unwrap());
    let remote = cloud.device(Application::service(web)).await;
    let mut events = remote.events();
    assert_eq!(cloud.page("h2").await, "hello");
    for (serial, good) in [(2, true), (3, false)] {
        let pem = cloud
            .platform
            .ca
            .issue(&Issue::serial(if good { serial } else { 99 }));
        secrets.extend(key_lines(&pem));
        cloud.platform.certificates.lock().unwrap().push_back(pem);
        remote.set_desired_serial(&serial.to_string()).unwrap();
        event(&mut events, |event| match event {
            RemoteEvent::CertificateRotated { .. } => good.then_some(()),
            RemoteEvent::RotationFailed { .. } => (!good).then_some(()),
            _ => None,
        })
        .await;
    }
    remote.stop(Duration::from_secs(10)).await.unwrap();
    drop(guard);

    secrets.extend(
        cloud
            .platform
            .requested_keys
            .lock()
            .unwrap()
            .iter()
            .cloned(),
    );
    secrets.extend(cloud.platform.issued_tokens.lock().unwrap().iter().cloned());
    assert!(secrets.len() > 6, "{}", secrets.len());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for needed in [
        "received a token for remote access",
        "the tunnel is connected",
        "a new certificate is in use",
    ] {
        assert!(
            log.contains(needed),
            "this test sees nothing: no {needed:?}"
        );
    }
    for secret in secrets {
        // A part of a secret is a leak too.
        let piece = &secret[..secret.len().min(24)];
        assert!(
            !log.to_lowercase().contains(&piece.to_lowercase()),
            "a secret is in the log"
        );
    }
}
