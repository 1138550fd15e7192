//! Attributes the metered energy of a node to the requests that it computes.
//!
//! A meter window is a number of joules over some seconds for each channel of the node's meters. The energy that a channel
//! would have shown without requests is attributed to idle; the rest is divided among the requests that used what the
//! channel measures, in proportion to their work in the window. A request that ends within a window cannot wait for its
//! close: it is charged its work at the price of earlier windows, and the difference from its actual share is
//! carried over to later requests, each of which is charged a small part of it. What they do not settle within some
//! seconds is attributed to idle. At any time
//!
//! attributed + idle + carried = metered
//!
//! holds, and a window without work settles the carried amount with idle.
//!
//! Work is measured in seconds of the whole processor or GPU (see [`EngineTime`](super::EngineTime)), so that the price
//! of a second hardly depends on how many requests share it.

mod idle_line;
mod work_price;

use std::collections::HashMap;

use idle_line::IdleLine;
use work_price::WorkPrice;

/// The largest share of its own energy by which a request may be charged more or less to settle the
/// carried amount, so that many requests settle it, each a little. Our own choice.
const MAX_SETTLED_SHARE: f64 = 0.1;

/// The time in which the carried amount falls to 1/e by what is attributed to idle: 5 % are left after ten seconds. Our
/// own choice.
const CARRY_SECONDS: f64 = 3.3;

/// What a meter channel measures, and so which work its energy is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeteredPart {
    /// The processors, or their memory.
    Processors,
    /// One GPU, by its index on the node.
    Gpu(u32),
    /// The whole node.
    Node,
}

/// The GPUs that compute a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum GpuUse {
    /// The processors alone compute it.
    #[default]
    None,
    /// The GPU with this index on the node.
    One(u32),
    /// It is not known which of them: all.
    All,
}

/// Seconds of computing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Seconds in which all processors were busy with it.
    pub processors: f64,
    /// Seconds in which its GPU was busy with it. Without meaning where no GPU computes it.
    pub gpu: f64,
}

/// The energy that a meter channel counted between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelWindow {
    /// The number of the channel, always the same.
    pub channel: usize,
    /// What it measures.
    pub part: MeteredPart,
    /// The metered energy.
    pub joules: f64,
    /// The energy without requests, where that is known: it is an estimate. `None`: it is learnt.
    pub idle_joules: Option<f64>,
    /// The share, 0 to 1, of the energy above idle that is caused by requests: other programs run on
    /// the node, too.
    pub own_share: f64,
}

/// The energy that the channels counted between two readings. Together they are what the node drew.
#[derive(Debug, Clone, Copy)]
pub struct MeterWindow<'a> {
    /// The length of the window.
    pub seconds: f64,
    /// The readings.
    pub channels: &'a [ChannelWindow],
    /// Whether models were loaded or unloaded in the window: what is drawn for that says nothing of idle.
    pub is_loading: bool,
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
    open: OpenWork,
    /// Joules of the closed windows.
    joules: f64,
    /// Joules of the window that is being closed.
    window_joules: f64,
}

/// The work of a request in the open window.
#[derive(Debug, Clone, Copy, Default)]
struct OpenWork {
    gpus: GpuUse,
    work: Work,
}

impl OpenWork {
    /// The seconds by which the energy of a part is divided.
    fn on(&self, part: MeteredPart) -> f64 {
        match (part, self.gpus) {
            (MeteredPart::Processors, _) | (MeteredPart::Node, GpuUse::None) => {
                self.work.processors
            }
            (MeteredPart::Gpu(_), GpuUse::None) => 0.0,
            (MeteredPart::Gpu(gpu), GpuUse::One(own)) if gpu != own => 0.0,
            (MeteredPart::Gpu(_) | MeteredPart::Node, GpuUse::One(_) | GpuUse::All) => {
                self.work.gpu
            }
        }
    }
}

/// The energy accounts of one node's requests.
#[derive(Debug)]
pub struct Ledger {
    accounts: HashMap<u64, RequestAccount>,
    next: u64,
    /// The idle power in watts that is assumed before any was learnt, of all but GPUs.
    guessed_idle: f64,
    /// The idle lines, by the numbers of their channels.
    lines: Vec<Option<IdleLine>>,
    /// The idle power of the channels of the last window, in watts.
    idle_watts: f64,
    prices: HashMap<MeteredPart, WorkPrice>,
    /// The parts that the last window was about, each once.
    parts: Vec<MeteredPart>,
    /// The work in the open window of requests that have ended.
    ended: Vec<OpenWork>,
    /// The carried amount at the last close that is not settled yet.
    owed: f64,
    totals: LedgerTotals,
}

impl Ledger {
    /// An empty ledger of a node that draws about so many watts without requests, not counting its GPUs.
    #[must_use]
    pub fn new(guessed_idle: f64) -> Self {
        let guessed_idle = guessed_idle.max(0.0);
        Self {
            accounts: HashMap::new(),
            next: 0,
            guessed_idle,
            lines: Vec::new(),
            idle_watts: guessed_idle,
            prices: HashMap::new(),
            parts: vec![MeteredPart::Processors],
            ended: Vec::new(),
            owed: 0.0,
            totals: LedgerTotals::default(),
        }
    }

    /// Opens the account of a request and returns its id.
    pub fn open_account(&mut self, gpus: GpuUse) -> u64 {
        let account = self.next;
        self.next += 1;
        let mut opened = RequestAccount::default();
        opened.open.gpus = gpus;
        self.accounts.insert(account, opened);
        account
    }

    /// Adds work to an account.
    pub fn add_work(&mut self, account: u64, work: Work) {
        if let Some(account) = self.accounts.get_mut(&account) {
            account.open.work.processors += work.processors.max(0.0);
            account.open.work.gpu += work.gpu.max(0.0);
        }
    }

    /// Closes the account of a request that has ended and returns its joules. `guess` is a price in
    /// joules per second of the processors' work, which is used until windows have shown a better one.
    pub fn settle_account(&mut self, account: u64, guess: f64) -> f64 {
        let Some(account) = self.accounts.remove(&account) else {
            return 0.0;
        };
        let price = |part| {
            let guess = match part {
                // Nobody knows what a GPU draws before it was seen to.
                MeteredPart::Gpu(_) => None,
                MeteredPart::Processors | MeteredPart::Node => Some(guess),
            };
            let price = self.prices.get(&part).copied().unwrap_or_default();
            account.open.on(part) * price.per_second(guess)
        };
        let own = self.parts.iter().map(|part| price(*part)).sum();
        let advance = own + self.settle_carried(own);
        self.ended.push(account.open);
        self.totals.attributed += advance;
        self.totals.carried -= advance;
        account.joules + advance
    }

    /// Makes the idle power new: a model came or went.
    pub fn restart_idle(&mut self) {
        self.lines.iter_mut().flatten().for_each(IdleLine::restart);
    }

    /// Closes the open window with a reading of the meters.
    pub fn close_window(&mut self, window: MeterWindow<'_>) {
        let seconds = window.seconds;
        let is_valid =
            |channel: &&ChannelWindow| channel.joules >= 0.0 && channel.joules.is_finite();
        let has_reading = window.channels.iter().any(|channel| is_valid(&channel));
        // Readings of a stopped clock or a broken meter are ignored.
        if !(seconds > 0.0 && seconds.is_finite() && has_reading) {
            return;
        }
        self.parts.clear();
        self.idle_watts = 0.0;
        let mut has_work = false;
        for channel in window.channels.iter().filter(is_valid) {
            has_work |= self.close_channel(channel, seconds, window.is_loading);
        }
        self.ended.clear();
        if has_work {
            self.owed = self.totals.carried;
            self.charge_accounts();
            // Most of it is settled by requests before.
            let rest = self.owed * -(-seconds / CARRY_SECONDS).exp_m1();
            self.owed -= rest;
            self.settle_with_idle(rest);
        } else {
            self.owed = 0.0;
            self.settle_with_idle(self.totals.carried);
        }
        for account in self.accounts.values_mut() {
            account.open.work = Work::default();
        }
    }

    /// Divides the energy of a channel. Returns whether there was work for it.
    fn close_channel(&mut self, channel: &ChannelWindow, seconds: f64, is_loading: bool) -> bool {
        let ChannelWindow { part, joules, .. } = *channel;
        if !self.parts.contains(&part) {
            self.parts.push(part);
        }
        self.totals.metered += joules;
        let open: f64 = self.accounts.values().map(|a| a.open.on(part)).sum();
        let ended: f64 = self.ended.iter().map(|ended| ended.on(part)).sum();
        let work = open + ended;
        let line = line(&mut self.lines, channel, self.guessed_idle);
        let above = match channel.idle_joules {
            Some(idle) => joules - idle,
            None if work > 0.0 => line.above(joules, seconds),
            None if is_loading => {
                line.learn_while_loading(joules, seconds);
                0.0
            }
            None => {
                line.learn(joules, seconds);
                0.0
            }
        };
        self.idle_watts += channel
            .idle_joules
            .map_or(line.watts(), |joules| joules / seconds);
        let above = if work > 0.0 {
            above.max(0.0) * channel.own_share.clamp(0.0, 1.0)
        } else {
            0.0
        };
        self.totals.idle += joules - above;
        if work > 0.0 {
            self.prices.entry(part).or_default().learn(above, work);
            // Joules that were settled before are out of `carried` already; those of this window are added.
            self.totals.carried += above * ended / work;
            for account in self.accounts.values_mut() {
                account.window_joules += above * account.open.on(part) / work;
            }
        }
        work > 0.0
    }

    /// Charges the accounts their parts of the window, with a part of the carried amount.
    fn charge_accounts(&mut self) {
        let pool: f64 = self.accounts.values().map(|a| a.window_joules).sum();
        if pool <= 0.0 {
            return;
        }
        let made_up = self.settle_carried(pool);
        self.totals.carried -= made_up;
        self.totals.attributed += pool + made_up;
        for account in self.accounts.values_mut() {
            account.joules += std::mem::take(&mut account.window_joules) * (1.0 + made_up / pool);
        }
    }

    /// Returns the part of the carried joules that is added to a request with `own` joules of its own.
    fn settle_carried(&mut self, own: f64) -> f64 {
        let most = MAX_SETTLED_SHARE * own;
        let made_up = self.owed.min(most).max(-most);
        self.owed -= made_up;
        made_up
    }

    /// Attributes carried joules to idle.
    fn settle_with_idle(&mut self, joules: f64) {
        self.totals.carried -= joules;
        self.totals.idle += joules;
    }

    /// The idle power in watts, as learnt or estimated.
    #[must_use]
    pub fn idle_watts(&self) -> f64 {
        self.idle_watts
    }

    /// The totals since the ledger was opened.
    #[must_use]
    pub fn totals(&self) -> LedgerTotals {
        self.totals
    }
}

/// Returns the idle line of a channel. The guess of the node's idle power is that of the first channel that is no GPU.
fn line<'a>(
    lines: &'a mut Vec<Option<IdleLine>>,
    channel: &ChannelWindow,
    guessed_idle: f64,
) -> &'a mut IdleLine {
    if lines.len() <= channel.channel {
        lines.resize(channel.channel + 1, None);
    }
    let is_first = lines.iter().all(Option::is_none);
    lines[channel.channel].get_or_insert_with(|| match channel.part {
        MeteredPart::Processors | MeteredPart::Node if is_first => IdleLine::guessed(guessed_idle),
        _ => IdleLine::default(),
    })
}

#[cfg(test)]
mod gpu_meter_tests;
#[cfg(test)]
mod tests;
