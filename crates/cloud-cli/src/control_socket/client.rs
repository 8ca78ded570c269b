//! The program's own client: of a running instance, or of the endpoints in this process.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use super::status::InstanceStatus;
use super::{VERSION, path};
use crate::error::{CliError, chain};

/// Time limit for the status, which waits for nothing.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for the head of any response: the instance has 30 s for the broker and the platform.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of a response or a line: a payload of 128 KiB whose every byte is escaped.
const MAX_SIZE: usize = 1024 * 1024;

/// A client of the endpoints.
#[derive(Debug, Clone)]
pub(crate) enum ControlClient {
    /// Those of the instance that runs on this base path.
    Socket(PathBuf),
    /// Those of this process.
    InProcess(Router),
}

/// The task of a connection, if there is one. Dropping it closes the connection.
type ConnectionTask = JoinSet<hyper::Result<()>>;

/// An error of an endpoint, or of the way to it.
#[derive(Debug)]
pub(crate) struct ControlError {
    /// The reason, in one line.
    pub(crate) message: String,
}

impl ControlError {
    fn unavailable(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            message: format!("the running instance does not answer: {}", chain(cause)),
        }
    }

    fn incompatible(reason: &str) -> Self {
        Self {
            message: format!(
                "the running instance is of another version of this program ({reason}): restart it, so that both are of \
                 version {}",
                env!("CARGO_PKG_VERSION")
            ),
        }
    }

    /// Makes the error of a response.
    fn of_response(status: StatusCode, body: &Value) -> Self {
        let text = |name: &str| body["error"][name].as_str().map(str::to_owned);
        match (text("code"), text("message")) {
            (Some(code), Some(message)) if code == "unsupported_version" => {
                Self::incompatible(&message)
            }
            (_, Some(message)) => Self { message },
            _ => Self::incompatible(&format!("it answers {status}")),
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        Self::Failed(error.message)
    }
}

/// Returns a client of the instance that runs on this base path; `None` if none does.
pub(crate) fn running_instance(base_path: &Path) -> Option<ControlClient> {
    path::connect(base_path).ok()?;
    Some(ControlClient::Socket(base_path.to_owned()))
}

/// Queries the status of the instance that runs on this base path, from outside a runtime. `None`
/// if none does.
pub(crate) fn blocking_status(base_path: &Path) -> Option<Result<InstanceStatus, ControlError>> {
    let client = running_instance(base_path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ControlError::unavailable(&error));
    Some(runtime.and_then(|runtime| runtime.block_on(client.status())))
}

impl ControlClient {
    /// Whether it is that of a running instance.
    pub(crate) fn is_instance(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// Queries the status.
    pub(crate) async fn status(&self) -> Result<InstanceStatus, ControlError> {
        let status = self.call(Method::GET, "status", None);
        timeout(STATUS_TIMEOUT, status)
            .await
            .map_err(|error| ControlError::unavailable(&error))?
    }

    /// Sends a request, and returns the value in the response.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ControlError> {
        let (response, _connection) = self.send(method, path, body).await?;
        let body = read(response.into_body()).await?;
        serde_json::from_slice(&body)
            .map_err(|error| ControlError::incompatible(&error.to_string()))
    }

    /// Opens a stream of JSON lines.
    pub(crate) async fn stream(&self, path: &str) -> Result<JsonLines, ControlError> {
        let (response, connection) = self.send(Method::GET, path, None).await?;
        Ok(JsonLines {
            body: response.into_body(),
            buffer: Vec::new(),
            _connection: connection,
        })
    }

    /// Sends a request. Returns a successful response, whose connection lasts as long as the task.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Body>, ConnectionTask), ControlError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/{VERSION}/{path}"))
            .header(header::HOST, "localhost")
            .body(Body::from(body.map(Value::to_string).unwrap_or_default()))
            .map_err(|error| ControlError::unavailable(&error))?;
        let mut task = JoinSet::new();
        let response = match self {
            Self::InProcess(router) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Self::Socket(base_path) => {
                let stream = connect(base_path);
                let stream = stream.map_err(|error| ControlError::unavailable(&error))?;
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream))
                        .await
                        .map_err(|error| ControlError::unavailable(&error))?;
                task.spawn(connection);
                let sent = timeout(RESPONSE_TIMEOUT, sender.send_request(request)).await;
                match sent.map_err(|error| ControlError::unavailable(&error))? {
                    Ok(response) => response.map(Body::new),
                    Err(error) => {
                        // The first versions wrote a line of JSON to each client at once.
                        return Err(if speaks_first(base_path).await {
                            ControlError::incompatible("it does not speak HTTP")
                        } else {
                            ControlError::unavailable(&error)
                        });
                    }
                }
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok((response, task));
        }
        let body = read(response.into_body()).await?;
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Err(ControlError::of_response(status, &body))
    }
}

fn connect(base_path: &Path) -> io::Result<UnixStream> {
    let stream = path::connect(base_path)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Returns whether the instance sends something before it is asked.
async fn speaks_first(base_path: &Path) -> bool {
    let Ok(mut stream) = connect(base_path) else {
        return false;
    };
    let read = timeout(STATUS_TIMEOUT, stream.read_u8()).await;
    matches!(read, Ok(Ok(_)))
}

async fn read(body: Body) -> Result<Bytes, ControlError> {
    match Limited::new(body, MAX_SIZE).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(ControlError::unavailable(&*error)),
    }
}

/// A stream of JSON lines.
#[derive(Debug)]
pub(crate) struct JsonLines {
    body: Body,
    buffer: Vec<u8>,
    _connection: ConnectionTask,
}

impl JsonLines {
    /// Returns the next line.
    ///
    /// # Errors
    /// The line is an error, or the instance has ended the stream.
    ///
    /// # Cancel safety
    /// No line is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Value, ControlError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line: Value = serde_json::from_slice(&line)
                    .map_err(|error| ControlError::incompatible(&error.to_string()))?;
                if line["error"].is_object() {
                    return Err(ControlError::of_response(StatusCode::OK, &line));
                }
                return Ok(line);
            }
            if self.buffer.len() > MAX_SIZE {
                return Err(ControlError::incompatible("it sent a line without an end"));
            }
            // An instance that ends cuts the stream.
            let ended = || ControlError {
                message: "the running instance has ended".to_owned(),
            };
            let frame = self.body.frame().await.and_then(Result::ok);
            if let Ok(data) = frame.ok_or_else(ended)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
