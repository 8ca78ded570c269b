//! `GET /v1/log`: the newest log lines of the instance, for the bundle of `doctor`.

use axum::response::Json;
use serde_json::{Value, json};

use crate::logging;

pub(super) async fn log() -> Json<Value> {
    Json(json!({ "log": logging::recent() }))
}
