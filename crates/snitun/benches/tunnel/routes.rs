//! The routes from the client to nginx: the programs of each and how to start them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal};

use super::client::{Client, Connection};

pub(super) const OURS: &str = "ours";
/// Timeout for the start of a program.
const READY: Duration = Duration::from_secs(20);
/// Size of nginx's file.
pub(super) const FILE_SIZE: u64 = 256 * 1024 * 1024;

/// Paths of the programs.
pub(super) struct Programs {
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
}

/// A route from the client to nginx.
pub(super) struct Route {
    pub(super) name: &'static str,
    /// Address that the client connects to.
    pub(super) address: SocketAddr,
    /// Host name that the client requests, by which a relay finds the device.
    pub(super) hostname: &'static str,
    /// Process id of the device's side, if there is one.
    device: Option<u32>,
    /// Much slower than the others: gets smaller amounts.
    pub(super) slow: bool,
}

/// All running programs; dropping it stops them.
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) routes: Vec<Route>,
    /// Missing programs, and the routes skipped for that reason.
    pub(super) missing: Vec<String>,
    _running: Running,
}

impl Route {
    pub(super) async fn connect(&self, client: &Client) -> Connection {
        client.connect(self.address, self.hostname).await
    }

    /// Returns the processor time of the device's side, in seconds; NaN without a device.
    pub(super) fn device_time(&self) -> f64 {
        let Some(device) = self.device else {
            return f64::NAN;
        };
        let stat = fs::read_to_string(format!("/proc/{device}/stat")).expect("it runs");
        // After the name, which may contain any bytes: the third field is the state, the 14th and
        // 15th are ticks.
        let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = rest.split(' ').skip(11).take(2);
        // A tick is a hundredth of a second on Linux.
        ticks
            .map(|ticks| ticks.parse::<f64>().expect("a number"))
            .sum::<f64>()
            / 100.0
    }
}

/// Processes and their files.
struct Running {
    children: Vec<Child>,
    /// Their standard output.
    outputs: Vec<BufReader<ChildStdout>>,
    directory: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Clients before servers, so that none logs a lost connection. SIGTERM, not SIGKILL: nginx
        // must stop its workers.
        for child in self.children.iter_mut().rev() {
            let id = Pid::from_child(child);
            let _ = rustix::process::kill_process(id, Signal::TERM);
            let start = Instant::now();
            while matches!(child.try_wait(), Ok(None)) {
                if start.elapsed() > READY {
                    let _ = child.kill();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts all available programs.
pub(super) fn start(programs: &Programs) -> Bench {
    let directory = std::env::temp_dir().join(format!("snitun-bench-{}", std::process::id()));
    fs::create_dir(&directory).expect("a directory for the bench");
    let mut running = Running {
        children: Vec::new(),
        outputs: Vec::new(),
        directory,
    };
    let mut bench_ways = Vec::new();
    let mut missing = Vec::new();

    let (certificate, service) = running.nginx(&programs.nginx);
    bench_ways.push(Route {
        name: "direct",
        address: service,
        hostname: SELF,
        device: None,
        slow: false,
    });
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
    Bench {
        client: Client::new(&certificate),
        routes: bench_ways,
        missing,
        _running: running,
    }
}

impl Running {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Starts a program; returns its process id.
    fn spawn(&mut self, command: &mut Command) -> u32 {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let id = child.id();
        self.children.push(child);
        id
    }

    /// Starts a program that prints a JSON object when it is ready; returns that, too.
    fn spawn_ready(&mut self, command: &mut Command) -> (u32, serde_json::Value) {
        let id = self.spawn(command.stdout(Stdio::piped()));
        let child = self.children.last_mut().expect("just started");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("a line");
        self.outputs.push(output);
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{command:?} printed {line:?}: {error}"));
        (id, ready)
    }

    /// Starts a web server with TLS: `/file` with ranges, `/small`, and `/sink`, which discards
    /// uploads. Two processes: a single one serves a fast download for a hundred milliseconds
    /// before it handles anything else.
    fn nginx(&mut self, nginx: &Path) -> (String, SocketAddr) {
        let names = [SELF, PYTHON].map(str::to_owned);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        self.file("cert.pem", &certificate.pem());
        self.file("key.pem", &key.serialize_pem());
        let mut file = fs::File::create(self.directory.join("file")).expect("a file");
        let block: Vec<u8> = (0..1 << 20)
            .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        for _ in 0..FILE_SIZE >> 20 {
            file.write_all(&block).expect("room for the file");
        }
        drop(file);
        let address = free_address();
        let directory = self.directory.display();
        let config = self.file(
            "nginx.conf",
            &format!(
                "daemon off; worker_processes 2; pid {directory}/nginx.pid; error_log stderr error;
                events {{ worker_connections 1024; }}
                http {{
                  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on;
                  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
                  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
                  client_max_body_size 0; lingering_timeout 60s; lingering_time 60s;
                  default_type application/octet-stream;
                  server {{
                    listen {address} ssl;
                    ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;
                    ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;
                    root {directory};
                    location = /small {{ return 200 \"{}\"; }}
                    location = /sink {{ return 200; }}
                  }}
                }}",
                "small ".repeat(50)
            ),
        );
        self.spawn(Command::new(nginx).args(["-c".as_ref(), config.as_os_str()]));
        await_port(address);
        (certificate.pem(), address)
    }

    fn two_hops(&mut self, haproxy: &Path, service: SocketAddr) -> Route {
        let (far, near) = (free_address(), free_address());
        let mut hop = |name: &str, from: SocketAddr, to: SocketAddr| {
            let config = self.file(
                name,
                &format!(
                    "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  \
                     timeout server 300s\nlisten hop\n  bind {from}\n  server next {to}\n"
                ),
            );
            self.spawn(Command::new(haproxy).args([
                "-db".as_ref(),
                "-q".as_ref(),
                "-f".as_ref(),
                config.as_os_str(),
            ]))
        };
        let device = hop("far.cfg", far, service);
        hop("near.cfg", near, far);
        await_port(far);
        await_port(near);
        Route {
            name: "two hops",
            address: near,
            hostname: SELF,
            device: Some(device),
            slow: false,
        }
    }

    fn rathole(&mut self, rathole: &Path, service: SocketAddr) -> Route {
        let (control, public) = (free_address(), free_address());
        let server = self.file(
            "server.toml",
            &format!(
                "[server]\nbind_addr = \"{control}\"\ndefault_token = \"t\"\n[server.services.web]\nbind_addr = \"{public}\"\n"
            ),
        );
        let client = self.file(
            "client.toml",
            &format!(
                "[client]\nremote_addr = \"{control}\"\ndefault_token = \"t\"\n[client.services.web]\nlocal_addr = \"{service}\"\n"
            ),
        );
        self.spawn(
            Command::new(rathole)
                .arg("--server")
                .arg(server)
                .stdout(Stdio::null()),
        );
        await_port(control);
        let device = self.spawn(
            Command::new(rathole)
                .arg("--client")
                .arg(client)
                .stdout(Stdio::null()),
        );
        await_port(public);
        Route {
            name: "rathole",
            address: public,
            hostname: SELF,
            device: Some(device),
            slow: false,
        }
    }

    /// Starts our relay and the Python package's server, each with a device of either kind.
    fn snitun(
        &mut self,
        programs: &Programs,
        python: Option<(&PathBuf, &PathBuf)>,
        service: SocketAddr,
        routes: &mut Vec<Route>,
    ) {
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
        let file = |name: &str| self.directory.join(name).display().to_string();
        let issued = [
            file("ours-ours"),
            file("ours-python"),
            file("python-ours"),
            file("python-python"),
        ];
        // The first relay serves, the second one only issues tokens for the Python server.
        let (_, ready) = self.spawn_ready(&mut relay([(SELF, &issued[0]), (PYTHON, &issued[1])]));
        let ours: SocketAddr = ready["listen"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("an address");
        self.spawn_ready(&mut relay([(SELF, &issued[2]), (PYTHON, &issued[3])]));

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
            let (device, _) = running.spawn_ready(command.args(["--token-file", token]));
            routes.push(Route {
                name,
                address,
                hostname,
                device: Some(device),
                slow: name != OURS,
            });
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
        self.spawn_ready(&mut command);
        device(self, "Python", theirs, PYTHON, &issued[3]);
        device(self, "our client, Python server", theirs, SELF, &issued[2]);
        device(self, "Python client, our server", ours, PYTHON, &issued[1]);
    }
}

/// Host names of the device with our client and of the one with the Python package.
const SELF: &str = "ours.test";
const PYTHON: &str = "python.test";

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

fn await_port(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < READY, "nothing listens on {address}");
        thread::sleep(Duration::from_millis(20));
    }
}
