//! A typed view of a shadow.

use std::fmt;
use std::marker::PhantomData;

use cloud_net::UntrustedText;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Deltas, ShadowClient};
use crate::delta::Delta;
use crate::document::{Document, Object};
use crate::error::RequestError;
use crate::limits::InvalidState;
use crate::update::Update;

/// A view of a [`ShadowClient`] through the type `T`.
///
/// A shadow is often incomplete, and a delta always is: give `T` fields that are `Option`, or that
/// have `#[serde(default)]`. A field that is `None` is serialized as `null`, which removes the key,
/// unless it has `#[serde(skip_serializing_if = "Option::is_none")]`, which leaves the key
/// unchanged.
///
/// Errors are those of the [`ShadowClient`], and [`RequestError::Shape`] if JSON and type do not
/// match.
pub struct Typed<T> {
    client: ShadowClient,
    shape: PhantomData<fn() -> T>,
}

/// A [`Document`] in the application's type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TypedDocument<T> {
    /// The state that the cloud requests.
    pub desired: T,
    /// The state that the device last reported.
    pub reported: T,
    /// Increases by one with every update.
    pub version: u64,
}

impl ShadowClient {
    /// Returns a view of the shadow with the application's own type.
    #[must_use]
    pub fn typed<T>(&self) -> Typed<T> {
        Typed {
            client: self.clone(),
            shape: PhantomData,
        }
    }
}

impl<T> Typed<T> {
    /// Returns the untyped client.
    #[must_use]
    pub fn client(&self) -> &ShadowClient {
        &self.client
    }
}

impl<T: DeserializeOwned> Typed<T> {
    /// Fetches the document.
    ///
    /// # Errors
    ///
    /// See [`Typed`].
    ///
    /// # Cancel safety
    ///
    /// As [`ShadowClient::get`].
    pub async fn get(&self) -> Result<TypedDocument<T>, RequestError> {
        typed(self.client.get().await?)
    }

    /// Returns the known document without a request: `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`RequestError::Shape`].
    pub fn document(&self) -> Result<Option<TypedDocument<T>>, RequestError> {
        let document = self.client.document().borrow().clone();
        document.map(typed).transpose()
    }

    /// Returns the deltas one after the other.
    #[must_use]
    pub fn deltas(&self) -> TypedDeltas<T> {
        TypedDeltas {
            deltas: self.client.deltas(),
            shape: PhantomData,
        }
    }
}

impl<T: Serialize> Typed<T> {
    /// Reports `state`, sending only the values that the document does not contain already. Returns
    /// the document's new version, or `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// See [`Typed`].
    ///
    /// # Cancel safety
    ///
    /// As [`ShadowClient::report`].
    pub async fn report(&self, state: &T) -> Result<Option<u64>, RequestError> {
        match written("reported", state)? {
            Value::Object(state) => self.client.report(state).await,
            _ => Err(InvalidState::NotAnObject("reported").into()),
        }
    }

    /// Merges `state` into the desired state; returns the document's new version.
    ///
    /// # Errors
    ///
    /// See [`Typed`].
    ///
    /// # Cancel safety
    ///
    /// As [`ShadowClient::update`].
    pub async fn update_desired(&self, state: &T) -> Result<u64, RequestError> {
        let update = Update::new().desired(written("desired", state)?);
        self.client.update(update).await
    }
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        self.client.typed()
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Typed").field(&self.client).finish()
    }
}

/// A stream of deltas in the application's type.
#[derive(Debug)]
pub struct TypedDeltas<T> {
    deltas: Deltas,
    shape: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> TypedDeltas<T> {
    /// Waits for a delta that is not empty; `None` when the client has ended.
    ///
    /// # Errors
    ///
    /// [`RequestError::Shape`] for a delta that does not match the type; the next one may match.
    ///
    /// # Cancel safety
    ///
    /// Yes: no delta is lost.
    pub async fn next(&mut self) -> Option<Result<T, RequestError>> {
        let Delta { state, .. } = self.deltas.next().await?;
        Some(read("delta", state))
    }
}

fn typed<T: DeserializeOwned>(document: Document) -> Result<TypedDocument<T>, RequestError> {
    Ok(TypedDocument {
        desired: read("desired", document.desired)?,
        reported: read("reported", document.reported)?,
        version: document.version,
    })
}

fn read<T: DeserializeOwned>(section: &'static str, state: Object) -> Result<T, RequestError> {
    serde_json::from_value(Value::Object(state)).map_err(|error| shape(section, &error))
}

fn written<T: Serialize>(section: &'static str, state: &T) -> Result<Value, RequestError> {
    serde_json::to_value(state).map_err(|error| shape(section, &error))
}

fn shape(section: &'static str, error: &serde_json::Error) -> RequestError {
    let reason = UntrustedText::of(error);
    RequestError::Shape { section, reason }
}
