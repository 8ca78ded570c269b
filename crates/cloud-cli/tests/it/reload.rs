//! SIGHUP: settings that change while the program runs, through the simulator's relay.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use rustls::{ClientConnection, StreamOwned};

use crate::common::captured_output::CapturedProgram;
use crate::common::test_cloud::TestCloud;

/// Time limit for a response; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

type Caller = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A web server that answers `/` with its name, and `/long` with a part for each message.
struct WebServer {
    address: SocketAddr,
    parts: Sender<&'static str>,
}

impl WebServer {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (parts, receiver) = channel();
        let receiver = Arc::new(std::sync::Mutex::new(receiver));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, receiver) = (stream.unwrap(), Arc::clone(&receiver));
                thread::spawn(move || serve(&stream, name, &receiver));
            }
        });
        Self { address, parts }
    }
}

fn serve(stream: &TcpStream, name: &str, parts: &std::sync::Mutex<Receiver<&'static str>>) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
            if reader.read_line(&mut headers).unwrap_or(0) == 0 {
                return;
            }
        }
        if headers.to_ascii_lowercase().contains("upgrade: websocket") {
            // Bytes are sent back from here on.
            let _ = writer.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            );
            let mut byte = [0];
            while reader.read_exact(&mut byte).is_ok() && writer.write_all(&byte).is_ok() {}
            return;
        }
        if line.starts_with("GET /long") {
            let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let parts = parts.lock().unwrap();
            while let Ok(part) = parts.recv() {
                let chunk = format!("{:x}\r\n{part}\r\n", part.len());
                if writer.write_all(chunk.as_bytes()).is_err() || part.is_empty() {
                    return;
                }
            }
            return;
        }
        let host = headers
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("host:"));
        let body = format!("{name} {} {}", line.trim_end(), host.unwrap_or("-"));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if writer.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

/// A device that reads its settings from a file.
struct Device {
    world: TestCloud,
    run: CapturedProgram,
    name: String,
    reloads: usize,
}

impl Device {
    fn start(text: &str, arguments: &[&str]) -> Self {
        let world = TestCloud::provisioned();
        fs::write(Self::path(&world), text).unwrap();
        let mut command = world.device(&[&["run"], arguments].concat());
        let mut run = CapturedProgram::start(&world.home, &mut command);
        run.wait_until("tunnel", |stdout, _| stdout.contains("remote.connected"));
        let name = world.device_status()["access_point"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            world,
            run,
            name,
            reloads: 0,
        }
    }

    fn path(world: &TestCloud) -> PathBuf {
        world.base().join("clesyde-cloud.toml")
    }

    /// Writes the file, and waits until it is read. Returns the log since.
    fn reload(&mut self, text: &str) -> String {
        fs::write(Self::path(&self.world), text).unwrap();
        let before = self.run.stderr().len();
        self.run.signal(Signal::HUP);
        self.reloads += 1;
        let count = self.reloads;
        self.run.wait_until("reload", |_, stderr| {
            stderr.matches("the settings are ").count() == count
        });
        self.run.stderr()[before..].to_owned()
    }

    fn open(&self) -> Caller {
        let roots = fs::read_to_string(self.world.ready["ca_file"].as_str().unwrap()).unwrap();
        let config = testkit::tls::client(&roots, &["http/1.1"]);
        let relay = self.world.ready["relay"].as_str().unwrap();
        let stream = TcpStream::connect(relay).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let name = self.name.clone().try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        BufReader::new(StreamOwned::new(tls, stream))
    }

    fn send(&self, caller: &mut Caller, path: &str, more: &str) {
        let host = &self.name;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        caller.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Returns the status line and the body of a response.
    fn get(&self, caller: &mut Caller, path: &str) -> (String, String) {
        self.send(caller, path, "");
        let (status, length) = head(caller);
        let mut body = vec![0; length];
        caller.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    fn body(&self, path: &str) -> String {
        self.get(&mut self.open(), path).1
    }
}

/// Reads a header. Returns the status line and the length of the body.
fn head(caller: &mut Caller) -> (String, usize) {
    let mut status = String::new();
    caller.read_line(&mut status).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        caller.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return (status, length);
        }
    }
}

#[test]
fn open_connections_go_on_and_new_ones_get_the_new_application() {
    let (one, two) = (WebServer::start("one"), WebServer::start("two"));
    let mut device = Device::start(&format!("forward = \"{}\"\n", one.address), &[]);
    let mut kept = device.open();
    assert!(device.get(&mut kept, "/").1.starts_with("one "));
    let mut download = device.open();
    device.send(&mut download, "/long", "");
    one.parts.send("first").unwrap();
    head(&mut download);
    let mut websocket = device.open();
    device.send(
        &mut websocket,
        "/",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
    );
    let (status, _) = head(&mut websocket);
    assert!(status.contains("101"), "{status}");

    for (index, server) in [&two, &one, &two].into_iter().enumerate() {
        let log = device.reload(&format!("forward = \"{}\"\n", server.address));
        assert!(
            log.contains("changed=\"forward\"") || log.contains("changed: forward"),
            "{log}"
        );
        let name = ["two ", "one ", "two "][index];
        let body = device.body("/");
        assert!(body.starts_with(name), "{body}");
        // The open connections keep their application.
        assert!(device.get(&mut kept, "/").1.starts_with("one "));
        websocket.get_mut().write_all(b"x").unwrap();
        let mut echoed = [0];
        websocket.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, *b"x");
    }
    one.parts.send("second").unwrap();
    one.parts.send("").unwrap();
    let mut body = String::new();
    while !body.ends_with("0\r\n\r\n") {
        let length = download.read_line(&mut body).unwrap();
        assert!(length > 0, "{body}");
    }
    assert!(body.contains("first") && body.contains("second"), "{body}");
    device.run.terminate();
}

#[test]
fn unusable_file_changes_nothing_and_says_why() {
    let one = WebServer::start("one");
    let good = format!("forward = \"{}\"\n", one.address);
    let mut device = Device::start(&good, &[]);
    for (text, reason) in [
        ("forward = ", "line 1"),
        ("forwad = \"localhost:1\"", "did you mean 'forward'"),
        (
            "static = \"/missing/directory\"",
            "cannot serve the directory",
        ),
        (
            "forward = \"localhost:1\"\nproxy-protocol = \"v1\"",
            "cannot be used with",
        ),
    ] {
        let log = device.reload(text);
        let lines: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(
            lines[0].contains("are not reloaded") && lines[0].contains(reason),
            "{log}"
        );
        assert!(device.body("/").starts_with("one "));
    }
    let log = device.reload(&good);
    assert!(log.contains("none has changed"), "{log}");
    let log = device.reload(&format!("{good}health = \"127.0.0.1:0\"\nsn = \"OTHER\"\n"));
    assert!(
        log.contains("restart to apply them") && log.contains("health"),
        "{log}"
    );
    device.run.terminate();
}

#[test]
fn rules_limits_hosts_and_log_level_change() {
    let one = WebServer::start("one");
    let base = format!("forward = \"{}\"\n", one.address);
    let mut device = Device::start(&base, &[]);
    let mut kept = device.open();
    let answered =
        |device: &Device, caller: &mut Caller| device.get(caller, "/").1.starts_with("one ");
    assert!(answered(&device, &mut kept));

    device.reload(&format!("{base}deny = [\"127.0.0.0/8\"]\n"));
    let mut denied = device.open();
    assert!(
        denied
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .is_err()
    );
    assert!(answered(&device, &mut kept));

    // The kept connection is the only one of its caller.
    device.reload(&format!("{base}max-connections-per-caller = 1\n"));
    let mut second = device.open();
    assert!(
        second
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .is_err()
    );
    assert!(answered(&device, &mut kept));

    let get_of = |caller: &mut Caller, host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        caller.get_mut().write_all(request.as_bytes()).unwrap();
        let (status, length) = head(caller);
        let mut body = vec![0; length];
        caller.read_exact(&mut body).unwrap();
        status
    };
    let log = device.reload(&format!("{base}host = [\"other.example\"]\nverbose = 2\n"));
    assert!(get_of(&mut kept, "other.example").contains("200"));
    assert!(log.contains("verbose"), "{log}");
    device.body("/");
    let is_verbose = |_: &str, stderr: &str| stderr.contains(" TRACE ");
    device.run.wait_until("trace line", is_verbose);
    device.reload(&base);
    assert!(get_of(&mut kept, "other.example").contains("421"));
    let before = device.run.stderr().len();
    device.body("/");
    let after = device.run.stderr().split_off(before);
    assert!(!after.contains(" TRACE "), "{after}");
    device.run.terminate();
}

/// systemd gets the notifications of a reload, in order.
#[test]
fn systemd_is_notified_of_reloads() {
    let world = TestCloud::provisioned();
    let path = world.home.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = world.device(&["run"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut run = CapturedProgram::start(&world.home, &mut command);
    let next = |wanted: &str| {
        loop {
            let mut buffer = [0; 4_096];
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    next("READY=1");
    run.signal(Signal::HUP);
    let reloading = next("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    next("READY=1");
    run.terminate();
}

#[test]
fn routes_lead_to_their_applications() {
    let (one, two) = (WebServer::start("one"), WebServer::start("two"));
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("index.html"), "files").unwrap();
    let text = format!(
        "forward = \"{one}\"\n\
         [[route]]\npath = \"/api\"\nforward = \"http://{two}\"\nhost-header = \"two.local:81\"\n\
         [[route]]\npath = \"/docs\"\nstatic = \"{files}\"\n\
         [[route]]\nhost = \"other.example\"\nforward = \"{two}\"\n",
        one = one.address,
        two = two.address,
        files = files.path().display(),
    );
    let mut device = Device::start(&text, &["--health", "127.0.0.1:0"]);
    let body = device.body("/api/x");
    assert!(
        body.starts_with("two GET /api/x ") && body.contains("two.local:81"),
        "{body}"
    );
    assert!(device.body("/apix").starts_with("one GET /apix "));
    assert_eq!(device.body("/docs/"), "files");
    let (status, _) = device.get(&mut device.open(), "/x/../api");
    assert!(status.contains("400"), "{status}");
    let log = device.reload(&text.replace("/api", "/v2"));
    assert!(log.contains("route"), "{log}");
    assert!(device.body("/api/x").starts_with("one "));
    assert!(device.body("/v2/x").starts_with("two "));

    // Each upstream is checked.
    let status = |device: &Device| -> serde_json::Value {
        let status = crate::common::finish(&mut device.world.device(&["status"]));
        status.expect(0).json().remove(0)["applications"].clone()
    };
    testkit::wait::block_until("both answer", || {
        let applications = status(&device);
        let answers = applications.as_array().unwrap().iter();
        answers.filter(|state| state["answers"] == true).count() == 2
    });
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    device.reload(&format!(
        "{text}[[route]]\npath = \"/down\"\nforward = \"{closed}\"\n"
    ));
    testkit::wait::block_until("one does not answer", || {
        let applications = status(&device);
        let mut down = applications.as_array().unwrap().iter();
        down.any(|state| state["answers"] == false && state["address"] == closed.to_string())
    });
    let stdout = device.run.stdout();
    let health = stdout.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_health = line["event"] == "health";
        is_health.then(|| line["address"].as_str().unwrap().to_owned())
    });
    let fetch = |path: &str| {
        let mut stream = TcpStream::connect(health.as_deref().unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let ready = fetch("/readyz");
    assert!(
        ready.contains("503") && ready.contains(&closed.to_string()),
        "{ready}"
    );
    let metrics = fetch("/metrics");
    for (address, up) in [(closed, 0), (one.address, 1), (two.address, 1)] {
        let line = format!("clesyde_upstream_up{{upstream=\"{address}\"}} {up}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert!(
        metrics.contains("\nclesyde_application_up 0\n"),
        "{metrics}"
    );
    device.run.terminate();
}
