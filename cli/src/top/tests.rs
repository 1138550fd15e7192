//! The screen in typical situations, on terminals of several sizes.

use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;

use super::connection::FeedUpdate;
use super::fixtures;
use super::screen::{KeyAction, Screen};
use super::state::LiveState;

/// A user at a terminal.
struct User {
    screen: Screen,
    terminal: Terminal<TestBackend>,
    now: Instant,
}

impl User {
    fn open(state: LiveState, width: u16, height: u16) -> Self {
        let now = state.last_data_at.unwrap_or_else(Instant::now);
        let mut user = Self {
            screen: Screen::new(state, TimeZone::UTC, true),
            terminal: Terminal::new(TestBackend::new(width, height)).unwrap(),
            now,
        };
        user.draw();
        user
    }

    fn draw(&mut self) -> &Buffer {
        let (screen, now) = (&mut self.screen, self.now);
        self.terminal
            .draw(|frame| super::draw::draw(frame, screen, now))
            .unwrap();
        self.terminal.backend().buffer()
    }

    fn press(&mut self, codes: &[KeyCode]) -> KeyAction {
        let mut action = KeyAction::None;
        for code in codes {
            action = self.screen.handle_key((*code).into());
            self.draw();
        }
        action
    }

    fn type_text(&mut self, text: &str) {
        let codes: Vec<_> = text.chars().map(KeyCode::Char).collect();
        self.press(&codes);
    }

    fn screen_text(&mut self) -> String {
        let buffer = self.draw();
        let width = usize::from(buffer.area.width);
        let line = |cells: &[ratatui::buffer::Cell]| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        };
        buffer.content().chunks(width.max(1)).map(line).collect()
    }
}

/// Compares the screen with the snapshot `name`. If the environment variable `UPDATE_SNAPSHOTS` is
/// set, writes the snapshot first.
fn assert_snapshot(actual: &str, name: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/top/snapshots");
    let path = std::path::Path::new(folder).join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        actual == expected,
        "actual:\n{actual}\nexpected:\n{expected}"
    );
}

#[test]
fn empty_fleet_shows_how_to_start() {
    let mut user = User::open(fixtures::empty(), 80, 24);
    let text = user.screen_text();
    assert!(
        text.contains("flotilla agent --name NAME --join fleet.example:7070"),
        "{text}"
    );
    user.type_text("2");
    assert!(user.screen_text().contains("flotilla apply -f model.yaml"));
    user.type_text("3");
    assert!(user.screen_text().contains("flotilla chat"));
}

#[test]
fn small_terminal_shows_the_most_important_columns() {
    assert_snapshot(
        &User::open(fixtures::busy(), 80, 24).screen_text(),
        "nodes-80x24",
    );
}

#[test]
fn wide_terminal_shows_all_columns() {
    let mut user = User::open(fixtures::busy(), 120, 40);
    assert_snapshot(&user.screen_text(), "nodes-120x40");
    user.type_text("2");
    assert_snapshot(&user.screen_text(), "models-120x40");
    user.type_text("3");
    assert_snapshot(&user.screen_text(), "decisions-120x40");
}

#[test]
fn tiny_terminal_shows_the_list() {
    assert_snapshot(
        &User::open(fixtures::busy(), 40, 10).screen_text(),
        "nodes-40x10",
    );
}

#[test]
fn lost_connection_is_shown_with_the_age_of_the_data() {
    let mut state = fixtures::busy();
    let last_data_at = state.last_data_at.unwrap();
    let lost = FeedUpdate::Lost {
        problem: "cannot connect to http://fleet.example:8080".into(),
        pause: Duration::from_secs(4),
    };
    state.apply(lost, last_data_at + Duration::from_secs(70));
    let mut user = User::open(state, 80, 24);
    user.now = last_data_at + Duration::from_secs(72);
    assert_snapshot(&user.screen_text(), "lost-80x24");
    user.screen.live.apply(FeedUpdate::Reconnecting, user.now);
    assert!(user.screen_text().contains("reconnecting: cannot connect"));
    user.screen.live.apply(FeedUpdate::Events(vec![]), user.now);
    let text = user.screen_text();
    assert!(text.contains("live") && !text.contains("LOST"), "{text}");
}

#[test]
fn instructions_are_wrapped_on_a_narrow_terminal() {
    let mut user = User::open(fixtures::empty(), 40, 24);
    let text = user.screen_text();
    assert!(text.contains("--join\nfleet.example:7070"), "{text}");
    user.type_text("?");
    user.press(&[KeyCode::End]);
    assert!(user.screen_text().contains("time to first token."));
}

#[test]
fn screen_shows_the_connection_attempt_before_any_data() {
    let mut user = User::open(LiveState::new("http://fleet.example:8080"), 80, 24);
    let text = user.screen_text();
    assert!(
        text.contains("Connecting to http://fleet.example:8080"),
        "{text}"
    );
}

#[test]
fn list_of_a_thousand_nodes_scrolls_quickly() {
    let mut user = User::open(fixtures::many(), 80, 24);
    user.press(&[KeyCode::End]);
    let text = user.screen_text();
    assert!(
        text.contains(">node-0999") && !text.contains("node-0980"),
        "{text}"
    );
    user.press(&[KeyCode::PageUp, KeyCode::PageUp, KeyCode::Up]);
    let rows = user.screen_text().matches("node-0").count();
    assert!((8..=20).contains(&rows), "{rows}");
    user.press(&[KeyCode::Home]);
    assert!(user.screen_text().contains(">node-0000"));
    let start = Instant::now();
    for _ in 0..50 {
        user.press(&[KeyCode::Down]);
    }
    let each = start.elapsed() / 50;
    // It takes about a millisecond, on a busy machine longer.
    assert!(each < Duration::from_millis(250), "{each:?} per key");
    user.type_text("/0777");
    let text = user.screen_text();
    assert!(
        text.contains("1 of 1,000 match") && text.contains("filter: 0777"),
        "{text}"
    );
}

#[test]
fn details_of_a_row_open_and_close() {
    let mut user = User::open(fixtures::busy(), 100, 30);
    user.press(&[KeyCode::Down, KeyCode::Enter]);
    let text = user.screen_text();
    assert!(
        text.contains("Node till-1") && text.contains("Ready"),
        "{text}"
    );
    user.press(&[KeyCode::Esc]);
    user.type_text("3");
    let action = user.press(&[KeyCode::Enter]);
    assert_eq!(action, KeyAction::Explain("d-3".into()));
    assert!(user.screen_text().contains("Loading"));
    let long: Vec<_> = (0..100).map(|n| format!("line {n}")).collect();
    user.screen.set_explanation("d-3", long.join("\n"));
    user.press(&[KeyCode::End, KeyCode::Up]);
    let text = user.screen_text();
    assert!(
        text.contains("line 98\n") && !text.contains("line 99"),
        "{text}"
    );
}

#[test]
fn sort_column_is_marked() {
    let mut user = User::open(fixtures::busy(), 80, 24);
    user.type_text("s");
    let text = user.screen_text();
    assert!(
        text.contains("STATE▲") && text.contains("by STATE"),
        "{text}"
    );
    let (lost, ready) = (text.find("clinic-7").unwrap(), text.find("till-1").unwrap());
    assert!(lost < ready, "problems come first:\n{text}");
    user.type_text("r");
    assert!(user.screen_text().contains("STATE▼"));
}

#[test]
fn every_terminal_size_can_be_drawn() {
    let sizes = [0, 1, 2, 3, 5, 9, 13, 20, 37, 80, 300];
    for state in [fixtures::empty(), fixtures::busy(), LiveState::new("u")] {
        for (width, height) in sizes.iter().flat_map(|w| sizes.map(|h| (*w, h))) {
            let mut user = User::open(state.clone(), width, height);
            for keys in ["/a", "2", "3", "?", "p", "ss"] {
                user.type_text(keys);
                user.press(&[KeyCode::Enter, KeyCode::End, KeyCode::Right, KeyCode::Esc]);
            }
        }
    }
}

#[test]
fn control_characters_in_untrusted_text_do_not_reach_the_terminal() {
    for (width, height) in [(120, 40), (80, 24), (30, 12)] {
        let mut user = User::open(fixtures::hostile(), width, height);
        for key in ['1', '2', '3'] {
            user.type_text(&key.to_string());
            for codes in [&[][..], &[KeyCode::Enter], &[KeyCode::Esc]] {
                user.press(codes);
                if key == '3' {
                    let explanation = "\u{1b}]0;title\u{7}".to_owned();
                    user.screen.set_explanation("x", explanation);
                }
                let is_unsafe = |c: char| c.is_control() || c == '\u{202e}';
                let text = user.screen_text().replace('\n', "");
                assert!(!text.contains(is_unsafe), "{text:?}");
            }
        }
    }
}

#[test]
fn text_is_the_same_without_colors() {
    let mut user = User::open(fixtures::busy(), 120, 40);
    let with_color = user.screen_text();
    user.screen.use_color = false;
    assert_eq!(user.screen_text(), with_color);
    let is_colored =
        |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
    assert!(!user.draw().content().iter().any(is_colored));
}
