//! JSON helpers, strategies and a fake cloud.

use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) use crate::document::object;
use crate::document::{Document, Object, difference, merge};
use crate::topic::{MessageKind, Operation};

/// Few keys and values, so that they often coincide.
fn any_object(leaf: BoxedStrategy<Value>) -> BoxedStrategy<Object> {
    let keys = prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
    let value = leaf.prop_recursive(3, 12, 3, {
        let keys = keys.clone();
        move |inner| {
            prop::collection::hash_map(keys.clone(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        }
    });
    prop::collection::hash_map(keys, value, 0..3)
        .prop_map(|map| map.into_iter().collect())
        .boxed()
}

fn any_leaf() -> BoxedStrategy<Value> {
    prop_oneof![
        (0..3).prop_map(Value::from),
        Just(json!("x")),
        Just(json!([1, 2])),
        Just(json!([2]))
    ]
    .boxed()
}

/// A section of a document.
pub(crate) fn any_state() -> BoxedStrategy<Object> {
    any_object(any_leaf())
}

/// A patch of a section.
pub(crate) fn any_patch() -> BoxedStrategy<Object> {
    any_object(prop_oneof![2 => any_leaf(), 1 => Just(Value::Null)].boxed())
}

/// The form of the fake cloud's deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeltaForm {
    Aws,
    Nested,
}

/// A message of the cloud.
pub(crate) type Sent = (MessageKind, Vec<u8>);

/// A minimal, correct shadow service with one shadow.
#[derive(Debug)]
pub(crate) struct FakeCloud {
    pub(crate) form: DeltaForm,
    /// The version is kept on delete, as AWS does for a time.
    pub(crate) version: u64,
    pub(crate) state: Option<(Object, Object)>,
}

impl FakeCloud {
    pub(crate) fn new(form: DeltaForm) -> Self {
        let (version, state) = (0, None);
        Self {
            form,
            version,
            state,
        }
    }

    /// Returns the document that the device should have.
    pub(crate) fn document(&self) -> Option<Document> {
        self.state.as_ref().map(|(desired, reported)| Document {
            desired: desired.clone(),
            reported: reported.clone(),
            version: self.version,
        })
    }

    pub(crate) fn handle(&mut self, operation: Operation, payload: &[u8]) -> Vec<Sent> {
        let request: Value = serde_json::from_slice(payload).expect("the device sends JSON");
        let token = &request["clientToken"];
        let refuse = |code: u16| {
            let body = json!({"code": code, "message": "no", "clientToken": token});
            vec![(MessageKind::Rejected(operation), bytes(&body))]
        };
        match operation {
            Operation::Get => match self.document() {
                None => refuse(404),
                Some(document) => {
                    let state = json!({"desired": document.desired, "reported": document.reported});
                    let body =
                        json!({"state": state, "version": self.version, "clientToken": token});
                    vec![(MessageKind::Accepted(operation), bytes(&body))]
                }
            },
            Operation::Update => match request["version"].as_u64() {
                Some(version) if version != self.version => refuse(409),
                _ => self.update(&request["state"], token),
            },
            Operation::Delete if self.state.is_none() => refuse(404),
            Operation::Delete => self.delete(token),
        }
    }

    /// Handles an update of any client.
    pub(crate) fn update(&mut self, state: &Value, token: &Value) -> Vec<Sent> {
        let (desired, reported) = self.state.get_or_insert_default();
        for (section, name) in [(&mut *desired, "desired"), (&mut *reported, "reported")] {
            match state.get(name) {
                Some(Value::Object(patch)) => merge(section, patch.clone()),
                Some(Value::Null) => section.clear(),
                _ => {}
            }
        }
        self.version += 1;
        let version = self.version;
        let whole = json!({"desired": desired, "reported": reported});
        let delta = difference(desired, reported);
        let accepted = json!({"state": state, "version": version, "clientToken": token});
        let documents = json!({"current": {"state": whole, "version": version}});
        let mut out = vec![(MessageKind::Accepted(Operation::Update), bytes(&accepted))];
        if !delta.is_empty() {
            let body = match self.form {
                DeltaForm::Aws => json!({"state": delta, "version": version}),
                DeltaForm::Nested => json!({"state": {"desired": desired, "delta": delta}}),
            };
            out.push((MessageKind::Delta, bytes(&body)));
        }
        out.push((MessageKind::Documents, bytes(&documents)));
        out
    }

    /// Handles a delete of an existing shadow by any client.
    pub(crate) fn delete(&mut self, token: &Value) -> Vec<Sent> {
        self.state = None;
        let body = json!({"version": self.version, "clientToken": token});
        vec![(MessageKind::Accepted(Operation::Delete), bytes(&body))]
    }
}

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}
