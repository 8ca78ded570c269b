//! The control API over HTTP: each route is one function of [`Control`], in JSON.
//!
//! `GET /devices`, `GET` and `DELETE /devices/<sn>`, `POST /devices/<sn>/rotate` and `rotate-iot`,
//! `PUT /devices/<sn>/shadow/desired` and `/devices/<sn>/shadow/name/<name>/desired`,
//! `POST /devices/<sn>/actions/<action>`, `POST /broadcast`, `POST /faults`. A failure is
//! `{"error": "…"}` with a fitting status. Which requests get here at all is decided by
//! [`RequestGuard`].

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::control::{Control, ControlError};
use crate::device::DeviceStatus;
use crate::faults::Fault;
use crate::request_guard::RequestGuard;

/// The largest request is a payload to publish, which has a stricter limit of its own.
const MAX_REQUEST: usize = 256 * 1024;

pub(crate) fn router(control: Control, guard: RequestGuard) -> Router {
    let routes = Router::new()
        .route("/devices", get(devices))
        .route("/devices/{sn}", get(device).delete(forget))
        .route("/devices/{sn}/rotate", post(rotate))
        .route("/devices/{sn}/rotate-iot", post(rotate_iot))
        .route("/devices/{sn}/shadow/desired", put(set_desired))
        .route(
            "/devices/{sn}/shadow/name/{name}/desired",
            put(set_desired_of),
        )
        .route("/devices/{sn}/actions/{action}", post(action))
        .route("/broadcast", post(broadcast))
        .route("/faults", post(fault))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(control);
    guard.protect(routes)
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoSuchDevice { .. } => StatusCode::NOT_FOUND,
            Self::Shadow(refused) => {
                StatusCode::from_u16(refused.code()).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

/// A whole body, whose failures are reported in JSON like all others.
struct Whole(Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = ControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ControlError> {
        match Bytes::from_request(request, state).await {
            Ok(body) => Ok(Self(body)),
            Err(error) => Err(ControlError::Invalid(format!(
                "the body cannot be taken: {error}"
            ))),
        }
    }
}

type Answer = Result<Json<Value>, ControlError>;

async fn devices(State(control): State<Control>) -> Json<Vec<DeviceStatus>> {
    Json(control.devices().await)
}

async fn device(
    State(control): State<Control>,
    Path(sn): Path<String>,
) -> Result<Json<DeviceStatus>, ControlError> {
    Ok(Json(control.device(&sn).await?))
}

async fn forget(State(control): State<Control>, Path(sn): Path<String>) -> Answer {
    control.forget(&sn).await?;
    Ok(done())
}

async fn rotate(State(control): State<Control>, Path(sn): Path<String>) -> Answer {
    let serial = control.rotate(&sn).await?;
    Ok(Json(json!({ "serial": serial })))
}

async fn rotate_iot(State(control): State<Control>, Path(sn): Path<String>) -> Answer {
    let serial = control.rotate_iot(&sn).await?;
    Ok(Json(json!({ "serial": serial })))
}

async fn set_desired(
    State(control): State<Control>,
    Path(sn): Path<String>,
    Whole(body): Whole,
) -> Answer {
    let patch = parse::<Map<String, Value>>(&body)?;
    control.set_desired(&sn, patch).await?;
    Ok(done())
}

async fn set_desired_of(
    State(control): State<Control>,
    Path((sn, name)): Path<(String, String)>,
    Whole(body): Whole,
) -> Answer {
    let patch = parse::<Map<String, Value>>(&body)?;
    control.set_desired_of(&sn, &name, patch).await?;
    Ok(done())
}

async fn action(
    State(control): State<Control>,
    Path((sn, action)): Path<(String, String)>,
    Whole(body): Whole,
) -> Answer {
    control.action(&sn, &action, body.into()).await?;
    Ok(done())
}

async fn broadcast(State(control): State<Control>, Whole(body): Whole) -> Answer {
    control.broadcast(body.into()).await?;
    Ok(done())
}

async fn fault(State(control): State<Control>, Whole(body): Whole) -> Answer {
    let cut = control.fault(parse::<Fault>(&body)?).await?;
    Ok(Json(json!({ "ok": true, "cut": cut })))
}

async fn nowhere() -> Response {
    (
        StatusCode::NOT_FOUND,
        Json(json!({ "error": "there is nothing here; try GET /devices" })),
    )
        .into_response()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body)
        .map_err(|error| ControlError::Invalid(format!("the body is not as expected: {error}")))
}

fn done() -> Json<Value> {
    Json(json!({ "ok": true }))
}
