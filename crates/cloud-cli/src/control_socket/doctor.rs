//! `GET /v1/doctor`: the steps of `doctor` that need the device's session.

use axum::extract::State;
use axum::response::Json;
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::instance::Instance;
use super::status::InstanceStatus;
use crate::commands::doctor::check_instance;

pub(super) async fn doctor(State(instance): State<Instance>) -> Result<Json<Value>, ApiError> {
    let refused = instance.cloud.iot()?.refused_subscriptions();
    let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
    let checks = check_instance(&InstanceStatus::of(&instance), &refused);
    let lines: Vec<_> = checks
        .iter()
        .map(|(step, result)| result.json(step))
        .collect();
    Ok(Json(json!({ "checks": lines })))
}
