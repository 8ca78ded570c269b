//! Connections through a real HTTP proxy (squid) and a real SOCKS 5 proxy (microsocks), both with a
//! password: alone, and a device in a network from which only the proxy leads out.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::Application;
use cloud_net::{ConnectError, Connector, Proxy, ProxyFailure, ProxyReply};
use cloud_sim::{SimConfig, Simulator};
use integration_tests::device::{SERIAL, page};
use integration_tests::network_namespace::NetworkNamespace;
use integration_tests::origin::Origin;
use integration_tests::public;
use testkit::pki::Authority;
use testkit::port::free_port;
use testkit::wait::{eventually, timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::peers;

const USER: &str = "device";
const PASSWORD: &str = "s3cret";

/// Squid's helper that checks passwords, where distributions have it.
const PASSWORD_HELPERS: [&str; 3] = [
    "/usr/lib/squid/basic_ncsa_auth",
    "/usr/lib64/squid/basic_ncsa_auth",
    "/usr/libexec/squid/basic_ncsa_auth",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Squid,
    Microsocks,
}

const KINDS: [Kind; 2] = [Kind::Squid, Kind::Microsocks];

/// A running proxy. Killed when dropped.
struct RealProxy {
    kind: Kind,
    address: SocketAddr,
    directory: tempfile::TempDir,
    _child: Child,
}

impl RealProxy {
    /// Starts a proxy at `ip`. Squid does not connect to `forbidden`.
    async fn start(kind: Kind, ip: Ipv4Addr, forbidden: u16) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = SocketAddr::from((ip, free_port()));
        let mut command = match kind {
            Kind::Squid => squid(directory.path(), address, forbidden).await?,
            Kind::Microsocks => {
                let mut command = Command::new(peers::microsocks()?);
                command
                    .args(["-i", &ip.to_string(), "-p", &address.port().to_string()])
                    .args(["-u", USER, "-P", PASSWORD]);
                command
            }
        };
        let child = command.kill_on_drop(true).spawn()?;
        eventually("the proxy to listen", || async {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Ok(Self {
            kind,
            address,
            directory,
            _child: child,
        })
    }

    fn url(&self, password: &str) -> String {
        let scheme = match self.kind {
            Kind::Squid => "http",
            Kind::Microsocks => "socks5",
        };
        format!("{scheme}://{USER}:{password}@{}", self.address)
    }

    /// The targets in squid's log.
    fn targets(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(
            self.directory.path().join("access.log"),
        )?)
    }
}

/// Writes squid's configuration and password file, which its own user must be able to read.
async fn squid(directory: &Path, address: SocketAddr, forbidden: u16) -> anyhow::Result<Command> {
    let helper = PASSWORD_HELPERS
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("squid has no basic_ncsa_auth")?;
    let hash = Command::new("openssl")
        .args(["passwd", "-apr1", PASSWORD])
        .output()
        .await?;
    let hash = String::from_utf8(hash.stdout)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    fs::write(directory.join("passwords"), format!("{USER}:{hash}"))?;
    let at = directory.display();
    let config = format!(
        "http_port {address}\n\
         visible_hostname proxy.test\n\
         pid_filename none\n\
         pinger_enable off\n\
         cache deny all\n\
         cache_log {at}/cache.log\n\
         access_log stdio:{at}/access.log\n\
         coredump_dir {at}\n\
         shutdown_lifetime 0 seconds\n\
         auth_param basic program {helper} {at}/passwords\n\
         auth_param basic children 1\n\
         acl known proxy_auth REQUIRED\n\
         acl forbidden port {forbidden}\n\
         http_access deny !known\n\
         http_access deny forbidden\n\
         http_access allow CONNECT\n\
         http_access deny all\n"
    );
    let path = directory.join("squid.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(peers::squid()?);
    command.arg("-N").arg("-f").arg(path);
    Ok(command)
}

async fn echo() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(address)
}

async fn connect(url: &str, target: SocketAddr) -> anyhow::Result<Result<TcpStream, ProxyFailure>> {
    let connector = Connector::new().proxy(Some(Proxy::new(url)?));
    let deadline = Instant::now() + Duration::from_secs(60);
    // By name, which the proxy resolves.
    match connector
        .connect("localhost", target.port(), deadline)
        .await
    {
        Ok(stream) => Ok(Ok(stream)),
        Err(ConnectError::Proxy(error)) => Ok(Err(error.failure)),
        Err(error) => bail!("not the proxy's: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_proxies_connect_and_refuse() -> anyhow::Result<()> {
    let target = echo().await?;
    let forbidden = echo().await?;
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    for kind in KINDS {
        let proxy = RealProxy::start(kind, Ipv4Addr::LOCALHOST, forbidden.port()).await?;
        let mut stream = connect(&proxy.url(PASSWORD), target).await??;
        stream.write_all(b"through").await?;
        let mut answer = [0; 7];
        timeout("the echo", stream.read_exact(&mut answer)).await?;
        assert_eq!(&answer, b"through");

        let failure = connect(&proxy.url("wr0ng"), target).await?.unwrap_err();
        assert_eq!(failure, ProxyFailure::Authentication, "{kind:?}");
        let failure = connect(&proxy.url(PASSWORD), closed).await?.unwrap_err();
        assert!(
            matches!(failure, ProxyFailure::ServerUnreachable { .. }),
            "{kind:?}: {failure}"
        );
        if kind == Kind::Squid {
            let failure = connect(&proxy.url(PASSWORD), forbidden).await?;
            let reply = ProxyReply::HttpStatus(403);
            assert_eq!(failure.unwrap_err(), ProxyFailure::Refused { reply });
        }
    }
    Ok(())
}

const URL: &str = "INTEROP_PROXIED_API";
const ROOT: &str = "INTEROP_PROXIED_ROOT";
const KEY: &str = "INTEROP_PROXIED_KEY";
const PROXY: &str = "INTEROP_PROXIED_PROXY";
const BASE: &str = "INTEROP_PROXIED_BASE";
/// The device runs until this file is in its directory.
const DONE: &str = "done";

/// A device in a process of its own, because a namespace is per process: from its registration to
/// its stop.
#[tokio::test]
#[ignore = "run by device_lives_behind_a_proxy in a network namespace"]
async fn device() -> anyhow::Result<()> {
    let get = |name| std::env::var(name).context(name);
    let (base, proxy, root) = (get(BASE)?, get(PROXY)?, get(ROOT)?);
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, &base, get(URL)?)
        .api(|api| api.proxy(&proxy).additional_roots_pem(root))
        .proxy(Proxy::new(&proxy)?)
        .application(Application::service(page(Arc::default())))
        .build();
    cloud.provision(&ProvisioningKey::new(&get(KEY)?)?).await?;
    cloud.initialize().await?;
    eventually("the test to end", || async {
        Path::new(&base).join(DONE).exists().then_some(())
    })
    .await;
    cloud.stop().await;
    Ok(())
}

/// Passes requests on to the simulator's API, which has no TLS.
fn api(simulator: &Simulator) -> anyhow::Result<Router> {
    let url = simulator.api_url();
    let client = public::http_client(simulator.relay_addr(), "unused", simulator.ca_pem())?;
    let router = Router::new().fallback(move |uri: Uri, body: Bytes| {
        let url = format!("{}{}", url.trim_end_matches('/'), uri.path());
        let request = client.post(url);
        async move {
            let bad = |_| StatusCode::BAD_GATEWAY;
            let request = request.header("content-type", "application/json");
            let answer = request.body(body).send().await.map_err(bad)?;
            Ok::<_, StatusCode>((answer.status(), answer.bytes().await.map_err(bad)?))
        }
    });
    Ok(router)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_lives_behind_a_proxy() -> anyhow::Result<()> {
    for (number, kind) in (0..).zip(KINDS) {
        let Some(namespace) = NetworkNamespace::create(number)? else {
            return Ok(());
        };
        let proxy = RealProxy::start(kind, namespace.host, 1).await?;
        let simulator = Simulator::start(SimConfig::default()).await?;
        let authority = Authority::new("api");
        let api = Origin::start(&authority.server(&["localhost"]), api(&simulator)?).await?;
        let base = tempfile::tempdir()?;
        let mut device = namespace
            .command(&std::env::current_exe()?)
            .args(["--exact", "proxies::device", "--ignored", "--nocapture"])
            .env(URL, format!("https://localhost:{}", api.address.port()))
            .env(ROOT, authority.pem())
            .env(KEY, simulator.provisioning_key())
            .env(PROXY, proxy.url(PASSWORD))
            .env(BASE, base.path())
            .kill_on_drop(true)
            .spawn()?;
        let control = simulator.control();
        let seen = eventually("the device to be reachable, or to end", || {
            let (ended, control) = (device.try_wait(), &control);
            async move {
                if let Ok(Some(status)) = ended {
                    return Some(Err(anyhow::anyhow!("the device ended: {status}")));
                }
                let seen = control.device(SERIAL).await.ok()?;
                (seen.online && seen.tunnel).then_some(Ok(seen))
            }
        })
        .await?;
        let relay = simulator.relay_addr();
        let answer = public::fetch(relay, &seen.access_point, simulator.ca_pem(), "").await?;
        assert!(answer.starts_with("hello"), "{answer}");
        fs::write(base.path().join(DONE), "")?;
        let ended = timeout("the device to stop", device.wait()).await?;
        assert!(ended.success(), "{kind:?}: {ended}");
        if kind == Kind::Squid {
            let ports = [
                api.address.port(),
                simulator.mqtt_addr().port(),
                relay.port(),
            ];
            // It logs a connection when that has ended.
            eventually("squid to log all connections", || async {
                let targets = proxy.targets().ok()?;
                let logged = |port| targets.contains(&format!("CONNECT localhost:{port} {USER}"));
                ports.into_iter().all(logged).then_some(())
            })
            .await;
        }
    }
    Ok(())
}
