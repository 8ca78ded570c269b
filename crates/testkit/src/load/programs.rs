//! The programs of a benchmark, and their files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::port::free_port;

/// Timeout for the start of a program.
const READY: Duration = Duration::from_secs(20);

/// Running programs and a directory for their files; dropping it stops and removes them.
#[derive(Debug)]
pub struct Programs {
    children: Vec<Child>,
    /// Their standard output.
    outputs: Vec<BufReader<ChildStdout>>,
    directory: PathBuf,
}

impl Drop for Programs {
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

impl Programs {
    /// Makes the directory.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("clesyde-bench-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory for the bench");
        Self {
            children: Vec::new(),
            outputs: Vec::new(),
            directory,
        }
    }

    /// Returns the path of a file or directory of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Writes a file named `file` of this many MiB.
    pub fn large_file(&self, mebibytes: u64) {
        let mut file = fs::File::create(self.path("file")).expect("a file");
        let block: Vec<u8> = (0..1 << 20)
            .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        for _ in 0..mebibytes {
            file.write_all(&block).expect("room for the file");
        }
    }

    /// Starts a program; returns its process id.
    pub fn spawn(&mut self, command: &mut Command) -> u32 {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let id = child.id();
        self.children.push(child);
        id
    }

    /// Starts a program that prints a JSON object for which `ready` holds when it is ready; returns
    /// that, too.
    pub fn spawn_until(
        &mut self,
        command: &mut Command,
        ready: impl Fn(&serde_json::Value) -> bool,
    ) -> (u32, serde_json::Value) {
        let id = self.spawn(command.stdout(Stdio::piped()));
        let child = self.children.last_mut().expect("just started");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        loop {
            let mut line = String::new();
            output.read_line(&mut line).expect("a line");
            let found = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{command:?} printed {line:?}: {error}"));
            if ready(&found) {
                self.outputs.push(output);
                return (id, found);
            }
        }
    }

    /// Starts nginx with two processes (a single one serves a fast download for a hundred
    /// milliseconds before it handles anything else) and these blocks in `http`, which may name the
    /// directory as `{directory}`. Waits until it listens on `address`.
    pub fn nginx(&mut self, nginx: &Path, name: &str, address: SocketAddr, http: &str) {
        let directory = self.directory.display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {directory}/{name}-{what};\n"))
            .concat();
        let http = http.replace("{directory}", &directory);
        let config = self.file(
            &format!("{name}.conf"),
            &format!(
                "daemon off; worker_processes 2; pid {directory}/{name}.pid; error_log stderr error;
                events {{ worker_connections 2048; }}
                http {{
                  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on;
                  {temporary}
                  client_max_body_size 0; lingering_timeout 60s; lingering_time 60s;
                  default_type application/octet-stream;
                  {http}
                }}"
            ),
        );
        self.spawn(Command::new(nginx).args(["-c".as_ref(), config.as_os_str()]));
        await_port(address);
    }

    /// Starts HAProxy as a hop that copies bytes; returns its process id.
    pub fn haproxy_hop(
        &mut self,
        haproxy: &Path,
        name: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> u32 {
        let config = self.file(
            &format!("{name}.cfg"),
            &format!(
                "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  \
                 timeout server 300s\nlisten hop\n  bind {from}\n  server next {to}\n"
            ),
        );
        let id = self.spawn(Command::new(haproxy).args(["-db", "-q", "-f"]).arg(config));
        await_port(from);
        id
    }
}

impl Default for Programs {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the processor time of a process, in seconds.
pub fn processor_time(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // After the name, which may contain any bytes: the third field is the state, the 14th and 15th
    // are ticks.
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = rest.split(' ').skip(11).take(2);
    // A tick is a hundredth of a second on Linux.
    ticks
        .map(|ticks| ticks.parse::<f64>().expect("a number"))
        .sum::<f64>()
        / 100.0
}

/// Returns a line of `/proc/…/status`, such as `VmRSS`, as a number.
pub fn process_status(process: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .expect("the line");
    let number = line.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

/// Returns an address that nothing listens on.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Waits until a program listens.
pub fn await_port(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < READY, "nothing listens on {address}");
        thread::sleep(Duration::from_millis(20));
    }
}
