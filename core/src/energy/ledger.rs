//! Attributes the metered energy of a node to the requests that it computes.
//!
//! A meter window is a number of joules over some seconds. The energy that the node would have drawn
//! without requests is attributed to idle; the rest is divided among the requests of the window in
//! proportion to their work. A request that ends within a window cannot wait for its close: it is
//! charged its work at the price of earlier windows, and the difference from its actual share is
//! carried over to later requests, each of which is charged a small part of it. At any time
//!
//! attributed + idle + carried = metered
//!
//! holds, and a window without work settles the carried amount with idle.
//!
//! Work is measured in seconds of computing: prefill by the time it takes, decode by the number of
//! tokens times the time per token of the model. Requests of a large and of a small model on one
//! node, and requests for several choices, are charged accordingly.

use std::collections::HashMap;

/// Seconds of work after which earlier windows weigh 1/e in the price: a single window may be
/// shorter than the resolution of a meter. Our own choice.
const PRICE_MEMORY_SECONDS: f64 = 5.0;
/// Seconds of work that the initial guess of the price weighs. Our own choice.
const GUESS_WEIGHT_SECONDS: f64 = 0.25;
/// The weight of each second without work in the running mean of the idle power, which other
/// programs on the node raise and lower. Our own choice.
const IDLE_WEIGHT_PER_SECOND: f64 = 0.05;

/// The largest share of its own energy by which a request may be charged more or less to settle the
/// carried amount, so that many requests settle it, each a little. Our own choice.
const MAX_SETTLED_SHARE: f64 = 0.1;

/// The longest time that a meter may lag behind, in seconds of idle power: longer than the fuel gauge
/// of a battery does. Our own estimate.
const MAX_LAG_SECONDS: f64 = 30.0;

/// The energy that meters counted between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterWindow {
    /// The length of the window.
    pub seconds: f64,
    /// The metered energy.
    pub joules: f64,
    /// The share, 0 to 1, of the energy above idle that is caused by requests: other programs run on
    /// the node, too.
    pub own_share: f64,
}

/// Joules since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LedgerTotals {
    /// All metered energy.
    pub metered: f64,
    /// The energy attributed to requests, those under way included.
    pub attributed: f64,
    /// The energy attributed to no request.
    pub idle: f64,
    /// The energy by which ended requests were charged too little, or too much if it is negative.
    pub carried: f64,
}

/// A request under way.
#[derive(Debug, Clone, Copy, Default)]
struct RequestAccount {
    /// Seconds of work in the open window.
    work: f64,
    /// Joules of the closed windows.
    joules: f64,
}

/// The joules per second of work in the closed windows, as a decaying mean.
#[derive(Debug)]
struct WorkPrice {
    joules: f64,
    work: f64,
    /// Seconds of work that the initial guess still weighs.
    guess: f64,
}

impl Default for WorkPrice {
    fn default() -> Self {
        Self {
            joules: 0.0,
            work: 0.0,
            guess: GUESS_WEIGHT_SECONDS,
        }
    }
}

impl WorkPrice {
    fn learn(&mut self, joules: f64, work: f64) {
        let keeps = (-work / PRICE_MEMORY_SECONDS).exp();
        self.joules = self.joules * keeps + joules;
        self.work = self.work * keeps + work;
        self.guess *= keeps;
    }

    fn per_second(&self, guess: f64) -> f64 {
        (self.joules + guess.max(0.0) * self.guess) / (self.work + self.guess)
    }
}

/// The energy accounts of one node's requests.
#[derive(Debug)]
pub struct Ledger {
    accounts: HashMap<u64, RequestAccount>,
    next: u64,
    /// Idle power in watts.
    idle: f64,
    /// Whether the idle power was configured: then it is not learnt.
    configured: bool,
    /// The price of work.
    price: WorkPrice,
    /// Joules by which windows with work were below idle, to be deducted from later windows.
    lacks: f64,
    /// Seconds of work in the open window of requests that have ended.
    ended_work: f64,
    /// The carried amount at the last close that is not settled yet.
    owed: f64,
    totals: LedgerTotals,
}

impl Ledger {
    /// An empty ledger of a node with so many watts of idle power. If the power is not `configured`,
    /// it is learnt from windows without work.
    #[must_use]
    pub fn new(idle: f64, configured: bool) -> Self {
        Self {
            accounts: HashMap::new(),
            next: 0,
            idle: idle.max(0.0),
            configured,
            price: WorkPrice::default(),
            lacks: 0.0,
            ended_work: 0.0,
            owed: 0.0,
            totals: LedgerTotals::default(),
        }
    }

    /// Opens the account of a request and returns its id.
    pub fn open_account(&mut self) -> u64 {
        let account = self.next;
        self.next += 1;
        self.accounts.insert(account, RequestAccount::default());
        account
    }

    /// Adds seconds of work to an account.
    pub fn add_work(&mut self, account: u64, seconds: f64) {
        if let Some(account) = self.accounts.get_mut(&account) {
            account.work += seconds.max(0.0);
        }
    }

    /// Closes the account of a request that has ended and returns its joules. `guess` is a price in
    /// joules per second of work, which is used until windows have shown a better one.
    pub fn settle_account(&mut self, account: u64, guess: f64) -> f64 {
        let Some(account) = self.accounts.remove(&account) else {
            return 0.0;
        };
        let own = account.work * self.price.per_second(guess);
        let advance = own + self.settle_carried(own);
        self.ended_work += account.work;
        self.totals.attributed += advance;
        self.totals.carried -= advance;
        account.joules + advance
    }

    /// Closes the open window with a reading of the meters.
    pub fn close_window(&mut self, window: MeterWindow) {
        let MeterWindow {
            seconds,
            joules,
            own_share,
        } = window;
        // Readings of a stopped clock or a broken meter are ignored.
        if !(seconds > 0.0 && seconds.is_finite() && joules >= 0.0 && joules.is_finite()) {
            return;
        }
        self.totals.metered += joules;
        let open: f64 = self.accounts.values().map(|account| account.work).sum();
        let work = open + self.ended_work;
        if work <= 0.0 {
            self.learn_idle(joules / seconds, seconds);
            self.lacks = 0.0;
            self.totals.idle += joules + self.totals.carried;
            self.totals.carried = 0.0;
            self.owed = 0.0;
            return;
        }
        let above = self.above_idle(joules, seconds) * own_share.clamp(0.0, 1.0);
        self.totals.idle += joules - above;
        self.price.learn(above, work);
        // What was told before is out of `carried` already; what this window gave is to be put in.
        let pool = above * open / work;
        self.totals.carried += above - pool;
        self.owed = self.totals.carried;
        if open > 0.0 {
            let made_up = self.settle_carried(pool);
            let settled = pool + made_up;
            self.totals.carried -= made_up;
            self.totals.attributed += settled;
            for account in self.accounts.values_mut() {
                account.joules += settled * account.work / open;
                account.work = 0.0;
            }
        }
        self.ended_work = 0.0;
    }

    /// The part of the carried joules that a request settles whose own energy is `own`.
    fn settle_carried(&mut self, own: f64) -> f64 {
        let most = MAX_SETTLED_SHARE * own;
        let made_up = self.owed.min(most).max(-most);
        self.owed -= made_up;
        made_up
    }

    /// The joules of a window above idle. A meter may stand still for some windows and catch up in a
    /// later one: what the earlier windows lacked is deducted first.
    fn above_idle(&mut self, joules: f64, seconds: f64) -> f64 {
        let above = joules - self.idle * seconds - self.lacks;
        self.lacks = (-above).clamp(0.0, self.idle * MAX_LAG_SECONDS);
        above.max(0.0)
    }

    fn learn_idle(&mut self, watts: f64, seconds: f64) {
        if !self.configured {
            let follows = (IDLE_WEIGHT_PER_SECOND * seconds).min(1.0);
            self.idle += follows * (watts - self.idle);
        }
    }

    /// The idle power in watts, as configured or learnt.
    #[must_use]
    pub fn idle_watts(&self) -> f64 {
        self.idle
    }

    /// The totals since the ledger was opened.
    #[must_use]
    pub fn totals(&self) -> LedgerTotals {
        self.totals
    }
}

#[cfg(test)]
mod tests {
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
        let told = totals.attributed + totals.idle + totals.carried;
        (told - totals.metered).abs() <= 1e-9 * totals.metered.max(1.0)
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
        let mut told = Vec::new();
        for _ in 0..200 {
            for _ in 0..10 {
                let account = ledger.open_account();
                ledger.add_work(account, 0.01);
                told.push(ledger.settle_account(account, 10.0));
            }
            ledger.close_window(window(0.1, 1.2));
        }
        let sum: f64 = told.iter().sum();
        assert!((sum - 240.0).abs() < 0.5, "{sum} of 240 J");
        let most = told.iter().copied().fold(0.0, f64::max);
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
        let told = ledger.settle_account(account, 1.0);
        assert!((told - 144.0).abs() < 1.0, "{told} of 144 J");
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
            let mut told = 0.0;
            for step in steps {
                match step {
                    LedgerStep::Open => open.push(ledger.open_account()),
                    LedgerStep::Work(at, work) if at < open.len() => ledger.add_work(open[at], work),
                    LedgerStep::Settle(at) if at < open.len() => told += ledger.settle_account(open.remove(at), 3.0),
                    LedgerStep::Work(..) | LedgerStep::Settle(_) => {}
                    LedgerStep::Close(seconds, joules, own_share) => {
                        ledger.close_window(MeterWindow { seconds, joules, own_share });
                    }
                }
                prop_assert!(balanced(ledger.totals()), "{:?}", ledger.totals());
            }
            for account in open {
                told += ledger.settle_account(account, 10.0);
            }
            // After the last work and a window without any, nothing is carried any more.
            ledger.close_window(window(1.0, 0.0));
            ledger.close_window(window(1.0, 30.0));
            let totals = ledger.totals();
            prop_assert!(totals.carried.abs() < 1e-6, "{totals:?}");
            prop_assert!((told - totals.attributed).abs() <= 1e-9 * told.max(1.0), "{told} {totals:?}");
            prop_assert!((totals.attributed + totals.idle - totals.metered).abs() < 1e-6);
        }
    }
}
