//! The machine against random histories: whatever is lost, repeated or late, device and cloud agree in the end.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::document::Document;
use crate::test_support::{FakeCloud, Form, Sent, any_patch};

const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    /// Somebody else changes a section.
    Desired(Object),
    Reported(Object),
    /// Somebody else deletes the shadow; `reset`: and the version starts again at 1.
    Delete {
        reset: bool,
    },
    /// The device asks for something.
    Submit(Request),
    Connected,
    MessagesLost,
    /// A request reaches the cloud, or is lost.
    ToCloud {
        lose: bool,
    },
    /// A message reaches the device, any of those under way, and may come again.
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

struct World {
    machine: Machine,
    cloud: FakeCloud,
    now: Instant,
    to_cloud: VecDeque<Transmit>,
    to_device: Vec<Sent>,
    open: HashSet<RequestId>,
    /// Every document that the cloud ever had, by version.
    history: HashMap<u64, Document>,
    deleted: bool,
}

impl World {
    fn new(form: Form) -> Self {
        let mut machine = Machine::new("test".to_owned(), LIMIT);
        let now = Instant::now();
        machine.connected(now);
        Self {
            machine,
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
            Step::Desired(patch) => self.others_update(json!({ "desired": patch })),
            Step::Reported(patch) => self.others_update(json!({ "reported": patch })),
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
                if let Ok(id) = self.machine.submit(self.now, request) {
                    self.open.insert(id);
                }
            }
            Step::Connected => self.machine.connected(self.now),
            Step::MessagesLost => self.machine.messages_lost(),
            Step::ToCloud { lose } => {
                if let Some(request) = self.to_cloud.pop_front().filter(|_| !lose) {
                    self.carry_out(&request);
                }
            }
            Step::ToDevice { which, again } => {
                if !self.to_device.is_empty() {
                    let which = which.index(self.to_device.len());
                    let message = self.to_device.remove(which);
                    if again {
                        self.to_device.push(message.clone());
                    }
                    self.machine.handle_message(self.now, message.0, &message.1);
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
                self.machine.handle_timeout(self.now);
            }
        }
        self.pump();
    }

    fn others_update(&mut self, state: Value) {
        self.to_device
            .extend(self.cloud.update(&state, &Value::Null));
        self.record();
    }

    fn carry_out(&mut self, request: &Transmit) {
        let answers = self.cloud.handle(request.operation, &request.payload);
        self.to_device.extend(answers);
        self.record();
    }

    fn record(&mut self) {
        self.deleted |= self.cloud.state.is_none() && !self.history.is_empty();
        if let Some(document) = self.cloud.document() {
            self.history.insert(document.version, document);
        }
    }

    /// What the device holds for version n is what the cloud had at version n. As long as versions only rise; and after a
    /// delete that it has not heard of, it may take the first change of the new document for one of the old.
    fn assert_no_invention(&self) {
        if self.deleted {
            return;
        }
        if let Some(document) = self.machine.replica().document() {
            assert_eq!(Some(document), self.history.get(&document.version));
        }
    }

    fn pump(&mut self) {
        while let Some(request) = self.machine.poll_transmit(self.now) {
            self.to_cloud.push_back(request);
            assert_eq!(
                self.machine.poll_transmit(self.now),
                None,
                "two requests in flight"
            );
        }
        while let Some(done) = self.machine.poll_done() {
            assert!(self.open.remove(&done.id), "answered twice: {done:?}");
        }
    }

    /// Everything arrives at once and in order, until nothing is under way.
    fn be_reliable(&mut self) {
        self.pump();
        while !self.to_cloud.is_empty() || !self.to_device.is_empty() {
            while let Some(request) = self.to_cloud.pop_front() {
                self.carry_out(&request);
            }
            for (kind, payload) in std::mem::take(&mut self.to_device) {
                self.machine.handle_message(self.now, kind, &payload);
                self.pump();
            }
        }
    }

    /// The same, for as long as the machine has anything planned.
    fn settle(&mut self) {
        self.be_reliable();
        for _ in 0..100 {
            let Some(at) = self.machine.poll_timeout() else {
                return;
            };
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.be_reliable();
        }
        panic!("the machine does not come to rest: {:?}", self.machine);
    }

    fn assert_agreement(&self) {
        let replica = self.machine.replica();
        let document = self.cloud.document();
        assert_eq!(replica.document(), document.as_ref());
        assert_eq!(
            replica.delta().state,
            document
                .map(|document| document.delta())
                .unwrap_or_default()
        );
        assert!(!replica.is_behind());
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
    }
}

fn any_form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Aws), Just(Form::Nested)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any loss, order and repetition, versions that start again included: a connection puts all right.
    #[test]
    fn after_a_final_get_device_and_cloud_agree(
        form in any_form(),
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut world = World::new(form);
        for step in steps {
            world.step(step);
        }
        world.to_cloud.clear();
        world.to_device.clear();
        world.now += LIMIT;
        world.machine.handle_timeout(world.now);
        world.machine.connected(world.now);
        world.settle();
        world.assert_agreement();
    }

    /// As long as no message to the device is lost for good and versions only rise, no connection is needed.
    #[test]
    fn without_loss_the_device_finds_everything_by_itself(
        form in any_form(),
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut world = World::new(form);
        for step in steps {
            match step {
                Step::Lose { .. } => {}
                Step::Delete { .. } => world.step(Step::Delete { reset: false }),
                step => world.step(step),
            }
            world.assert_no_invention();
        }
        world.settle();
        world.assert_agreement();
    }

    /// A device that only listens, while others change the shadow.
    #[test]
    fn listening_is_enough(steps in prop::collection::vec(any_step(), 0..80)) {
        let mut world = World::new(Form::Aws);
        world.others_update(json!({ "desired": { "a": 1 } }));
        world.be_reliable();
        for step in steps {
            if matches!(step, Step::Desired(_) | Step::Reported(_) | Step::ToDevice { .. }) {
                world.step(step);
                world.assert_no_invention();
            }
        }
        world.be_reliable();
        prop_assert!(world.machine.in_flight().is_none());
        world.assert_agreement();
    }
}
