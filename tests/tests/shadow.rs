//! The device's side of a shadow against the cloud's side, over a line that loses, repeats and reorders: once the loss has
//! ended and the device was told so, both agree. On virtual time, by seeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_facade::shadow::{
    BusError, BusMessage, BusSubscription, Deltas, MessageBus, RequestError, ShadowClient,
    ShadowConfig, ShadowId,
};
use cloud_sim::shadow::{DeltaForm, ShadowId as CloudId, ShadowService};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// Longest way of a message, either way.
const LATENCY_MS: u64 = 400;

/// A request of the device is given up after this.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// How long agreement may take on a line that loses nothing any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stories told with each form of delta and kind of shadow.
const SEEDS: u64 = 40;

/// The cloud and the line to it. Clones are the same.
#[derive(Clone)]
struct Line(Arc<Mutex<Inner>>);

struct Inner {
    cloud: ShadowService,
    random: StdRng,
    loses: bool,
    subscribers: Vec<(String, mpsc::UnboundedSender<BusMessage>)>,
}

impl Line {
    fn new(form: DeltaForm, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            cloud: ShadowService::new(form),
            random: StdRng::seed_from_u64(seed),
            loses: true,
            subscribers: Vec::new(),
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// How late each copy of a message comes out at the other end: none of a lost one, two of a repeated one.
    fn fate(&self) -> Vec<Duration> {
        self.with(|inner| {
            let copies = match inner.random.random_range(0..10) {
                0..3 if inner.loses => 0,
                3..5 => 2,
                _ => 1,
            };
            (0..copies)
                .map(|_| Duration::from_millis(inner.random.random_range(0..LATENCY_MS)))
                .collect()
        })
    }

    /// Carries a message to the device.
    fn down(&self, (topic, payload): (String, Vec<u8>)) {
        for late in self.fate() {
            let (line, message) = (
                self.clone(),
                BusMessage {
                    topic: topic.clone(),
                    payload: payload.clone(),
                },
            );
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                line.with(|inner| {
                    for (filter, subscriber) in &inner.subscribers {
                        if fits(filter, &message.topic) {
                            // The device may have gone.
                            let _ = subscriber.send(message.clone());
                        }
                    }
                });
            });
        }
    }

    /// Carries a request to the cloud.
    fn up(&self, topic: &str, payload: &[u8]) {
        for late in self.fate() {
            let (line, topic, payload) = (self.clone(), topic.to_owned(), payload.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                for answer in line.with(|inner| inner.cloud.handle(&topic, &payload, now())) {
                    line.down(answer);
                }
            });
        }
    }

    /// The platform wants something else.
    fn desire(&self, id: &CloudId, patch: Map<String, Value>) {
        for message in self.with(|inner| inner.cloud.set_desired(id, patch, now()).unwrap()) {
            self.down(message);
        }
    }

    /// The platform deletes the shadow, if there is one.
    fn delete(&self, topic: &str) {
        for message in self.with(|inner| inner.cloud.handle(topic, b"", now())) {
            self.down(message);
        }
    }
}

impl MessageBus for Line {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        self.up(&topic, &payload);
        Ok(())
    }

    async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.with(|inner| inner.subscribers.push((filter, sender)));
        Ok(BusSubscription::new(futures_util::stream::poll_fn(
            move |cx| receiver.poll_recv(cx),
        )))
    }
}

fn fits(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (None, None) => return true,
            (Some(level), Some(name)) if level == "+" || level == name => {}
            _ => return false,
        }
    }
}

/// Time stamps are not what this is about, as long as they do not run backwards.
fn now() -> u64 {
    1_700_000_000
}

/// Few keys and values, so that they meet often; `null` removes.
fn patch(random: &mut StdRng) -> Map<String, Value> {
    let mut patch = Map::new();
    for _ in 0..random.random_range(1..3) {
        let value = match random.random_range(0..6) {
            0 => Value::Null,
            1 => json!([random.random_range(0..3)]),
            2 => json!({ "deep": random.random_range(0..3), "er": Value::Null }),
            n => json!(n),
        };
        patch.insert(
            ["a", "b", "delta"][random.random_range(0..3)].to_owned(),
            value,
        );
    }
    patch
}

/// Does what is wanted, and says so until it is heard.
async fn obey(client: ShadowClient, mut deltas: Deltas) {
    while let Some(delta) = deltas.next().await {
        loop {
            match client.report(delta.state.clone()).await {
                Ok(_) => break,
                Err(RequestError::Closed) => return,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    }
}

async fn agree(form: DeltaForm, name: Option<&str>, seed: u64) {
    let story = format!("{form:?}, {name:?}, seed {seed}");
    let line = Line::new(form, seed);
    let mut random = StdRng::seed_from_u64(!seed);
    let (id, cloud_id) = match name {
        Some(name) => (
            ShadowId::named("SN1", name).unwrap(),
            CloudId::named("SN1", name),
        ),
        None => (ShadowId::classic("SN1").unwrap(), CloudId::classic("SN1")),
    };
    let delete = id.filters()[0].replace("+/accepted", "delete");
    let config = ShadowConfig::new(id).time_limit(TIME_LIMIT);
    let client = ShadowClient::start(line.clone(), config).await.unwrap();
    let obeying = tokio::spawn(obey(client.clone(), client.deltas()));

    for step in 0..40 {
        if step == 25 {
            // Late messages of the lossy time still come after this.
            line.with(|inner| inner.loses = false);
            client.connected().await;
        }
        match random.random_range(0..10) {
            0 => line.delete(&delete),
            // An outcome that is not known is part of the story.
            1 => drop(
                client
                    .update_reported(Value::Object(patch(&mut random)))
                    .await,
            ),
            _ => line.desire(&cloud_id, patch(&mut random)),
        }
        tokio::time::sleep(Duration::from_millis(
            random.random_range(0..3 * LATENCY_MS),
        ))
        .await;
    }
    line.desire(
        &cloud_id,
        Map::from_iter([("last".to_owned(), json!(seed))]),
    );

    let agreed = async {
        loop {
            let theirs = line.with(|inner| {
                let document = inner.cloud.document(&cloud_id)?;
                let sections = (document.desired().clone(), document.reported().clone());
                Some((sections, document.version(), document.delta().is_empty()))
            });
            let ours = client.document().borrow().clone();
            if let (Some((sections, version, true)), Some(ours)) = (theirs, ours)
                && (sections, version) == ((ours.desired, ours.reported), ours.version)
                && client.delta().borrow().is_empty()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, agreed).await.is_err() {
        let theirs = line.with(|inner| format!("{:?}", inner.cloud.document(&cloud_id)));
        panic!(
            "{story}: {theirs}, but {:?} and {:?}",
            client.document().borrow(),
            client.delta().borrow()
        );
    }
    client.stop().await;
    obeying.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn device_and_cloud_agree_with_deltas_of_aws() {
    for seed in 0..SEEDS {
        agree(DeltaForm::Aws, Some("config"), seed).await;
        agree(DeltaForm::Aws, None, seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn device_and_cloud_agree_with_nested_deltas() {
    for seed in 0..SEEDS {
        agree(DeltaForm::Seed, Some("config"), seed).await;
        agree(DeltaForm::Seed, None, seed).await;
    }
}
