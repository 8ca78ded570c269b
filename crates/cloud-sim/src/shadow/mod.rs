//! The shadow service of AWS IoT Core, without any input or output: a request topic and payload go
//! in, the messages to publish come out.
//!
//! What it is: named and classic shadows, `get`, `update` and `delete` with every answer that AWS
//! publishes, versions, time stamps, client tokens, merging, and the delta, either in AWS's form or
//! in the one that the original device library understands ([`DeltaForm`]).
//!
//! What it is not: it does no transport, keeps nothing on disk, and does not judge who may touch
//! which thing; the broker around it does. It answers at once, so that nothing is ever "in flight"
//! and AWS's codes 401, 429 and 500 do not occur.
//!
//! Choices where AWS's behaviour is not written down, or left to the service:
//!
//! - The version goes on counting over a delete: a deleted shadow at version 7 comes back at
//!   version 8.
//! - A delta is published after every accepted update that leaves a difference, whichever section
//!   it touched.
//! - An empty section is left out of a document, an empty object inside a section stays.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

mod document;
mod limits;
mod rejection;
mod request;
#[cfg(test)]
mod tests;
mod topic;
mod update;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

pub use self::document::Document;
pub use self::rejection::Rejection;
pub use self::topic::ShadowId;

use self::request::{Envelope, checked};
use self::topic::Operation;
use self::update::{Change, Update};

/// Shadows held at once, deleted ones whose version is remembered included. A simulated gateway has
/// a thousand devices, with one or two shadows each; full of largest documents, the table takes
/// some tens of megabytes.
const MAX_SHADOWS: usize = 2_048;

/// Shadows of one thing, so that one device cannot use up the room of all.
const MAX_SHADOWS_PER_THING: usize = 32;

/// A message to publish: topic and payload.
pub type Publication = (String, Vec<u8>);

/// How a delta is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeltaForm {
    /// AWS's own:
    /// `{"state": {…the difference…}, "metadata", "timestamp", "version", "clientToken"?}`.
    #[default]
    Aws,
    /// What version 0.1.2 of the original device library reads, and fails without:
    /// `{"state": {"desired": {…}, "delta": {…}}}`, with the whole desired section beside the
    /// difference and nothing else.
    Seed,
}

/// What is remembered of a shadow.
#[derive(Debug)]
enum Slot {
    Live(Document),
    /// Deleted at this version.
    Deleted(u64),
}

/// All shadows of all things.
#[derive(Debug, Default)]
pub struct ShadowService {
    delta_form: DeltaForm,
    shadows: HashMap<ShadowId, Slot>,
}

impl ShadowService {
    /// A service without any shadow yet.
    #[must_use]
    pub fn new(delta_form: DeltaForm) -> Self {
        Self {
            delta_form,
            shadows: HashMap::new(),
        }
    }

    /// Whether [`handle`](Self::handle) answers to this topic: one that ends in a shadow's `get`,
    /// `update` or `delete`.
    #[must_use]
    pub fn is_request(topic: &str) -> bool {
        topic::parse(topic).is_some()
    }

    /// Carries out what was published on `topic` at `now` (Unix seconds), and returns what to
    /// publish in answer, in order. Empty for a topic that is not a shadow request.
    pub fn handle(&mut self, topic: &str, payload: &[u8], now: u64) -> Vec<Publication> {
        let Some((id, operation)) = topic::parse(topic) else {
            return Vec::new();
        };
        let envelope = match Envelope::parse(payload) {
            Ok(envelope) => envelope,
            // What a request to delete contains is ignored.
            Err(_) if operation == Operation::Delete => Envelope::default(),
            Err(refused) => {
                let token = match refused {
                    Rejection::TooLarge => Envelope::token_of_too_large(payload),
                    _ => None,
                };
                return vec![rejected(&id, operation, &refused, token.as_deref(), now)];
            }
        };
        let token = envelope.client_token.clone();
        let token = token.as_deref();
        let outcome = match operation {
            _ if !id.is_valid() => Err(Rejection::InvalidName),
            Operation::Get => self.get(&id, token, now),
            Operation::Update => envelope
                .into_update()
                .and_then(|update| self.update(&id, &update, token, now)),
            Operation::Delete => self.delete(&id, token, now),
        };
        outcome.unwrap_or_else(|refused| vec![rejected(&id, operation, &refused, token, now)])
    }

    /// Merges `patch` into the desired section as the platform would, and returns what to publish.
    ///
    /// # Errors
    ///
    /// As for an update by a device: the patch or the resulting document breaks a limit, or a name
    /// breaks the rules.
    pub fn set_desired(
        &mut self,
        id: &ShadowId,
        patch: Map<String, Value>,
        now: u64,
    ) -> Result<Vec<Publication>, Rejection> {
        if !id.is_valid() {
            return Err(Rejection::InvalidName);
        }
        let update = Update {
            desired: Change::Merge(checked(patch)?),
            reported: Change::Keep,
            version: None,
        };
        self.update(id, &update, None, now)
    }

    /// The document of a shadow that exists.
    #[must_use]
    pub fn document(&self, id: &ShadowId) -> Option<&Document> {
        match self.shadows.get(id)? {
            Slot::Live(document) => Some(document),
            Slot::Deleted(_) => None,
        }
    }

    fn get(
        &self,
        id: &ShadowId,
        token: Option<&str>,
        now: u64,
    ) -> Result<Vec<Publication>, Rejection> {
        let document = self.existing(id)?;
        let mut state = document.state();
        let delta = document.delta();
        if !delta.is_empty() {
            state["delta"] = Value::Object(delta);
        }
        let body = json!({
            "state": state,
            "metadata": document.metadata(),
            "timestamp": now,
            "version": document.version(),
        });
        Ok(vec![publication(id, "get/accepted", body, token)])
    }

    fn update(
        &mut self,
        id: &ShadowId,
        update: &Update,
        token: Option<&str>,
        now: u64,
    ) -> Result<Vec<Publication>, Rejection> {
        let fresh;
        let (before, existed) = match self.shadows.get(id) {
            Some(Slot::Live(document)) => (document, true),
            absent => {
                self.check_room(id, absent.is_some())?;
                let last = match absent {
                    Some(Slot::Deleted(version)) => *version,
                    _ => 0,
                };
                fresh = Document::following(last);
                (&fresh, false)
            }
        };
        if update
            .version
            .is_some_and(|named| named != before.version())
        {
            return Err(Rejection::VersionConflict);
        }
        let after = before.updated(update, now)?;

        let accepted = json!({
            "state": update.state(),
            "metadata": after.metadata_of(update),
            "timestamp": now,
            "version": after.version(),
        });
        let mut documents = json!({ "current": snapshot(&after), "timestamp": now });
        if existed {
            documents["previous"] = snapshot(before);
        }
        let mut out = vec![publication(id, "update/accepted", accepted, token)];
        out.extend(self.delta(id, &after, token, now));
        out.push(publication(id, "update/documents", documents, token));
        self.shadows.insert(id.clone(), Slot::Live(after));
        Ok(out)
    }

    fn delta(
        &self,
        id: &ShadowId,
        document: &Document,
        token: Option<&str>,
        now: u64,
    ) -> Option<Publication> {
        let delta = document.delta();
        if delta.is_empty() {
            return None;
        }
        Some(match self.delta_form {
            DeltaForm::Aws => {
                let metadata = document.delta_metadata(&delta);
                let body = json!({
                    "state": delta,
                    "metadata": metadata,
                    "timestamp": now,
                    "version": document.version(),
                });
                publication(id, "update/delta", body, token)
            }
            DeltaForm::Seed => {
                let body = json!({ "state": { "desired": document.desired(), "delta": delta } });
                publication(id, "update/delta", body, None)
            }
        })
    }

    fn delete(
        &mut self,
        id: &ShadowId,
        token: Option<&str>,
        now: u64,
    ) -> Result<Vec<Publication>, Rejection> {
        let version = self.existing(id)?.version();
        self.shadows.insert(id.clone(), Slot::Deleted(version));
        let body = json!({ "timestamp": now, "version": version });
        Ok(vec![publication(id, "delete/accepted", body, token)])
    }

    fn existing(&self, id: &ShadowId) -> Result<&Document, Rejection> {
        self.document(id)
            .ok_or_else(|| Rejection::NotFound(id.name.clone().unwrap_or_default()))
    }

    fn check_room(&self, id: &ShadowId, known: bool) -> Result<(), Rejection> {
        if known {
            return Ok(());
        }
        let of_thing = self
            .shadows
            .keys()
            .filter(|other| other.thing == id.thing)
            .count();
        if self.shadows.len() >= MAX_SHADOWS || of_thing >= MAX_SHADOWS_PER_THING {
            return Err(Rejection::Full);
        }
        Ok(())
    }
}

fn snapshot(document: &Document) -> Value {
    json!({
        "state": document.state(),
        "metadata": document.metadata(),
        "version": document.version(),
    })
}

fn rejected(
    id: &ShadowId,
    operation: Operation,
    refused: &Rejection,
    token: Option<&str>,
    now: u64,
) -> Publication {
    let body = json!({ "code": refused.code(), "message": refused.to_string(), "timestamp": now });
    publication(id, &format!("{}/rejected", operation.as_str()), body, token)
}

fn publication(
    id: &ShadowId,
    operation: &str,
    mut body: Value,
    token: Option<&str>,
) -> Publication {
    if let Some(token) = token {
        body["clientToken"] = Value::from(token);
    }
    (id.topic(operation), body.to_string().into_bytes())
}
