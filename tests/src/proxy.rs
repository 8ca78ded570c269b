//! A TCP proxy on loopback that can close its connections, to simulate a bad network.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections. Closes all of them when dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    held: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Listens on a free port and connects to `target`.
    pub async fn to(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cuts, cut) = watch::channel(0);
        let (held, hold) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                if *hold.borrow() {
                    continue;
                }
                let mut cut = cut.clone();
                cut.mark_unchanged();
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            cuts,
            held,
            _tasks: tasks,
        })
    }

    /// The listen address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// While it is held, new connections are closed at once.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
