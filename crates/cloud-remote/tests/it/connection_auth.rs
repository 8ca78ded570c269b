//! Applications that authenticate connections (NTLM, Negotiate), and the pool of connections.

use std::collections::HashMap;
use std::sync::Mutex;

use cloud_remote::{Application, RouteMatch, Routes};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peers::{Caller, RawApplication, Received, ok};
use crate::support::{Cloud, within};

const REFUSED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
    WWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";

/// Remembers the user of each connection, as IIS does.
fn authenticates_connections() -> impl Fn(&Received) -> Option<Vec<u8>> {
    let users = Mutex::<HashMap<usize, String>>::default();
    move |request| {
        let mut users = users.lock().unwrap();
        if let Some(user) = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("NTLM "))
        {
            users.insert(request.connection, user.to_owned());
        }
        match users.get(&request.connection) {
            Some(user) => ok(&format!("page of {user}")),
            None => Some(REFUSED.to_vec()),
        }
    }
}

#[tokio::test]
async fn authenticated_connection_serves_its_caller_alone() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(authenticates_connections()).await;
    let _remote = cloud
        .device(Application::forward(application.address))
        .await;
    for protocol in ["http/1.1", "h2"] {
        let mut alice = Caller::open(&cloud, protocol).await;
        assert_eq!(alice.get("/").await.status, 401);
        let authorized = Request::get("/").header("authorization", "NTLM alice");
        assert_eq!(alice.send(authorized).await.unwrap().body, "page of alice");
        // The connection stays hers, also between others' requests.
        for _ in 0..3 {
            assert_eq!(alice.get("/").await.body, "page of alice");
            let mut other = Caller::open(&cloud, protocol).await;
            let answer = other.get("/").await;
            assert_eq!(answer.status, 401, "{protocol}: {}", answer.body);
        }
        // After her connection, nobody gets it.
        drop(alice);
        let mut other = Caller::open(&cloud, protocol).await;
        assert_eq!(other.get("/").await.status, 401, "{protocol}");
    }
}

/// One caller with two applications: a connection to one never carries a request for the other.
#[tokio::test]
async fn private_connections_stay_with_their_route() {
    let cloud = Cloud::start().await;
    let first = RawApplication::start(authenticates_connections()).await;
    let second = RawApplication::start(|_| ok("second")).await;
    let routes = Routes::new(Application::forward(first.address)).unwrap();
    let path = RouteMatch::new().path("/second".parse().unwrap());
    let routes = routes.route(path, Application::forward(second.address));
    let _remote = cloud.device(Application::routes(routes.unwrap())).await;
    for protocol in ["http/1.1", "h2"] {
        let mut alice = Caller::open(&cloud, protocol).await;
        let authorized = Request::get("/").header("authorization", "NTLM alice");
        assert_eq!(alice.send(authorized).await.unwrap().body, "page of alice");
        for _ in 0..3 {
            assert_eq!(alice.get("/second/x").await.body, "second");
            assert_eq!(alice.get("/").await.body, "page of alice");
        }
        assert_eq!(alice.get("/x/../second").await.status, 400);
    }
}

/// The caller sends its credentials before it has seen a 401.
#[tokio::test]
async fn preemptive_credentials_never_reach_a_shared_connection() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(authenticates_connections()).await;
    let _remote = cloud
        .device(Application::forward(application.address))
        .await;
    let mut alice = Caller::open(&cloud, "http/1.1").await;
    let authorized = Request::get("/").header("authorization", "NTLM alice");
    assert_eq!(alice.send(authorized).await.unwrap().body, "page of alice");
    let mut other = Caller::open(&cloud, "http/1.1").await;
    assert_eq!(other.get("/").await.status, 401);
}

/// The first request of a connection is refused, and all others are served.
#[tokio::test]
async fn connection_is_private_from_the_401_on() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(|request| match request.number {
        0 => Some(REFUSED.to_vec()),
        _ => ok("secret"),
    })
    .await;
    let _remote = cloud
        .device(Application::forward(application.address))
        .await;
    let mut first = Caller::open(&cloud, "http/1.1").await;
    assert_eq!(first.get("/").await.status, 401);
    assert_eq!(first.get("/").await.body, "secret");
    let mut second = Caller::open(&cloud, "http/1.1").await;
    assert_eq!(second.get("/").await.status, 401);
    assert_eq!(first.get("/").await.body, "secret");
    assert_eq!(second.get("/").await.body, "secret");
    assert_eq!(application.connections(), 2);
}

/// Many requests at once over one connection of HTTP/2: none gets another caller's page.
#[tokio::test]
async fn concurrent_requests_of_one_connection_stay_private() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(authenticates_connections()).await;
    let _remote = cloud
        .device(Application::forward(application.address))
        .await;
    let mut callers = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let Caller::Http2(sender) = Caller::open(&cloud, "h2").await else {
            unreachable!()
        };
        let mut first = Caller::Http2(sender.clone());
        let authorized = Request::get("/").header("authorization", format!("NTLM {user}"));
        let page = first.send(authorized).await.unwrap().body;
        assert_eq!(page, format!("page of {user}"));
        callers.push((user, sender));
    }
    let requests = callers.iter().flat_map(|(user, sender)| {
        (0..20).map(move |_| async move {
            let answer = Caller::Http2(sender.clone()).get("/").await;
            assert!(
                answer.status == 401 || answer.body == format!("page of {user}"),
                "{user} gets the {}",
                answer.body
            );
        })
    });
    futures_util::future::join_all(requests).await;
}

#[tokio::test]
async fn other_connections_stay_pooled() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(|_| {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"NTLM\"";
        Some(format!("{head}\r\nContent-Length: 0\r\n\r\n").into())
    })
    .await;
    let _remote = cloud
        .device(Application::forward(application.address))
        .await;
    for _ in 0..3 {
        let mut caller = Caller::open(&cloud, "http/1.1").await;
        let basic = Request::get("/").header("authorization", "Basic dTpw");
        assert_eq!(caller.send(basic).await.unwrap().status, 401);
    }
    assert_eq!(application.connections(), 1);
}

/// A caller does not make the device keep more connections than it can use.
#[tokio::test]
async fn idle_connections_of_a_caller_are_bounded() {
    const REQUESTS: usize = 16;
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _remote = cloud.device(Application::forward(address)).await;
    let Caller::Http2(sender) = Caller::open(&cloud, "h2").await else {
        unreachable!()
    };
    let requests = (0..REQUESTS).map(|_| {
        let mut caller = Caller::Http2(sender.clone());
        tokio::spawn(async move {
            let authorized = Request::get("/").header("authorization", "NTLM alice");
            caller.send(authorized).await.unwrap().status
        })
    });
    let requests: Vec<_> = requests.collect();
    let mut streams = Vec::new();
    for _ in 0..REQUESTS {
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let begin = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na";
        stream.write_all(begin).await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        stream.write_all(b"b").await.unwrap();
    }
    for request in requests {
        assert_eq!(within(request).await.unwrap(), 200);
    }
    let mut ends: FuturesUnordered<_> = streams
        .iter_mut()
        .map(|stream| async { stream.read_u8().await.unwrap_err() })
        .collect();
    for _ in 0..REQUESTS - 2 {
        within(ends.next()).await.unwrap();
    }
}
