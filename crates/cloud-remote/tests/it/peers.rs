//! Raw peers of the reverse proxy: an application that answers with bytes, and callers that keep
//! their connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Cloud, NAME, within};

/// A request as the application has received it.
pub(crate) struct Received {
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
    /// The number of the request on its connection, from 0.
    pub(crate) number: usize,
    pub(crate) head: String,
    /// Includes the framing of a chunked body.
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// An application that answers each request with the returned bytes. `None` closes the connection
/// without an answer.
pub(crate) struct RawApplication {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for RawApplication {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl RawApplication {
    pub(crate) async fn start<A>(answer: A) -> Self
    where
        A: Fn(&Received) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let connections = Arc::<AtomicUsize>::default();
        let (counted, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = opened.fetch_add(1, Ordering::Relaxed);
                let (answer, counted) = (Arc::clone(&answer), Arc::clone(&counted));
                tasks.spawn(async move {
                    let _ = serve(stream, connection, &*answer, &counted).await;
                });
            }
        });
        Self {
            address,
            requests,
            connections,
            serving,
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    answer: &(dyn Fn(&Received) -> Option<Vec<u8>> + Send + Sync),
    counted: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    for number in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let mut received = Received {
            connection,
            number,
            head: String::from_utf8_lossy(&head).into_owned(),
            body: Vec::new(),
        };
        if received.header("transfer-encoding").is_some() {
            while !received.body.ends_with(b"0\r\n\r\n") {
                received.body.push(stream.read_u8().await?);
            }
        } else if let Some(length) = received.header("content-length") {
            received.body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut received.body).await?;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        match answer(&received) {
            Some(bytes) => stream.write_all(&bytes).await?,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Returns an answer with a body of known length.
pub(crate) fn ok(body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into())
}

/// A caller that sends all requests over one connection.
pub(crate) enum Caller {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: http::Extensions,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Caller {
    /// Connects with `http/1.1` or `h2`.
    pub(crate) async fn open(cloud: &Cloud, protocol: &str) -> Self {
        let stream = TokioIo::new(cloud.open(&[protocol]).await.unwrap());
        if protocol == "h2" {
            let handshake = http2::handshake(TokioExecutor::new(), stream);
            let (sender, connection) = within(handshake).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = within(http1::handshake(stream)).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    /// Sends a request for a path; `Host` is set.
    pub(crate) async fn send(&mut self, request: http::request::Builder) -> hyper::Result<Answer> {
        self.send_body(request, "").await
    }

    pub(crate) async fn send_body(
        &mut self,
        request: http::request::Builder,
        body: &'static str,
    ) -> hyper::Result<Answer> {
        let mut request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                within(sender.ready()).await?;
                request.headers_mut().insert("host", NAME.parse().unwrap());
                within(sender.send_request(request)).await?
            }
            Self::Http2(sender) => {
                let url = format!("https://{NAME}{}", request.uri());
                *request.uri_mut() = url.parse().unwrap();
                within(sender.send_request(request)).await?
            }
        };
        answer(response).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path)).await.unwrap()
    }
}

async fn answer(response: Response<hyper::body::Incoming>) -> hyper::Result<Answer> {
    let (parts, body) = response.into_parts();
    let collected = within(body.collect()).await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        extensions: parts.extensions,
        body: String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        trailers,
    })
}
