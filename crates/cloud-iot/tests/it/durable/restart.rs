//! Clean restarts.

use std::time::Duration;

use cloud_iot::{
    DeliveryError, DurableOutbox, Message, PublishError, PublishOptions, QoS, Session, StoreError,
};

use super::{NOWHERE, config};
use crate::support::broker::Broker;
use crate::support::pki::{Flaw, Pki};

const STOP: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn stored_messages_are_sent_once_in_order_by_next_session() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = || DurableOutbox::open(directory.path().join("outbox")).unwrap();
    let pki = Pki::new();
    pki.write_device(directory.path());

    // Without a network.
    let session = Session::builder(config(NOWHERE, directory.path()))
        .outbox_store(outbox())
        .start()
        .unwrap();
    let mut receipts = Vec::new();
    for n in 0..20 {
        let message = Message::new(format!("t/{}", n % 2), n.to_string());
        let options = PublishOptions::new();
        receipts.push(session.publish_stored(message, options).await.unwrap());
    }
    // The stop stores the last message; QoS 0 messages are never stored.
    receipts.push(session.publish(Message::new("t/0", "20")).unwrap());
    let unsure = Message::new("t/0", "unsure").qos(QoS::AtMostOnce);
    let refused = session.publish_stored(unsure.clone(), PublishOptions::new());
    assert_eq!(
        refused.await.unwrap_err(),
        PublishError::NotStored(StoreError::NotKept)
    );
    drop(session.publish(unsure).unwrap());
    let report = session.stop(STOP).await;
    assert_eq!((report.undelivered, report.stored), (22, 21));
    for receipt in receipts {
        assert_eq!(receipt.await, Err(DeliveryError::Stopped));
    }

    // With a network; new messages follow the stored ones.
    let broker = Broker::start(pki.server(Flaw::None)).await;
    let stored = outbox();
    assert_eq!(stored.waiting(), 21);
    let session = Session::builder(config(broker.port, directory.path()))
        .outbox_store(stored)
        .start()
        .unwrap();
    let last = session.publish(Message::new("t/0", "22")).unwrap();
    last.await.unwrap();
    let report = session.stop(STOP).await;
    assert_eq!((report.undelivered, report.stored), (0, 0));
    let expected = |from: usize| (from..=22).step_by(2).map(|n| n.to_string());
    assert_eq!(broker.received("t/0"), expected(0).collect::<Vec<_>>());
    assert_eq!(
        broker.received("t/1"),
        expected(1).take(10).collect::<Vec<_>>()
    );
    assert_eq!(outbox().waiting(), 0);
}
