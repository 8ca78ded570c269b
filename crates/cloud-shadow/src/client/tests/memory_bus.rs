//! An in-memory bus.

use super::*;

/// A bus with a fake cloud; with `drop_messages`, the cloud executes requests but its messages are
/// lost.
#[derive(Clone)]
pub(super) struct MemoryBus(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) id: ShadowId,
    pub(super) cloud: Mutex<FakeCloud>,
    pub(super) subscribers: Mutex<Vec<(String, mpsc::Sender<BusMessage>)>>,
    pub(super) requests: Mutex<Vec<(Operation, Value)>>,
    pub(super) drop_messages: AtomicBool,
}

impl MemoryBus {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            id: ShadowId::named("SN1", "config").unwrap(),
            cloud: Mutex::new(FakeCloud::new(DeltaForm::Aws)),
            subscribers: Mutex::default(),
            requests: Mutex::default(),
            drop_messages: AtomicBool::new(false),
        }))
    }

    pub(super) async fn start(&self) -> ShadowClient {
        ShadowClient::start(self.clone(), ShadowConfig::new(self.0.id.clone()))
            .await
            .unwrap()
    }

    pub(super) fn set_drop_messages(&self, drop_messages: bool) {
        self.0.drop_messages.store(drop_messages, Ordering::SeqCst);
    }

    /// An update of another client.
    pub(super) fn external_update(&self, state: &Value) {
        let messages = self.0.cloud.lock().unwrap().update(state, &Value::Null);
        self.deliver(messages);
    }

    pub(super) fn deliver(&self, messages: Vec<Sent>) {
        if self.0.drop_messages.load(Ordering::SeqCst) {
            return;
        }
        for (kind, payload) in messages {
            let rest = match kind {
                MessageKind::Accepted(operation) => format!("{operation}/accepted"),
                MessageKind::Rejected(operation) => format!("{operation}/rejected"),
                MessageKind::Delta => "update/delta".to_owned(),
                MessageKind::Documents => "update/documents".to_owned(),
            };
            let topic = format!("$aws/things/SN1/shadow/name/config/{rest}");
            let ending = topic.rsplit_once('/').unwrap().1.to_owned();
            for (filter, subscriber) in &*self.0.subscribers.lock().unwrap() {
                if filter.ends_with(&ending) {
                    let (topic, payload) = (topic.clone(), payload.clone());
                    subscriber.try_send(BusMessage { topic, payload }).unwrap();
                }
            }
        }
    }

    pub(super) fn requests(&self) -> Vec<(Operation, Value)> {
        self.0.requests.lock().unwrap().clone()
    }
}

impl MessageBus for MemoryBus {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        let operation = [Operation::Get, Operation::Update, Operation::Delete]
            .into_iter()
            .find(|operation| self.0.id.request_topic(*operation) == topic)
            .ok_or_else(|| BusError::permanent(format!("unexpected topic {topic}")))?;
        let request = serde_json::from_slice(&payload).unwrap();
        self.0.requests.lock().unwrap().push((operation, request));
        let responses = self.0.cloud.lock().unwrap().handle(operation, &payload);
        self.deliver(responses);
        Ok(())
    }

    async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
        let (sender, receiver) = mpsc::channel(64);
        self.0.subscribers.lock().unwrap().push((filter, sender));
        Ok(receiver.into())
    }
}
