//! A process that writes without pause, killed with SIGKILL at moments of no particular kind: what the next one finds is
//! whole, and the directory is free.
//!
//! The process is this test binary itself, told to run nothing but [`writer`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cloud_config::{DeviceConfig, LockError, Store};

const DIRECTORY: &str = "CLOUD_CONFIG_TEST_DIRECTORY";
const KILLS: u32 = 50;
const NAMES: [&str; 2] = ["one", "two"];
const FILES: [&str; 4] = ["iot.crt", "iot.key", "remote.crt", "remote.key"];

/// Writes two configurations in turn, and swaps their remote certificates, until it is killed.
#[test]
#[ignore = "started by the other test as a process to be killed"]
fn writer() {
    let Some(base) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let [one, two] = NAMES.map(|name| read_material(&base, name));
    let store = Store::new(&base);
    let _lock = store.lock().unwrap();
    // The first load mends what the predecessor's end left.
    let _ = store.load();
    println!("\nready");
    loop {
        store.save(&one).unwrap();
        store.replace_remote(&two.remote).unwrap();
        store.save(&two).unwrap();
        store.replace_remote(&one.remote).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_a_whole_configuration_and_no_lock() {
    let base = common::fast_directory();
    let devices = NAMES.map(common::device);
    for (name, device) in NAMES.iter().zip(&devices) {
        write_material(base.path(), name, device);
    }
    let store = Store::new(base.path());
    store.save(&devices[0]).unwrap();
    let mut repaired = 0;
    for kill in 0..KILLS {
        let writer = start_writer(base.path());
        let refused = store.lock().expect_err("the writer has the lock");
        assert!(
            matches!(&refused, LockError::InUse { pid, .. } if *pid == Some(writer.0.id())),
            "{refused}"
        );
        assert!(refused.to_string().contains(&writer.0.id().to_string()));
        // Not a wait for anything: it is what spreads the kills over the writer's steps.
        std::thread::sleep(Duration::from_micros(u64::from(kill) * 613 % 10_000));
        drop(writer);
        let loaded = store.load().unwrap();
        let found = loaded.device;
        let iot = devices
            .iter()
            .find(|device| device.iot == found.iot)
            .expect("no iot pair of ours");
        assert_eq!(found.iot_thing_name, iot.iot_thing_name);
        assert_eq!(found.access_point, iot.access_point);
        assert!(
            devices.iter().any(|device| device.remote == found.remote),
            "no remote pair of ours"
        );
        repaired += u32::from(!loaded.repairs.is_empty());
        drop(store.lock().expect("a dead process holds nothing"));
    }
    println!("{repaired} of {KILLS} kills left something to repair");
    assert!(repaired > 0, "no kill hit the writer while it wrote");
}

/// Killed, and waited for, when dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start_writer(base: &Path) -> Writer {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIRECTORY, base)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut writer = Writer(child);
    let lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line == "ready"),
        "the writer did not get to writing"
    );
    writer
}

fn write_material(base: &Path, name: &str, device: &DeviceConfig) {
    let texts = [
        device.iot.chain_pem(),
        device.iot.key_pem(),
        device.remote.chain_pem(),
        device.remote.key_pem(),
    ];
    for (file, text) in FILES.iter().zip(texts) {
        fs::write(base.join(format!("{name}.{file}")), text).unwrap();
    }
}

fn read_material(base: &Path, name: &str) -> DeviceConfig {
    let texts = FILES.map(|file| fs::read_to_string(base.join(format!("{name}.{file}"))).unwrap());
    common::device_of(name, texts.each_ref().map(String::as_str))
}
