//! The ways from the client to the application: the programs of each and how to start them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::load::client::{Client, Target};
use testkit::load::programs::{Programs, await_port, free_address, processor_time};
use testkit::pki::Authority;

/// Size of the file.
pub(super) const FILE_SIZE: u64 = 256 * 1024 * 1024;
/// Host name of the servers that are not behind a relay.
const SERVER: &str = "server.test";

/// Paths of the programs.
pub(super) struct Paths {
    /// `clesyde-cloud`.
    pub(super) program: PathBuf,
    /// `clesyde-cloud` with the simulator.
    pub(super) platform: PathBuf,
    /// `bench-application`, for the ways in process.
    pub(super) application: Option<PathBuf>,
    pub(super) nginx: PathBuf,
    pub(super) haproxy: Option<PathBuf>,
}

/// A way from the client to the application.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) target: Target,
    /// The process that serves, if it is one.
    pub(super) device: Option<u32>,
    pub(super) ours: bool,
    /// Whether a reader that is slower than the sender holds it back.
    pub(super) holds_back: bool,
    /// Whether the rest of an upload is read although the answer came before, as nginx sends it.
    pub(super) reads_after_answer: bool,
}

impl Way {
    /// Returns the processor time of the device, in seconds; NaN without one.
    pub(super) fn device_time(&self) -> f64 {
        self.device.map_or(f64::NAN, processor_time)
    }
}

/// Ways that are compared with each other.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) ways: Vec<Way>,
}

/// All running programs; dropping it stops them.
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) http2_client: Client,
    pub(super) groups: [Group; 2],
    pub(super) missing: Vec<String>,
    _programs: Programs,
}

/// A running simulator.
struct Cloud {
    api: String,
    relay: SocketAddr,
    key: String,
}

impl Bench {
    pub(super) fn start(paths: &Paths) -> Self {
        let mut programs = Programs::new();
        let authority = Authority::new("benchmark");
        let server = authority.server(&[SERVER]);
        programs.file("cert.pem", &server.certificate);
        programs.file("key.pem", &server.key);
        programs.large_file(FILE_SIZE >> 20);
        let mut missing = Vec::new();
        if paths.haproxy.is_none() {
            missing.push("one HAProxy hop: haproxy is not installed".to_owned());
        }
        let mut certificates = authority.pem();
        let (service, proxy) = nginx(&mut programs, &paths.nginx);

        let mut forward = Vec::new();
        if let Some(haproxy) = &paths.haproxy {
            let hop = hop(&mut programs, haproxy, "forward-hop", proxy);
            let mut way = way("nginx behind HAProxy", hop, SERVER, None);
            way.reads_after_answer = false;
            forward.push(way);
        }
        let mut in_process = Vec::new();
        if let Some(application) = &paths.application {
            let mut command = Command::new(application);
            command.args([programs.path("cert.pem"), programs.path("key.pem")]);
            let (device, ready) = programs.spawn_until(&mut command, |_| true);
            let direct = ready["address"].as_str().unwrap().parse().unwrap();
            in_process.push(way("direct", direct, SERVER, Some(device)));
            if let Some(haproxy) = &paths.haproxy {
                let hop = hop(&mut programs, haproxy, "direct-hop", direct);
                in_process.push(way("one HAProxy hop", hop, SERVER, Some(device)));
            }
        } else {
            missing.push("the ways in process: --application is not given".to_owned());
        }
        let versions = [
            (0, ["forward, version 0", "in process, version 0"]),
            (2, ["forward, version 2", "in process, version 2"]),
        ];
        for (version, names) in versions {
            let (cloud, pem) = cloud(&mut programs, &paths.platform, version);
            certificates += &pem;
            let ours = |name, (device, host): (u32, String)| {
                let mut way = way(name, cloud.relay, &host, Some(device));
                (way.ours, way.holds_back) = (true, version > 0);
                way
            };
            let device = run_forward(&mut programs, &paths.program, &cloud, version, service);
            forward.push(ours(names[0], device));
            if let Some(program) = &paths.application {
                let device = application(&mut programs, program, &cloud, version);
                in_process.push(ours(names[1], device));
            }
        }
        Self {
            client: Client::new(&certificates, &["http/1.1"]),
            http2_client: Client::new(&certificates, &["h2"]),
            groups: [
                Group {
                    name: "forward",
                    ways: forward,
                },
                Group {
                    name: "in-process",
                    ways: in_process,
                },
            ],
            missing,
            _programs: programs,
        }
    }
}

fn way(name: &'static str, address: SocketAddr, hostname: &str, device: Option<u32>) -> Way {
    let hostname = hostname.to_owned();
    Way {
        name,
        target: Target { address, hostname },
        device,
        ours: false,
        holds_back: true,
        reads_after_answer: true,
    }
}

/// Starts an nginx with `/small`, a kibibyte, `/file`, and `/sink`, which discards a body; and one
/// with TLS that is a reverse proxy to it. Returns the addresses of both.
fn nginx(programs: &mut Programs, nginx: &Path) -> (SocketAddr, SocketAddr) {
    let (service, proxy) = (free_address(), free_address());
    let small = "s".repeat(1024);
    let server = format!(
        "server {{ listen {service}; root {{directory}}; client_max_body_size 0; location = /small {{ return 200 \"{small}\"; }} location = /sink {{ return 200; }} }}"
    );
    programs.nginx(nginx, "service", service, &server);
    let server = format!(
        "upstream service {{ server {service}; keepalive 64; keepalive_requests 100000000; }}
         server {{
           listen {proxy} ssl http2;
           ssl_certificate {{directory}}/cert.pem; ssl_certificate_key {{directory}}/key.pem;
           location / {{
             proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_max_temp_file_size 0;
           }}
         }}"
    );
    programs.nginx(nginx, "proxy", proxy, &server);
    (service, proxy)
}

fn hop(programs: &mut Programs, haproxy: &Path, name: &str, to: SocketAddr) -> SocketAddr {
    let from = free_address();
    programs.haproxy_hop(haproxy, name, from, to);
    await_port(from);
    from
}

/// Starts a simulator. Returns the certificate of its authority, too.
fn cloud(programs: &mut Programs, program: &Path, version: u8) -> (Cloud, String) {
    let data = programs.path(&format!("cloud-{version}"));
    let mut command = Command::new(program);
    command.args(["-q", "sim", "--protocol-version", &version.to_string()]);
    command.arg("--data-dir").arg(&data);
    let (_, ready) = programs.spawn_until(&mut command, |_| true);
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();
    let port = text("relay").rsplit_once(':').unwrap().1.parse().unwrap();
    let cloud = Cloud {
        api: text("api_url"),
        relay: SocketAddr::from(([127, 0, 0, 1], port)),
        key: text("provisioning_key"),
    };
    (cloud, fs::read_to_string(text("ca_file")).unwrap())
}

/// Starts the program with `run --forward`. Returns its process id and host name.
fn run_forward(
    programs: &mut Programs,
    program: &Path,
    cloud: &Cloud,
    version: u8,
    service: SocketAddr,
) -> (u32, String) {
    let base = programs.path(&format!("program-{version}"));
    let command = |what: &str| {
        let mut command = Command::new(program);
        command
            .args(["-q", what, "--json", "--base-path"])
            .arg(&base);
        command.args(["--sn", "BENCH1", "--api-url", &cloud.api]);
        command
    };
    let registered = command("provision")
        .env("CLESYDE_TOKEN", &cloud.key)
        .output();
    let registered = registered.unwrap();
    assert!(registered.status.success(), "{registered:?}");
    let mut command = command("run");
    command.args(["--forward", &service.to_string()]);
    for limit in [
        "connections",
        "connections-per-caller",
        "requests-per-caller",
    ] {
        command.args([&format!("--max-{limit}"), "2048"]);
    }
    let is_connected = |line: &serde_json::Value| line["event"] == "remote.connected";
    let (device, _) = programs.spawn_until(&mut command, is_connected);
    (device, "bench1.ui.localhost".to_owned())
}

/// Starts the application in process. Returns its process id and host name.
fn application(
    programs: &mut Programs,
    application: &Path,
    cloud: &Cloud,
    version: u8,
) -> (u32, String) {
    let base = programs.path(&format!("application-{version}"));
    let mut command = Command::new(application);
    command.arg(base).args(["BENCH2", &cloud.api]);
    command.env("CLESYDE_TOKEN", &cloud.key);
    let (device, _) = programs.spawn_until(&mut command, |_| true);
    (device, "bench2.ui.localhost".to_owned())
}
