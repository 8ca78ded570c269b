//! A network from which only one address of this machine is reachable.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, bail};

/// A network namespace with a link to this machine and no other route. Removed when dropped.
#[derive(Debug)]
pub struct NetworkNamespace {
    name: String,
    /// This machine's end of the link.
    pub host: Ipv4Addr,
}

impl NetworkNamespace {
    /// Creates a namespace; `number` distinguishes those of one process. `None` without the
    /// permission, which a run in CI must have.
    pub fn create(number: u8) -> anyhow::Result<Option<Self>> {
        let id = std::process::id();
        let name = format!("clesyde-{id}-{number}");
        if let Err(error) = ip(&["netns", "add", &name]) {
            if std::env::var_os("CI").is_some() {
                return Err(error.context("CI needs root and network namespaces"));
            }
            eprintln!("SKIPPED: no network namespace can be made here: {error:#}");
            return Ok(None);
        }
        // Below 198.18.0.0/15, which is for tests of networks (RFC 2544).
        let [.., high, low] = id.to_be_bytes();
        let host = Ipv4Addr::new(198, 18 + number % 2, high, low & !3 | 1);
        let device = Ipv4Addr::from(host.to_bits() + 1);
        let namespace = Self { name, host };
        let (name, link) = (&*namespace.name, format!("cl{id}-{number}"));
        let steps = [
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {host}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {device}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ];
        for step in &steps {
            ip(&step.split(' ').collect::<Vec<_>>())?;
        }
        Ok(Some(namespace))
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &std::path::Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        // It takes the link with it.
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}`: {}", arguments.join(" "), error.trim());
    }
    Ok(())
}
