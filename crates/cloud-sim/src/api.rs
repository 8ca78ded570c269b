//! The provisioning API: `POST /device/register` (docs/protocol.md, "Provisioning"), and its wrong
//! answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use cloud_net::info_throttled;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::authority::SigningRequest;
use crate::faults::{ApiAnswer, Service};
use crate::platform::{Platform, RegisterError, RegistrationRequest};

/// A request is a serial number and a key, and perhaps two signing requests; with RSA keys they
/// have 2 KiB each.
const MAX_REQUEST: usize = 16 * 1024;

/// How long the first half of a body has to get out before its connection breaks.
const BEFORE_THE_CUT: Duration = Duration::from_millis(100);

/// Bytes sent at a time of a body that is too large.
const PIECE: usize = 64 * 1024;

pub(crate) fn router(platform: Arc<Platform>) -> Router {
    Router::new()
        .route("/device/register", post(register))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(platform)
}

#[derive(Deserialize)]
struct Request {
    sn: String,
    token: String,
    #[serde(default)]
    csr: Option<SigningRequests>,
}

/// For keys that the device has made; each of the two can be absent.
#[derive(Deserialize)]
struct SigningRequests {
    iot: Option<String>,
    remote: Option<String>,
}

impl Request {
    fn registration_request(&self) -> Option<RegistrationRequest<'_>> {
        let read = |pem: &Option<String>| match pem {
            Some(pem) => SigningRequest::from_pem(pem).map(Some),
            None => Some(None),
        };
        let (iot, remote) = match &self.csr {
            Some(csr) => (read(&csr.iot)?, read(&csr.remote)?),
            None => (None, None),
        };
        Some(RegistrationRequest {
            sn: &self.sn,
            key: &self.token,
            iot,
            remote,
        })
    }
}

async fn register(State(platform): State<Arc<Platform>>, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the request must be a JSON object with sn and token",
        );
    };
    let Some(registration_request) = request.registration_request() else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "a signing request is damaged, or not signed with its own key",
        );
    };
    match platform.faults().next_api() {
        Some(ApiAnswer::Delay { ms }) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            answer(&platform, platform.register(&registration_request))
        }
        Some(ApiAnswer::Lost) => match platform.register(&registration_request) {
            Ok(thing) => cut_off(registration(&thing).to_string()),
            Err(refused) => answer(&platform, Err(refused)),
        },
        Some(wrong) => {
            info_throttled!(platform.logs.wrong_answer, sn = request.sn, answer = ?wrong, "answering a registration wrongly");
            match platform.preview(&registration_request) {
                Ok(thing) => wrong_answer(wrong, thing),
                Err(refused) => answer(&platform, Err(refused)),
            }
        }
        None => answer(&platform, platform.register(&registration_request)),
    }
}

fn answer(platform: &Platform, result: Result<Value, RegisterError>) -> Response {
    match result {
        Ok(thing) => json_text(registration(&thing).to_string()),
        Err(refused) => {
            info_throttled!(platform.logs.refused, %refused, "refused a registration");
            let status = match refused {
                RegisterError::Serial(_) => StatusCode::BAD_REQUEST,
                RegisterError::Key => StatusCode::UNAUTHORIZED,
                RegisterError::Used(_) => StatusCode::CONFLICT,
                RegisterError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
                RegisterError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refusal(status, &refused.to_string())
        }
    }
}

fn registration(thing: &Value) -> Value {
    json!({ "registration": { "error": null, "thing": thing } })
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let body = json!({ "registration": { "error": message, "thing": null } });
    (status, json_text(body.to_string())).into_response()
}

fn json_text(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// The answer that a fault asks for, given what the right one would have said.
fn wrong_answer(wrong: ApiAnswer, mut thing: Value) -> Response {
    let right = registration(&thing).to_string();
    let half = right.len() / 2;
    match wrong {
        ApiAnswer::Status { code, retry_after } => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = status.into_response();
            if let Some(seconds) = retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        // Carried out before registration.
        ApiAnswer::Delay { .. } | ApiAnswer::Lost => json_text(right),
        ApiAnswer::BrokenJson => json_text("{\"registration\": {\"error\": null, thing: <oops>"),
        ApiAnswer::CutJson => json_text(right.get(..half).unwrap_or_default().to_owned()),
        ApiAnswer::CutBody => cut_off(right),
        ApiAnswer::Html => {
            let page =
                "<!doctype html><html><body><h1>Please sign in to this network</h1></body></html>";
            ([(header::CONTENT_TYPE, "text/html")], page).into_response()
        }
        ApiAnswer::Huge { bytes } => huge(bytes),
        ApiAnswer::Error { message } => refusal(StatusCode::OK, &message),
        ApiAnswer::MissingKey { key } => {
            remove(&mut thing, &key);
            json_text(registration(&thing).to_string())
        }
        ApiAnswer::MismatchedKey { service } => {
            swap_key(&mut thing, service);
            json_text(registration(&thing).to_string())
        }
    }
}

/// The first half of an answer, and then the end of the connection.
fn cut_off(right: String) -> Response {
    let length = right.len();
    let part = Bytes::from(right).slice(..length / 2);
    let broken = stream::iter([Ok(part)]).chain(stream::once(async {
        tokio::time::sleep(BEFORE_THE_CUT).await;
        Err(std::io::Error::other("cut off on purpose"))
    }));
    let mut response = json_text(Body::from_stream(broken));
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    response
}

/// A JSON string that goes on for so many bytes, made while it is sent.
fn huge(bytes: u64) -> Response {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let size = u64::try_from(PIECE).unwrap_or(u64::MAX);
    let whole = usize::try_from(bytes / size).unwrap_or(usize::MAX);
    let rest = piece.slice(..usize::try_from(bytes % size).unwrap_or_default());
    let start = stream::iter([Bytes::from_static(b"{\"padding\":\"")]);
    let body = start
        .chain(stream::repeat(piece).take(whole))
        .chain(stream::iter([rest, Bytes::from_static(b"\"}")]));
    json_text(Body::from_stream(
        body.map(Ok::<_, std::convert::Infallible>),
    ))
}

fn remove(thing: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer = if parent.is_empty() {
        String::new()
    } else {
        format!("/{}", parent.replace('.', "/"))
    };
    if let Some(object) = thing.pointer_mut(&pointer).and_then(Value::as_object_mut) {
        object.remove(key);
    }
}

/// Puts the private key of the other pair into this one.
fn swap_key(thing: &mut Value, service: Service) {
    let (to, from) = match service {
        Service::Iot => ("/iot/keyPair/privateKey", "/remote/pkey"),
        Service::Remote => ("/remote/pkey", "/iot/keyPair/privateKey"),
    };
    let other = thing.pointer(from).cloned();
    if let (Some(slot), Some(other)) = (thing.pointer_mut(to), other) {
        *slot = other;
    }
}
