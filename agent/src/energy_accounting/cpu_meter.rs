//! How busy the machine's processors are, and which part of that is this process: Linux tells the
//! one in ticks of 10 ms (proc(5)), the other in microseconds (getrusage(2)).

use std::fs;
use std::path::{Path, PathBuf};

/// Ticks per second: `USER_HZ`, 100 wherever Linux runs.
const TICKS: f64 = 100.0;

/// Reads processor time.
pub(super) struct CpuMeter {
    machine: PathBuf,
    last: Option<CpuSeconds>,
}

/// Seconds of one core.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuSeconds {
    machine: f64,
    own: f64,
    cores: u32,
}

/// What processors did between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CpuSample {
    /// Seconds of one core that were busy, all together.
    pub(super) machine: f64,
    /// Of those, this process'.
    pub(super) own: f64,
    pub(super) cores: u32,
}

impl CpuMeter {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            machine: root.join("proc/stat"),
            last: None,
        }
    }

    /// What was done since the look before. `None` at the first, and where the machine does not tell.
    pub(super) fn look(&mut self) -> Option<CpuSample> {
        let now = self.times()?;
        let before = self.last.replace(now)?;
        let own = (now.own - before.own).max(0.0);
        Some(CpuSample {
            // The machine's time is counted in ticks, the process' own is not.
            machine: (now.machine - before.machine).max(own),
            own,
            cores: now.cores,
        })
    }

    fn times(&self) -> Option<CpuSeconds> {
        let (machine, cores) = machine(&fs::read_to_string(&self.machine).ok()?)?;
        Some(CpuSeconds {
            machine,
            own: own(),
            cores,
        })
    }
}

/// Busy seconds and the number of cores: user, nice, system, irq and softirq of the first line.
fn machine(stat: &str) -> Option<(f64, u32)> {
    let mut fields = stat.lines().next()?.split_whitespace();
    (fields.next()? == "cpu").then_some(())?;
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    let is_core = |line: &&str| {
        let number = line
            .strip_prefix("cpu")
            .and_then(|rest| rest.chars().next());
        number.is_some_and(|first| first.is_ascii_digit())
    };
    let cores = stat.lines().filter(is_core).count() as u32;
    Some((busy as f64 / TICKS, cores.max(1)))
}

/// Seconds of one core that this process was computed for.
fn own() -> f64 {
    // SAFETY: all bytes zero are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it is a place to write a `rusage` to.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    if failed {
        return 0.0;
    }
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_times_are_read() {
        let stat = "cpu  100 20 30 4000 50 6 7 80 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        assert_eq!(machine(stat), Some((1.63, 2)));
        for broken in ["", "intr 5"] {
            assert_eq!(machine(broken), None);
        }
        assert!(own() > 0.0);
    }

    #[test]
    fn this_process_is_part_of_this_machine() {
        let mut busy = CpuMeter::new(Path::new("/"));
        assert_eq!(busy.look(), None);
        if let Some(spell) = busy.look() {
            assert!(spell.own <= spell.machine && spell.cores > 0);
        }
        assert_eq!(CpuMeter::new(Path::new("/nowhere")).look(), None);
    }
}
