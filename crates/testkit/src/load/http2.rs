//! The load of a browser over HTTP/2: a few connections, each with several streams.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::client::{Client, Target};

/// A connection over HTTP/2, on which clones of the handle send requests.
#[derive(Debug, Clone)]
pub struct Http2Connection {
    sender: SendRequest<Empty<Bytes>>,
    uri: String,
}

impl Http2Connection {
    /// Opens a connection, in the current runtime.
    pub async fn open(client: &Client, target: &Target) -> Self {
        let stream = TokioIo::new(client.tls(target).await);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            sender,
            uri: format!("https://{}/small", target.hostname),
        }
    }

    /// Sends a small request and reads the response.
    pub async fn small(&mut self) {
        self.sender.ready().await.unwrap();
        let request = Request::get(&self.uri).body(Empty::new()).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        response.collect().await.unwrap();
    }
}
