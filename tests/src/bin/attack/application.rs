//! The local web application behind `--forward`: it keeps what it receives, and is slow where it is
//! asked to.
//!
//! - `/slow` never answers, `/deaf` does not even read, `/big` answers with a gigabyte, `/upload`
//!   answers at the end of the body.
//! - Everything else is answered at once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Request heads that are kept: what one attack looks at.
const KEPT: usize = 1_000;
/// Of one request. A reverse proxy with a limit of 64 KiB never sends more than about twice that.
const MAX_HEAD: usize = 1024 * 1024;
const BIG: usize = 1024 * 1024 * 1024;

/// A running application. Ends when dropped.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl Application {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&heads);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                connections.spawn(async move {
                    // The proxy checks how a connection ends.
                    let _ = serve(stream, &kept).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            heads,
            _server: server,
        })
    }

    /// Takes the heads of the requests so far.
    pub(crate) fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) -> Result<()> {
    let mut received = Vec::new();
    loop {
        let Some(end) = find(&received, b"\r\n\r\n") else {
            if received.len() > MAX_HEAD || stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        received.drain(..end + 4);
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let lower = head.to_ascii_lowercase();
        {
            let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
            if heads.len() < KEPT {
                heads.push(head);
            }
        }
        if path.starts_with("/slow") {
            while stream.read_buf(&mut Vec::with_capacity(4096)).await? > 0 {}
            return Ok(());
        }
        if path.starts_with("/deaf") {
            return std::future::pending().await;
        }
        if path.starts_with("/big") {
            return send_big(&mut stream).await;
        }
        if !read_body(&mut stream, &mut received, &lower).await? {
            return Ok(());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            .await?;
    }
}

/// Takes a body off `received`; `false` if the connection ends before it does.
async fn read_body(stream: &mut TcpStream, received: &mut Vec<u8>, head: &str) -> Result<bool> {
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name).map(str::trim))
    };
    let chunked = field("transfer-encoding:").is_some_and(|value| value.contains("chunked"));
    let mut missing = match field("content-length:") {
        Some(length) if !chunked => length.parse().unwrap_or(0),
        _ => 0,
    };
    loop {
        if chunked {
            // Sizes are not looked at: no attack sends the last chunk's bytes within another.
            if let Some(end) = find(received, b"0\r\n\r\n") {
                received.drain(..end + 5);
                return Ok(true);
            }
            received.drain(..received.len().saturating_sub(4));
        } else {
            let taken = received.len().min(missing);
            received.drain(..taken);
            missing -= taken;
            if missing == 0 {
                return Ok(true);
            }
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(false);
        }
    }
}

async fn send_big(stream: &mut TcpStream) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let zeros = vec![0; 64 * 1024];
    for _ in 0..BIG / zeros.len() {
        stream.write_all(&zeros).await?;
    }
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
