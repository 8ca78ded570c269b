//! Our reverse proxy before web applications that we did not write, through the simulator's relay.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::{Application, ForwardOptions, UpstreamProtocol};
use cloud_sim::{SimConfig, Simulator};
use futures_util::future::join_all;
use integration_tests::process::Process;
use rustix::process::Signal;
use serde_json::json;
use testkit::port::free_port;
use testkit::tls;
use testkit::wait::{eventually, timeout};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::peers::{nginx, python_web, script};

/// Requests in all, of which none may fail.
const REQUESTS: usize = 1_000;
/// Callers at once.
const CALLERS: usize = 50;

/// A device that is reachable and forwards to an application.
struct Device {
    simulator: Simulator,
    cloud: ClesydeCloud,
    _base: tempfile::TempDir,
    host: String,
}

impl Device {
    async fn forwarding(application: Application) -> anyhow::Result<Self> {
        const SERIAL: &str = "SN-0001";
        let simulator = Simulator::start(SimConfig::default()).await?;
        let base = tempfile::tempdir()?;
        let cloud = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url())
            .application(application)
            .build();
        cloud
            .provision(&ProvisioningKey::new(simulator.provisioning_key())?)
            .await?;
        cloud.initialize().await?;
        let mut status = cloud.watch_status();
        timeout(
            "the device to be reachable",
            status.wait_for(|status| status.remote.connected),
        )
        .await?;
        let host = simulator.control().device(SERIAL).await?.access_point;
        Ok(Self {
            simulator,
            cloud,
            _base: base,
            host,
        })
    }

    /// Sends the requests, and returns how many had another answer than status 200.
    async fn failures(&self, pause: Duration) -> anyhow::Result<usize> {
        let relay = self.simulator.relay_addr();
        let url = format!("https://{}:{}/", self.host, relay.port());
        let config = tls::client(self.simulator.ca_pem(), &["h2", "http/1.1"]);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .resolve(&self.host, relay)
            .no_proxy()
            .build()?;
        let callers = (0..CALLERS).map(|_| async {
            let mut failures = 0;
            let mut pauses = interval(pause);
            pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for _ in 0..REQUESTS / CALLERS {
                pauses.tick().await;
                let answer = client.get(&url).send().await;
                if !answer.is_ok_and(|answer| answer.status() == 200) {
                    failures += 1;
                }
            }
            failures
        });
        Ok(join_all(callers).await.into_iter().sum())
    }

    async fn stop(self) {
        timeout("the device to stop", self.cloud.stop()).await;
        timeout("the simulator to stop", self.simulator.stop()).await;
    }
}

/// Waits until the application accepts connections.
async fn listening(port: u16) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the application to listen", || async {
        TcpStream::connect(address).await.ok()
    })
    .await;
    address
}

/// uvicorn closes each connection a second after its last request, just when the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_uvicorn_closes_kept_connections() -> anyhow::Result<()> {
    let port = free_port();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    let _uvicorn = Command::new(python_web()?)
        .args(["-m", "uvicorn", "py_asgi:app", "--log-level", "warning"])
        .args(["--timeout-keep-alive", "1", "--port", &port.to_string()])
        .arg("--app-dir")
        .arg(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let device = Device::forwarding(Application::forward(listening(port).await)).await?;
    let failures = device.failures(Duration::from_secs(1)).await?;
    ensure!(failures == 0, "{failures} of {REQUESTS} requests failed");
    device.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_nginx_reloads() -> anyhow::Result<()> {
    let port = free_port();
    let directory = tempfile::tempdir()?;
    let root = directory.path().display();
    let configuration = format!(
        "daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error.log;
         events {{ worker_connections 256; }}
         http {{
           access_log off;
           client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
           uwsgi_temp_path {root}; scgi_temp_path {root};
           server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}
         }}"
    );
    let file = directory.path().join("nginx.conf");
    tokio::fs::write(&file, configuration).await?;
    let mut command = Command::new(nginx()?);
    command.arg("-p").arg(directory.path()).arg("-c").arg(&file);
    let nginx = Process::spawn("nginx", &mut command)?;
    let device = Device::forwarding(Application::forward(listening(port).await)).await?;
    let load = device.failures(Duration::from_millis(200));
    let mut load = Box::pin(load);
    let mut reloads = 0;
    let failures = loop {
        tokio::select! {
            failures = load.as_mut() => break failures?,
            () = sleep(Duration::from_millis(300)) => {
                // What `nginx -s reload` sends.
                nginx.signal(Signal::HUP)?;
                reloads += 1;
            }
        }
    };
    drop(load);
    ensure!(reloads >= 5, "only {reloads} reloads under load");
    ensure!(failures == 0, "{failures} of {REQUESTS} requests failed");
    nginx.terminate().await?;
    device.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_both_ways() -> anyhow::Result<()> {
    let mut server = Process::spawn(
        "the gRPC server",
        script(&python_web()?, "py_grpc.py").arg("serve"),
    )?;
    let port = server.event("listening").await?["port"]
        .as_u64()
        .unwrap_or_default();
    let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?));
    let options = ForwardOptions::new().protocol(UpstreamProtocol::Http2);
    let tcp = Application::forward_tcp(address, None).alpn(["h2".to_owned()]);
    for application in [Application::forward_with(address, options), tcp] {
        let device = Device::forwarding(application).await?;
        let roots = tempfile::NamedTempFile::new()?;
        tokio::fs::write(roots.path(), device.simulator.ca_pem()).await?;
        let relay = device.simulator.relay_addr().to_string();
        let mut command = script(&python_web()?, "py_grpc.py");
        command
            .args(["call", &relay, &device.host])
            .arg(roots.path());
        let mut client = Process::spawn("the gRPC client", &mut command)?;
        let called = client.event("called").await?;
        let expected = json!({
            "event": "called",
            "unary": 100_000,
            "trailer": "kept",
            "status": "NOT_FOUND: there is no such thing",
            "streamed": 100,
            "joined": "abc",
            "conversation": ["re: 0", "re: 1", "re: 2", "re: 3", "re: 4"],
            "rest": 0,
        });
        ensure!(called == expected, "{called}");
        device.stop().await;
    }
    server.kill().await
}
