//! `flotilla top`: a live view of the fleet in the terminal.
//!
//! Events of the [`feed`] update the [`state`], keys update the [`screen`], and [`draw`] draws both.
//! These modules know nothing of terminals, networks or clocks: this file owns the terminal, the
//! keys and the time, and [`connection`] the connection to the controller.

mod canvas;
mod chart_series;
mod column;
mod connection;
mod cursor;
mod decisions;
mod draw;
mod draw_charts;
mod draw_list;
mod feed;
#[cfg(test)]
mod fixtures;
mod format;
mod models;
mod nodes;
mod plain_text;
mod screen;
mod state;
mod summary;
mod table;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_dispatch::DecisionRecord;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

use crate::args::TopArgs;
use crate::client::FleetClient;
use crate::decision_text::decision_text;
use connection::FeedUpdate;
use screen::{KeyAction, Screen};
use state::LiveState;

/// Capacity of the channels of feed updates and of keys. If one is full, the connection or the
/// reader of keys waits.
const CHANNEL_CAPACITY: usize = 64;
/// Minimum time between two frames, apart from those that show keys.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time between two frames: the screen shows the age of the data.
const MAX_FRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which the reader of keys checks whether it should stop.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time for the first state of the fleet with `--once`, and for an explanation.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Shows the fleet until the user quits. Prints it once with `--once`, and if standard output is not
/// a terminal.
pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let state = LiveState::new(&fleet.shown_url());
    if args.once || !std::io::stdout().is_terminal() {
        return print_once(&fleet, state).await;
    }
    let use_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    run_interactive(&fleet, Screen::new(state, TimeZone::system(), use_color)).await
}

/// Prints the state of the fleet once.
async fn print_once(fleet: &FleetClient, mut state: LiveState) -> anyhow::Result<()> {
    let (sender, mut updates) = mpsc::channel(CHANNEL_CAPACITY);
    let receive_state = async {
        while !state.is_complete {
            match updates.recv().await {
                Some(FeedUpdate::Lost { problem, .. }) => bail!(problem),
                Some(update) => state.apply(update, Instant::now()),
                None => break,
            }
        }
        Ok(())
    };
    tokio::select! {
        () = connection::follow_feed(fleet, &sender) => {}
        result = timeout(RESPONSE_TIMEOUT, receive_state) => {
            result.with_context(|| {
                format!(
                    "the controller did not send the state of the fleet within {} s",
                    RESPONSE_TIMEOUT.as_secs()
                )
            })??;
        }
    }
    print!("{}", plain_text::snapshot(&state));
    Ok(())
}

/// Restores the terminal when it is dropped.
struct TerminalGuard;

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        // After a panic, `ratatui`'s panic hook has restored the terminal before the message was
        // printed. Restoring it again would put the shell's prompt over the message.
        if !std::thread::panicking() {
            // Fails if the terminal is closed, and nothing is left to restore.
            let _ = ratatui::try_restore();
        }
    }
}

/// Shows the screen until the user quits or a signal arrives.
async fn run_interactive(fleet: &FleetClient, mut screen: Screen) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let _guard = TerminalGuard;
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal; use --once")?;

    let (update_sender, mut updates) = mpsc::channel(CHANNEL_CAPACITY);
    let follow_feed = connection::follow_feed(fleet, &update_sender);
    tokio::pin!(follow_feed);
    let (key_sender, mut keys) = mpsc::channel(CHANNEL_CAPACITY);
    let key_reader = tokio::task::spawn_blocking(move || read_keys(&key_sender));
    let mut explanations = FuturesUnordered::new();
    let mut frames = tokio::time::interval(FRAME_INTERVAL);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_changed, mut drawn_at) = (true, Instant::now());

    loop {
        tokio::select! {
            key = keys.recv() => {
                match key.context("the reader of keys stopped")?? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        match screen.handle_key(key) {
                            KeyAction::Quit => break,
                            KeyAction::Explain(id) => explanations.push(fetch_explanation(fleet, id)),
                            KeyAction::None => {}
                        }
                    }
                    _ => {}
                }
                // A key is shown at once, but repeated keys share a frame.
                if keys.is_empty() {
                    (is_changed, drawn_at) = (false, Instant::now());
                    terminal.draw(|frame| draw::draw(frame, &mut screen, drawn_at))?;
                }
            }
            Some((id, text)) = explanations.next() => {
                screen.set_explanation(&id, text);
                is_changed = true;
            }
            Some(update) = updates.recv() => {
                screen.live.apply(update, Instant::now());
                is_changed = true;
            }
            _ = frames.tick() => {
                if is_changed || drawn_at.elapsed() >= MAX_FRAME_INTERVAL {
                    (is_changed, drawn_at) = (false, Instant::now());
                    terminal.draw(|frame| draw::draw(frame, &mut screen, drawn_at))?;
                }
            }
            () = &mut follow_feed => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
        }
    }
    // Stops the reader of keys.
    drop(keys);
    key_reader.await?;
    Ok(())
}

/// Sends terminal events until the receiver is closed. Blocks, and so needs a thread of its own.
fn read_keys(events: &mpsc::Sender<std::io::Result<Event>>) {
    while !events.is_closed() {
        let event = match event::poll(KEY_POLL_INTERVAL) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let is_failure = event.is_err();
        if events.blocking_send(event).is_err() || is_failure {
            return;
        }
    }
}

/// Fetches the text for a decision. Returns its id and the text, or the reason why there is none.
async fn fetch_explanation(fleet: &FleetClient, id: String) -> (String, String) {
    let path = ["v1", "decisions", &id];
    let text = match timeout(RESPONSE_TIMEOUT, fleet.get::<DecisionRecord>(&path)).await {
        Ok(Ok(record)) => decision_text(&record),
        Ok(Err(error)) => format!("Cannot explain the decision: {error:#}"),
        Err(_) => "The controller did not answer.".to_owned(),
    };
    (id, text)
}
