//! What `/proc` says of a process and of the kernel's memory.

use flotilla_core::Bytes;

/// Measures the peak of a process's memory, without what it shares with others: the pages of a binary that
/// many processes run count once for all of them together.
///
/// The kernel keeps the peak of what is in RAM with all that is shared, which costs nothing to read. What is
/// not shared has no peak and takes the kernel longer to sum up, so that it is read only after the other has
/// grown.
#[derive(Debug, Default)]
pub(super) struct PeakMemory {
    /// The kernel's peak at the last measurement.
    resident: Bytes,
    /// The largest peak without what is shared.
    unshared: Bytes,
}

/// The growth of the kernel's peak that is worth a measurement.
const SIGNIFICANT_GROWTH: Bytes = Bytes(1 << 20);

impl PeakMemory {
    /// Measures the process. `None` where the system does not say.
    pub(super) fn measure(&mut self, pid: u32) -> Option<Bytes> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = parse_kilobytes(&status, "VmHWM:")?;
        if peak < self.resident {
            // The process has made the kernel count anew.
            *self = Self::default();
        }
        if peak > self.resident + SIGNIFICANT_GROWTH {
            self.resident = peak;
            let sums = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            let proportional = sums.ok().and_then(|sums| parse_kilobytes(&sums, "Pss:"));
            let resident = parse_kilobytes(&status, "VmRSS:");
            let unshared = unshared_peak(peak, resident, proportional);
            self.unshared = self.unshared.max(unshared);
        }
        Some(self.unshared)
    }
}

/// The peak of a process's memory without what it shares now: what was given back since the peak was its own.
/// `resident` is what it has in RAM now, `proportional` its share of that. Returns the whole `peak` where the
/// system does not report these.
fn unshared_peak(peak: Bytes, resident: Option<Bytes>, proportional: Option<Bytes>) -> Bytes {
    let (Some(resident), Some(proportional)) = (resident, proportional) else {
        return peak;
    };
    let shared = resident.saturating_sub(proportional);
    peak.saturating_sub(shared).max(proportional)
}

/// Returns the value of the line that begins with `name`.
fn parse_kilobytes(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kilobytes << 10))
}

/// The number of processes that the kernel has ended for want of memory, since the machine started.
pub(super) fn oom_kills() -> u64 {
    let vmstat = std::fs::read_to_string("/proc/vmstat");
    vmstat.map_or(0, |vmstat| parse_counter(&vmstat, "oom_kill"))
}

/// Returns the number after `name` in a file with a name and a number in each line. Zero if there is none.
pub(super) fn parse_counter(text: &str, name: &str) -> u64 {
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_their_lines() {
        let status = "Name:\tflotilla\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse_kilobytes(status, "VmHWM:"), Some(Bytes(2 << 20)));
        assert_eq!(parse_kilobytes("Name:\tkthreadd\n", "VmHWM:"), None);
        let counters = "oom_kill_disable 4\noom_kill 3\n";
        assert_eq!(parse_counter(counters, "oom_kill"), 3);
        assert_eq!(parse_counter("", "oom_kill"), 0);
    }

    #[test]
    fn peak_counts_what_was_given_back_since() {
        let some = |bytes| Some(Bytes(bytes));
        // 100 of 400 are shared; the peak was 900.
        assert_eq!(unshared_peak(Bytes(900), some(400), some(300)), Bytes(800));
        // It has grown between the two readings.
        assert_eq!(unshared_peak(Bytes(400), some(400), some(450)), Bytes(450));
        assert_eq!(unshared_peak(Bytes(400), some(400), None), Bytes(400));
    }

    #[test]
    fn own_process_is_measured_without_what_it_shares() {
        let mut peak = PeakMemory::default();
        let measured = peak.measure(std::process::id()).unwrap();
        assert!(Bytes(0) < measured && measured <= peak.resident);
        assert_eq!(peak.measure(u32::MAX), None);
    }
}
