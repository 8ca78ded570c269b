//! `GET /v1/actions/{action}` and `POST /v1/actions/{action}/{id}`: the platform's messages of an
//! action, and answers to them.
//!
//! The open stream is the registration: another client cannot register the action meanwhile, and
//! the end of the stream, also by a client that is killed, ends it.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{Json, Response};
use cloud_facade::TopicMessages;
use serde_json::{Map, Value, json};

use super::action_registry::{ActionRegistry, Registration};
use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::read;
use super::json_lines::{Lines, json_lines};
use super::payload::{add_payload, missed};
use super::request::action;
use crate::time_fmt::now;

/// The stream of a registered action.
struct ActionMessages {
    registration: Registration,
    messages: TopicMessages,
    announced: bool,
}

impl Lines for ActionMessages {
    async fn next(&mut self) -> Option<Value> {
        let action = self.registration.action();
        if !std::mem::replace(&mut self.announced, true) {
            return Some(json!({ "event": "registered", "action": action, "ts": now() }));
        }
        let message = match self.messages.recv().await? {
            Ok(message) => message,
            Err(lagged) => return Some(missed(lagged.dropped)),
        };
        let mut object = Map::new();
        object.insert("event".to_owned(), "action".into());
        object.insert("action".to_owned(), action.into());
        object.insert(
            "id".to_owned(),
            self.registration.add_message().to_string().into(),
        );
        add_payload(&mut object, &message.payload);
        object.insert("ts".to_owned(), now().into());
        Some(object.into())
    }
}

pub(super) async fn register(
    State(instance): State<Instance>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let permit = instance.stream_permit()?;
    let action = action(&name)?;
    let messages = instance.cloud.action_messages(&action)?;
    let registration = ActionRegistry::register(&instance.actions, name).ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "registered",
            "another client has registered this action",
        )
    })?;
    let lines = ActionMessages {
        registration,
        messages,
        announced: false,
    };
    Ok(json_lines(permit, lines))
}

pub(super) async fn answer(
    State(instance): State<Instance>,
    Path((name, id)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let action = action(&name)?;
    let payload = read(request).await?;
    if !instance.actions.take_message(&name, &id) {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_message",
            "no message of this action with this ID waits for an answer",
        ));
    }
    drop(instance.cloud.answer(&action, payload)?);
    Ok(Json(
        json!({ "event": "answered", "action": name, "id": id }),
    ))
}
