//! Divides what a node's meters count among the requests that it computes.
//!
//! A meter's window gives joules over some seconds. What the node would have drawn anyway is the idle
//! line's; what is above is divided among the requests that worked in the window, in proportion to
//! their work. A request that ends within a window cannot wait for its close: it is told its work at
//! the price of the windows before, and the difference to what its part turns out to be is carried
//! over to those that work next, of whom each makes up for a little. So at any time
//!
//! attributed + idle + carried = metered
//!
//! and a window without work settles what is carried with the idle line.
//!
//! Work is in seconds of computing: reading a prompt counts by the time it takes, writing by tokens
//! at what a token of that model takes, so that requests of a large and of a small model on one
//! node, and one that writes several answers at once, are told apart.

use std::collections::HashMap;

/// Seconds of work after which what was seen before counts for a third (1/e) of the price: a single
/// window may be shorter than what a meter can tell.
const PRICE_REMEMBERS: f64 = 5.0;
/// Seconds of work that a guess of the price counts for at first.
const GUESS_COUNTS: f64 = 0.25;
/// How fast the idle draw follows windows without work, per second of such: others run on the node
/// too, and what they draw goes up and down.
const IDLE_FOLLOWS: f64 = 0.05;

/// Which part of what a request takes by itself may be added or taken off for what was told wrong of
/// others: what is carried is made up for by many, a little each.
const MAKES_UP: f64 = 0.1;

/// Seconds of the idle draw that a meter may lag behind: longer than any battery's gauge does.
const LACKS_AT_MOST: f64 = 30.0;

/// What meters counted, from one reading to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterWindow {
    pub seconds: f64,
    pub joules: f64,
    /// Which part (0 to 1) of what is above idle may be the requests' at all: others compute on the
    /// node too.
    pub own_share: f64,
}

/// Joules since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LedgerTotals {
    pub metered: f64,
    /// What went to requests, those under way included.
    pub attributed: f64,
    /// What went to none.
    pub idle: f64,
    /// What was told too little (or too much, below 0) of ended requests.
    pub carried: f64,
}

/// A request under way.
#[derive(Debug, Clone, Copy, Default)]
struct RequestAccount {
    /// Work of the open window.
    work: f64,
    /// Joules of the closed ones.
    joules: f64,
}

/// Joules per second of work, by the windows that were closed.
#[derive(Debug)]
struct WorkPrice {
    joules: f64,
    work: f64,
    /// Seconds of work that a guess counts for beside them.
    guess: f64,
}

impl Default for WorkPrice {
    fn default() -> Self {
        Self {
            joules: 0.0,
            work: 0.0,
            guess: GUESS_COUNTS,
        }
    }
}

impl WorkPrice {
    fn learn(&mut self, joules: f64, work: f64) {
        let keeps = (-work / PRICE_REMEMBERS).exp();
        self.joules = self.joules * keeps + joules;
        self.work = self.work * keeps + work;
        self.guess *= keeps;
    }

    fn per_second(&self, guess: f64) -> f64 {
        (self.joules + guess.max(0.0) * self.guess) / (self.work + self.guess)
    }
}

/// The accounts of one node.
#[derive(Debug)]
pub struct Ledger {
    accounts: HashMap<u64, RequestAccount>,
    next: u64,
    /// Watts that are drawn without requests.
    idle: f64,
    /// Whether somebody who knows said so: then it is not learnt.
    configured: bool,
    /// What the price of work is told from.
    price: WorkPrice,
    /// Joules that windows with work lacked to idle, not made up for yet.
    lacks: f64,
    /// Work of the open window that was of requests that have ended.
    ended_work: f64,
    /// What was carried at the last close and is not made up for yet.
    owed: f64,
    totals: LedgerTotals,
}

impl Ledger {
    /// An empty ledger of a node that draws so many watts idle, `configured` if somebody knows.
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

    /// A request begins to be computed. Returns its account.
    pub fn open_account(&mut self) -> u64 {
        let account = self.next;
        self.next += 1;
        self.accounts.insert(account, RequestAccount::default());
        account
    }

    /// A request was computed for so many more seconds.
    pub fn add_work(&mut self, account: u64, seconds: f64) {
        if let Some(account) = self.accounts.get_mut(&account) {
            account.work += seconds.max(0.0);
        }
    }

    /// A request has ended. Returns the joules that it took. `guess`: joules per second of work, for as
    /// long as no window has shown better.
    pub fn settle_account(&mut self, account: u64, guess: f64) -> f64 {
        let Some(account) = self.accounts.remove(&account) else {
            return 0.0;
        };
        let own = account.work * self.price.per_second(guess);
        let advance = own + self.make_up(own);
        self.ended_work += account.work;
        self.totals.attributed += advance;
        self.totals.carried -= advance;
        account.joules + advance
    }

    /// The meters were read.
    pub fn close_window(&mut self, window: MeterWindow) {
        let MeterWindow {
            seconds,
            joules,
            own_share,
        } = window;
        // A clock that stood still or a meter that broke says nothing.
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
            let made_up = self.make_up(pool);
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

    /// What of the carried joules those make up for that took so many by themselves.
    fn make_up(&mut self, own: f64) -> f64 {
        let most = MAKES_UP * own;
        let made_up = self.owed.min(most).max(-most);
        self.owed -= made_up;
        made_up
    }

    /// What was drawn above idle. A meter may stand still for some windows and make up for it in one:
    /// what those lacked is taken off before anything counts as above.
    fn above_idle(&mut self, joules: f64, seconds: f64) -> f64 {
        let above = joules - self.idle * seconds - self.lacks;
        self.lacks = (-above).clamp(0.0, self.idle * LACKS_AT_MOST);
        above.max(0.0)
    }

    fn learn_idle(&mut self, watts: f64, seconds: f64) {
        if !self.configured {
            let follows = (IDLE_FOLLOWS * seconds).min(1.0);
            self.idle += follows * (watts - self.idle);
        }
    }

    /// Watts that are drawn without requests, as far as is known.
    #[must_use]
    pub fn idle_watts(&self) -> f64 {
        self.idle
    }

    /// All there was.
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
    fn three_times_the_work_gets_three_times_the_joules() {
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
    fn what_ends_within_a_window_is_told_at_the_price_before_and_many_make_up_for_the_difference() {
        let mut ledger = Ledger::new(0.0, true);
        let (short, long) = (ledger.open_account(), ledger.open_account());
        ledger.add_work(short, 1.0);
        assert!((ledger.settle_account(short, 10.0) - 10.0).abs() < 1e-9);
        ledger.add_work(long, 1.0);
        // 12 J each would have been fair: the other one takes a tenth more than that, and the next one
        // the rest.
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
    fn those_who_end_within_windows_make_up_for_others_too() {
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
    fn a_meter_that_moves_in_steps_tells_no_more_than_was_drawn() {
        let mut ledger = Ledger::new(6.0, true);
        let account = ledger.open_account();
        // 10 W, told as 36 J every 36th window of 100 ms.
        for window_at in 1..=360 {
            ledger.add_work(account, 0.1);
            ledger.close_window(window(0.1, if window_at % 36 == 0 { 36.0 } else { 0.0 }));
        }
        let told = ledger.settle_account(account, 1.0);
        assert!((told - 144.0).abs() < 1.0, "{told} of 144 J");
        assert!(balanced(ledger.totals()));
    }

    #[test]
    fn the_idle_draw_is_learnt_where_nobody_states_it() {
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
    fn what_others_compute_is_not_the_requests() {
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
    fn broken_readings_change_nothing() {
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
        fn what_is_attributed_and_what_is_idle_is_what_was_metered(
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
            // The end of the last work, and a window without any: nothing is carried any more.
            ledger.close_window(window(1.0, 0.0));
            ledger.close_window(window(1.0, 30.0));
            let totals = ledger.totals();
            prop_assert!(totals.carried.abs() < 1e-6, "{totals:?}");
            prop_assert!((told - totals.attributed).abs() <= 1e-9 * told.max(1.0), "{told} {totals:?}");
            prop_assert!((totals.attributed + totals.idle - totals.metered).abs() < 1e-6);
        }
    }
}
