//! What the operating system says of this process.

use anyhow::Context as _;

/// CPU time of all threads so far, microseconds.
pub(super) fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Memory that is resident now, bytes, without what is shared with files.
pub(super) fn resident_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from /proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("RssAnon is no number")?;
    Ok(kib * 1024.0)
}
