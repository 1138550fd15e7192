//! Processor time of the machine and of this process.
//!
//! `sysinfo` reports percentages only, over intervals of at least 200 ms; windows are shorter and
//! need seconds. So the machine's time comes from `/proc/stat`, parsed by `procfs-core`, and the
//! process's own from its CPU clock.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use procfs_core::{ExplicitSystemInfo, FromBufReadSI, KernelStats};
use rustix::time::{ClockId, clock_gettime};

/// The system information that `procfs-core` requires. Only the ticks matter here: `USER_HZ`, which is 100
/// on every architecture that Linux runs on.
const SYSTEM: ExplicitSystemInfo = ExplicitSystemInfo {
    boot_time_secs: 0,
    ticks_per_second: 100,
    page_size: 4096,
    is_little_endian: cfg!(target_endian = "little"),
};

/// Reads processor time.
pub(super) struct CpuMeter {
    /// `/proc/stat`.
    stat_file: PathBuf,
    last: Option<CpuSeconds>,
}

/// Processor time since the machine or the process started, in core-seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuSeconds {
    machine: f64,
    process: f64,
    cores: u32,
}

/// Processor time between two samples, in core-seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CpuSample {
    /// Busy time of all cores, this process and its models' included.
    pub(super) machine: f64,
    /// Busy time of this process, and of its models' processes while they have requests.
    pub(super) process: f64,
    /// Number of cores, at least 1.
    pub(super) cores: u32,
}

impl CpuMeter {
    /// Creates a meter for the machine whose `/proc` is below `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            stat_file: root.join("proc/stat"),
            last: None,
        }
    }

    /// Returns the processor time since the previous call, with the `model_seconds` of the models' own
    /// processes. `None` on the first call, and on a machine without `/proc/stat`.
    pub(super) fn sample(&mut self, model_seconds: f64) -> Option<CpuSample> {
        let (machine, cores) = machine_seconds(BufReader::new(File::open(&self.stat_file).ok()?))?;
        let now = CpuSeconds {
            machine,
            process: process_seconds(),
            cores,
        };
        let before = self.last.replace(now)?;
        let process = (now.process - before.process).max(0.0) + model_seconds;
        Some(CpuSample {
            // `/proc/stat` counts in ticks of 10 ms, the process clock in nanoseconds.
            machine: (now.machine - before.machine).max(process),
            process,
            cores,
        })
    }
}

/// Busy core-seconds since the machine started, and the number of cores, from `/proc/stat`.
/// Neither idle time nor time waiting for I/O counts as busy.
fn machine_seconds(stat: impl std::io::BufRead) -> Option<(f64, u32)> {
    let stats = KernelStats::from_buf_read(stat, &SYSTEM).ok()?;
    let total = stats.total;
    let ticks = total.user
        + total.nice
        + total.system
        + total.irq.unwrap_or(0)
        + total.softirq.unwrap_or(0);
    let seconds = ticks as f64 / SYSTEM.ticks_per_second as f64;
    Some((seconds, stats.cpu_time.len().max(1) as u32))
}

/// Core-seconds of all threads of this process.
fn process_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Core-seconds of all threads of another process since its start. `None` if it has ended, and on systems
/// without such a clock, where the requests' own progress is used instead.
#[cfg(target_os = "linux")]
pub(super) fn process_cpu_time(process: u32) -> Option<f64> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process).ok()?);
    let clock = nix::time::clock_getcpuclockid(pid).ok()?;
    let time = nix::time::clock_gettime(clock).ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn process_cpu_time(_: u32) -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_time_is_busy_ticks_of_all_cores() {
        let stat = "cpu  100 20 30 4000 50 6 7 80 0 0\n\
                    cpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5\nctxt 1\nbtime 1\nprocesses 1\n";
        assert_eq!(machine_seconds(stat.as_bytes()), Some((1.63, 2)));
        for broken in ["", "intr 5"] {
            assert_eq!(machine_seconds(broken.as_bytes()), None);
        }
        assert!(process_seconds() > 0.0);
        if cfg!(target_os = "linux") {
            assert!(process_cpu_time(std::process::id()).unwrap() > 0.0);
        }
        assert_eq!(process_cpu_time(u32::MAX), None);
    }

    #[test]
    fn process_time_is_part_of_machine_time() {
        let mut meter = CpuMeter::new(Path::new("/"));
        assert_eq!(meter.sample(0.0), None);
        if let Some(sample) = meter.sample(0.0) {
            assert!(sample.process <= sample.machine && sample.cores > 0);
        }
        assert_eq!(CpuMeter::new(Path::new("/nowhere")).sample(0.0), None);
    }
}
