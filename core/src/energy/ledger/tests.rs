use super::*;
use proptest::prelude::*;

fn window(seconds: f64, joules: f64) -> MeterWindow {
    MeterWindow {
        seconds,
        joules,
        own_share: 1.0,
    }
}

fn balanced(totals: LedgerTotals) -> bool {
    let settled = totals.attributed + totals.idle + totals.carried;
    (settled - totals.metered).abs() <= 1e-9 * totals.metered.max(1.0)
}

#[test]
fn joules_are_divided_in_proportion_to_work() {
    let mut ledger = Ledger::new(10.0, true);
    let (one, three) = (ledger.open_account(), ledger.open_account());
    for _ in 0..10 {
        ledger.add_work(one, 0.1);
        ledger.add_work(three, 0.3);
        // 10 W idle, 40 W of work.
        ledger.close_window(window(1.0, 50.0));
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
    let mut ledger = Ledger::new(0.0, true);
    let (short, long) = (ledger.open_account(), ledger.open_account());
    ledger.add_work(short, 1.0);
    assert!((ledger.settle_account(short, 10.0) - 10.0).abs() < 1e-9);
    ledger.add_work(long, 1.0);
    // The actual share is 12 J each: the other request is charged a tenth more than that, and the
    // next one the rest.
    ledger.close_window(window(1.0, 24.0));
    assert!((ledger.settle_account(long, 10.0) - 13.2).abs() < 1e-9);
    assert!((ledger.totals().carried - 0.8).abs() < 1e-9);
    let next = ledger.open_account();
    ledger.add_work(next, 1.0);
    ledger.close_window(window(1.0, 12.0));
    assert!((ledger.settle_account(next, 10.0) - 12.8).abs() < 1e-9);
    assert!(ledger.totals().carried.abs() < 1e-9);
    assert!(balanced(ledger.totals()));
}

#[test]
fn requests_that_end_within_windows_settle_the_carried_amount_too() {
    let mut ledger = Ledger::new(0.0, true);
    let mut settled = Vec::new();
    for _ in 0..200 {
        for _ in 0..10 {
            let account = ledger.open_account();
            ledger.add_work(account, 0.01);
            settled.push(ledger.settle_account(account, 10.0));
        }
        ledger.close_window(window(0.1, 1.2));
    }
    let sum: f64 = settled.iter().sum();
    assert!((sum - 240.0).abs() < 0.5, "{sum} of 240 J");
    let most = settled.iter().copied().fold(0.0, f64::max);
    assert!(most <= 1.1 * 0.12 + 1e-9, "{most} of 0.12 J");
    assert!(balanced(ledger.totals()));
}

#[test]
fn coarse_meter_attributes_no_more_than_was_drawn() {
    let mut ledger = Ledger::new(6.0, true);
    let account = ledger.open_account();
    // 10 W, reported as 36 J every 36th window of 100 ms.
    for window_at in 1..=360 {
        ledger.add_work(account, 0.1);
        ledger.close_window(window(0.1, if window_at % 36 == 0 { 36.0 } else { 0.0 }));
    }
    let settled = ledger.settle_account(account, 1.0);
    assert!((settled - 144.0).abs() < 1.0, "{settled} of 144 J");
    assert!(balanced(ledger.totals()));
}

#[test]
fn idle_power_is_learnt_unless_configured() {
    let mut ledger = Ledger::new(3.0, false);
    for _ in 0..200 {
        ledger.close_window(window(1.0, 20.0));
    }
    assert!((ledger.idle_watts() - 20.0).abs() < 0.01);
    let account = ledger.open_account();
    ledger.add_work(account, 1.0);
    ledger.close_window(window(1.0, 25.0));
    assert!((ledger.settle_account(account, 10.0) - 5.0).abs() < 0.01);
}

#[test]
fn energy_of_other_programs_is_not_attributed_to_requests() {
    let mut ledger = Ledger::new(10.0, true);
    let account = ledger.open_account();
    ledger.add_work(account, 1.0);
    ledger.close_window(MeterWindow {
        own_share: 0.25,
        ..window(1.0, 50.0)
    });
    assert!((ledger.settle_account(account, 10.0) - 10.0).abs() < 1e-9);
    assert!((ledger.totals().idle - 40.0).abs() < 1e-9);
}

#[test]
fn broken_readings_are_ignored() {
    let mut ledger = Ledger::new(10.0, true);
    for (seconds, joules) in [(0.0, 5.0), (-1.0, 5.0), (1.0, f64::NAN), (1.0, -3.0)] {
        ledger.close_window(window(seconds, joules));
    }
    assert_eq!(ledger.totals(), LedgerTotals::default());
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
        steps in prop::collection::vec(step(), 1..200), configured: bool,
    ) {
        let mut ledger = Ledger::new(20.0, configured);
        let mut open = Vec::new();
        let mut settled = 0.0;
        for step in steps {
            match step {
                LedgerStep::Open => open.push(ledger.open_account()),
                LedgerStep::Work(at, work) if at < open.len() => ledger.add_work(open[at], work),
                LedgerStep::Settle(at) if at < open.len() => settled += ledger.settle_account(open.remove(at), 3.0),
                LedgerStep::Work(..) | LedgerStep::Settle(_) => {}
                LedgerStep::Close(seconds, joules, own_share) => {
                    ledger.close_window(MeterWindow { seconds, joules, own_share });
                }
            }
            prop_assert!(balanced(ledger.totals()), "{:?}", ledger.totals());
        }
        for account in open {
            settled += ledger.settle_account(account, 10.0);
        }
        // After the last work and a window without any, nothing is carried any more.
        ledger.close_window(window(1.0, 0.0));
        ledger.close_window(window(1.0, 30.0));
        let totals = ledger.totals();
        prop_assert!(totals.carried.abs() < 1e-6, "{totals:?}");
        prop_assert!((settled - totals.attributed).abs() <= 1e-9 * settled.max(1.0), "{settled} {totals:?}");
        prop_assert!((totals.attributed + totals.idle - totals.metered).abs() < 1e-6);
    }
}
