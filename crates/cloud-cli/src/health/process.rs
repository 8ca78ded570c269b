//! What the system says of this process, with the names that Prometheus' client libraries use.

#[cfg(target_os = "linux")]
pub(super) fn report() {
    // What cannot be read is left out.
    let _ = linux();
}

#[cfg(not(target_os = "linux"))]
pub(super) fn report() {}

#[cfg(target_os = "linux")]
fn linux() -> procfs::ProcResult<()> {
    use metrics::{counter, gauge};
    use procfs::process::{LimitValue, Process};

    let process = Process::myself()?;
    let stat = process.stat()?;
    let resident = stat.rss.saturating_mul(procfs::page_size());
    gauge!("process_resident_memory_bytes").set(resident as f64);
    gauge!("process_virtual_memory_bytes").set(stat.vsize as f64);
    gauge!("process_threads").set(stat.num_threads as f64);
    let ticks = procfs::ticks_per_second().max(1);
    counter!("process_cpu_seconds_total").absolute((stat.utime + stat.stime) / ticks);
    gauge!("process_open_fds").set(process.fd_count()? as f64);
    if let LimitValue::Value(limit) = process.limits()?.max_open_files.soft_limit {
        gauge!("process_max_fds").set(limit as f64);
    }
    let started = procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks as f64;
    gauge!("process_start_time_seconds").set(started);
    Ok(())
}
