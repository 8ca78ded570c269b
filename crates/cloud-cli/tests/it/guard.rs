//! `run --auth`: passwords and client certificates in front of the page, and what `doctor` says.

use std::fs;
use std::net::SocketAddr;

use testkit::pki::{Authority, Pair};
use testkit::wait::block_until;

use crate::common::background_program::BackgroundProgram;
use crate::common::check_results::CheckResults;
use crate::common::test_cloud::TestCloud;
use crate::common::{finish, run};

/// The output of: htpasswd -nbB -C 4 alice secret
const USERS: &str = "alice:$2y$04$ggpYYa7UrZKh40XvtlmrM.b4GQsBqP6Ya8zf.Vu/0fKiCx7OJyVUG\n";

/// A device whose page is guarded.
struct GuardedDevice {
    world: TestCloud,
    run: BackgroundProgram,
}

impl GuardedDevice {
    fn start(world: TestCloud, arguments: &[&str]) -> Self {
        let mut run = BackgroundProgram::start(&mut world.device(&[&["run"], arguments].concat()));
        run.wait_for("remote.connected");
        Self { world, run }
    }

    /// Writes a file into the directory in which the program runs.
    fn write(world: &TestCloud, name: &str, content: &str) {
        fs::write(world.home.path().join(name), content).unwrap();
    }

    /// Returns the status of a request, if TLS lets it through.
    fn status(&self, path: &str, password: Option<&str>, identity: Option<&Pair>) -> Option<u16> {
        let access_point = self.world.device_status()["access_point"].clone();
        let host = access_point.as_str().unwrap().to_owned();
        let relay = self.world.ready["relay"].as_str().unwrap();
        let relay: SocketAddr = relay.replace("localhost", "127.0.0.1").parse().unwrap();
        let roots = fs::read(self.world.ready["ca_file"].as_str().unwrap()).unwrap();
        let mut tls = testkit::tls::client(&String::from_utf8(roots).unwrap(), &["h2"]);
        if let Some(pair) = identity {
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let key = provider.key_provider.load_private_key(pair.private_key());
            let key = rustls::sign::CertifiedKey::new(pair.chain(), key.unwrap());
            tls.client_auth_cert_resolver =
                std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(key));
        }
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(&host, relay)
            .no_proxy()
            .build()
            .unwrap();
        let mut request = client.get(format!("https://{host}:{}{path}", relay.port()));
        if let Some(password) = password {
            request = request.basic_auth("alice", Some(password));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let response = runtime.block_on(request.send()).ok()?;
        Some(response.status().as_u16())
    }

    /// Returns what `doctor` says about the page.
    fn doctor(&self) -> String {
        let ca_file = self.world.ready["ca_file"].as_str().unwrap();
        let ended = finish(&mut self.world.device(&["doctor", "--ca-file", ca_file]));
        let results = CheckResults::of(&ended.expect(0));
        results.expect("ok", &["page"]);
        results.line("page")["detail"].as_str().unwrap().to_owned()
    }
}

#[test]
fn access_log_names_the_user_whose_password_was_checked() {
    let world = TestCloud::provisioned();
    GuardedDevice::write(&world, "users", USERS);
    let log = world.home.path().join("log");
    let (common, file) = ("common", "log");
    let arguments = [
        "--auth",
        "basic=users",
        "--access-log",
        common,
        "--access-log-file",
        file,
    ];
    let mut device = GuardedDevice::start(world, &arguments);
    assert_eq!(device.status("/a", Some("wrong"), None), Some(401));
    assert_eq!(device.status("/b", Some("secret"), None), Some(404));
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    block_until("two lines", || lines().lines().count() == 2);
    let lines = lines();
    let users: Vec<_> = lines.lines().map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(users, [Some("-"), Some("alice")], "{lines}");
    device.run.terminate();
}

#[test]
fn page_asks_for_password_and_doctor_calls_it_guarded() {
    let authority = Authority::new("Clients");
    let world = TestCloud::provisioned();
    GuardedDevice::write(&world, "users", USERS);
    GuardedDevice::write(&world, "ca.pem", &authority.pem());
    let arguments = ["--auth", "basic=users", "--auth", "/admin:mtls=ca.pem"];
    let mut device = GuardedDevice::start(world, &arguments);
    let identity = authority.client("alice");
    for (path, password, identity, status) in [
        ("/", None, None, Some(401)),
        ("/", Some("wrong"), None, Some(401)),
        ("/", Some("secret"), None, Some(200)),
        ("/admin", Some("secret"), None, Some(403)),
        ("/admin", Some("secret"), Some(&identity), Some(404)),
        ("/", Some("secret"), Some(&Pair::self_signed("alice")), None),
    ] {
        assert_eq!(
            device.status(path, password, identity),
            status,
            "{path} {password:?}"
        );
    }
    let detail = device.doctor();
    assert!(detail.contains("guarded: it answers 401"), "{detail}");
    let log = device.run.terminate();
    assert!(log.contains("a password was wrong"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn plain_tcp_demands_certificate_and_doctor_calls_it_guarded() {
    let authority = Authority::new("Clients");
    let world = TestCloud::provisioned();
    GuardedDevice::write(&world, "ca.pem", &authority.pem());
    let arguments = ["--forward-tcp", "127.0.0.1:1", "--auth", "mtls=ca.pem"];
    let mut device = GuardedDevice::start(world, &arguments);
    let detail = device.doctor();
    assert!(
        detail.contains("it demands a client certificate"),
        "{detail}"
    );
    device.run.terminate();
}

#[test]
fn unusable_guard_is_refused_before_anything_starts() {
    let world = TestCloud::provisioned();
    GuardedDevice::write(&world, "users", "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    let ended = finish(&mut world.device(&["run", "--auth", "basic=users"]));
    ended
        .expect(1)
        .says(&["users", "line 1", "alice", "SHA-1", "htpasswd -B"]);
    for (arguments, part) in [
        (
            ["--forward-tcp", "127.0.0.1:1", "--auth", "basic=users"],
            "--forward-tcp",
        ),
        (
            ["--passthrough", "127.0.0.1:1", "--auth", "mtls=ca.pem"],
            "--passthrough",
        ),
    ] {
        let ended = finish(&mut world.device(&[&["run"], &arguments[..]].concat()));
        ended.expect(2).says(&["--auth", part]);
    }
    let ended = run(&world.home, &["run", "--auth", "users"]);
    ended.expect(2).says(&["--auth", "basic=FILE"]);
}
