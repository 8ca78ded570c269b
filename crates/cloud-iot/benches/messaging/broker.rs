//! mosquitto with mutual TLS, and certificates for its clients.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use testkit::pki::Authority;
use testkit::port::free_port;

/// A broker that runs until it is dropped.
pub(crate) struct Site {
    pub(crate) port: u16,
    /// `ca.pem`, and for clients `client.pem` and `client.key`.
    pub(crate) directory: tempfile::TempDir,
    broker: Child,
}

impl Site {
    pub(crate) fn start(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Authority::new("CA");
        fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        for (name, pair) in [
            ("server", ca.server(&["localhost"])),
            ("client", ca.client("localhost")),
        ] {
            let file = |end: &str| directory.path().join(format!("{name}.{end}"));
            fs::write(file("pem"), pair.certificate).unwrap();
            fs::write(file("key"), pair.key).unwrap();
        }
        let port = free_port();
        let at = directory.path().display();
        let config = format!(
            "listener {port} 127.0.0.1\ncafile {at}/ca.pem\ncertfile {at}/server.pem\nkeyfile {at}/server.key\n\
             require_certificate true\nallow_anonymous true\npersistence false\nuser root\nlog_type error\n\
             max_inflight_messages 100\nmax_queued_messages 0\nset_tcp_nodelay true\n"
        );
        let path = directory.path().join("mosquitto.conf");
        fs::write(&path, config).unwrap();
        let broker = Command::new(program).arg("-c").arg(path).spawn().unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            port,
            directory,
            broker,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

/// The same TLS configuration for all Rust clients.
pub(crate) fn tls(directory: &Path) -> Arc<ClientConfig> {
    let file = |name: &str| directory.join(name);
    let root = CertificateDer::from_pem_file(file("ca.pem")).unwrap();
    let certificate = CertificateDer::from_pem_file(file("client.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("client.key")).unwrap();
    cloud_iot::tls::client_config([root], vec![certificate], key).unwrap()
}
