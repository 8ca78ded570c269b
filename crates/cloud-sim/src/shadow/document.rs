//! A shadow's document: its two sections with their time stamps, how an update is merged in, and
//! the delta.
//!
//! Every leaf of the state has a leaf of the same path in the metadata,
//! `{"timestamp": <Unix seconds>}`: merging keeps the two trees in step.

use serde_json::{Map, Value, json};

use super::Rejection;
use super::limits::MAX_DOCUMENT;
use super::update::{Change, Update};

/// `desired` or `reported`.
#[derive(Debug, Clone, Default, PartialEq)]
struct Section {
    state: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl Section {
    fn apply(&mut self, change: &Change, now: u64) {
        match change {
            Change::Keep => {}
            Change::Clear => *self = Self::default(),
            Change::Merge(patch) => merge(&mut self.state, &mut self.metadata, patch, now),
        }
    }
}

/// The document of one shadow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    desired: Section,
    reported: Section,
    version: u64,
}

impl Document {
    /// An empty document that follows version `version`.
    pub(super) fn following(version: u64) -> Self {
        Self {
            version,
            ..Self::default()
        }
    }

    /// What the cloud wants.
    #[must_use]
    pub fn desired(&self) -> &Map<String, Value> {
        &self.desired.state
    }

    /// What the device last said of itself.
    #[must_use]
    pub fn reported(&self) -> &Map<String, Value> {
        &self.reported.state
    }

    /// Goes up by one with every accepted update.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The document after `update`, if that is still small enough.
    pub(super) fn updated(&self, update: &Update, now: u64) -> Result<Self, Rejection> {
        let mut next = self.clone();
        next.desired.apply(&update.desired, now);
        next.reported.apply(&update.reported, now);
        next.version += 1;
        // Merging can deepen nothing: every path of the result is a path of the old document or of
        // the patch.
        if next.state().to_string().len() > MAX_DOCUMENT {
            return Err(Rejection::TooLarge);
        }
        Ok(next)
    }

    /// The keys of `desired` whose value is not the reported one, with their whole path.
    #[must_use]
    pub fn delta(&self) -> Map<String, Value> {
        difference(&self.desired.state, &self.reported.state)
    }

    /// The metadata that belongs to [`delta`](Self::delta).
    pub(super) fn delta_metadata(&self, delta: &Map<String, Value>) -> Value {
        Value::Object(project(&self.desired.metadata, delta))
    }

    /// The sections that have something in them.
    pub(super) fn state(&self) -> Value {
        sections(self.desired.state.clone(), self.reported.state.clone())
    }

    /// The time stamps of [`state`](Self::state).
    pub(super) fn metadata(&self) -> Value {
        sections(
            self.desired.metadata.clone(),
            self.reported.metadata.clone(),
        )
    }

    /// The time stamps of the keys that `update` has just written.
    pub(super) fn metadata_of(&self, update: &Update) -> Value {
        let pick = |section: &Section, change: &Change| match change {
            Change::Merge(patch) => project(&section.metadata, patch),
            Change::Keep | Change::Clear => Map::new(),
        };
        sections(
            pick(&self.desired, &update.desired),
            pick(&self.reported, &update.reported),
        )
    }
}

fn sections(desired: Map<String, Value>, reported: Map<String, Value>) -> Value {
    let mut node = Map::new();
    for (name, section) in [("desired", desired), ("reported", reported)] {
        if !section.is_empty() {
            node.insert(name.to_owned(), Value::Object(section));
        }
    }
    Value::Object(node)
}

/// Objects merge, `null` removes, everything else (arrays too) replaces.
fn merge(
    state: &mut Map<String, Value>,
    metadata: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    now: u64,
) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                state.remove(key);
                metadata.remove(key);
            }
            Value::Object(patch) => {
                if !matches!(state.get(key), Some(Value::Object(_))) {
                    state.insert(key.clone(), json!({}));
                    metadata.insert(key.clone(), json!({}));
                }
                if let (Some(Value::Object(state)), Some(Value::Object(metadata))) =
                    (state.get_mut(key), metadata.get_mut(key))
                {
                    merge(state, metadata, patch, now);
                }
            }
            _ => {
                state.insert(key.clone(), value.clone());
                metadata.insert(key.clone(), stamp(value, now));
            }
        }
    }
}

/// The metadata of a value that has just been written: one time stamp for each leaf.
fn stamp(value: &Value, now: u64) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| stamp(item, now)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), stamp(value, now)))
            .collect::<Map<_, _>>()
            .into(),
        _ => json!({ "timestamp": now }),
    }
}

/// The keys of `desired` that `reported` lacks or has otherwise.
fn difference(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut delta = Map::new();
    for (key, wanted) in desired {
        match (wanted, reported.get(key)) {
            (Value::Object(wanted), Some(Value::Object(reported))) => {
                let below = difference(wanted, reported);
                if !below.is_empty() {
                    delta.insert(key.clone(), Value::Object(below));
                }
            }
            (wanted, Some(reported)) if wanted == reported => {}
            _ => {
                delta.insert(key.clone(), wanted.clone());
            }
        }
    }
    delta
}

/// The part of the metadata whose paths are in `shape`.
fn project(metadata: &Map<String, Value>, shape: &Map<String, Value>) -> Map<String, Value> {
    let mut part = Map::new();
    for (key, value) in shape {
        let below = match (metadata.get(key), value) {
            (None, _) => continue,
            (Some(Value::Object(metadata)), Value::Object(shape)) => {
                Value::Object(project(metadata, shape))
            }
            (Some(metadata), _) => metadata.clone(),
        };
        part.insert(key.clone(), below);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    fn merged(state: Value, patch: Value) -> Value {
        let (mut state, mut metadata) = (object(state), object(json!({})));
        for (key, value) in &state {
            metadata.insert(key.clone(), stamp(value, 1));
        }
        merge(&mut state, &mut metadata, &object(patch), 2);
        Value::Object(state)
    }

    #[test]
    fn objects_merge_and_arrays_are_replaced() {
        assert_eq!(
            merged(
                json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}),
                json!({"a": {"c": 3}, "l": [9]})
            ),
            json!({"a": {"b": 1, "c": 3}, "l": [9]})
        );
    }

    #[test]
    fn null_removes_key_at_any_depth() {
        assert_eq!(
            merged(
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": null}, "x": null, "y": {"z": null}})
            ),
            json!({"a": {"c": 2}, "y": {}})
        );
    }

    #[test]
    fn an_object_replaces_a_leaf_and_a_leaf_an_object() {
        assert_eq!(
            merged(
                json!({"a": 1, "b": {"c": 1}}),
                json!({"a": {"d": 1}, "b": 2})
            ),
            json!({"a": {"d": 1}, "b": 2})
        );
    }

    #[test]
    fn metadata_follows_the_state() {
        let (mut state, mut metadata) = (Map::new(), Map::new());
        merge(
            &mut state,
            &mut metadata,
            &object(json!({"a": {"b": 1, "c": [1, {"d": 2}]}})),
            10,
        );
        merge(
            &mut state,
            &mut metadata,
            &object(json!({"a": {"b": 2}})),
            20,
        );
        assert_eq!(
            Value::Object(metadata),
            json!({"a": {"b": {"timestamp": 20}, "c": [{"timestamp": 10}, {"d": {"timestamp": 10}}]}})
        );
    }

    #[test]
    fn the_delta_has_only_what_differs_with_its_whole_path() {
        let desired = object(
            json!({"same": 1, "new": 1, "deep": {"same": 1, "other": 2}, "list": [1, 2], "kind": {"a": 1}}),
        );
        let reported = object(
            json!({"same": 1, "deep": {"same": 1, "other": 3}, "list": [2, 1], "kind": 1, "extra": 1}),
        );
        assert_eq!(
            Value::Object(difference(&desired, &reported)),
            json!({"new": 1, "deep": {"other": 2}, "list": [1, 2], "kind": {"a": 1}})
        );
    }
}
