//! Whether a runner responds.
//!
//! The socket tells only that its process exists: one that is stopped, or gets no processor time, keeps it open.
//! So the agent sends it a small request again and again. Only time in which the agent itself has run counts: after
//! a pause of the agent, or of the machine, its runners have as much time as before.

use std::time::Duration;

use flotilla_proto::transport::LinkChannel;
use flotilla_proto::v1::CheckRequest;
use flotilla_proto::v1::runner_client::RunnerClient;
use tokio::time::Instant;

/// How long a runner may leave a check unanswered.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The time between two checks, and how often the silence is measured.
const TICK: Duration = Duration::from_secs(1);

/// How long a runner has been silent, in time in which the agent has run.
#[derive(Debug, Clone, Copy)]
struct Silence {
    time: Duration,
    limit: Duration,
    tick: Duration,
}

impl Silence {
    /// Adds a tick that took `elapsed`. One that took much longer is a pause of the agent itself, and adds two.
    /// Returns whether the silence has become longer than the limit.
    fn add_tick(&mut self, elapsed: Duration) -> bool {
        self.time += elapsed.min(2 * self.tick);
        self.time > self.limit
    }
}

/// Checks the runner at the other end of `channel` until it is silent for too long. Never returns once the
/// connection has ended.
pub(super) async fn until_silent(channel: LinkChannel) {
    let client = RunnerClient::with_origin(channel, flotilla_proto::transport::origin());
    let check = || {
        let mut client = client.clone();
        async move { client.check(CheckRequest {}).await.is_ok() }
    };
    until_unanswered(check, SILENCE_LIMIT, TICK).await;
}

/// Calls `check` with a `tick` between the calls until one is not answered within `limit`. Never returns after a
/// call has failed.
async fn until_unanswered<F: Future<Output = bool>>(
    check: impl Fn() -> F,
    limit: Duration,
    tick: Duration,
) {
    loop {
        let mut answer = std::pin::pin!(check());
        let time = Duration::ZERO;
        let mut silence = Silence { time, limit, tick };
        let is_connected = loop {
            let began = Instant::now();
            tokio::select! {
                biased;
                is_ok = &mut answer => break is_ok,
                () = tokio::time::sleep(tick) => {
                    if silence.add_tick(began.elapsed()) {
                        return;
                    }
                }
            }
        };
        if !is_connected {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(tick).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn pause_of_the_agent_is_no_silence_of_its_runners() {
        let mut silence = Silence {
            time: Duration::ZERO,
            limit: SILENCE_LIMIT,
            tick: TICK,
        };
        assert!(!silence.add_tick(Duration::from_secs(3_600)));
        for _ in 0..8 {
            assert!(!silence.add_tick(TICK));
        }
        assert!(silence.add_tick(TICK), "11 s of its own time");
    }

    #[tokio::test]
    async fn runner_is_silent_once_a_check_is_not_answered_in_time() {
        let checks = Cell::new(0);
        let (limit, tick) = (Duration::from_millis(20), Duration::from_millis(2));
        let unanswered = Cell::new(Instant::now());
        let check = || {
            checks.set(checks.get() + 1);
            unanswered.set(Instant::now());
            let answers = checks.get() <= 3;
            async move { answers || std::future::pending().await }
        };
        until_unanswered(check, limit, tick).await;
        assert_eq!(checks.get(), 4);
        assert!(unanswered.get().elapsed() >= limit);
    }
}
