//! The simulator's provisioning API as seen by a device with a wrong clock: every response has
//! another date.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use tokio::runtime::Runtime;

use super::http_client;

/// Forwards everything to the API. Ends when dropped.
pub(crate) struct ShiftedClockApi {
    url: String,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Behind {
    url: String,
    date: &'static str,
    client: reqwest::Client,
}

impl ShiftedClockApi {
    /// Starts a proxy for the API at `url`; `date` is the date of its responses.
    pub(crate) fn start(url: &str, date: &'static str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let behind = Behind {
            url: url.to_owned(),
            date,
            client: http_client(&[], |builder| builder),
        };
        let app = axum::Router::new().fallback(pass_on).with_state(behind);
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

async fn pass_on(
    State(behind): State<Behind>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> impl IntoResponse {
    let answer = behind
        .client
        .request(method, format!("{}{uri}", behind.url))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let status: StatusCode = answer.status();
    let body = answer.bytes().await.unwrap();
    (status, [(header::DATE, behind.date)], body)
}
