//! The routes from the client to nginx: the programs of each and how to start them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, KeyPair};
use testkit::load::client::{Client, Target};
use testkit::load::programs::{Programs, await_port, free_address, processor_time};

use super::reader::Reader;

pub(super) const OURS: &str = "ours";
/// Size of nginx's file.
pub(super) const FILE_SIZE: u64 = 256 * 1024 * 1024;

/// Paths of the programs.
pub(super) struct Paths {
    pub(super) version: String,
    pub(super) relay: PathBuf,
    pub(super) forward: PathBuf,
    pub(super) nginx: PathBuf,
    pub(super) haproxy: Option<PathBuf>,
    pub(super) rathole: Option<PathBuf>,
    /// Python with snitun 0.47.0.
    pub(super) python: Option<PathBuf>,
    /// The directory of the two scripts that run the Python package.
    pub(super) scripts: Option<PathBuf>,
    /// Python for the slow reader.
    pub(super) reader: Option<PathBuf>,
}

/// A route from the client to nginx.
pub(super) struct Route {
    pub(super) name: &'static str,
    /// Address and host name, by which a relay finds the device.
    pub(super) target: Target,
    /// Process id of the device's side, if there is one.
    device: Option<u32>,
    /// Much slower than the others: gets smaller amounts.
    pub(super) slow: bool,
    /// A slow reader in Python.
    pub(super) reader: Option<Reader>,
}

/// All running programs; dropping it stops them.
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) routes: Vec<Route>,
    /// Missing programs, and what is not measured for that reason.
    pub(super) missing: Vec<String>,
    _running: Running,
}

impl Route {
    fn new(name: &'static str, address: SocketAddr, hostname: &str, device: Option<u32>) -> Self {
        let hostname = hostname.to_owned();
        Self {
            name,
            target: Target { address, hostname },
            device,
            slow: false,
            reader: None,
        }
    }

    /// Returns the processor time of the device's side, in seconds; NaN without a device.
    pub(super) fn device_time(&self) -> f64 {
        self.device.map_or(f64::NAN, processor_time)
    }
}

/// Starts all available programs.
pub(super) fn start(programs: &Paths) -> Bench {
    let mut running = Running(Programs::new());
    let mut bench_ways = Vec::new();
    let mut missing = Vec::new();

    let (certificate, service) = running.nginx(&programs.nginx);
    bench_ways.push(Route::new("direct", service, SELF, None));
    match &programs.haproxy {
        Some(haproxy) => bench_ways.push(running.two_hops(haproxy, service)),
        None => missing.push("two HAProxy hops: haproxy is not installed".to_owned()),
    }
    match &programs.rathole {
        Some(rathole) => bench_ways.push(running.rathole(rathole, service)),
        None => missing.push("rathole: rathole 0.5.0 is not there".to_owned()),
    }
    let python = programs.python.as_ref().zip(programs.scripts.as_ref());
    if python.is_none() {
        missing.push("Python: snitun 0.47.0 is not there".to_owned());
    }
    running.snitun(programs, python, service, &mut bench_ways);
    match &programs.reader {
        Some(python) => {
            let reader = Reader::new(python, &running.0.path("cert.pem"));
            for route in &mut bench_ways {
                route.reader = Some(reader.clone());
            }
        }
        None => missing.push("a slow reader in Python: one in Rust takes its place".to_owned()),
    }
    Bench {
        client: Client::new(&certificate, &[]),
        routes: bench_ways,
        missing,
        _running: running,
    }
}

/// All running programs.
struct Running(Programs);

impl Running {
    /// Starts a web server with TLS: `/file` with ranges, `/small`, and `/sink`, which discards
    /// uploads.
    fn nginx(&mut self, nginx: &Path) -> (String, SocketAddr) {
        let names = [SELF, PYTHON].map(str::to_owned);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        self.0.file("cert.pem", &certificate.pem());
        self.0.file("key.pem", &key.serialize_pem());
        self.0.large_file(FILE_SIZE >> 20);
        let address = free_address();
        let small = "small ".repeat(50);
        let server = format!(
            "server {{
               listen {address} ssl;
               ssl_certificate {{directory}}/cert.pem; ssl_certificate_key {{directory}}/key.pem;
               ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;
               root {{directory}};
               location = /small {{ return 200 \"{small}\"; }}
               location = /sink {{ return 200; }}
             }}"
        );
        self.0.nginx(nginx, "nginx", address, &server);
        (certificate.pem(), address)
    }

    fn two_hops(&mut self, haproxy: &Path, service: SocketAddr) -> Route {
        let (far, near) = (free_address(), free_address());
        let device = self.0.haproxy_hop(haproxy, "far", far, service);
        self.0.haproxy_hop(haproxy, "near", near, far);
        Route::new("two hops", near, SELF, Some(device))
    }

    fn rathole(&mut self, rathole: &Path, service: SocketAddr) -> Route {
        let (control, public) = (free_address(), free_address());
        let server = self.0.file(
            "server.toml",
            &format!(
                "[server]\nbind_addr = \"{control}\"\ndefault_token = \"t\"\n[server.services.web]\nbind_addr = \"{public}\"\n"
            ),
        );
        let client = self.0.file(
            "client.toml",
            &format!(
                "[client]\nremote_addr = \"{control}\"\ndefault_token = \"t\"\n[client.services.web]\nlocal_addr = \"{service}\"\n"
            ),
        );
        self.0.spawn(
            Command::new(rathole)
                .arg("--server")
                .arg(server)
                .stdout(Stdio::null()),
        );
        await_port(control);
        let device = self.0.spawn(
            Command::new(rathole)
                .arg("--client")
                .arg(client)
                .stdout(Stdio::null()),
        );
        await_port(public);
        Route::new("rathole", public, SELF, Some(device))
    }

    /// Starts our relay and the Python package's server, each with a device of either kind.
    fn snitun(
        &mut self,
        programs: &Paths,
        python: Option<(&PathBuf, &PathBuf)>,
        service: SocketAddr,
        routes: &mut Vec<Route>,
    ) {
        let any = |_: &serde_json::Value| true;
        let fernet_key = snitun::server::FernetKeys::generate_key().to_string();
        let relay = |issue: [(&str, &str); 2]| {
            let mut command = Command::new(&programs.relay);
            command.args(["--listen", "127.0.0.1:0", "--fernet-key", &fernet_key]);
            command.args(["--protocol-version", &programs.version]);
            for (hostname, file) in issue {
                command.arg("--issue").arg(format!("{hostname}:{file}"));
            }
            command
        };
        let file = |name: &str| self.0.path(name).display().to_string();
        let issued = [
            file("ours-ours"),
            file("ours-python"),
            file("python-ours"),
            file("python-python"),
        ];
        // The first relay serves, the second one only issues tokens for the Python server.
        let (_, ready) = self
            .0
            .spawn_until(&mut relay([(SELF, &issued[0]), (PYTHON, &issued[1])]), any);
        let ours: SocketAddr = ready["listen"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("an address");
        self.0
            .spawn_until(&mut relay([(SELF, &issued[2]), (PYTHON, &issued[3])]), any);

        let mut device = |running: &mut Self, name, address: SocketAddr, hostname, token: &str| {
            let mut command = match python {
                Some((python, scripts)) if hostname == PYTHON => {
                    let mut command = Command::new(python);
                    command.arg(scripts.join("py_snitun_client.py"));
                    command
                }
                _ => Command::new(&programs.forward),
            };
            command.args([
                "--server",
                &address.to_string(),
                "--to",
                &service.to_string(),
            ]);
            let (device, _) = running
                .0
                .spawn_until(command.args(["--token-file", token]), any);
            let mut route = Route::new(name, address, hostname, Some(device));
            route.slow = name != OURS;
            routes.push(route);
        };
        device(self, OURS, ours, SELF, &issued[0]);
        let Some((python, scripts)) = python else {
            return;
        };
        let theirs = free_address();
        let mut command = Command::new(python);
        command.arg(scripts.join("py_snitun_server.py"));
        // A single argument: a key may begin with a dash.
        command.arg(format!("--fernet-key={fernet_key}"));
        command.args(["--port", &theirs.port().to_string()]);
        self.0.spawn_until(&mut command, any);
        device(self, "Python", theirs, PYTHON, &issued[3]);
        device(self, "our client, Python server", theirs, SELF, &issued[2]);
        device(self, "Python client, our server", ours, PYTHON, &issued[1]);
    }
}

/// Host names of the device with our client and of the one with the Python package.
const SELF: &str = "ours.test";
const PYTHON: &str = "python.test";
