//! Watches whether an engine makes progress.
//!
//! An engine that hangs cannot say so. So each sequence records when it began, when a token was sampled and
//! when nobody read it any more, and [`stall`] decides from these times. Whoever runs the model asks
//! for the stall each second, and ends the process where there is one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::reading_speed::ReadingSpeed;
use parking_lot::Mutex;

/// How long the step that samples a token may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How many times longer than expected a prompt may be read.
const READING_FACTOR: f64 = 10.0;
/// The speed that is assumed before one was learnt, in tokens per second. Slower than any model in use.
const UNKNOWN_SPEED: f64 = 1.0;
/// Marks a sequence that is still read.
const NEVER: u64 = u64::MAX;

/// The sequences in an engine, and how fast it reads prompts.
pub(crate) struct ProgressWatch {
    /// Returns the milliseconds since the watch was created.
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    sequences: Mutex<Vec<Arc<SequenceTimes>>>,
    reading: Mutex<Reading>,
}

/// The reading of prompts so far.
#[derive(Default)]
struct Reading {
    speed: ReadingSpeed,
    /// Milliseconds in which prompts were read that are read to their end.
    total: u64,
    /// When the last of them was.
    until: u64,
}

/// When a sequence last made progress, in milliseconds since the watch was created.
struct SequenceTimes {
    /// The tokens of the prompt, until the first token was sampled; then 0.
    unread: AtomicU32,
    last_progress: AtomicU64,
    /// Since when nobody reads it, or its first token after that; [`NEVER`] while somebody reads it.
    abandoned: AtomicU64,
    /// [`Reading::total`] at that time.
    read_before: AtomicU64,
}

/// A sequence in the engine. Dropping it records that the engine has dropped the sequence.
pub(crate) struct SequenceProgress {
    watch: Arc<ProgressWatch>,
    times: Arc<SequenceTimes>,
}

/// Records that nobody reads a sequence any more.
pub(crate) struct ReaderGuard {
    watch: Arc<ProgressWatch>,
    times: Arc<SequenceTimes>,
}

/// A sequence at the time of a check. Times are milliseconds since the watch was created.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SequenceState {
    /// Tokens of the prompt that is not read yet.
    pub(crate) unread: u32,
    /// When the sequence began or sampled its last token.
    pub(crate) last_progress: u64,
    /// Since when nobody reads it though the engine could stop it: its prompt is read. `None` if somebody does.
    pub(crate) abandoned: Option<u64>,
    /// Milliseconds since then in which the engine read other prompts, and could not stop it.
    pub(crate) read_since: u64,
}

/// Why an engine is taken for stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    /// It has computed nothing for this long.
    NoProgress(Duration),
    /// It has gone on for this long with a sequence that nobody reads.
    NobodyReads(Duration),
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgress(time) => write!(
                f,
                "the engine has made no progress for {} s",
                time.as_secs()
            ),
            Self::NobodyReads(time) => write!(
                f,
                "the engine does not stop computing a sequence that nobody has read for {} s",
                time.as_secs()
            ),
        }
    }
}

/// Decides whether an engine is stuck. `speed` is how fast it reads prompts, in tokens per second.
///
/// Prompts are read one after another, and no other token is sampled meanwhile: so the bound is that of all
/// prompts together, and the progress that of all sequences.
pub(crate) fn stall(sequences: &[SequenceState], speed: Option<f64>, now: u64) -> Option<Stall> {
    let unread: f64 = sequences.iter().map(|s| f64::from(s.unread)).sum();
    let reading = unread / speed.unwrap_or(UNKNOWN_SPEED).max(f64::MIN_POSITIVE);
    // A day is longer than anybody waits, and in the range of durations.
    let reading = Duration::from_secs_f64((READING_FACTOR * reading).min(86_400.0));
    let limit = STEP_LIMIT + reading;
    let since = |time: u64| Duration::from_millis(now.saturating_sub(time));
    let last = sequences.iter().map(|s| s.last_progress).max()?;
    if since(last) > limit {
        return Some(Stall::NoProgress(since(last)));
    }
    let ignored = sequences.iter().filter_map(|s| {
        let time = since(s.abandoned?);
        Some(time.saturating_sub(Duration::from_millis(s.read_since)))
    });
    let ignored = ignored.max()?;
    (ignored > limit).then_some(Stall::NobodyReads(ignored))
}

impl ProgressWatch {
    pub(crate) fn new() -> Arc<Self> {
        let created = Instant::now();
        Self::with_clock(move || created.elapsed().as_millis() as u64)
    }

    /// A watch with another clock, of milliseconds since its creation.
    pub(crate) fn with_clock(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            clock: Box::new(clock),
            sequences: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    /// Records that a sequence with a prompt of this many tokens begins.
    pub(crate) fn begin(self: &Arc<Self>, prompt_tokens: usize) -> (SequenceProgress, ReaderGuard) {
        let times = Arc::new(SequenceTimes {
            unread: AtomicU32::new(u32::try_from(prompt_tokens).unwrap_or(u32::MAX)),
            last_progress: AtomicU64::new(self.now()),
            abandoned: AtomicU64::new(NEVER),
            read_before: AtomicU64::new(0),
        });
        self.sequences.lock().push(times.clone());
        let reader = ReaderGuard {
            watch: self.clone(),
            times: times.clone(),
        };
        let progress = SequenceProgress {
            watch: self.clone(),
            times,
        };
        (progress, reader)
    }

    /// How fast the engine reads prompts where nothing holds it up, in tokens per second. `None` before it was
    /// learnt.
    pub(crate) fn reading_speed(&self) -> Option<f64> {
        self.reading.lock().speed.best()
    }

    /// Why the engine is taken for stuck, if it is.
    pub(crate) fn stall(&self) -> Option<Stall> {
        let (speed, read) = {
            let reading = self.reading.lock();
            (reading.speed.tokens_per_second(), reading.total)
        };
        let sequences: Vec<SequenceState> = {
            let sequences = self.sequences.lock();
            sequences.iter().map(|times| times.state(read)).collect()
        };
        stall(&sequences, speed, self.now())
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }
}

impl SequenceTimes {
    /// The state when the engine has read prompts for `read` milliseconds.
    fn state(&self, read: u64) -> SequenceState {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        SequenceState {
            unread: self.unread.load(Ordering::Relaxed),
            last_progress: self.last_progress.load(Ordering::Relaxed),
            abandoned: (abandoned != NEVER).then_some(abandoned),
            read_since: read.saturating_sub(self.read_before.load(Ordering::Relaxed)),
        }
    }

    /// Records that the engine could stop the sequence from now on, as nobody reads it.
    fn abandon(&self, now: u64, read: u64) {
        self.read_before.store(read, Ordering::Relaxed);
        self.abandoned.store(now, Ordering::Relaxed);
    }
}

impl SequenceProgress {
    /// Records a sampled token. The first one says how long the prompt was read.
    pub(crate) fn token_sampled(&self) {
        let now = self.watch.now();
        let previous = self.times.last_progress.swap(now, Ordering::Relaxed);
        let read = self.times.unread.swap(0, Ordering::Relaxed);
        if read > 0 {
            let time = Duration::from_millis(now.saturating_sub(previous));
            let mut reading = self.watch.reading.lock();
            reading.speed.learn(read, time);
            // Prompts that were read at the same time count once.
            reading.total += now.saturating_sub(previous.max(reading.until));
            reading.until = now;
            if self.times.abandoned.load(Ordering::Relaxed) != NEVER {
                self.times.abandon(now, reading.total);
            }
        }
    }
}

impl Drop for SequenceProgress {
    fn drop(&mut self) {
        let mut sequences = self.watch.sequences.lock();
        sequences.retain(|times| !Arc::ptr_eq(times, &self.times));
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        let read = self.watch.reading.lock().total;
        self.times.abandon(self.watch.now(), read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(unread: u32, last_progress: u64) -> SequenceState {
        SequenceState {
            unread,
            last_progress,
            abandoned: None,
            read_since: 0,
        }
    }

    #[test]
    fn step_may_take_thirty_seconds() {
        let decoding = [sequence(0, 5_000)];
        assert_eq!(stall(&decoding, None, 35_000), None);
        let stalled = stall(&decoding, None, 35_001);
        assert_eq!(
            stalled,
            Some(Stall::NoProgress(Duration::from_millis(30_001)))
        );
        assert_eq!(stall(&[], None, 1_000_000), None);
    }

    #[test]
    fn prompt_may_take_ten_times_what_is_expected() {
        // 400 tokens at 10 tokens per second take 40 s.
        let reading = [sequence(400, 0)];
        assert_eq!(stall(&reading, Some(10.0), 430_000), None);
        assert!(stall(&reading, Some(10.0), 430_001).is_some());
        assert_eq!(stall(&reading, None, 4_030_000), None);
        // A second prompt waits for the first.
        let both = [sequence(400, 0), sequence(400, 0)];
        assert_eq!(stall(&both, Some(10.0), 830_000), None);
    }

    #[test]
    fn progress_of_one_sequence_is_progress_of_the_engine() {
        let sequences = [sequence(0, 0), sequence(0, 40_000)];
        assert_eq!(stall(&sequences, None, 60_000), None);
    }

    #[test]
    fn sequence_that_nobody_reads_must_end_though_it_makes_progress() {
        let abandoned = SequenceState {
            abandoned: Some(10_000),
            ..sequence(0, 40_000)
        };
        assert_eq!(stall(&[abandoned], None, 40_000), None);
        let stalled = stall(&[abandoned], None, 40_001);
        assert_eq!(
            stalled,
            Some(Stall::NobodyReads(Duration::from_millis(30_001)))
        );
        // While its prompt is read, the engine cannot stop.
        let reading = SequenceState {
            unread: 400,
            ..abandoned
        };
        assert_eq!(stall(&[reading], Some(10.0), 100_000), None);
        // While another was read, it could not either.
        let waited = SequenceState {
            read_since: 20_000,
            ..abandoned
        };
        assert_eq!(stall(&[waited], None, 60_000), None);
        assert!(stall(&[waited], None, 60_001).is_some());
    }

    #[test]
    fn engine_has_its_time_to_stop_once_an_abandoned_prompt_is_read() {
        let clock = Arc::new(AtomicU64::new(0));
        let now = clock.clone();
        let watch = ProgressWatch::with_clock(move || now.load(Ordering::Relaxed));
        let advance = |seconds: u64| clock.fetch_add(1_000 * seconds, Ordering::Relaxed);
        let (sequence, reader) = watch.begin(1_000);
        drop(reader);
        advance(100);
        sequence.token_sampled();
        assert_eq!(watch.stall(), None, "its prompt was read until now");
        advance(20);
        sequence.token_sampled();
        // Another prompt is read for 60 s, and it gets no token meanwhile.
        let (other, _reader) = watch.begin(1_000);
        advance(60);
        other.token_sampled();
        assert_eq!(watch.stall(), None);
        advance(11);
        assert!(matches!(watch.stall(), Some(Stall::NobodyReads(_))));
    }

    #[test]
    fn watch_follows_the_sequences_in_the_engine() {
        let clock = Arc::new(AtomicU64::new(0));
        let now = clock.clone();
        let watch = ProgressWatch::with_clock(move || now.load(Ordering::Relaxed));
        let advance = |seconds: u64| clock.fetch_add(1_000 * seconds, Ordering::Relaxed);
        let (first, _reader) = watch.begin(10);
        // The first prompt is read cold, and teaches nothing.
        first.token_sampled();
        let (second, reader) = watch.begin(100);
        advance(10);
        second.token_sampled();
        assert_eq!(watch.reading_speed(), Some(10.0));
        drop(first);
        advance(31);
        assert!(matches!(watch.stall(), Some(Stall::NoProgress(_))));
        drop(reader);
        advance(20);
        second.token_sampled();
        assert_eq!(watch.stall(), None);
        advance(15);
        assert!(matches!(watch.stall(), Some(Stall::NobodyReads(_))));
        drop(second);
        assert_eq!(watch.stall(), None);
    }
}
