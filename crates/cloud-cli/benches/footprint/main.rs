//! Measures what the program needs of a small board, beside the Python library doing the same.
//!
//! ```text
//! cargo xtask bench footprint [--only PART,…]
//! ```
//!
//! builds or finds the programs and starts this benchmark. A simulator is the platform of both
//! devices. `idle` takes a minute and `peak` another one; the other parts take seconds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use testkit::load::client::{Client, Target};
use testkit::load::measure;
use testkit::load::programs::{Programs, await_port, free_address, process_status, processor_time};
use testkit::load::table::{self, Results};

/// The library knows no other ports.
const MQTT_PORT: &str = "8883";
const RELAY_PORT: &str = "443";

const OURS: &str = "clesyde-cloud";
const THEIRS: &str = "clesyde_cloud_lib 0.1.20";

/// Until buffers and caches are as they stay.
const SETTLED: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
const IDLE_CHANNELS: usize = 500;
/// Connections at the peak: the relay takes 512 from one address.
const PEAK_CHANNELS: usize = 440;
const DOWNLOADS: usize = 64;
/// More than a reader of 100 KB/s takes while it is watched.
const FILE_MEBIBYTES: u64 = 32;

/// A device that runs.
struct Device {
    name: &'static str,
    process: u32,
    target: Target,
    first_byte: Duration,
}

fn main() {
    let arguments = arguments();
    let path = |name: &str| arguments.get(name).map(PathBuf::from);
    let parts: Vec<&str> = arguments
        .get("--only")
        .map_or(PARTS.iter().map(|(name, _)| *name).collect(), |only| {
            only.split(',').collect()
        });
    for part in &parts {
        let is_known = PARTS.iter().any(|(name, _)| name == part);
        assert!(is_known, "no part is named {part}");
    }
    let mut programs = Programs::new();
    let (platform, client) = Platform::start(&mut programs, &path("--platform").unwrap());
    let service = nginx(&mut programs, &path("--nginx").unwrap());
    let program = path("--program").unwrap();
    let mut devices = vec![platform.run(&mut programs, &client, &program, service)];
    if let Some(python) = path("--python") {
        let script = path("--scripts").unwrap().join("py_device.py");
        devices.push(platform.python(&mut programs, &client, &python, &script));
    } else {
        println!("not measured: {THEIRS}, which needs Python 3.12");
    }
    let mut bench = Bench {
        client,
        devices,
        sizes: [
            (SIZE, program),
            (SIZE_WITH_SIMULATOR, path("--platform").unwrap()),
        ],
        results: Results::default(),
    };
    for (name, measure) in PARTS {
        if parts.contains(&name) {
            measure(&mut bench);
        }
    }

    let names: Vec<_> = bench.devices.iter().map(|device| device.name).collect();
    println!("{}", table::head(&names));
    for figure in FIGURES.iter().filter(|name| bench.results.has(name)) {
        let ratio = |way: &str| match way {
            THEIRS => vec![(OURS, THEIRS)],
            _ => Vec::new(),
        };
        println!("{}", bench.results.line(figure, &names, ratio));
    }
    println!("\n(×N): {OURS} needs N times that");
}

/// A name for `--only`, and what measures it.
type Part = (&'static str, fn(&mut Bench));

/// In this order, because memory at rest is measured before any load.
const PARTS: [Part; 6] = [
    ("start", Bench::start),
    ("size", Bench::size),
    ("idle", Bench::idle),
    ("reader", Bench::reader),
    ("channels", Bench::channels),
    ("peak", Bench::peak),
];

const FIRST_BYTE: &str = "start to the first byte through the tunnel, ms";
const SIZE: &str = "size of the program, MB";
const SIZE_WITH_SIMULATOR: &str = "size of the program with the simulator, MB";
const IDLE: &str = "resident memory, idle with the tunnel up, MB";
const IDLE_HEAP: &str = "of that not in files, MB";
const WAKES: &str = "wake-ups in a second, idle for a minute";
const PROCESSOR: &str = "processor time of an idle minute, ms";
const THREADS: &str = "threads, idle";
const CHANNELS: &str = "resident memory with 500 idle connections, MB";
const READER: &str = "resident memory with a reader of 100 KB/s, MB";
const PEAK: &str = "resident memory at the peak (64 downloads beside 440 connections), MB";
const AFTER: &str = "resident memory 60 s after the peak, MB";
const AFTER_HEAP: &str = "of that not in files, 60 s after the peak, MB";

const FIGURES: [&str; 13] = [
    IDLE,
    IDLE_HEAP,
    READER,
    CHANNELS,
    PEAK,
    AFTER,
    AFTER_HEAP,
    WAKES,
    PROCESSOR,
    THREADS,
    FIRST_BYTE,
    SIZE,
    SIZE_WITH_SIMULATOR,
];

/// The devices, and what is known of them.
struct Bench {
    client: Client,
    devices: Vec<Device>,
    sizes: [(&'static str, PathBuf); 2],
    results: Results,
}

impl Bench {
    fn start(&mut self) {
        for device in &self.devices {
            let first_byte = device.first_byte.as_secs_f64() * 1e3;
            self.results.add(FIRST_BYTE, device.name, first_byte);
        }
    }

    fn size(&mut self) {
        for (figure, program) in &self.sizes {
            let bytes = fs::metadata(program).unwrap().len();
            self.results.add(figure, OURS, bytes as f64 / 1e6);
        }
    }

    fn idle(&mut self) {
        sleep(SETTLED);
        let before: Vec<_> = self.devices.iter().map(Usage::of).collect();
        sleep(MINUTE);
        for (device, before) in self.devices.iter().zip(before) {
            let after = Usage::of(device);
            let mut add = |figure, value| self.results.add(figure, device.name, value);
            add(WAKES, (after.wakes - before.wakes) / MINUTE.as_secs_f64());
            add(PROCESSOR, (after.processor - before.processor) * 1e3);
            add(THREADS, process_status(device.process, "Threads"));
            add(IDLE, device.resident());
            add(IDLE_HEAP, device.heap());
        }
    }

    fn reader(&mut self) {
        // 64 KiB at a time: 100 KB/s.
        let pace = Duration::from_millis(655);
        for device in &self.devices {
            let resident = || {
                sleep(SETTLED);
                device.resident()
            };
            let bytes = FILE_MEBIBYTES << 20;
            let resident =
                measure::beside_paced_reader(&self.client, &device.target, bytes, pace, resident);
            self.results.add(READER, device.name, resident);
        }
    }

    fn channels(&mut self) {
        for device in &self.devices {
            let resident = || device.resident();
            let resident =
                measure::beside_idle(&self.client, &device.target, IDLE_CHANNELS, resident);
            self.results.add(CHANNELS, device.name, resident);
        }
    }

    fn peak(&mut self) {
        for device in &self.devices {
            let load = || {
                for _ in 0..2 {
                    let (client, target) = (&self.client, &device.target);
                    measure::parallel_downloads(client, target, DOWNLOADS, 2_000_000);
                }
            };
            let peak = || {
                thread::scope(|scope| {
                    let load = scope.spawn(load);
                    let mut peak = 0.0;
                    while !load.is_finished() {
                        peak = f64::max(peak, device.resident());
                        sleep(Duration::from_millis(20));
                    }
                    peak
                })
            };
            let peak = measure::beside_idle(&self.client, &device.target, PEAK_CHANNELS, peak);
            self.results.add(PEAK, device.name, peak);
        }
        sleep(MINUTE);
        for device in &self.devices {
            self.results.add(AFTER, device.name, device.resident());
            self.results.add(AFTER_HEAP, device.name, device.heap());
        }
    }
}

impl Device {
    /// Returns its resident memory, in MB.
    fn resident(&self) -> f64 {
        process_status(self.process, "VmRSS") * 1.024e-3
    }

    /// Returns its resident memory that does not belong to files, in MB.
    fn heap(&self) -> f64 {
        process_status(self.process, "RssAnon") * 1.024e-3
    }
}

/// What a process has used so far.
struct Usage {
    wakes: f64,
    processor: f64,
}

impl Usage {
    fn of(device: &Device) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", device.process)).unwrap();
        let wakes = tasks.map(|task| {
            let task = task.unwrap().file_name();
            process_status(
                task.to_str().unwrap().parse().unwrap(),
                "voluntary_ctxt_switches",
            )
        });
        Self {
            wakes: wakes.sum(),
            processor: processor_time(device.process),
        }
    }
}

/// A running simulator.
struct Platform {
    api: String,
    relay: SocketAddr,
    key: String,
}

impl Platform {
    fn start(programs: &mut Programs, program: &Path) -> (Self, Client) {
        let mut command = Command::new(program);
        command.args(["-q", "sim", "--bare-endpoints", "--mqtt-port", MQTT_PORT]);
        command.args(["--relay-port", RELAY_PORT, "--data-dir"]);
        command.arg(programs.path("cloud"));
        let (_, ready) = programs.spawn_until(&mut command, |_| true);
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let certificates = fs::read_to_string(text("ca_file")).unwrap();
        let platform = Self {
            api: text("api_url"),
            relay: SocketAddr::from(([127, 0, 0, 1], RELAY_PORT.parse().unwrap())),
            key: text("provisioning_key"),
        };
        (platform, Client::new(&certificates, &["http/1.1"]))
    }

    fn run(
        &self,
        programs: &mut Programs,
        client: &Client,
        program: &Path,
        service: SocketAddr,
    ) -> Device {
        let base = programs.path("ours");
        let command = |what: &str| {
            let mut command = Command::new(program);
            command
                .args(["-q", what, "--json", "--base-path"])
                .arg(&base);
            command.args(["--sn", "OURS", "--api-url", &self.api]);
            command
        };
        let registered = command("provision")
            .env("CLESYDE_TOKEN", &self.key)
            .output();
        assert!(registered.unwrap().status.success());
        let mut command = command("run");
        command.args(["--forward", &service.to_string()]);
        for limit in [
            "connections",
            "connections-per-caller",
            "requests-per-caller",
        ] {
            command.args([&format!("--max-{limit}"), "1024"]);
        }
        self.device(programs, client, &mut command, OURS, "ours")
    }

    /// It registers itself; the second start is measured.
    fn python(
        &self,
        programs: &mut Programs,
        client: &Client,
        python: &Path,
        script: &Path,
    ) -> Device {
        let mut command = Command::new(python);
        command.arg(script).arg(programs.path("theirs"));
        command.args(["THEIRS", &self.api, &self.key]);
        fs::create_dir(programs.path("theirs")).unwrap();
        let mut first = Programs::new();
        first.spawn_until(&mut command, |line| line["event"] == "remote.connected");
        drop(first);
        self.device(programs, client, &mut command, THEIRS, "theirs")
    }

    fn device(
        &self,
        programs: &mut Programs,
        client: &Client,
        command: &mut Command,
        name: &'static str,
        serial: &str,
    ) -> Device {
        let target = Target {
            address: self.relay,
            hostname: format!("{serial}.ui.localhost"),
        };
        let start = Instant::now();
        let (process, _) =
            programs.spawn_until(command, |line| line["event"] == "remote.connected");
        measure::run(async { client.connect(&target).await.small().await });
        Device {
            name,
            process,
            target,
            first_byte: start.elapsed(),
        }
    }
}

fn nginx(programs: &mut Programs, nginx: &Path) -> SocketAddr {
    let service = free_address();
    programs.large_file(FILE_MEBIBYTES);
    let small = "s".repeat(1024);
    let server = format!(
        "server {{ listen {service}; root {{directory}}; location = /small {{ return 200 \"{small}\"; }} }}"
    );
    programs.nginx(nginx, "service", service, &server);
    await_port(service);
    service
}

/// `--name value` pairs; `cargo bench` adds a lone `--bench`.
fn arguments() -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut arguments = std::env::args().skip(1).filter(|name| name != "--bench");
    while let Some(name) = arguments.next() {
        found.insert(name, arguments.next().expect("each option has a value"));
    }
    found
}
