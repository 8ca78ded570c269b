//! A process killed with SIGKILL while it stores: the next one finds a valid configuration and a
//! free lock.
//!
//! The process is this test binary, running only [`worker`]. It is killed at random moments, 50
//! times or `CLOUD_CONFIG_KILLS` times, and, if `strace` is available, at the entry of each system
//! call of each change. The store's unit tests cover power cuts.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cloud_config::{DeviceConfig, LoadError, Loaded, LockError, Store};

use crate::common;

const DIRECTORY: &str = "CLOUD_CONFIG_TEST_DIRECTORY";
const WORK: &str = "CLOUD_CONFIG_TEST_WORK";
const KILLS: &str = "CLOUD_CONFIG_KILLS";
const DEFAULT_KILLS: u32 = 50;
const NAMES: [&str; 2] = ["one", "two"];
const FILES: [&str; 4] = ["iot.crt", "iot.key", "remote.crt", "remote.key"];
/// Socket on which a traced worker waits for a connection before its work.
const SOCKET: &str = "begin.sock";
/// Nonexistent paths that the worker looks up: the system calls between them in a trace are the
/// change.
const MARKS: [&str; 2] = ["/cloud-config/begin", "/cloud-config/end"];

/// The process to kill: works until then, or makes one change.
#[test]
#[ignore = "started by the other tests as a process to be killed"]
fn worker() {
    let Some(base) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let [one, two] = NAMES.map(|name| read_material(&base, name));
    let store = Store::new(&base);
    match std::env::var(WORK).unwrap().as_str() {
        // Always provisioned, under a held lock.
        "replace" => {
            let _lock = store.lock().unwrap();
            // The first load recovers after the predecessor's end.
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
        // A full life cycle, from no directory to none.
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
            // Not by reading stdin: whether the tracer counts that call depends on when it
            // attaches, and the change reads too.
            let socket = base.join(SOCKET);
            let _ = fs::remove_file(&socket);
            let listener = UnixListener::bind(socket).unwrap();
            // The tracer attaches here, to this thread only.
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
fn process_killed_at_random_leaves_valid_state_and_no_lock() {
    let kills = match std::env::var(KILLS) {
        Ok(number) => number.parse().expect("a number of kills"),
        Err(_) => DEFAULT_KILLS,
    };
    let base = common::fast_directory();
    let devices = material(base.path());
    let store = Store::new(base.path());
    store.save(&devices[0]).unwrap();
    let (mut repaired, mut absent, mut kill) = (0, 0, 0);
    // On a busy machine few kills may hit the worker while it writes, so add more.
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
        // Not a wait for a condition: the delay spreads the kills over the worker's steps.
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
fn process_killed_at_each_system_call_leaves_old_or_new() {
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
            "rotate" => Some(one.clone().with_remote(two.remote.clone())),
            "rotate-iot" => {
                let mut rotated = one.clone();
                rotated.iot = two.iot.clone();
                Some(rotated)
            }
            _ => Some(two),
        };
        let begin = || match &before {
            Some(before) => store.save(before).unwrap(),
            None => drop(store.remove().unwrap()),
        };
        begin();
        let Some(calls) = calls(base.path(), work) else {
            println!("skipped: strace is missing or not permitted");
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

/// A replacement is killed around its commit, while another program without the journal continues.
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
            println!("skipped: strace is missing or not permitted");
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

/// Returns each system call of one change: its name and its number among calls of that name. `None`
/// without a tracer.
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

/// Traces a worker with one change and returns its exit status. `None` if tracing is unavailable.
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
    let output = BufReader::new(tracer.stderr.take().unwrap()).lines();
    let mut output = output.map_while(Result::ok);
    if !output.any(|line| line.contains("attached")) {
        tracer.wait().unwrap();
        return None;
    }
    // A full pipe would block the tracer and the worker.
    let drain = std::thread::spawn(move || output.count());
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

/// Checks that a provisioned directory has its six files besides the lock file, and any other none.
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

/// A worker, killed and reaped on drop.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts a worker and waits for a line of its output.
fn start_worker(base: &Path, work: &str, awaited: impl Fn(&str) -> bool) -> (Worker, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::worker", "--ignored", "--nocapture"])
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

/// Two configurations without common values, also stored for the worker.
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
