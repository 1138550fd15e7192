//! The processor time of the models' processes, divided among their requests.
//!
//! The parts of their engine's time say how much the requests of a model have computed compared with each other; the
//! processor time of the model's process says how much that was. In each window the parts
//! are scaled so that together they are the process's share of the machine. A request that ends
//! within a window is scaled by what earlier windows have shown.

use std::collections::HashMap;

/// Weight of the newest window of one second in the mean of a model's processor time per progress.
const WINDOW_WEIGHT_PER_SECOND: f64 = 2.0;

/// Reads the processor time of a process since its start, in core-seconds. `None` if it has ended.
pub(super) type CpuTimeReader<'a> = &'a dyn Fn(u32) -> Option<f64>;

/// The processor time of the processes of all models with requests, by process id.
#[derive(Debug, Default)]
pub(super) struct ModelCpu {
    processes: HashMap<u32, ProcessCpu>,
}

/// The processor time of one process in the open window. Work is in seconds of the whole machine, progress
/// in seconds of the engine's time.
#[derive(Debug, Clone, Copy)]
struct ProcessCpu {
    /// Core-seconds at the beginning of the window. `None` if they could not be read.
    start: Option<f64>,
    /// Work per progress in earlier windows.
    work_per_progress: f64,
    /// Progress of requests that have ended in this window, and the work that they were given for it.
    ended_progress: f64,
    ended_work: f64,
    /// Progress of the requests that run at the end of the window.
    running_progress: f64,
}

impl ModelCpu {
    /// Opens the window of a process that had no request, and of which nothing is known.
    pub(super) fn open(&mut self, process: u32, read: CpuTimeReader<'_>) {
        let opened = || ProcessCpu {
            start: read(process),
            work_per_progress: 1.0,
            ended_progress: 0.0,
            ended_work: 0.0,
            running_progress: 0.0,
        };
        self.processes.entry(process).or_insert_with(opened);
    }

    /// Returns the work of a request that has ended, for its progress since it was last counted.
    pub(super) fn end(&mut self, process: u32, progress: f64) -> f64 {
        let Some(cpu) = self.processes.get_mut(&process) else {
            return progress;
        };
        let work = progress * cpu.work_per_progress;
        cpu.ended_progress += progress;
        cpu.ended_work += work;
        work
    }

    /// Adds the progress of a request that runs at the end of the window.
    pub(super) fn add_running(&mut self, process: u32, progress: f64) {
        if let Some(cpu) = self.processes.get_mut(&process) {
            cpu.running_progress += progress;
        }
    }

    /// Closes the window of all processes on a machine with so many cores. Returns the core-seconds of all
    /// of them, and for each the work per progress of the requests that run.
    pub(super) fn close_window(
        &mut self,
        cores: u32,
        read: CpuTimeReader<'_>,
    ) -> (f64, HashMap<u32, f64>) {
        let mut core_seconds = 0.0;
        let mut factors = HashMap::new();
        for (process, cpu) in &mut self.processes {
            let now = read(*process);
            let used = now
                .zip(cpu.start)
                .map(|(now, start)| (now - start).max(0.0));
            core_seconds += used.unwrap_or(0.0);
            factors.insert(*process, cpu.close_window(used, cores));
            cpu.start = now;
        }
        (core_seconds, factors)
    }

    /// Forgets the processes without requests.
    pub(super) fn retain(&mut self, has_requests: impl Fn(u32) -> bool) {
        self.processes.retain(|process, _| has_requests(*process));
    }
}

impl ProcessCpu {
    /// Learns from a window in which the process used so many core-seconds, and returns the work per
    /// progress of the requests that run.
    fn close_window(&mut self, used: Option<f64>, cores: u32) -> f64 {
        let progress = self.ended_progress + self.running_progress;
        let mut factor = self.work_per_progress;
        if let Some(used) = used {
            let work = used / f64::from(cores.max(1));
            if self.running_progress > 0.0 {
                factor = (work - self.ended_work).max(0.0) / self.running_progress;
            }
            if progress > 0.0 {
                let weight = (WINDOW_WEIGHT_PER_SECOND * progress).min(1.0);
                self.work_per_progress += weight * (work / progress - self.work_per_progress);
            }
        }
        self.ended_progress = 0.0;
        self.ended_work = 0.0;
        self.running_progress = 0.0;
        factor
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn running_requests_share_the_processor_time_of_their_process() {
        let mut models = ModelCpu::default();
        let seconds = Cell::new(5.0);
        let read: CpuTimeReader<'_> = &|process| Some(seconds.get() * f64::from(process));
        models.open(1, read);
        models.open(2, read);
        seconds.set(6.0);
        for (process, progress) in [(1, 0.2), (1, 0.6), (2, 0.8)] {
            models.add_running(process, progress);
        }
        let (core_seconds, factors) = models.close_window(2, read);
        assert!((core_seconds - 3.0).abs() < 1e-9);
        // One core-second is half a second of the machine.
        assert!((factors[&1] * 0.8 - 0.5).abs() < 1e-9);
        assert!((factors[&2] * 0.8 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn ended_request_is_counted_as_earlier_windows_have_shown() {
        let mut models = ModelCpu::default();
        let seconds = Cell::new(0.0);
        let read: CpuTimeReader<'_> = &|_| Some(seconds.get());
        models.open(1, read);
        assert!(
            (models.end(1, 1.0) - 1.0).abs() < 1e-9,
            "nothing is known yet"
        );
        seconds.set(0.5);
        models.close_window(1, read);
        assert!((models.end(1, 1.0) - 0.5).abs() < 1e-9);
        models.add_running(1, 1.0);
        seconds.set(1.5);
        let (_, factors) = models.close_window(1, read);
        assert!((factors[&1] - 0.5).abs() < 1e-9, "what is left for it");
    }

    #[test]
    fn process_that_cannot_be_read_counts_as_its_requests_say() {
        let mut models = ModelCpu::default();
        let read: CpuTimeReader<'_> = &|_| None;
        models.open(1, read);
        models.add_running(1, 0.4);
        let (core_seconds, factors) = models.close_window(2, read);
        assert_eq!((core_seconds, factors[&1]), (0.0, 1.0));
        models.retain(|_| false);
        assert_eq!(models.end(1, 0.3), 0.3);
    }
}
