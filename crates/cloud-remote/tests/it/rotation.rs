//! Certificate rotation: keeps connections open, and keeps the old certificate if the new one is
//! invalid.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use cloud_remote::{CertificateError, CertificatePem, RemoteEvent, RotationError, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::serving::web;
use crate::support::{
    Ca, Cloud, Issue, NAME, TokenFault, event, eventually, serial_of_pem, shown_serial, within,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: sn0001.ui.example.com\r\n\r\n";

async fn get_hello(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        let mut some = [0; 1024];
        let length = within(stream.read(&mut some)).await.unwrap();
        assert_ne!(length, 0, "the connection was closed");
        seen.extend(&some[..length]);
    }
}

#[tokio::test]
async fn rotation_affects_new_connections_only() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    let mut old = cloud.open(&["http/1.1"]).await.unwrap();
    assert_eq!(shown_serial(&old), "1");
    get_hello(&mut old).await;

    cloud
        .platform
        .certificates
        .lock()
        .unwrap()
        .push_back(cloud.platform.ca.issue(&Issue::serial(2)));
    remote.set_desired_serial("0002").unwrap();
    let rotated = event(&mut events, |event| match event {
        RemoteEvent::CertificateRotated { serial, .. } => Some(serial),
        RemoteEvent::Disconnected { reason } => panic!("the tunnel was lost: {reason}"),
        _ => None,
    });
    assert_eq!(rotated.await.as_str(), "2");
    assert_eq!(*cloud.platform.requested_serials.lock().unwrap(), ["2"]);
    assert_eq!(serial_of_pem(&cloud.platform.stored.lock().unwrap()), "2");
    assert_eq!(remote.status().borrow().certificate.serial.as_str(), "2");

    let new = cloud.open(&["http/1.1"]).await.unwrap();
    assert_eq!(shown_serial(&new), "2");
    get_hello(&mut old).await;
    assert_eq!(shown_serial(&old), "1");
}

/// Has the platform send `bad`, and checks that the old certificate is still served.
async fn refused(cloud: &Cloud, bad: CertificatePem) -> Arc<RotationError> {
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    cloud.platform.certificates.lock().unwrap().push_back(bad);
    remote.set_desired_serial("2").unwrap();
    let error = event(&mut events, |event| match event {
        RemoteEvent::RotationFailed { serial, error } if serial.as_str() == "2" => Some(error),
        RemoteEvent::CertificateRotated { .. } => panic!("an invalid certificate was accepted"),
        _ => None,
    })
    .await;
    assert_eq!(serial_of_pem(&cloud.platform.stored.lock().unwrap()), "1");
    assert_eq!(remote.status().borrow().certificate.serial.as_str(), "1");
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    assert_eq!(shown_serial(&stream), "1");
    get_hello(&mut stream).await;
    error
}

/// The same for a certificate that does not pass its checks.
async fn rejected(cloud: &Cloud, bad: CertificatePem) -> CertificateError {
    let error = refused(cloud, bad).await;
    rejection(&error)
}

/// Returns why a certificate was not installed.
fn rejection(error: &RotationError) -> CertificateError {
    match error {
        RotationError::Certificate(error) => error.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn wrong_key_keeps_old_certificate() {
    let cloud = Cloud::start().await;
    let ca = &cloud.platform.ca;
    let mixed = CertificatePem::new(
        ca.issue(&Issue::serial(2)).chain(),
        ca.issue(&Issue::serial(2)).key().to_owned(),
    );
    let error = rejected(&cloud, mixed).await;
    assert!(matches!(error, CertificateError::KeyMismatch), "{error}");
}

#[tokio::test]
async fn wrong_serial_keeps_old_certificate() {
    let cloud = Cloud::start().await;
    let error = rejected(&cloud, cloud.platform.ca.issue(&Issue::serial(3))).await;
    assert!(
        matches!(error, CertificateError::WrongSerial { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn expired_certificate_keeps_old_one() {
    let cloud = Cloud::start().await;
    let expired = Issue {
        days: -1,
        ..Issue::serial(2)
    };
    let error = rejected(&cloud, cloud.platform.ca.issue(&expired)).await;
    assert!(matches!(error, CertificateError::Expired { .. }), "{error}");
}

#[tokio::test]
async fn dates_are_checked_by_platform_clock() {
    let cloud = Cloud::start().await;
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    // No token arrives that would set the clock.
    let faults = [TokenFault::Silent; 9];
    cloud.platform.token_faults.lock().unwrap().extend(faults);
    let years = Duration::from_secs(5 * 365 * 86_400);
    remote.set_platform_time(SystemTime::now() + years);
    let certificate = cloud.platform.ca.issue(&Issue::serial(2));
    cloud
        .platform
        .certificates
        .lock()
        .unwrap()
        .push_back(certificate);
    remote.set_messaging_online(true);
    remote.set_desired_serial("2").unwrap();
    let error = event(&mut events, |event| match event {
        RemoteEvent::RotationFailed { error, .. } => Some(error),
        _ => None,
    })
    .await;
    let error = rejection(&error);
    assert!(matches!(error, CertificateError::Expired { .. }), "{error}");
}

/// No sockets are involved, so virtual time works.
#[tokio::test(start_paused = true)]
async fn failed_rotation_retries_until_done() {
    let cloud = Cloud::start().await;
    let faults = [TokenFault::Silent; 99];
    cloud.platform.token_faults.lock().unwrap().extend(faults);
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    let mut events = remote.events();
    let ca = &cloud.platform.ca;
    let wrong = ca.issue(&Issue::serial(3));
    let right = ca.issue(&Issue::serial(2));
    cloud.platform.certificates.lock().unwrap().extend([
        wrong,
        CertificatePem::new("hello", "there".to_owned()),
        right,
    ]);
    remote.set_messaging_online(true);
    remote.set_desired_serial("2").unwrap();
    let mut failures = Vec::new();
    loop {
        match events.recv().await.unwrap() {
            RemoteEvent::RotationFailed { .. } => failures.push(tokio::time::Instant::now()),
            RemoteEvent::CertificateRotated { .. } => break,
            _ => {}
        }
    }
    let [first, second] = failures[..] else {
        panic!("{failures:?}")
    };
    assert!(second - first >= Duration::from_secs(15));
    assert!(second.elapsed() >= Duration::from_secs(30));
}

#[tokio::test]
async fn expiry_notice_is_given_once() {
    let cloud = Cloud::start().await;
    let ending = |serial, days| {
        cloud.platform.ca.issue(&Issue {
            days,
            ..Issue::serial(serial)
        })
    };
    *cloud.platform.stored.lock().unwrap() = ending(1, 20);
    let mut timeouts = Timeouts::default();
    timeouts.check_interval = Duration::from_millis(100);
    let builder = cloud.builder().application(web()).timeouts(timeouts);
    let remote = cloud.device_from(builder).await;
    let mut events = remote.events();
    let mut notices = async || {
        event(&mut events, |event| match event {
            RemoteEvent::CertificateExpiring { serial, days, .. } => {
                Some((serial.to_string(), days))
            }
            _ => None,
        })
        .await
    };
    remote.set_messaging_online(true);
    assert_eq!(notices().await, ("1".to_owned(), 30));
    // Days go by.
    let days = Duration::from_secs(10 * 86_400);
    remote.set_platform_time(SystemTime::now() + days);
    assert_eq!(notices().await, ("1".to_owned(), 14));
    let next = ending(2, 12);
    cloud.platform.certificates.lock().unwrap().push_back(next);
    remote.set_desired_serial("2").unwrap();
    assert_eq!(notices().await, ("2".to_owned(), 3));
}

#[tokio::test]
async fn broken_chain_keeps_old_certificate() {
    let cloud = Cloud::start().await;
    let certificate = cloud.platform.ca.issue(&Issue::serial(2));
    let stranger = Ca::new().issue(&Issue::serial(9));
    let mixed = CertificatePem::new(
        [certificate.chain(), stranger.chain()].concat(),
        certificate.key().to_owned(),
    );
    let error = rejected(&cloud, mixed).await;
    assert!(matches!(error, CertificateError::Chain(_)), "{error}");
}

#[tokio::test]
async fn wrong_name_keeps_old_certificate() {
    let cloud = Cloud::start().await;
    let foreign = Issue {
        name: "sn0002.ui.example.com",
        ..Issue::serial(2)
    };
    let error = rejected(&cloud, cloud.platform.ca.issue(&foreign)).await;
    assert!(
        matches!(&error, CertificateError::WrongName { name } if name == NAME),
        "{error}"
    );
}

#[tokio::test]
async fn malformed_certificate_keeps_old_one() {
    let cloud = Cloud::start().await;
    let error = rejected(&cloud, CertificatePem::new("hello", "there".to_owned())).await;
    assert!(matches!(error, CertificateError::Pem(_)), "{error}");
}

#[tokio::test]
async fn unstorable_certificate_is_not_served() {
    let cloud = Cloud::start().await;
    *cloud.platform.store_fails.lock().unwrap() = true;
    let error = refused(&cloud, cloud.platform.ca.issue(&Issue::serial(2))).await;
    assert!(matches!(&*error, RotationError::Store(_)), "{error}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
}

#[tokio::test]
async fn desired_set_while_offline_is_requested_later() {
    let cloud = Cloud::start().await;
    let remote = cloud.device_from(cloud.builder().application(web())).await;
    cloud
        .platform
        .certificates
        .lock()
        .unwrap()
        .push_back(cloud.platform.ca.issue(&Issue::serial(2)));
    remote.set_desired_serial("2").unwrap();
    remote.set_desired_serial("two").unwrap_err();
    assert!(cloud.platform.requested_serials.lock().unwrap().is_empty());
    remote.set_messaging_online(true);
    eventually(|| remote.status().borrow().certificate.serial.as_str() == "2").await;
}

#[tokio::test]
async fn withdrawing_desired_while_storing_requests_nothing() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    let platform = &cloud.platform;
    let issue = |number| {
        let certificate = platform.ca.issue(&Issue::serial(number));
        platform.certificates.lock().unwrap().push_back(certificate);
    };
    let requested = || platform.requested_serials.lock().unwrap().clone();
    let mut rotated = async || {
        event(&mut events, |event| match event {
            RemoteEvent::CertificateRotated { serial, .. } => Some(serial.to_string()),
            RemoteEvent::RotationFailed { error, .. } => panic!("{error}"),
            _ => None,
        })
        .await
    };
    let storing = platform.storing.lock().await;
    issue(2);
    remote.set_desired_serial("2").unwrap();
    eventually(|| platform.to_store.load(Ordering::Relaxed) == 1).await;
    remote.set_desired(None);
    // All tasks run on this thread, so each handles the change before the store continues.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(storing);
    assert_eq!(rotated().await, "2");
    issue(3);
    remote.set_desired_serial("3").unwrap();
    assert_eq!(rotated().await, "3");
    assert_eq!(requested(), ["2", "3"]);
    // The previous certificate can be desired like any other.
    issue(2);
    remote.set_desired_serial("2").unwrap();
    assert_eq!(rotated().await, "2");
}
