//! A process killed with SIGKILL while it stores: what the next one finds is whole, and the directory is free.
//!
//! The process is this test binary itself, told to run nothing but [`worker`]. It is killed at moments of no particular
//! kind, 50 times or as often as `CLOUD_CONFIG_KILLS` says, and, where `strace` is to be had, at the entry of each system
//! call of each change. What a killed process cannot show, a power cut, is in the store's own tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cloud_config::{DeviceConfig, LoadError, Loaded, LockError, Store};

const DIRECTORY: &str = "CLOUD_CONFIG_TEST_DIRECTORY";
const WORK: &str = "CLOUD_CONFIG_TEST_WORK";
const KILLS: &str = "CLOUD_CONFIG_KILLS";
const DEFAULT_KILLS: u32 = 50;
const NAMES: [&str; 2] = ["one", "two"];
const FILES: [&str; 4] = ["iot.crt", "iot.key", "remote.crt", "remote.key"];
/// Where a worker that is traced waits for a connection before it does its work.
const SOCKET: &str = "begin.sock";
/// Looked for by the worker, found by nobody: what lies between the two in a trace is the change.
const MARKS: [&str; 2] = ["/cloud-config/begin", "/cloud-config/end"];

/// The process to be killed: works until it is, or does one thing.
#[test]
#[ignore = "started by the other tests as a process to be killed"]
fn worker() {
    let Some(base) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let [one, two] = NAMES.map(|name| read_material(&base, name));
    let store = Store::new(&base);
    match std::env::var(WORK).unwrap().as_str() {
        // Provisioned for good, under a lock that is kept.
        "replace" => {
            let _lock = store.lock().unwrap();
            // The first load mends what the predecessor's end left.
            let _ = store.load();
            println!("\nready");
            loop {
                store.save(&one).unwrap();
                store.replace_remote(&two.remote).unwrap();
                store.save(&two).unwrap();
                store.replace_remote(&one.remote).unwrap();
                store.replace_iot(&one.iot).unwrap();
            }
        }
        // A whole life, from no directory to none.
        "live" => {
            let _ = store.load();
            println!("\nready");
            loop {
                store.save(&one).unwrap();
                store.replace_remote(&two.remote).unwrap();
                store.save(&two).unwrap();
                store.remove().unwrap();
            }
        }
        once => {
            // Not by reading: whether that call is counted depends on when the tracer attaches, and the change reads too.
            let socket = base.join(SOCKET);
            let _ = fs::remove_file(&socket);
            let listener = UnixListener::bind(socket).unwrap();
            // Whoever traces does so from here on, this thread alone.
            println!(
                "\n{}",
                fs::read_link("/proc/thread-self").unwrap().display()
            );
            listener.accept().unwrap();
            let [begin, end] = MARKS;
            let _ = fs::symlink_metadata(begin);
            match once {
                "provision" | "force" => store.save(&two).unwrap(),
                "rotate" => store.replace_remote(&two.remote).unwrap(),
                "rotate-iot" => store.replace_iot(&two.iot).unwrap(),
                "reset" => drop(store.remove().unwrap()),
                other => panic!("{other}"),
            }
            let _ = fs::symlink_metadata(end);
        }
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_whole_configuration_and_no_lock() {
    let kills = match std::env::var(KILLS) {
        Ok(number) => number.parse().expect("a number of kills"),
        Err(_) => DEFAULT_KILLS,
    };
    let base = common::fast_directory();
    let devices = material(base.path());
    let store = Store::new(base.path());
    store.save(&devices[0]).unwrap();
    let (mut repaired, mut absent, mut kill) = (0, 0, 0);
    // On a busy machine few kills may hit the worker while it writes: then some more are made.
    while kill < kills || ((repaired == 0 || absent == 0) && kill < 20 * kills) {
        let lives = kill % 2 == 1;
        let work = if lives { "live" } else { "replace" };
        let (worker, _) = start_worker(base.path(), work, |line| line == "ready");
        if !lives {
            let refused = store.lock().expect_err("the worker has the lock");
            assert!(
                matches!(&refused, LockError::InUse { pid, .. } if *pid == Some(worker.0.id())),
                "{refused}"
            );
            assert!(refused.to_string().contains(&worker.0.id().to_string()));
        }
        // Not a wait for anything: it is what spreads the kills over the worker's steps.
        std::thread::sleep(Duration::from_micros(u64::from(kill) * 613 % 10_000));
        drop(worker);
        let (found, repairs) = match load_locked(&store) {
            Ok(loaded) => (Some(loaded.device), !loaded.repairs.is_empty()),
            Err(LoadError::NotProvisioned(_)) if lives => (None, false),
            Err(error) => panic!("kill {kill}: {error}"),
        };
        match &found {
            Some(found) => check_parts(found, &devices),
            None => absent += 1,
        }
        check_leftovers(&store, found.is_some());
        repaired += u32::from(repairs);
        drop(store.lock().expect("a dead process holds nothing"));
        if found.is_none() {
            store.save(&devices[0]).unwrap();
        }
        kill += 1;
    }
    println!("of {kill} kills, {repaired} left something to repair and {absent} no configuration");
    assert!(
        repaired > 0 && absent > 0,
        "no kill hit the worker while it wrote"
    );
}

#[test]
fn a_process_killed_at_each_system_call_leaves_the_old_or_the_new() {
    for (work, provisioned) in [
        ("provision", false),
        ("force", true),
        ("rotate", true),
        ("rotate-iot", true),
        ("reset", true),
    ] {
        let base = common::fast_directory();
        let [one, two] = material(base.path());
        let store = Store::new(base.path());
        let before = provisioned.then(|| one.clone());
        let after = match work {
            "reset" => None,
            "rotate" => Some(DeviceConfig {
                remote: two.remote.clone(),
                ..one.clone()
            }),
            "rotate-iot" => Some(DeviceConfig {
                iot: two.iot.clone(),
                ..one.clone()
            }),
            _ => Some(two),
        };
        let begin = || match &before {
            Some(before) => store.save(before).unwrap(),
            None => drop(store.remove().unwrap()),
        };
        begin();
        let Some(calls) = calls(base.path(), work) else {
            println!("not run: strace is not there, or may not trace");
            assert!(
                std::env::var_os("CI").is_none(),
                "CI must run this: install strace and allow it to trace"
            );
            return;
        };
        let (mut old, mut new) = (0, 0);
        for (name, number) in &calls {
            begin();
            let inject = format!("inject={name}:signal=KILL:when={number}");
            let ended = traced(base.path(), work, &["-e", &inject]).expect("strace worked before");
            assert!(!ended.success(), "{work}, {name} {number}: not killed");
            let found = match load_locked(&store) {
                Ok(loaded) => Some(loaded.device),
                Err(LoadError::NotProvisioned(_)) => None,
                Err(error) => panic!("{work}, {name} {number}: {error}"),
            };
            assert!(
                found == before || found == after,
                "{work}, {name} {number}: {found:?}"
            );
            check_leftovers(&store, found.is_some());
            drop(store.lock().expect("a dead process holds nothing"));
            old += u32::from(found == before);
            new += u32::from(found == after);
        }
        println!(
            "{work}: killed at {} system calls, {old} times the old was found, {new} times the new",
            calls.len()
        );
        assert!(old > 0 && new > 0, "{work}");
    }
}

/// The scene of a replacement that is killed when it is decided, while another program without a journal goes on.
#[test]
fn newer_pair_written_after_a_kill_survives() {
    for work in ["force", "rotate", "rotate-iot"] {
        let base = common::fast_directory();
        let [one, _] = material(base.path());
        let newest = common::device("three");
        let store = Store::new(base.path());
        let is_iot = work == "rotate-iot";
        let (files, pair) = match is_iot {
            true => (["iot_cert.pem", "iot_key.pem"], &newest.iot),
            false => (["remote_cert.pem", "remote_key.pem"], &newest.remote),
        };
        store.save(&one).unwrap();
        let Some(calls) = calls(base.path(), work) else {
            println!("not run: strace is not there, or may not trace");
            assert!(std::env::var_os("CI").is_none());
            return;
        };
        let renames = calls.iter().filter(|(name, _)| name.starts_with("rename"));
        let mut pending = 0;
        for (name, number) in renames {
            store.save(&one).unwrap();
            let inject = format!("inject={name}:signal=KILL:when={number}");
            let ended = traced(base.path(), work, &["-e", &inject]).expect("strace worked before");
            assert!(!ended.success(), "{work}, {name} {number}: not killed");
            for (file, text) in files.iter().zip([pair.chain_pem(), pair.key_pem()]) {
                fs::write(store.directory().join(file), text).unwrap();
            }
            let context = format!("{work}, {name} {number}");
            let pair_of = |device: DeviceConfig| match is_iot {
                true => device.iot,
                false => device.remote,
            };
            let before = contents(store.directory());
            let loaded = store
                .load()
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            pending += u32::from(loaded.is_change_pending);
            assert_eq!(&pair_of(loaded.device), pair, "{context}: read");
            assert!(
                contents(store.directory()) == before,
                "{context}: changed by reading"
            );
            let found = load_locked(&store).unwrap();
            assert_eq!(&pair_of(found.device), pair, "{context}: recovered");
            assert_eq!(&pair_of(store.load().unwrap().device), pair, "{context}");
            check_leftovers(&store, true);
        }
        assert!(pending > 1, "{work}: no change was pending");
    }
}

/// Each system call of one change, as its name and its number among those of that name. `None` without a tracer.
fn calls(base: &Path, work: &str) -> Option<Vec<(String, u32)>> {
    let file = base.join("trace");
    let ended = traced(base, work, &["-o", file.to_str().unwrap()])?;
    assert!(ended.success(), "{work}, traced: {ended}");
    let text = fs::read_to_string(&file).unwrap();
    let [begin, end] = MARKS;
    let mut counts = HashMap::new();
    let mut calls = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let Some((name, _)) = line.split_once('(') else {
            continue;
        };
        let count = counts.entry(name).or_insert(0);
        *count += 1;
        if line.contains(end) {
            break;
        }
        if within {
            calls.push((name.to_owned(), *count));
        }
        within |= line.contains(begin);
    }
    assert!(calls.len() > 10, "no trace of the change:\n{text}");
    Some(calls)
}

/// How a worker ended whose one change was traced. `None` if that cannot be had here.
fn traced(base: &Path, work: &str, options: &[&str]) -> Option<ExitStatus> {
    let (mut worker, line) = start_worker(base, work, |line| line.contains("/task/"));
    let thread = line.rsplit('/').next().unwrap();
    let mut tracer = Command::new("strace")
        .args(options)
        .args(["-p", thread])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let said = BufReader::new(tracer.stderr.take().unwrap()).lines();
    let mut said = said.map_while(Result::ok);
    if !said.any(|line| line.contains("attached")) {
        tracer.wait().unwrap();
        return None;
    }
    // A tracer with a full pipe would stop the worker.
    let drain = std::thread::spawn(move || said.count());
    UnixStream::connect(base.join(SOCKET)).unwrap();
    let ended = worker.0.wait().unwrap();
    tracer.wait().unwrap();
    drain.join().unwrap();
    Some(ended)
}

/// Loads as a start does, with the lock.
fn load_locked(store: &Store) -> Result<Loaded, LoadError> {
    let _lock = match store.directory().exists() {
        true => Some(store.lock().expect("a dead process holds nothing")),
        false => None,
    };
    store.load()
}

/// Every file below a directory, with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

fn check_parts(found: &DeviceConfig, devices: &[DeviceConfig; 2]) {
    let whole = devices
        .iter()
        .find(|device| device.iot_thing_name == found.iot_thing_name)
        .expect("no name of ours");
    assert_eq!(found.access_point, whole.access_point);
    assert!(
        devices.iter().any(|device| device.iot == found.iot),
        "no iot pair of ours"
    );
    assert!(
        devices.iter().any(|device| device.remote == found.remote),
        "no remote pair of ours"
    );
}

/// A device has its six files and perhaps a lock's, one that is none has no key.
fn check_leftovers(store: &Store, provisioned: bool) {
    let Ok(entries) = fs::read_dir(store.directory()) else {
        assert!(!provisioned);
        return;
    };
    let others = entries
        .filter(|entry| entry.as_ref().unwrap().file_name() != ".lock")
        .count();
    assert_eq!(others, if provisioned { 6 } else { 0 });
}

/// Killed, and waited for, when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A worker that has said a certain line, and the line.
fn start_worker(base: &Path, work: &str, awaited: impl Fn(&str) -> bool) -> (Worker, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored", "--nocapture"])
        .env(DIRECTORY, base)
        .env(WORK, work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut worker = Worker(child);
    let mut lines = BufReader::new(worker.0.stdout.as_mut().unwrap()).lines();
    let line = lines
        .find_map(|line| line.ok().filter(|line| awaited(line)))
        .expect("the worker got to its work");
    (worker, line)
}

/// Two configurations that have nothing in common, also laid out for a worker to read.
fn material(base: &Path) -> [DeviceConfig; 2] {
    let devices = NAMES.map(common::device);
    for (name, device) in NAMES.iter().zip(&devices) {
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
    devices
}

fn read_material(base: &Path, name: &str) -> DeviceConfig {
    let texts = FILES.map(|file| fs::read_to_string(base.join(format!("{name}.{file}"))).unwrap());
    common::device_of(name, texts.each_ref().map(String::as_str))
}
