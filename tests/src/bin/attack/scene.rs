//! What an attack takes place in: a simulator, a provisioned device that runs, and its web
//! application.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::sleep;

use crate::Context;
use crate::application::Application;
use crate::caller::{Caller, Entrance};
use crate::child::{Child, finish};
use crate::plain_http;
use crate::proxy_relay::ProxyRelay;
use crate::tunnel::Line;

/// The device's serial number.
pub(crate) const SN: &str = "SN-0001";

/// For one call of the program or of the simulator's API.
pub(crate) const CALL: Duration = Duration::from_secs(30);

/// The honest caller's address. Attackers have others.
pub(crate) const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

/// Attackers' addresses, as many as are wanted.
pub(crate) fn attackers(count: u8) -> impl Iterator<Item = IpAddr> {
    (1..=count).map(|number| IpAddr::from([127, 0, 1, number]))
}

/// A simulator with a directory for one device.
pub(crate) struct World {
    program: PathBuf,
    pub(crate) home: TempDir,
    /// Ends before its files go.
    _sim: Child,
    pub(crate) ready: Value,
}

impl World {
    /// Starts a simulator for this version of the tunnel's protocol.
    pub(crate) async fn start(context: &Context, protocol: u8) -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("clesyde-attack-")
            .tempdir()?;
        let mut sim = Child::start(
            "the simulator",
            program(&context.program, home.path())
                .args([
                    "sim",
                    "--protocol-version",
                    &protocol.to_string(),
                    "--data-dir",
                ])
                .arg(home.path().join("cloud")),
        )?;
        let ready = sim.event("ready").await?;
        Ok(Self {
            program: context.program.clone(),
            home,
            _sim: sim,
            ready,
        })
    }

    /// The same with a device that is provisioned.
    pub(crate) async fn provisioned(context: &Context, protocol: u8) -> Result<Self> {
        let world = Self::start(context, protocol).await?;
        let (code, _, stderr) = finish(&mut world.provision(&[]), CALL).await?;
        ensure!(code == Some(0), "provisioning failed: {}", stderr.text());
        Ok(world)
    }

    /// `provision` with the key in the environment.
    pub(crate) fn provision(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&[&["provision"], arguments].concat());
        command.env("CLESYDE_TOKEN", self.key());
        command
    }

    /// The program on this device's directory, with `--json`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.wrapped(&[], arguments)
    }

    /// The same, started by another program such as `strace`.
    pub(crate) fn wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.wrapped_in_text(wrapper, arguments);
        command.arg("--json");
        command
    }

    /// The program on this device's directory, with output for people.
    pub(crate) fn command_in_text(&self, arguments: &[&str]) -> Command {
        self.wrapped_in_text(&[], arguments)
    }

    fn wrapped_in_text(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let mut command = match wrapper.split_first() {
            None => program(&self.program, self.home.path()),
            Some((first, rest)) => {
                let mut command = program(Path::new(first), self.home.path());
                command.args(rest).arg(&self.program);
                command
            }
        };
        command
            .args(arguments)
            .env("CLESYDE_BASE_PATH", self.home.path().join("base"))
            .env("CLESYDE_SN", SN)
            .env("CLESYDE_API_URL", self.text("api_url"));
        command
    }

    fn text(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_default()
    }

    pub(crate) fn key(&self) -> &str {
        self.text("provisioning_key")
    }

    /// The device's directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("base").join(".clesydecloud")
    }

    /// A file of the device's directory.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let path = self.directory().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes a file of the device's directory in place, as a program that knows no journal does.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Sets one value of `cloud_config.json`.
    pub(crate) fn configure(&self, name: &str, value: String) -> Result<()> {
        let mut config: Value = serde_json::from_str(&self.read("cloud_config.json")?)?;
        config[name] = value.into();
        self.write("cloud_config.json", &config.to_string())
    }

    /// A value of `cloud_config.json`.
    pub(crate) fn configured(&self, name: &str) -> Result<String> {
        let config: Value = serde_json::from_str(&self.read("cloud_config.json")?)?;
        Ok(config[name].as_str().context("no such value")?.to_owned())
    }

    /// The simulator's own roots, with which callers verify the device's page.
    fn roots(&self) -> Result<String> {
        Ok(fs::read_to_string(self.text("ca_file"))?)
    }

    /// The relay that the simulator runs.
    fn relay(&self) -> Result<SocketAddr> {
        let port = self.text("relay").rsplit(':').next().unwrap_or_default();
        Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse()?))
    }

    /// Address of the simulator's control API.
    pub(crate) fn control_address(&self) -> Result<SocketAddr> {
        Ok(self
            .text("control_url")
            .trim_start_matches("http://")
            .parse()?)
    }

    /// The line of header that proves the right to control the simulator, where it demands one.
    pub(crate) fn control_proof(&self) -> Result<String> {
        let Some(file) = self.ready["control_token_file"].as_str() else {
            return Ok(String::new());
        };
        let token = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        Ok(format!("Authorization: Bearer {}\r\n", token.trim()))
    }

    /// Calls the simulator's control API.
    pub(crate) async fn control(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let address = self.control_address()?;
        let header = format!(
            "Content-Type: application/json\r\n{}",
            self.control_proof()?
        );
        let request = plain_http::request(method, path, &address.to_string(), &header, body);
        let (status, answer) = plain_http::exchange(address, &request, CALL).await?;
        ensure!(status == 200, "{method} {path}: {status} {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    /// What the simulator knows of the device.
    pub(crate) async fn device(&self) -> Result<Value> {
        self.control("GET", &format!("/devices/{SN}"), "").await
    }
}

/// A program in an environment in which nothing is set but what it needs.
pub(crate) fn program(path: &Path, home: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("TMPDIR", home)
        .current_dir(home);
    command
}

/// How a device is run.
#[derive(Default)]
pub(crate) struct Settings<'a> {
    /// Version of the tunnel's protocol.
    pub(crate) protocol: u8,
    /// Serves the built-in page rather than the application.
    pub(crate) page: bool,
    /// Files beside the device's directory: names and contents.
    pub(crate) files: &'a [(&'a str, &'a str)],
    /// Lines of header that callers send, each with its end.
    pub(crate) header: String,
    /// More arguments of `run`.
    pub(crate) arguments: &'a [&'a str],
    /// Starts the program.
    pub(crate) wrapper: &'a [&'a str],
    /// Gives callers any address.
    pub(crate) proxy_relay: bool,
    /// Puts a line that can be broken between that relay and the device.
    pub(crate) line: bool,
}

/// See the [module](self).
pub(crate) struct Scene {
    pub(crate) device: Child,
    pub(crate) application: Application,
    pub(crate) entrance: Entrance,
    pub(crate) world: World,
    pub(crate) line: Option<Line>,
    _relay: Option<ProxyRelay>,
}

impl Scene {
    /// Starts everything, and waits until the device's page is reachable.
    pub(crate) async fn start(context: &Context, settings: Settings<'_>) -> Result<Self> {
        let world = World::provisioned(context, settings.protocol).await?;
        let application = Application::start().await?;
        for (name, content) in settings.files {
            fs::write(world.home.path().join(name), content)?;
        }
        let (mut relay, mut line) = (None, None);
        if settings.proxy_relay {
            let started = ProxyRelay::start(&world.home.path().join("cloud")).await?;
            let mut endpoint = started.devices;
            if settings.line {
                endpoint = line.insert(Line::start(endpoint).await?).address;
            }
            world.configure("remote_endpoint", endpoint.to_string())?;
            relay = Some(started);
        }
        let forward = application.address.to_string();
        let served: &[&str] = match settings.page {
            true => &["--ui"],
            false => &["--forward", &forward],
        };
        let arguments = [&["run"], served, settings.arguments].concat();
        let mut device = Child::start(
            "the device",
            &mut world.wrapped(settings.wrapper, &arguments),
        )?;
        device.event("remote.connected").await?;
        let host = world.configured("access_point")?;
        let mut entrance = match &relay {
            Some(relay) => Entrance::new(relay.callers, true, &host, &world.roots()?)?,
            None => Entrance::new(world.relay()?, false, &host, &world.roots()?)?,
        };
        entrance.header = settings.header;
        let scene = Self {
            device,
            application,
            entrance,
            world,
            line,
            _relay: relay,
        };
        // Without an attack the honest caller is served: otherwise nothing that follows would mean
        // anything.
        let status = scene.honest().get("/").await?;
        ensure!(
            status == 200,
            "the honest caller is answered with status {status} before the attack"
        );
        Ok(scene)
    }

    pub(crate) fn caller(&self, source: impl Into<IpAddr>) -> Caller {
        self.entrance.caller(source)
    }

    pub(crate) fn honest(&self) -> Caller {
        self.caller(HONEST)
    }
}

/// Waits until `condition` gives a value.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition().await? {
            return Ok(found);
        }
        if begin.elapsed() > limit {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
