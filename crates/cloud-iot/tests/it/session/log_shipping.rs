//! A host that publishes its log: the session may log only where it can be called.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock};

use cloud_iot::{Message, Session};
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::*;

/// Publishes warnings, once there is a session.
#[derive(Clone, Default)]
struct Shipper {
    session: Arc<OnceLock<Session>>,
    shipped: Arc<Mutex<Vec<String>>>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Shipper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("cloud_iot")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        NoSubscriber::default().new_span(span)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if let Some(session) = self.session.get() {
            // The receipt is not needed.
            let _ = session.publish(Message::new("log", text.0.clone()));
            self.shipped.lock().unwrap().push(text.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

async fn warnings_are_shipped(shipper: Shipper) {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.birth = Some(Message::new("status", "ONLINE"));
    let session = Session::builder(config).start().unwrap();
    shipper.session.set(session.clone()).unwrap();
    let mut link = peer.subscribed().await;
    assert_eq!(
        link.publish(Some(PubAckReason::NotAuthorized)).await,
        "ONLINE"
    );
    let shipped = link.publish(Some(PubAckReason::Success)).await;
    assert_eq!(*shipper.shipped.lock().unwrap(), [shipped.as_str()]);
    assert!(shipped.contains("own message"), "{shipped}");
    session.stop(STOP).await;
}

/// Runs in its own thread, which is abandoned on a deadlock.
#[test]
fn session_warning_can_be_published() {
    let (done, end) = sync_channel(1);
    std::thread::spawn(move || {
        let shipper = Shipper::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tracing::subscriber::with_default(shipper.clone(), || {
            runtime.block_on(warnings_are_shipped(shipper));
        });
        let _ = done.send(());
    });
    end.recv_timeout(PATIENCE).unwrap();
}
