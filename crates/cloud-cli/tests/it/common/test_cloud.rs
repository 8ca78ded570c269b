//! A simulator and the directory of one device, both run by the program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use reqwest::Method;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use testkit::mqtt::ScriptedBroker;
use testkit::wait::block_until;

use super::background_program::BackgroundProgram;
use super::{ProgramOutput, finish, http_client, program};

/// The device's serial number.
pub(crate) const SN: &str = "SN-0001";

/// A simulator, and a directory for one device.
pub(crate) struct TestCloud {
    /// Dropped before its files.
    pub(crate) sim: BackgroundProgram,
    pub(crate) home: TempDir,
    pub(crate) ready: Value,
}

impl TestCloud {
    /// Starts a simulator.
    pub(crate) fn new() -> Self {
        let home = tempdir().unwrap();
        let mut sim = BackgroundProgram::start(program(&home).arg("sim"));
        let ready = sim.wait_for("ready");
        Self { sim, home, ready }
    }

    /// Returns the provisioning key.
    pub(crate) fn key(&self) -> &str {
        self.ready["provisioning_key"].as_str().unwrap()
    }

    /// Returns the device's base path.
    pub(crate) fn base(&self) -> PathBuf {
        self.home.path().join("base")
    }

    /// Returns the device's directory.
    pub(crate) fn config(&self) -> PathBuf {
        self.base().join(".clesydecloud")
    }

    /// Creates a command for this device's directory, with `--json`.
    pub(crate) fn device(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.home);
        command
            .args(arguments)
            .arg("--json")
            .env("CLESYDE_BASE_PATH", self.base())
            .env("CLESYDE_SN", SN)
            .env("CLESYDE_API_URL", self.ready["api_url"].as_str().unwrap());
        command
    }

    /// Provisions the device, with the key in the environment.
    #[track_caller]
    pub(crate) fn provision(&self, arguments: &[&str]) -> ProgramOutput {
        finish(
            self.device(&[&["provision"], arguments].concat())
                .env("CLESYDE_TOKEN", self.key()),
        )
    }

    /// Starts a simulator and provisions a device.
    pub(crate) fn provisioned() -> Self {
        let world = Self::new();
        world.provision(&[]).expect(0);
        world
    }

    /// Configures this as the broker of the device.
    pub(crate) fn set_broker(&self, broker: &ScriptedBroker) {
        let file = self.config().join("cloud_config.json");
        let mut document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        document["iot_endpoint"] = format!("localhost:{}", broker.address.port()).into();
        fs::write(file, document.to_string()).unwrap();
        fs::write(self.config().join("iot_ca.pem"), &broker.root).unwrap();
    }

    /// Calls the simulator's control API.
    pub(crate) fn control(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.ready["control_url"].as_str().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = http_client(&[], |builder| builder);
            let mut request = client.request(method, &url);
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send().await.unwrap();
            let status = response.status();
            let text = response.text().await.unwrap();
            assert!(status.is_success(), "{url}: {status} {text}");
            if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).unwrap()
            }
        })
    }

    /// Returns the output of `cert show`.
    pub(crate) fn certificates(&self) -> Value {
        finish(&mut self.device(&["cert", "show"]))
            .expect(0)
            .json()
            .remove(0)
    }

    /// Returns the simulator's state of the device.
    pub(crate) fn device_status(&self) -> Value {
        let devices = self.control(Method::GET, "/devices", None);
        devices
            .as_array()
            .unwrap()
            .iter()
            .find(|device| device["sn"] == SN)
            .unwrap()
            .clone()
    }

    /// Waits until the simulator has received ONLINE from the device.
    #[track_caller]
    pub(crate) fn wait_until_online(&self) {
        block_until("the device is online", || {
            self.device_status()["online"] == true
        });
    }

    /// Waits until the simulator has received exactly these states from the device.
    #[track_caller]
    pub(crate) fn wait_for_history(&self, expected: &[&str]) {
        block_until(&format!("the states {expected:?}"), || {
            self.device_status()["status_history"] == serde_json::json!(expected)
        });
    }

    /// Waits until the device has reported the certificate that it serves.
    #[track_caller]
    pub(crate) fn wait_until_reported(&self) {
        block_until("the device reports its certificate", || {
            self.device_status()["reported"]["remoteCertSn"].is_string()
        });
    }
}
