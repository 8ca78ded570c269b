//! The real mosquitto, with mutual TLS, on a loopback port.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::{Child, Command};

use testkit::pki::Pair;
use testkit::wait::{eventually, timeout};

/// A mosquitto that can be stopped, killed and started again on the same port.
#[derive(Debug)]
pub struct Mosquitto {
    program: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// Writes its configuration and starts it: MQTT v5 over TLS, clients with a certificate of
    /// `client_ca` only, the common name as user name, sessions and retained messages in memory.
    pub async fn start(program: &Path, server: &Pair, client_ca: &str) -> anyhow::Result<Self> {
        Self::start_with(program, server, client_ca, "").await
    }

    /// The same with more lines in its configuration.
    pub async fn start_with(
        program: &Path,
        server: &Pair,
        client_ca: &str,
        settings: &str,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("ca.pem"), client_ca)?;
        std::fs::write(file("cert.pem"), &server.certificate)?;
        std::fs::write(file("key.pem"), &server.key)?;
        let port = testkit::port::free_port();
        let config = format!(
            "listener {port} 127.0.0.1\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true\n\
             use_identity_as_username true\nallow_anonymous false\npersistence false\nuser root\nlog_type error\n{settings}",
            ca = file("ca.pem").display(),
            cert = file("cert.pem").display(),
            key = file("key.pem").display(),
        );
        std::fs::write(file("mosquitto.conf"), config)?;
        let mut broker = Self {
            program: program.to_owned(),
            directory,
            port,
            child: None,
        };
        broker.restart().await?;
        Ok(broker)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again after [`Self::kill`], and waits until it accepts connections.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.directory.path().join("mosquitto.conf"))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        let port = self.port;
        eventually("mosquitto to listen", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()
        })
        .await;
        Ok(())
    }

    /// Replaces its certificate, from the next start on.
    pub fn exchange_certificate(&self, server: &Pair) -> anyhow::Result<()> {
        let file = |name: &str| self.directory.path().join(name);
        std::fs::write(file("cert.pem"), &server.certificate)?;
        std::fs::write(file("key.pem"), &server.key)?;
        Ok(())
    }

    /// Kills it; its connections are reset.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            timeout("mosquitto to exit", child.kill()).await?;
        }
        Ok(())
    }
}
