//! `flotilla top`: the fleet at a terminal, as it is from second to second.
//!
//! The [`feed`] becomes the [`state`]; keys change the [`view`]; both together are drawn ([`draw`]).
//! These know nothing of terminals, networks or clocks. Here is what does: this file owns the
//! terminal, the keys and the time, [`link`] the connection.

mod cursor;
mod decisions;
mod draw;
mod draw_charts;
mod draw_list;
mod feed;
#[cfg(test)]
mod fixture;
mod link;
mod models;
mod nodes;
mod plain;
mod series;
mod state;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_dispatch::DecisionRecord;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

use crate::args::TopArgs;
use crate::client::FleetClient;
use crate::decision_text::decision_text;
use link::News;
use state::State;
use view::{Asked, Screen};

/// News and keys that may wait to be taken in. Where there are more the connection, or the reader
/// of keys, waits.
const WAITING: usize = 64;
/// How often the screen is drawn at most while nobody types.
const FRAME: Duration = Duration::from_millis(100);
/// How often at least: it says how old things are.
const REDRAW: Duration = Duration::from_secs(1);
/// How soon the reader of keys sees that nobody wants them any more.
const KEYS: Duration = Duration::from_millis(100);
/// How long a controller may take to tell of its fleet once, or of a decision.
const ANSWER: Duration = Duration::from_secs(10);

/// Shows the fleet until the user has seen enough; once, where nobody looks.
pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let state = State::new(args.endpoint.url.trim_end_matches('/'));
    if args.once || !std::io::stdout().is_terminal() {
        return once(&fleet, state).await;
    }
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    watch(&fleet, Screen::new(state, east_of_greenwich(), color)).await
}

/// Prints what there is.
async fn once(fleet: &FleetClient, mut state: State) -> anyhow::Result<()> {
    let (to, mut news) = mpsc::channel(WAITING);
    let told = async {
        while !state.complete {
            match news.recv().await {
                Some(News::Lost { problem, .. }) => bail!(problem),
                Some(heard) => state.apply(heard, Instant::now()),
                None => break,
            }
        }
        Ok(())
    };
    tokio::select! {
        () = link::follow(fleet, &to) => {}
        told = timeout(ANSWER, told) => told.context("the fleet does not tell of itself")??,
    }
    print!("{}", plain::snapshot(&state));
    Ok(())
}

/// Gives the terminal back, however the command ends.
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // A panic's hook has done so before the panic was told. Again would put the shell's prompt
        // over what was told.
        if !std::thread::panicking() {
            // A terminal that is gone needs nothing back.
            let _ = ratatui::try_restore();
        }
    }
}

async fn watch(fleet: &FleetClient, mut screen: Screen) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let _give_back = GiveBack;
    let mut terminal =
        ratatui::try_init().context("this terminal cannot be drawn on; try --once")?;

    let (to, mut news) = mpsc::channel(WAITING);
    let follow = link::follow(fleet, &to);
    tokio::pin!(follow);
    let (pressed, mut keys) = mpsc::channel(WAITING);
    let reader = tokio::task::spawn_blocking(move || read_keys(&pressed));
    let mut explanations = FuturesUnordered::new();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut changed, mut drawn) = (true, Instant::now());

    loop {
        tokio::select! {
            key = keys.recv() => {
                match key.context("keys are read no more")?? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        match screen.key(key) {
                            Asked::Quit => break,
                            Asked::Explain(id) => explanations.push(explained(fleet, id)),
                            Asked::Nothing => {}
                        }
                    }
                    _ => {}
                }
                // Typing is seen at once, but not each key of a held one.
                if keys.is_empty() {
                    (changed, drawn) = (false, Instant::now());
                    terminal.draw(|frame| draw::draw(frame, &mut screen, drawn))?;
                }
            }
            Some((id, text)) = explanations.next() => {
                screen.explained(&id, text);
                changed = true;
            }
            Some(heard) = news.recv() => {
                screen.live.apply(heard, Instant::now());
                changed = true;
            }
            _ = frames.tick() => {
                if changed || drawn.elapsed() >= REDRAW {
                    (changed, drawn) = (false, Instant::now());
                    terminal.draw(|frame| draw::draw(frame, &mut screen, drawn))?;
                }
            }
            () = &mut follow => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    drop(keys);
    reader.await?;
    Ok(())
}

/// Hands on what is typed until nobody wants it. Reading blocks: this has its own thread.
fn read_keys(to: &mpsc::Sender<std::io::Result<Event>>) {
    while !to.is_closed() {
        let read = match event::poll(KEYS) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if to.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

/// What is known of a decision, or why that cannot be told.
async fn explained(fleet: &FleetClient, id: String) -> (String, String) {
    let path = ["v1", "decisions", &id];
    let text = match timeout(ANSWER, fleet.get::<DecisionRecord>(&path)).await {
        Ok(Ok(record)) => decision_text(&record),
        Ok(Err(error)) => format!("It cannot be explained: {error:#}"),
        Err(_) => "The controller does not answer.".to_owned(),
    };
    (id, text)
}

/// How far the clocks here are ahead of those of Greenwich, in seconds.
fn east_of_greenwich() -> i64 {
    // SAFETY: both calls write to what they are given and keep nothing of it.
    unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut here: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const now, &raw mut here).is_null() {
            return 0;
        }
        here.tm_gmtoff
    }
}
