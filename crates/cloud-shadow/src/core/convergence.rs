//! Convergence under random histories: for any loss, duplication and delay, device and cloud agree
//! in the end.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::document::Document;
use crate::test_support::{DeltaForm, FakeCloud, Sent, any_patch};

const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    /// Another client changes a section.
    Desired(Object),
    Reported(Object),
    /// Another client deletes the shadow; with `reset` the version starts again at 1.
    Delete {
        reset: bool,
    },
    /// The device submits a request.
    Submit(Request),
    Connected,
    MessagesLost,
    /// A request reaches the cloud, or is lost.
    ToCloud {
        lose: bool,
    },
    /// Any message in flight reaches the device, and may be duplicated.
    ToDevice {
        which: prop::sample::Index,
        again: bool,
    },
    /// A message to the device is lost.
    Lose {
        which: prop::sample::Index,
    },
    Elapse(u64),
}

fn any_step() -> BoxedStrategy<Step> {
    let update = |section: &'static str| {
        any_patch().prop_map(move |patch| {
            Step::Submit(Request::Update {
                state: json!({ section: patch }),
                version: None,
            })
        })
    };
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => any_patch().prop_map(Step::Desired),
        2 => any_patch().prop_map(Step::Reported),
        1 => any::<bool>().prop_map(|reset| Step::Delete { reset }),
        2 => update("reported"),
        1 => update("desired"),
        2 => any_patch().prop_map(|patch| Step::Submit(Request::Report(patch))),
        1 => Just(Step::Submit(Request::Get)),
        1 => Just(Step::Submit(Request::Delete)),
        2 => Just(Step::Connected),
        2 => Just(Step::MessagesLost),
        6 => prop::bool::weighted(0.2).prop_map(|lose| Step::ToCloud { lose }),
        14 => (index(), prop::bool::weighted(0.3)).prop_map(|(which, again)| Step::ToDevice { which, again }),
        3 => index().prop_map(|which| Step::Lose { which }),
        2 => (0..4000_u64).prop_map(Step::Elapse),
    ]
    .boxed()
}

struct Harness {
    core: Core,
    cloud: FakeCloud,
    now: Instant,
    to_cloud: VecDeque<Transmit>,
    to_device: Vec<Sent>,
    open: HashSet<RequestId>,
    /// Every document of the cloud, by version.
    history: HashMap<u64, Document>,
    deleted: bool,
}

impl Harness {
    fn new(form: DeltaForm) -> Self {
        let mut core = Core::new("test".to_owned(), LIMIT);
        let now = Instant::now();
        core.handle_connected(now);
        Self {
            core,
            cloud: FakeCloud::new(form),
            now,
            to_cloud: VecDeque::new(),
            to_device: Vec::new(),
            open: HashSet::new(),
            history: HashMap::new(),
            deleted: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Desired(patch) => self.external_update(json!({ "desired": patch })),
            Step::Reported(patch) => self.external_update(json!({ "reported": patch })),
            Step::Delete { reset } => {
                if self.cloud.state.is_some() {
                    self.to_device.extend(self.cloud.delete(&Value::Null));
                    self.record();
                    if reset {
                        self.cloud.version = 0;
                    }
                }
            }
            Step::Submit(request) => {
                if let Ok(id) = self.core.handle_request(self.now, request) {
                    self.open.insert(id);
                }
            }
            Step::Connected => self.core.handle_connected(self.now),
            Step::MessagesLost => self.core.handle_messages_lost(),
            Step::ToCloud { lose } => {
                if let Some(request) = self.to_cloud.pop_front().filter(|_| !lose) {
                    self.deliver_to_cloud(&request);
                }
            }
            Step::ToDevice { which, again } => {
                if !self.to_device.is_empty() {
                    let which = which.index(self.to_device.len());
                    let message = self.to_device.remove(which);
                    if again {
                        self.to_device.push(message.clone());
                    }
                    self.core.handle_message(self.now, message.0, &message.1);
                }
            }
            Step::Lose { which } => {
                if !self.to_device.is_empty() {
                    let which = which.index(self.to_device.len());
                    self.to_device.remove(which);
                }
            }
            Step::Elapse(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                self.core.handle_timeout(self.now);
            }
        }
        self.pump();
    }

    fn external_update(&mut self, state: Value) {
        self.to_device
            .extend(self.cloud.update(&state, &Value::Null));
        self.record();
    }

    fn deliver_to_cloud(&mut self, request: &Transmit) {
        let responses = self.cloud.handle(request.operation, &request.payload);
        self.to_device.extend(responses);
        self.record();
    }

    fn record(&mut self) {
        self.deleted |= self.cloud.state.is_none() && !self.history.is_empty();
        if let Some(document) = self.cloud.document() {
            self.history.insert(document.version, document);
        }
    }

    /// Asserts that the device's document of a version is the cloud's of that version. This holds
    /// while versions only increase; after a delete whose message was lost, the device may merge
    /// the first change of the new document into the old one.
    fn assert_document_matches_history(&self) {
        if self.deleted {
            return;
        }
        if let Some(document) = self.core.replica().document() {
            assert_eq!(Some(document), self.history.get(&document.version));
        }
    }

    fn pump(&mut self) {
        while let Some(request) = self.core.poll_transmit(self.now) {
            self.to_cloud.push_back(request);
            assert_eq!(
                self.core.poll_transmit(self.now),
                None,
                "two requests in flight"
            );
        }
        while let Some(done) = self.core.poll_completion() {
            assert!(self.open.remove(&done.id), "completed twice: {done:?}");
        }
    }

    /// Delivers everything in order, until nothing is in flight.
    fn deliver_all(&mut self) {
        self.pump();
        while !self.to_cloud.is_empty() || !self.to_device.is_empty() {
            while let Some(request) = self.to_cloud.pop_front() {
                self.deliver_to_cloud(&request);
            }
            for (kind, payload) in std::mem::take(&mut self.to_device) {
                self.core.handle_message(self.now, kind, &payload);
                self.pump();
            }
        }
    }

    /// The same, until the core has no deadline left.
    fn settle(&mut self) {
        self.deliver_all();
        for _ in 0..100 {
            let Some(at) = self.core.poll_timeout() else {
                return;
            };
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.deliver_all();
        }
        panic!("the core does not settle: {:?}", self.core);
    }

    fn assert_converged(&self) {
        let replica = self.core.replica();
        let document = self.cloud.document();
        assert_eq!(replica.document(), document.as_ref());
        assert_eq!(
            replica.delta().state,
            document
                .map(|document| document.delta())
                .unwrap_or_default()
        );
        assert!(!replica.is_behind());
        assert!(self.open.is_empty(), "never completed: {:?}", self.open);
    }
}

fn any_form() -> impl Strategy<Value = DeltaForm> {
    prop_oneof![Just(DeltaForm::Aws), Just(DeltaForm::Nested)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any loss, order and duplication, and with restarted versions, a new connection
    /// resynchronizes.
    #[test]
    fn converges_after_a_final_get(
        form in any_form(),
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut harness = Harness::new(form);
        for step in steps {
            harness.step(step);
        }
        harness.to_cloud.clear();
        harness.to_device.clear();
        harness.now += LIMIT;
        harness.core.handle_timeout(harness.now);
        harness.core.handle_connected(harness.now);
        harness.settle();
        harness.assert_converged();
    }

    /// Without lost messages and with increasing versions, no new connection is needed.
    #[test]
    fn converges_without_loss_or_reconnect(
        form in any_form(),
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut harness = Harness::new(form);
        for step in steps {
            match step {
                Step::Lose { .. } => {}
                Step::Delete { .. } => harness.step(Step::Delete { reset: false }),
                step => harness.step(step),
            }
            harness.assert_document_matches_history();
        }
        harness.settle();
        harness.assert_converged();
    }

    /// The device only receives messages, while other clients change the shadow.
    #[test]
    fn converges_by_listening(steps in prop::collection::vec(any_step(), 0..80)) {
        let mut harness = Harness::new(DeltaForm::Aws);
        harness.external_update(json!({ "desired": { "a": 1 } }));
        harness.deliver_all();
        for step in steps {
            if matches!(step, Step::Desired(_) | Step::Reported(_) | Step::ToDevice { .. }) {
                harness.step(step);
                harness.assert_document_matches_history();
            }
        }
        harness.deliver_all();
        prop_assert!(harness.core.in_flight().is_none());
        harness.assert_converged();
    }
}
