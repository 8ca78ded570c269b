//! mosquitto with mutual TLS, and certificates for its clients.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            let file = |end: &str| directory.path().join(format!("{name}.{end}"));
            fs::write(file("pem"), certificate.pem()).unwrap();
            fs::write(file("key"), key.serialize_pem()).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
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
