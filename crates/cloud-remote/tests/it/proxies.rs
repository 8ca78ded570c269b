//! The tunnel through a proxy that alone knows the way to the relay.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_remote::{
    Probe, Proxy, RemoteAccess, RemoteConfig, RemoteEvent, RemoteStatus, TunnelStatus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::serving::web;
use crate::support::{Cloud, NAME, connected, event, within};

/// A name that does not resolve: the proxy leads it to the test's relay.
const RELAY: &str = "relay.invalid";
/// "device:s3cret" in base64.
const BASIC: &str = "Proxy-Authorization: Basic ZGV2aWNlOnMzY3JldA==";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// A proxy that connects every allowed target to the relay, and asks for a password.
struct ScriptedProxy {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl ScriptedProxy {
    async fn start(kind: Kind, relay: SocketAddr, refused: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&targets);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                connections.spawn(async move {
                    let target = match kind {
                        Kind::Http => http_connect(&mut stream, refused).await,
                        Kind::Socks5 => socks5(&mut stream, refused).await,
                    };
                    let Some(target) = target else { return };
                    log.lock().unwrap().push(target);
                    let mut relay = TcpStream::connect(relay).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut relay).await;
                });
            }
        });
        Self {
            address,
            targets,
            _tasks: tasks,
        }
    }

    fn proxy(&self, kind: Kind, credentials: &str) -> Option<Proxy> {
        let scheme = match kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
        };
        let url = format!("{scheme}://{credentials}@{}", self.address);
        Some(Proxy::new(&url).unwrap())
    }
}

/// Answers a CONNECT, with an interim response and lines that end with LF alone.
async fn http_connect(stream: &mut TcpStream, refused: Option<&str>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let status = if !head.lines().any(|line| line == BASIC) {
        "407 Proxy Authentication Required"
    } else if refused.is_some_and(|host| target.starts_with(host)) {
        "403 Forbidden"
    } else {
        let open = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\nVia: x\n\n";
        stream.write_all(open).await.ok()?;
        return Some(target);
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()?;
    None
}

/// Answers as RFC 1928 and RFC 1929 say.
async fn socks5(stream: &mut TcpStream, refused: Option<&str>) -> Option<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let mut methods = vec![0; head[1].into()];
    stream.read_exact(&mut methods).await.ok()?;
    if !methods.contains(&2) {
        stream.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    stream.write_all(&[5, 2]).await.ok()?;
    let _version = stream.read_u8().await.ok()?;
    let (user, password) = (text(stream).await?, text(stream).await?);
    let known = (&*user, &*password) == ("device", "s3cret");
    stream.write_all(&[1, u8::from(!known)]).await.ok()?;
    let mut request = [0; 4];
    stream.read_exact(&mut request).await.ok()?;
    assert_eq!(request, [5, 1, 0, 3], "CONNECT to a domain name");
    let host = text(stream).await?;
    let port = stream.read_u16().await.ok()?;
    let reply = if refused == Some(&host) { 2 } else { 0 };
    let answer = [5, reply, 0, 1, 0, 0, 0, 0, 0, 0];
    stream.write_all(&answer).await.ok()?;
    (reply == 0).then(|| format!("{host}:{port}"))
}

async fn text(stream: &mut TcpStream) -> Option<String> {
    let mut text = vec![0; stream.read_u8().await.ok()?.into()];
    stream.read_exact(&mut text).await.ok()?;
    Some(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn tunnel_and_probe_pass_through_a_proxy_with_a_password() {
    for kind in [Kind::Http, Kind::Socks5] {
        let cloud = Cloud::start().await;
        let port = cloud.address.port();
        let scripted = ScriptedProxy::start(kind, cloud.address, None).await;
        let mut probe = Probe::default();
        probe.port = port;
        let builder = RemoteAccess::builder(RemoteConfig::new(RELAY, port, NAME))
            .application(web())
            .proxy(scripted.proxy(kind, "device:s3cret"))
            .probe(probe);
        let remote = cloud.device_from(builder).await;
        let mut events = remote.events();
        remote.set_messaging_online(true);
        event(&mut events, |event| {
            matches!(event, RemoteEvent::Reachable).then_some(())
        })
        .await;
        let targets = scripted.targets.lock().unwrap().clone();
        assert_eq!(targets, [RELAY, NAME].map(|host| format!("{host}:{port}")));
        remote.stop(Duration::ZERO).await.unwrap();
    }
}

/// The proxy is changed while the tunnel waits for its next attempt.
#[tokio::test]
async fn changed_proxy_is_used_for_the_next_connection() {
    let cloud = Cloud::start().await;
    let port = cloud.address.port();
    let scripted = ScriptedProxy::start(Kind::Http, cloud.address, None).await;
    let builder = RemoteAccess::builder(RemoteConfig::new(RELAY, port, NAME))
        .application(web())
        .proxy(scripted.proxy(Kind::Http, "device:wr0ng"));
    let remote = cloud.device_from(builder).await;
    let mut status = remote.status();
    remote.set_messaging_online(true);
    let waiting = |status: &RemoteStatus| matches!(status.tunnel, TunnelStatus::Waiting { .. });
    within(status.wait_for(waiting)).await.unwrap();
    remote.set_proxy(scripted.proxy(Kind::Http, "device:s3cret"));
    connected(&remote).await;
    remote.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn refusal_names_the_proxy_and_what_it_refuses() {
    for (kind, credentials, refused, expected) in [
        (Kind::Http, "device:wr0ng", None, "refused the user name"),
        (Kind::Socks5, "device:wr0ng", None, "refused the user name"),
        (Kind::Http, "device:s3cret", Some(RELAY), "HTTP status 403"),
        (
            Kind::Socks5,
            "device:s3cret",
            Some(RELAY),
            "SOCKS reply: not allowed by its rules",
        ),
    ] {
        let cloud = Cloud::start().await;
        let scripted = ScriptedProxy::start(kind, cloud.address, refused).await;
        let builder = RemoteAccess::builder(RemoteConfig::new(RELAY, 443, NAME))
            .application(web())
            .proxy(scripted.proxy(kind, credentials));
        let remote = cloud.device_from(builder).await;
        let mut status = remote.status();
        remote.set_messaging_online(true);
        let status =
            within(status.wait_for(|status| matches!(status.tunnel, TunnelStatus::Waiting { .. })))
                .await
                .unwrap()
                .clone();
        let TunnelStatus::Waiting { cause, .. } = status.tunnel else {
            unreachable!()
        };
        let proxy = format!(
            "no connection to {RELAY}:443 through the proxy {}",
            scripted.address
        );
        assert!(
            cause.contains(&proxy) && cause.contains(expected),
            "{cause}"
        );
        assert!(
            !cause.contains("s3cret") && !cause.contains("wr0ng"),
            "{cause}"
        );
        remote.stop(Duration::ZERO).await.unwrap();
    }
}
