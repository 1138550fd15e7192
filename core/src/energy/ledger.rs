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
        // Joules that were settled before are out of `carried` already; those of this window are added.
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

    /// Returns the part of the carried joules that is added to a request with `own` joules of its own.
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
mod tests;
