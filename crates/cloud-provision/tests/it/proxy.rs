//! HTTP proxies, configured or from the environment, and the errors of broken ones.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use cloud_provision::{BuildError, Client, ProvisionError};
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

/// Behavior of a proxy on CONNECT.
#[derive(Clone, Copy)]
enum ProxyBehavior {
    ConnectTo(SocketAddr),
    Answer(&'static str),
    HangUp,
}

struct Proxy {
    address: SocketAddr,
    /// The header section of each request.
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
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    log.lock().unwrap().push(String::from_utf8(head).unwrap());
    match behavior {
        ProxyBehavior::ConnectTo(target) => {
            let mut target = TcpStream::connect(target).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut target).await;
        }
        ProxyBehavior::Answer(status) => {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        ProxyBehavior::HangUp => {}
    }
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
    let url = format!("http://device:{PASSWORD}@{}", proxy.address);
    let builder = builder(&api, &ca).proxy(&url);
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
async fn broken_proxy_is_reported_as_the_cause() {
    let ca = ca();
    let api = api(&ca, NAME, Dates::Now, &[]).await;
    for (behavior, reason) in [
        (
            ProxyBehavior::Answer("407 Proxy Authentication Required"),
            "authorization",
        ),
        (ProxyBehavior::Answer("403 Forbidden"), "unsuccessful"),
        (ProxyBehavior::HangUp, "unexpected end"),
    ] {
        let proxy = Proxy::start(behavior).await;
        let client = builder(&api, &ca)
            .proxy(&format!("http://u:{PASSWORD}@{}", proxy.address))
            .build()
            .unwrap();
        let error = client.register("SN0001", &key()).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, ProvisionError::Proxy { .. }), "{text}");
        assert!(text.contains(reason) && text.contains(NAME), "{text}");
        assert!(!text.contains(PASSWORD), "{text}");
        assert!(error.is_retryable() && !error.may_have_registered());
        assert_eq!(proxy.heads().len(), 3, "tried again");
    }
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let client = builder(&api, &ca)
        .proxy(&format!("http://{address}"))
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, ProvisionError::Proxy { .. }) && text.contains("refused"),
        "{text}"
    );
    assert_eq!(api.requests(), 0);
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
    for url in ["", "proxy:3128", "socks5://u:pr0xy-s3cret@proxy", "http://"] {
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
    let client = builder.build().unwrap();
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
