//! The time of an engine, divided among the requests that it computes together.

/// How far the computation of a request has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Its prompt is being read or waits for that, and the engine does not say how far it is.
    Reading,
    /// So many seconds of the engine's time since it began, or since the engine began to say so. They count in relation to
    /// those of other requests only.
    Seconds(f64),
}

/// Divides the time in which an engine computes among its requests, in proportion to how far each has come meanwhile.
///
/// The engine is busy for one second per second, however many requests it computes: a step of a batch takes about the
/// same time, and on a GPU the same power, for one sequence as for many. So the shares of requests add up to the time,
/// and what a second takes hardly depends on how many share it. Times are in seconds on a clock that never goes back.
#[derive(Debug, Default)]
pub struct EngineTime {
    /// The time that is divided.
    until: f64,
    shares: Vec<Share>,
}

/// The part of one request.
#[derive(Debug, Clone, Copy)]
struct Share {
    account: u64,
    /// The seconds of its progress that are counted.
    progress: f64,
    /// Its seconds that were not taken yet.
    seconds: f64,
}

impl EngineTime {
    /// Whether the engine has no requests.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shares.is_empty()
    }

    /// Adds a request that begins now, with the id of its account. `progress` returns that of each account.
    pub fn begin(&mut self, now: f64, account: u64, progress: impl Fn(u64) -> Progress) {
        self.divide(now, progress);
        self.shares.push(Share {
            account,
            progress: 0.0,
            seconds: 0.0,
        });
    }

    /// Divides the time until now. Prompts are read one after another, so that all that are being read count as one
    /// request. Where no request has come any further, all are in the same step, and have equal parts.
    pub fn divide(&mut self, now: f64, progress: impl Fn(u64) -> Progress) {
        let seconds = (now - self.until).max(0.0);
        self.until = self.until.max(now);
        let reached = self.shares.iter().map(|share| progress(share.account));
        let reached: Vec<_> = reached.collect();
        let reading = reached.iter().filter(|p| **p == Progress::Reading).count();
        let mut steps = Vec::with_capacity(self.shares.len());
        for (share, reached) in self.shares.iter_mut().zip(reached) {
            steps.push(match reached {
                Progress::Reading => seconds / reading as f64,
                Progress::Seconds(reached) => (reached - share.progress).max(0.0),
            });
            if let Progress::Seconds(reached) = reached {
                share.progress = share.progress.max(reached);
            }
        }
        let all: f64 = steps.iter().sum();
        let equal = 1.0 / steps.len().max(1) as f64;
        for (share, step) in self.shares.iter_mut().zip(steps) {
            let part = if all > 0.0 { step / all } else { equal };
            share.seconds += seconds * part;
        }
    }

    /// Removes a request that ends now, and returns its seconds that were not taken yet.
    pub fn end(&mut self, now: f64, account: u64, progress: impl Fn(u64) -> Progress) -> f64 {
        self.divide(now, progress);
        let index = self
            .shares
            .iter()
            .position(|share| share.account == account);
        index.map_or(0.0, |index| self.shares.swap_remove(index).seconds)
    }

    /// Takes the seconds of all requests: those that were divided since they were last taken.
    pub fn take(&mut self) -> impl Iterator<Item = (u64, f64)> {
        let shares = self.shares.iter_mut();
        shares.map(|share| (share.account, std::mem::take(&mut share.seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the seconds, in the order of the accounts.
    fn taken(time: &mut EngineTime) -> Vec<f64> {
        let mut shares: Vec<_> = time.take().collect();
        shares.sort_by_key(|(account, _)| *account);
        shares.into_iter().map(|(_, seconds)| seconds).collect()
    }

    #[test]
    fn time_is_divided_by_progress_and_equally_within_a_step() {
        let mut time = EngineTime::default();
        let reached =
            |seconds: [f64; 2]| move |account| Progress::Seconds(seconds[account as usize - 1]);
        time.begin(5.0, 1, reached([0.0, 0.0]));
        time.divide(6.0, reached([4.0, 0.0]));
        time.begin(6.0, 2, reached([4.0, 0.0]));
        assert_eq!(taken(&mut time), [1.0, 0.0]);
        time.divide(8.0, reached([7.0, 1.0]));
        assert_eq!(taken(&mut time), [1.5, 0.5]);
        time.divide(9.0, reached([7.0, 1.0]));
        assert_eq!(taken(&mut time), [0.5, 0.5]);
        assert_eq!(time.end(10.0, 1, reached([7.0, 2.0])), 0.0);
        assert_eq!(taken(&mut time), [1.0]);
        assert_eq!(time.end(10.5, 2, reached([7.0, 2.0])), 0.5);
        assert!(time.is_idle());
    }

    #[test]
    fn prompts_that_are_read_count_as_one_request() {
        let mut time = EngineTime::default();
        let progress = |account| match account {
            1 => Progress::Seconds(2.0),
            _ => Progress::Reading,
        };
        for account in 1..=3 {
            time.begin(0.0, account, progress);
        }
        time.divide(0.0, progress);
        time.divide(4.0, |account| match account {
            1 => Progress::Seconds(6.0),
            _ => Progress::Reading,
        });
        assert_eq!(taken(&mut time), [2.0, 1.0, 1.0]);
    }

    #[test]
    fn idle_engine_spends_no_time() {
        let mut time = EngineTime::default();
        let reading = |_| Progress::Reading;
        time.divide(100.0, reading);
        time.begin(200.0, 1, reading);
        assert_eq!(time.end(201.0, 1, reading), 1.0);
        time.begin(300.0, 2, reading);
        assert_eq!(time.end(300.0, 2, reading), 0.0);
    }
}
