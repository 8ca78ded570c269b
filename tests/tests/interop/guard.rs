//! The guard in front of the page, with files of Apache's htpasswd and openssl, and with curl.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::routing::{any, get};
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::auth::{AuthRules, ClientRoots, PasswordFile};
use cloud_facade::remote::{Application, ForwardOptions, PathPrefix, UpstreamProtocol};
use cloud_sim::{SimConfig, Simulator};
use testkit::wait::timeout;
use tokio::net::TcpListener;
use tokio::process::Command;

/// Makes an authority, an intermediate one, and certificates of clients: `NAME.pem` and `NAME.key`
/// in the working directory.
const OPENSSL: &str = r#"
set -e
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null; }
sign() { # name, authority, extensions, more options
  name=$1; authority=$2; printf "$3\n" > ext; shift 3
  openssl x509 -req -in "$name.csr" -CA "$authority.pem" -CAkey "$authority.key" -extfile ext -out "$name.pem" "$@" 2>/dev/null
}
root() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.pem" -subj "/CN=$1" -days 9 2>/dev/null; }
root ca; root foreign
CLIENT='extendedKeyUsage=clientAuth'
new right '/C=DE/O=Example, Inc./CN=alice'; sign right ca "$CLIENT" -days 9
openssl req -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.csr -subj /CN=rsa 2>/dev/null; sign rsa ca "$CLIENT" -days 9
new expired /CN=alice; sign expired ca "$CLIENT" -days -1
new server /CN=alice; sign server ca 'extendedKeyUsage=serverAuth' -days 9
new stranger /CN=alice; sign stranger foreign "$CLIENT" -days 9
new middle /CN=middle; sign middle ca 'basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign' -days 9
new leaf /CN=below; sign leaf middle "$CLIENT" -days 9; cat middle.pem >> leaf.pem
openssl x509 -in right.pem -noout -subject -nameopt RFC2253 | sed 's/^subject= *//' > subject
openssl x509 -in right.pem -outform DER | openssl base64 -A > der
"#;

/// Runs a program in a directory and returns its output.
async fn run(directory: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    let output = timeout(program, command.output()).await;
    output.with_context(|| format!("cannot run {program}"))
}

/// A device whose application, at a local address, is guarded; and curl as its caller.
struct Guarded {
    directory: tempfile::TempDir,
    simulator: Simulator,
    cloud: ClesydeCloud,
    host: String,
}

impl Guarded {
    async fn start(protocol: UpstreamProtocol) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        for arguments in [
            ["-cbB", "users", "alice", "secret"],
            ["-bB", "users", "bob", "other"],
        ] {
            let made = run(directory.path(), "htpasswd", &arguments).await?;
            ensure!(made.status.success(), "{made:?}");
        }
        let made = run(directory.path(), "sh", &["-c", OPENSSL]).await?;
        ensure!(made.status.success(), "{made:?}");
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name));
        let rules = AuthRules::new()
            .passwords(PathPrefix::root(), PasswordFile::parse(&read("users")?)?)
            .client_certificates("/admin".parse()?, ClientRoots::from_pem(&read("ca.pem")?)?)?;

        let router = Router::new()
            .route(
                "/ws",
                any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(|_| async {}) }),
            )
            .fallback(get(|headers: HeaderMap| async move {
                let line = |name: &str| {
                    let value = headers.get(name).and_then(|value| value.to_str().ok());
                    format!("{name}={}\n", value.unwrap_or("-"))
                };
                [
                    "remote-user",
                    "authorization",
                    "x-client-subject",
                    "client-cert",
                ]
                .map(line)
                .concat()
            }));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let options = ForwardOptions::new().protocol(protocol);
        let application = Application::forward_with(listener.local_addr()?, options);
        tokio::spawn(async move { axum::serve(listener, router).await });

        let simulator = Simulator::start(SimConfig::default()).await?;
        std::fs::write(directory.path().join("sim.pem"), simulator.ca_pem())?;
        let base = directory.path().join("device");
        let cloud = ClesydeCloud::builder("SN-0001".parse()?, base, simulator.api_url())
            .application(application)
            .auth(rules)
            .build();
        let key = ProvisioningKey::new(simulator.provisioning_key())?;
        cloud.provision(&key).await?;
        cloud.initialize().await?;
        let mut status = cloud.watch_status();
        timeout(
            "the device",
            status.wait_for(|status| status.remote.connected),
        )
        .await?;
        let host = simulator.control().device("SN-0001").await?.access_point;
        Ok(Self {
            directory,
            simulator,
            cloud,
            host,
        })
    }

    /// Calls curl. Returns the status, or 0 without a response, and the body.
    async fn curl(&self, path: &str, arguments: &[&str]) -> anyhow::Result<(u16, String)> {
        let relay = self.simulator.relay_addr();
        let url = format!("https://{}:{}{path}", self.host, relay.port());
        let to = format!("{}:{}:{}", self.host, relay.port(), relay.ip());
        let common = [
            "--silent",
            "--cacert",
            "sim.pem",
            "--max-time",
            "20",
            "--path-as-is",
        ];
        let written = ["--write-out", "\n%{http_code}", "--resolve", &to, &url];
        let arguments = [&common[..], &written, arguments].concat();
        let output = run(self.directory.path(), "curl", &arguments).await?;
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').context("curl wrote no status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    async fn stop(self) {
        timeout("the device to stop", self.cloud.stop()).await;
        timeout("the simulator to stop", self.simulator.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_needs_password_and_certificate() -> anyhow::Result<()> {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let device = Guarded::start(protocol).await?;
        for version in ["--http1.1", "--http2"] {
            for (path, credentials, status) in [
                ("/", None, 401),
                ("/", Some("alice:wrong"), 401),
                ("/", Some("carol:secret"), 401),
                ("/", Some("alice:secret"), 200),
                ("/", Some("bob:other"), 200),
                ("//admin", Some("alice:secret"), 400),
                ("/admin", Some("alice:secret"), 403),
            ] {
                let user = credentials.map_or(vec![], |credentials| vec!["-u", credentials]);
                let arguments = [&[version][..], &user].concat();
                let (found, body) = device.curl(path, &arguments).await?;
                ensure!(found == status, "{path} {credentials:?}: {found} {body}");
                if status == 200 {
                    let name = credentials.and_then(|text| text.split(':').next());
                    let expected = format!(
                        "remote-user={}\nauthorization=-\n",
                        name.unwrap_or_default()
                    );
                    ensure!(body.starts_with(&expected), "{body}");
                }
            }
            for (name, status) in [
                ("right", 200),
                ("rsa", 200),
                ("leaf", 200),
                ("expired", 0),
                ("server", 0),
                ("stranger", 0),
            ] {
                let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
                let shown = ["--cert", &certificate, "--key", &key];
                let arguments = [&[version, "-u", "alice:secret"], &shown[..]].concat();
                let (found, body) = device.curl("/admin", &arguments).await?;
                ensure!(found == status, "{name}: {found} {body}");
                if name == "right" {
                    let read = |name| std::fs::read_to_string(device.directory.path().join(name));
                    let (subject, der) = (read("subject")?, read("der")?);
                    let expected = format!(
                        "x-client-subject={}\nclient-cert=:{der}:\n",
                        subject.trim_end()
                    );
                    ensure!(body.ends_with(&expected), "{body}\n{expected}");
                    let (found, _) = device
                        .curl("/admin", &[&[version], &shown[..]].concat())
                        .await?;
                    ensure!(found == 401, "without a password: {found}");
                }
            }
        }
        device.stop().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_starts_a_websocket_with_password_only() -> anyhow::Result<()> {
    let device = Guarded::start(UpstreamProtocol::Http1).await?;
    let upgrade = [
        "--http1.1",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for (credentials, status) in [("alice:wrong", 401), ("alice:secret", 101)] {
        let (found, _) = device
            .curl("/ws", &[&upgrade[..], &["-u", credentials]].concat())
            .await?;
        ensure!(found == status, "{credentials}: {found}");
    }
    device.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_entries_of_htpasswd_are_refused() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    for (option, reason) in [
        ("-m", "MD5"),
        ("-s", "SHA-1"),
        ("-d", "crypt"),
        ("-p", "plain text"),
        ("-5", "SHA-2"),
    ] {
        let arguments = ["-nb", option, "alice", "secret"];
        let made = run(directory.path(), "htpasswd", &arguments).await?;
        let error = PasswordFile::parse(&String::from_utf8(made.stdout)?)
            .err()
            .with_context(|| format!("{option} was taken"))?
            .to_string();
        ensure!(
            error.contains(reason) && error.contains("htpasswd -B"),
            "{option}: {error}"
        );
    }
    Ok(())
}
