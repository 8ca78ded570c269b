//! HTTP and SOCKS 5 proxies, configured or from the environment, and the errors of broken ones.

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_provision::{BuildError, Client, ProvisionError, ProxyError, ProxyFailure, ProxyReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::common::tls::{Ca, Dates, api, ca};
use crate::common::{Api, granted, key, ok, quick};

/// A name that does not resolve: only the proxy knows its address.
const NAME: &str = "api.clesyde.invalid";
const PASSWORD: &str = "pr0xy-s3cret";

const URL: &str = "CLOUD_PROVISION_TEST_URL";
const ROOT: &str = "CLOUD_PROVISION_TEST_ROOT";
const DIRECT: &str = "CLOUD_PROVISION_TEST_DIRECT";

/// Behavior of a proxy on a request for a connection.
#[derive(Clone, Copy)]
enum ProxyBehavior {
    ConnectTo(SocketAddr),
    /// Sends this answer before it connects.
    AnswerAndConnectTo(&'static str, SocketAddr),
    Answer(&'static str),
    HangUp,
    /// A SOCKS 5 proxy that sends this reply and, if it is zero, connects. A password has to be
    /// [`PASSWORD`].
    Socks(u8, SocketAddr),
    Silent,
}

struct Proxy {
    address: SocketAddr,
    /// The header section of each CONNECT, and user, host and port of each SOCKS request.
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(behavior: ProxyBehavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, behavior, Arc::clone(&log)));
            }
        });
        Self {
            address,
            heads,
            task,
        }
    }

    fn url(&self, scheme: &str, password: &str) -> String {
        format!("{scheme}://device:{password}@{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, behavior: ProxyBehavior, log: Arc<Mutex<Vec<String>>>) {
    let answer = match behavior {
        ProxyBehavior::Socks(reply, target) => {
            let _ = serve_socks(stream, reply, target, &log).await;
            return;
        }
        ProxyBehavior::ConnectTo(_) => "HTTP/1.1 200 OK\r\n\r\n",
        ProxyBehavior::AnswerAndConnectTo(answer, _) | ProxyBehavior::Answer(answer) => answer,
        ProxyBehavior::HangUp | ProxyBehavior::Silent => "",
    };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    log.lock().unwrap().push(String::from_utf8(head).unwrap());
    let _ = stream.write_all(answer.as_bytes()).await;
    match behavior {
        ProxyBehavior::ConnectTo(target) | ProxyBehavior::AnswerAndConnectTo(_, target) => {
            let mut target = TcpStream::connect(target).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut target).await;
        }
        ProxyBehavior::Silent => {
            let _ = stream.read_u8().await;
        }
        _ => {}
    }
}

/// RFC 1928 and RFC 1929.
async fn serve_socks(
    mut stream: TcpStream,
    reply: u8,
    target: SocketAddr,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    async fn text(stream: &mut TcpStream) -> io::Result<String> {
        let mut text = vec![0; stream.read_u8().await?.into()];
        stream.read_exact(&mut text).await?;
        Ok(String::from_utf8(text).unwrap())
    }
    assert_eq!(stream.read_u8().await?, 5);
    let methods = text(&mut stream).await?;
    let mut user = String::new();
    if methods.contains('\x02') {
        stream.write_all(&[5, 2]).await?;
        assert_eq!(stream.read_u8().await?, 1);
        user = text(&mut stream).await?;
        let is_wrong = text(&mut stream).await? != PASSWORD;
        stream.write_all(&[1, is_wrong.into()]).await?;
        if is_wrong {
            log.lock().unwrap().push(user);
            return Ok(());
        }
    } else {
        stream.write_all(&[5, 0]).await?;
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request).await?;
    assert_eq!(request, [5, 1, 0, 3], "the proxy resolves the name");
    let (host, port) = (text(&mut stream).await?, stream.read_u16().await?);
    log.lock().unwrap().push(format!("{user}@{host}:{port}"));
    stream
        .write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0])
        .await?;
    if reply == 0 {
        let mut target = TcpStream::connect(target).await?;
        copy_bidirectional(&mut stream, &mut target).await?;
    }
    Ok(())
}

fn builder(api: &Api, ca: &Ca) -> cloud_provision::ClientBuilder {
    quick(Client::builder(&format!(
        "https://{NAME}:{}",
        api.address.port()
    )))
    .additional_roots_pem(ca.pem())
}

#[tokio::test]
async fn configured_proxy_connects_and_sees_only_the_host_name() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[b"h2", b"http/1.1"]).await;
    let proxy = Proxy::start(ProxyBehavior::ConnectTo(api.address)).await;
    let builder = builder(&api, &ca).proxy(&proxy.url("http", PASSWORD));
    assert!(!format!("{builder:?}").contains(PASSWORD));
    let client = builder.build().unwrap();
    assert!(!format!("{client:?}").contains(PASSWORD), "{client:?}");
    client.register("SN0001", &key()).await.unwrap();
    assert_eq!(api.requests(), 1);

    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    let connect = format!("CONNECT {NAME}:{} HTTP/1.1\r\n", api.address.port());
    assert!(heads[0].starts_with(&connect), "{heads:?}");
    assert!(
        heads[0]
            .to_ascii_lowercase()
            .contains("proxy-authorization: basic "),
        "{heads:?}"
    );
}

#[tokio::test]
async fn socks_proxy_resolves_the_name() {
    let ca = ca();
    for alpn in [&[][..], &[&b"h2"[..]]] {
        let api = api(&ca, NAME, Dates::Now, alpn).await;
        let proxy = Proxy::start(ProxyBehavior::Socks(0, api.address)).await;
        let without_password = format!("socks5://{}", proxy.address);
        for (url, user) in [
            (proxy.url("socks5", PASSWORD), "device"),
            (proxy.url("socks5h", PASSWORD), "device"),
            (without_password, ""),
        ] {
            let client = builder(&api, &ca).proxy(&url).build().unwrap();
            client.register("SN0001", &key()).await.unwrap();
            let requested = format!("{user}@{NAME}:{}", api.address.port());
            assert_eq!(proxy.heads().last(), Some(&requested));
        }
        assert_eq!((proxy.heads().len(), api.requests()), (3, 3));
    }
}

/// Registers and probes through this proxy, which refuses.
async fn refused_by(proxy: &Proxy, url: &str, api: &Api, ca: &Ca) -> ProxyError {
    let client = builder(api, ca).proxy(url).build().unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PASSWORD), "{text}");
    assert!(
        text.contains(NAME) && text.contains(&format!("through the proxy {}", proxy.address)),
        "{text}"
    );
    assert_eq!(client.probe().await.unwrap_err(), error);
    assert!(!error.may_have_registered());
    let is_retryable = error.is_retryable();
    let ProvisionError::Proxy { error, .. } = error else {
        panic!("{text}");
    };
    let is_password = error.failure == ProxyFailure::Authentication;
    assert_eq!(is_retryable, !is_password);
    // Each request is followed by the question why, and the probe's is the last.
    let expected = if is_password { 2 + 2 } else { 3 * 2 + 2 };
    assert_eq!(proxy.heads().len(), expected, "{text}");
    assert_eq!(api.requests(), 0);
    error
}

#[tokio::test]
async fn refusal_says_what_the_proxy_answered() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[]).await;
    let status = ProxyReply::HttpStatus;
    for (answer, failure) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            ProxyFailure::Authentication,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            ProxyFailure::Refused { reply: status(403) },
        ),
        (
            "HTTP/1.1 100 Continue\n\nHTTP/1.0 503 No\n\n",
            ProxyFailure::ServerUnreachable { reply: status(503) },
        ),
        ("SSH-2.0-x\r\n", ProxyFailure::NotAProxy("HTTP")),
        ("", ProxyFailure::Closed),
    ] {
        let proxy = Proxy::start(ProxyBehavior::Answer(answer)).await;
        let url = proxy.url("http", PASSWORD);
        let error = refused_by(&proxy, &url, &api, &ca).await;
        assert_eq!(error.failure, failure, "{answer}");
    }
    for (reply, password, failure) in [
        (0, "wr0ng", ProxyFailure::Authentication),
        (
            2,
            PASSWORD,
            ProxyFailure::Refused {
                reply: ProxyReply::Socks("not allowed by its rules"),
            },
        ),
        (
            5,
            PASSWORD,
            ProxyFailure::ServerUnreachable {
                reply: ProxyReply::Socks("connection refused"),
            },
        ),
    ] {
        let proxy = Proxy::start(ProxyBehavior::Socks(reply, api.address)).await;
        let url = proxy.url("socks5", password);
        let error = refused_by(&proxy, &url, &api, &ca).await;
        assert_eq!(error.failure, failure, "{reply}");
    }
}

#[tokio::test]
async fn proxy_that_cannot_be_reached_is_named() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[]).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    for scheme in ["http", "socks5"] {
        let url = format!("{scheme}://{address}");
        let client = builder(&api, &ca).proxy(&url).build().unwrap();
        let error = client.register("SN0001", &key()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ProvisionError::Proxy { .. }), "{text}");
        assert!(
            text.contains(&format!("{address} refused the TCP connection")),
            "{text}"
        );
    }
    let proxy = Proxy::start(ProxyBehavior::Silent).await;
    let client = builder(&api, &ca)
        .proxy(&format!("http://{}", proxy.address))
        .connect_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    let expected = ProvisionError::ConnectTimedOut {
        url: client.url().to_owned(),
        proxy: Some(proxy.address.to_string()),
        limit: Duration::from_millis(200),
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("through the proxy"), "{error}");
}

/// What reqwest accepts as an answer to CONNECT is less than what broker and relay accept.
#[tokio::test]
async fn answer_may_end_lines_with_lf_alone_but_not_begin_with_an_interim_response() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[]).await;
    let answer = "HTTP/1.0 200 Connection established\nVia: x\n\n";
    let proxy = Proxy::start(ProxyBehavior::AnswerAndConnectTo(answer, api.address)).await;
    let client = builder(&api, &ca).proxy(&proxy.url("http", PASSWORD));
    let client = client.build().unwrap();
    client.register("SN0001", &key()).await.unwrap();

    for answer in [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 201 Created\r\n\r\n",
    ] {
        let proxy = Proxy::start(ProxyBehavior::AnswerAndConnectTo(answer, api.address)).await;
        let client = builder(&api, &ca).proxy(&proxy.url("http", PASSWORD));
        let client = client.build().unwrap();
        let error = client.register("SN0001", &key()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, ProvisionError::Unreachable { .. })
                && text.contains(&format!("through the proxy {}", proxy.address)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn loopback_requests_bypass_the_proxy() {
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let proxy = Proxy::start(ProxyBehavior::HangUp).await;
    let client = quick(Client::builder(&api.url()))
        .proxy(&format!("http://{}", proxy.address))
        .build()
        .unwrap();
    client.register("SN0001", &key()).await.unwrap();
    assert!(proxy.heads().is_empty());
}

#[test]
fn invalid_proxy_url_is_rejected_without_quoting_it() {
    for url in [
        "",
        "http://",
        "ftp://proxy",
        "https://u:pr0xy-s3cret@proxy",
        "socks4://u:pr0xy-s3cret@proxy",
    ] {
        let error = Client::builder("https://api.example.com")
            .proxy(url)
            .build()
            .unwrap_err();
        assert!(matches!(error, BuildError::Proxy(_)), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains(PASSWORD));
    }
}

/// A device in its own process, because environment variables are per process.
#[tokio::test]
#[ignore = "run by proxy_environment_variables_apply in a child process"]
async fn device() {
    let Ok(url) = std::env::var(URL) else { return };
    let mut builder = quick(Client::builder(&url));
    if let Ok(root) = std::env::var(ROOT) {
        builder = builder.additional_roots_pem(root);
    }
    if std::env::var_os(DIRECT).is_some() {
        builder = builder.no_proxy();
    }
    let client = match builder.build() {
        Ok(client) => client,
        Err(error) => return println!("\nfailed: {error}"),
    };
    match client.register("SN0001", &key()).await {
        Ok(_) => println!("\nregistered"),
        Err(error) => println!("\nfailed: {error}"),
    }
}

/// Runs a device with these variables and returns its output.
async fn run_device(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "proxy::device", "--ignored", "--nocapture"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name);
        command.env_remove(name.to_ascii_lowercase());
    }
    command.envs(variables.iter().copied());
    command.stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    String::from_utf8(output.await.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_environment_variables_apply() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[]).await;
    let proxy = Proxy::start(ProxyBehavior::ConnectTo(api.address)).await;
    let (url, root) = (format!("https://{NAME}:{}", api.address.port()), ca.pem());
    let proxy_url = format!("http://{}", proxy.address);
    let socks = Proxy::start(ProxyBehavior::Socks(0, api.address)).await;
    let base = [(URL, url.as_str()), (ROOT, root.as_str())];
    let with = |more: &[(&'static str, &str)]| {
        let more: Vec<_> = more.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        async move {
            let more: Vec<_> = more.iter().map(|(k, v)| (*k, v.as_str())).collect();
            run_device(&[&base[..], &more].concat()).await
        }
    };
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let seen = proxy.heads().len();
        let output = with(&[(name, &proxy_url)]).await;
        assert!(output.contains("\nregistered"), "{name}: {output}");
        assert_eq!(proxy.heads().len(), seen + 1, "{name}");
    }
    let seen = proxy.heads().len();
    for exception in [("NO_PROXY", NAME), (DIRECT, "1")] {
        let output = with(&[("HTTPS_PROXY", &proxy_url), exception]).await;
        assert!(
            output.contains("\nfailed") && output.contains("cannot be reached"),
            "{exception:?}: {output}"
        );
    }
    let output = with(&[("ALL_PROXY", &socks.url("socks5", PASSWORD))]).await;
    assert!(output.contains("\nregistered"), "{output}");
    assert_eq!(socks.heads().len(), 1);
    let output = with(&[("HTTPS_PROXY", &proxy.url("https", PASSWORD))]).await;
    assert!(
        output.contains("\nfailed: the proxy's URL in HTTPS_PROXY") && !output.contains(PASSWORD),
        "{output}"
    );
    let local = Api::start(|_| Some(ok(&granted()))).await;
    let output = run_device(&[
        (URL, &local.url()),
        ("HTTP_PROXY", &proxy_url),
        ("http_proxy", &proxy_url),
        ("ALL_PROXY", &proxy_url),
    ])
    .await;
    assert!(output.contains("\nregistered"), "{output}");
    assert_eq!(proxy.heads().len(), seen, "no other request used the proxy");
}
