//! The device's side of a shadow against the cloud's side, over a line that loses, repeats and
//! reorders: once the loss has ended and the device knows it, both agree. On virtual time, by
//! seeds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_facade::shadow::{
    BusError, BusMessage, BusSubscription, Deltas, Document, MessageBus, RequestError,
    ShadowClient, ShadowConfig, ShadowId,
};
use cloud_sim::shadow::{DeltaForm, ShadowId as CloudId, ShadowService};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};

/// Longest way of a message, either way.
const LATENCY_MS: u64 = 400;

/// A request of the device is given up after this.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Agreed is who agrees after this long of quiet on a line that loses nothing any more.
const QUIET: Duration = Duration::from_secs(120);

/// What there is to want and to report. One key looks like a part of the nested form of delta.
const KEYS: [&str; 3] = ["a", "b", "delta"];

/// Runs with each form of delta and kind of shadow.
const SEEDS: u64 = 40;

/// Changes in a story.
const STEPS: u32 = 40;

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

    /// How late each copy of a message comes out at the other end: none of a lost one, two of a
    /// repeated one.
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

    /// Loses nothing from now on, and tells the device.
    async fn heal(&self, client: &ShadowClient) {
        self.with(|inner| inner.loses = false);
        client.connected().await;
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
        patch.insert(KEYS[random.random_range(0..KEYS.len())].to_owned(), value);
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

    let growing = tokio::spawn(grow(client.document()));

    // Half of the stories go on after the loss, with late messages of the lossy time still on their
    // way. In the others, all depends on what the device finds out by itself.
    let loss_ends = if seed.is_multiple_of(2) { 25 } else { STEPS };
    for step in 0..STEPS {
        if step == loss_ends {
            line.heal(&client).await;
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
        let pause = Duration::from_millis(random.random_range(0..3 * LATENCY_MS));
        tokio::time::sleep(pause).await;
    }
    line.desire(&cloud_id, Map::from_iter([("a".to_owned(), json!(seed))]));
    if loss_ends == STEPS {
        line.heal(&client).await;
    }
    tokio::time::sleep(QUIET).await;

    let ours = client.document().borrow().clone().unwrap();
    line.with(|inner| {
        let theirs = inner.cloud.document(&cloud_id).unwrap();
        assert_eq!(ours.version, theirs.version(), "{story}");
        assert_eq!(&ours.desired, theirs.desired(), "{story}");
        assert_eq!(&ours.reported, theirs.reported(), "{story}");
        assert_eq!(theirs.delta(), Map::new(), "{story}: all is done");
        let reported = theirs.reported();
        assert!(
            reported.keys().all(|key| KEYS.contains(&key.as_str())),
            "{story}: {reported:?}"
        );
    });
    assert!(client.delta().borrow().is_empty(), "{story}");
    client.stop().await;
    obeying.await.unwrap();
    growing.await.unwrap();
}

/// What the device knows never gets older: this cloud goes on counting when a shadow is deleted and
/// created again.
async fn grow(mut document: watch::Receiver<Option<Document>>) {
    let mut seen = 0;
    while document.changed().await.is_ok() {
        if let Some(document) = document.borrow_and_update().as_ref() {
            assert!(
                document.version >= seen,
                "{} after {seen}",
                document.version
            );
            seen = document.version;
        }
    }
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
