use super::*;
use proptest::prelude::*;

/// A reading of the processors.
fn channel(joules: f64) -> ChannelWindow {
    ChannelWindow {
        channel: 0,
        part: MeteredPart::Processors,
        joules,
        idle_joules: None,
        own_share: 1.0,
    }
}

impl Ledger {
    /// A ledger whose processors draw `idle` watts without requests.
    fn with_idle(idle: f64) -> Self {
        let mut ledger = Self::new(idle);
        ledger.close(1.0, idle);
        ledger.totals = LedgerTotals::default();
        ledger
    }

    fn open(&mut self) -> u64 {
        self.open_account(GpuUse::None)
    }

    /// Adds seconds of work of the processors.
    fn work(&mut self, account: u64, processors: f64) {
        let work = Work {
            processors,
            gpu: 0.0,
        };
        self.add_work(account, work);
    }

    /// Closes a window in which the processors drew so many joules.
    fn close(&mut self, seconds: f64, joules: f64) {
        self.close_with(seconds, &[channel(joules)]);
    }

    fn close_with(&mut self, seconds: f64, channels: &[ChannelWindow]) {
        self.close_window(MeterWindow {
            seconds,
            channels,
            is_loading: false,
        });
    }
}

fn balanced(totals: LedgerTotals) -> bool {
    let settled = totals.attributed + totals.idle + totals.carried;
    (settled - totals.metered).abs() <= 1e-9 * totals.metered.max(1.0)
}

#[test]
fn joules_are_divided_in_proportion_to_work() {
    let mut ledger = Ledger::with_idle(10.0);
    let (one, three) = (ledger.open(), ledger.open());
    for _ in 0..10 {
        ledger.work(one, 0.1);
        ledger.work(three, 0.3);
        // 10 W idle, 40 W of work.
        ledger.close(1.0, 50.0);
    }
    let (one, three) = (
        ledger.settle_account(one, 10.0),
        ledger.settle_account(three, 10.0),
    );
    assert!(
        (one - 100.0).abs() < 1e-9 && (three - 300.0).abs() < 1e-9,
        "{one} {three}"
    );
    assert!((ledger.totals().idle - 100.0).abs() < 1e-9);
    assert!(balanced(ledger.totals()));
}

#[test]
fn request_that_ends_within_a_window_is_charged_the_earlier_price_and_later_ones_settle_the_difference()
 {
    let mut ledger = Ledger::with_idle(0.0);
    let (short, long) = (ledger.open(), ledger.open());
    ledger.work(short, 1.0);
    assert!((ledger.settle_account(short, 10.0) - 10.0).abs() < 1e-9);
    ledger.work(long, 1.0);
    // The actual share is 12 J each: the other request is charged a tenth more than that, and the
    // next one the rest, but for what has become idle meanwhile.
    ledger.close(0.01, 24.0);
    assert!((ledger.settle_account(long, 10.0) - 13.2).abs() < 1e-9);
    let carried = ledger.totals().carried;
    assert!((0.79..0.8).contains(&carried), "{carried}");
    let next = ledger.open();
    ledger.work(next, 1.0);
    ledger.close(0.01, 12.0);
    assert!((ledger.settle_account(next, 10.0) - 12.0 - carried).abs() < 1e-9);
    assert!(ledger.totals().carried.abs() < 1e-9);
    assert!(balanced(ledger.totals()));
}

#[test]
fn what_requests_do_not_settle_within_ten_seconds_is_idle() {
    let mut ledger = Ledger::with_idle(0.0);
    let short = ledger.open();
    ledger.work(short, 1.0);
    ledger.settle_account(short, 10.0);
    ledger.close(0.1, 110.0);
    let before = ledger.totals().carried;
    let long = ledger.open();
    for _ in 0..100 {
        ledger.work(long, 0.1);
        ledger.close(0.1, 1e-3);
    }
    let after = ledger.totals().carried;
    assert!(before > 90.0 && after < 0.06 * before, "{before} {after}");
    assert!(ledger.settle_account(long, 10.0) < 0.12);
    assert!(balanced(ledger.totals()));
}

#[test]
fn requests_that_end_within_windows_settle_the_carried_amount_too() {
    let mut ledger = Ledger::with_idle(0.0);
    let mut settled = Vec::new();
    for _ in 0..200 {
        for _ in 0..10 {
            let account = ledger.open();
            ledger.work(account, 0.01);
            settled.push(ledger.settle_account(account, 10.0));
        }
        ledger.close(0.1, 1.2);
    }
    let sum: f64 = settled.iter().sum();
    assert!((sum - 240.0).abs() < 0.5, "{sum} of 240 J");
    let most = settled.iter().copied().fold(0.0, f64::max);
    assert!(most <= 1.1 * 0.12 + 1e-9, "{most} of 0.12 J");
    assert!(balanced(ledger.totals()));
}

#[test]
fn coarse_meter_attributes_no_more_than_was_drawn() {
    let mut ledger = Ledger::with_idle(6.0);
    let account = ledger.open();
    // 10 W, reported as 36 J every 36th window of 100 ms.
    for window_at in 1..=360 {
        ledger.work(account, 0.1);
        ledger.close(0.1, if window_at % 36 == 0 { 36.0 } else { 0.0 });
    }
    let settled = ledger.settle_account(account, 1.0);
    assert!((settled - 144.0).abs() < 1.0, "{settled} of 144 J");
    assert!(balanced(ledger.totals()));
}

#[test]
fn idle_power_is_learnt_by_channel_and_an_estimate_states_its_own() {
    let gpu = |joules| ChannelWindow {
        channel: 1,
        part: MeteredPart::Gpu(0),
        ..channel(joules)
    };
    // The processors are estimated: 10 W idle.
    let processors = |joules| ChannelWindow {
        idle_joules: Some(10.0),
        ..channel(joules)
    };
    let mut ledger = Ledger::new(10.0);
    assert!((ledger.idle_watts() - 10.0).abs() < 1e-9);
    ledger.close_with(1.0, &[processors(10.0), gpu(71.0)]);
    assert!((ledger.idle_watts() - 81.0).abs() < 1e-9);
    ledger.restart_idle();
    ledger.close_with(1.0, &[processors(10.0), gpu(122.0)]);
    assert!((ledger.idle_watts() - 132.0).abs() < 1e-9);
    let account = ledger.open_account(GpuUse::One(0));
    let work = Work {
        processors: 0.1,
        gpu: 1.0,
    };
    ledger.add_work(account, work);
    ledger.close_with(1.0, &[processors(13.0), gpu(322.0)]);
    assert!((ledger.settle_account(account, 9.0) - 203.0).abs() < 1e-9);
    assert!(balanced(ledger.totals()));
}

#[test]
fn energy_of_a_gpu_goes_to_the_requests_that_it_computes() {
    let gpu = |index: u32, joules| ChannelWindow {
        channel: 1 + index as usize,
        part: MeteredPart::Gpu(index),
        ..channel(joules)
    };
    let mut ledger = Ledger::with_idle(0.0);
    ledger.close_with(1.0, &[channel(0.0), gpu(0, 0.0), gpu(1, 0.0)]);
    let uses = [GpuUse::None, GpuUse::One(0), GpuUse::One(1), GpuUse::All];
    let accounts = uses.map(|gpus| ledger.open_account(gpus));
    for account in accounts {
        let work = Work {
            processors: 0.25,
            gpu: 1.0,
        };
        ledger.add_work(account, work);
    }
    ledger.close_with(1.0, &[channel(40.0), gpu(0, 200.0), gpu(1, 100.0)]);
    let joules = accounts.map(|account| ledger.settle_account(account, 0.0));
    assert_eq!(joules.map(f64::round), [10.0, 110.0, 60.0, 160.0]);
    // A meter of the whole node takes the work where it is done.
    let [alone, on_gpu] = [GpuUse::None, GpuUse::All].map(|gpus| ledger.open_account(gpus));
    let work = Work {
        processors: 0.5,
        gpu: 1.0,
    };
    ledger.add_work(alone, work);
    ledger.add_work(on_gpu, work);
    let node = ChannelWindow {
        channel: 3,
        part: MeteredPart::Node,
        ..channel(30.0)
    };
    ledger.close_with(1.0, &[node]);
    let joules = [alone, on_gpu].map(|account| ledger.settle_account(account, 0.0));
    assert_eq!(joules.map(f64::round), [10.0, 20.0]);
    // What nobody uses is idle.
    let idle = ledger.totals().idle;
    let alone = ledger.open();
    ledger.work(alone, 1.0);
    ledger.close_with(1.0, &[gpu(0, 50.0)]);
    assert!((ledger.totals().idle - idle - 50.0).abs() < 1e-9);
    assert!(balanced(ledger.totals()));
}

#[test]
fn energy_of_other_programs_is_not_attributed_to_requests() {
    let mut ledger = Ledger::with_idle(10.0);
    let account = ledger.open();
    ledger.work(account, 1.0);
    let shared = ChannelWindow {
        own_share: 0.25,
        ..channel(50.0)
    };
    ledger.close_with(1.0, &[shared]);
    assert!((ledger.settle_account(account, 10.0) - 10.0).abs() < 1e-9);
    assert!((ledger.totals().idle - 40.0).abs() < 1e-9);
}

#[test]
fn broken_readings_are_ignored() {
    let mut ledger = Ledger::with_idle(10.0);
    for (seconds, joules) in [(0.0, 5.0), (-1.0, 5.0), (1.0, f64::NAN), (1.0, -3.0)] {
        ledger.close(seconds, joules);
    }
    assert_eq!(ledger.totals(), LedgerTotals::default());
}

#[test]
fn work_of_a_window_without_a_reading_counts_in_the_next() {
    let mut ledger = Ledger::with_idle(10.0);
    let account = ledger.open();
    ledger.work(account, 1.0);
    ledger.close(1.0, f64::NAN);
    ledger.close(1.0, 30.0);
    assert!((ledger.settle_account(account, 1.0) - 20.0).abs() < 1e-9);
}

#[derive(Debug, Clone)]
enum LedgerStep {
    Open,
    Work(usize, f64),
    Settle(usize),
    Close(f64, f64, f64),
}

fn step() -> impl Strategy<Value = LedgerStep> {
    prop_oneof![
        Just(LedgerStep::Open),
        (0usize..8, 0.0f64..2.0).prop_map(|(at, work)| LedgerStep::Work(at, work)),
        (0usize..8).prop_map(LedgerStep::Settle),
        (0.01f64..2.0, 0.0f64..200.0, 0.0f64..=1.0)
            .prop_map(|(s, j, o)| LedgerStep::Close(s, j, o)),
    ]
}

proptest! {
    #[test]
    fn attributed_and_idle_energy_add_up_to_the_metered_energy(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut ledger = Ledger::new(20.0);
        let mut open = Vec::new();
        let mut settled = 0.0;
        for step in steps {
            match step {
                LedgerStep::Open => open.push(ledger.open()),
                LedgerStep::Work(at, work) if at < open.len() => ledger.work(open[at], work),
                LedgerStep::Settle(at) if at < open.len() => settled += ledger.settle_account(open.remove(at), 3.0),
                LedgerStep::Work(..) | LedgerStep::Settle(_) => {}
                LedgerStep::Close(seconds, joules, own_share) => {
                    ledger.close_with(seconds, &[ChannelWindow { own_share, ..channel(joules) }]);
                }
            }
            prop_assert!(balanced(ledger.totals()), "{:?}", ledger.totals());
        }
        for account in open {
            settled += ledger.settle_account(account, 10.0);
        }
        // After the last work and a window without any, nothing is carried any more.
        ledger.close(1.0, 0.0);
        ledger.close(1.0, 30.0);
        let totals = ledger.totals();
        prop_assert!(totals.carried.abs() < 1e-6, "{totals:?}");
        prop_assert!((settled - totals.attributed).abs() <= 1e-9 * settled.max(1.0), "{settled} {totals:?}");
        prop_assert!((totals.attributed + totals.idle - totals.metered).abs() < 1e-6);
    }
}
