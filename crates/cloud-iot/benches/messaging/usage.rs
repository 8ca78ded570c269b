//! Resource usage of this process.

use std::fs;

/// Number of voluntary context switches, which equals the number of wake-ups.
pub(crate) fn wake_ups() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let paths = tasks.map(|task| task.unwrap().path().join("status"));
    paths
        .map(|path| {
            field(
                &fs::read_to_string(path).unwrap(),
                "voluntary_ctxt_switches",
            )
        })
        .sum()
}

/// Resident memory in KiB.
pub(crate) fn resident() -> u64 {
    field(&fs::read_to_string("/proc/self/status").unwrap(), "VmRSS")
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap().trim_start_matches(':').split_whitespace();
    words.into_iter().next().unwrap().parse().unwrap()
}
