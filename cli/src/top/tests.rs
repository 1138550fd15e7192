//! What is on the screen in situations as they come.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;

use super::fixture;
use super::link::News;
use super::state::State;
use super::view::{Asked, Screen};

/// A user in front of a terminal.
struct User {
    screen: Screen,
    terminal: Terminal<TestBackend>,
    now: Instant,
}

impl User {
    fn looks_at(state: State, width: u16, height: u16) -> Self {
        let now = state.heard.unwrap_or_else(Instant::now);
        let mut user = Self {
            screen: Screen::new(state, 0, true),
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

    fn presses(&mut self, codes: &[KeyCode]) -> Asked {
        let mut asked = Asked::Nothing;
        for code in codes {
            asked = self.screen.key((*code).into());
            self.draw();
        }
        asked
    }

    fn types(&mut self, text: &str) {
        let codes: Vec<_> = text.chars().map(KeyCode::Char).collect();
        self.presses(&codes);
    }

    fn sees(&mut self) -> String {
        let buffer = self.draw();
        let width = usize::from(buffer.area.width);
        let line = |cells: &[ratatui::buffer::Cell]| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        };
        buffer.content().chunks(width.max(1)).map(line).collect()
    }
}

/// Compares with what is kept under `name`; with `UPDATE_SNAPSHOTS` set, keeps what is seen.
fn assert_seen(seen: &str, name: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/top/snapshots");
    let path = std::path::Path::new(folder).join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, seen).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(seen == expected, "seen:\n{seen}\nexpected:\n{expected}");
}

#[test]
fn an_empty_fleet_says_what_to_do() {
    let mut user = User::looks_at(fixture::empty(), 80, 24);
    let seen = user.sees();
    assert!(
        seen.contains("flotilla agent --name NAME --join fleet.example:7070"),
        "{seen}"
    );
    user.types("2");
    assert!(user.sees().contains("flotilla apply -f model.yaml"));
    user.types("3");
    assert!(user.sees().contains("flotilla chat"));
}

#[test]
fn a_small_terminal_shows_all_that_matters() {
    assert_seen(
        &User::looks_at(fixture::busy(), 80, 24).sees(),
        "nodes-80x24",
    );
}

#[test]
fn a_wide_terminal_shows_every_column() {
    let mut user = User::looks_at(fixture::busy(), 120, 40);
    assert_seen(&user.sees(), "nodes-120x40");
    user.types("2");
    assert_seen(&user.sees(), "models-120x40");
    user.types("3");
    assert_seen(&user.sees(), "decisions-120x40");
}

#[test]
fn a_tiny_terminal_still_shows_the_list() {
    assert_seen(
        &User::looks_at(fixture::busy(), 40, 10).sees(),
        "nodes-40x10",
    );
}

#[test]
fn a_lost_controller_is_told_with_the_age_of_what_is_shown() {
    let mut state = fixture::busy();
    let heard = state.heard.unwrap();
    let lost = News::Lost {
        problem: "there is no fleet at http://fleet.example:8080".into(),
        wait: Duration::from_secs(4),
    };
    state.apply(lost, heard + Duration::from_secs(70));
    let mut user = User::looks_at(state, 80, 24);
    user.now = heard + Duration::from_secs(72);
    assert_seen(&user.sees(), "lost-80x24");
    user.screen.live.apply(News::Trying, user.now);
    assert!(user.sees().contains("trying again: there is no fleet"));
    user.screen.live.apply(News::Heard(vec![]), user.now);
    let seen = user.sees();
    assert!(seen.contains("live") && !seen.contains("LOST"), "{seen}");
}

#[test]
fn what_to_do_is_read_in_full_on_a_narrow_terminal() {
    let mut user = User::looks_at(fixture::empty(), 40, 24);
    let seen = user.sees();
    assert!(seen.contains("--join\nfleet.example:7070"), "{seen}");
    user.types("?");
    user.presses(&[KeyCode::End]);
    assert!(user.sees().contains("the client went away."));
}

#[test]
fn nothing_is_known_before_the_first_word() {
    let mut user = User::looks_at(State::new("http://fleet.example:8080"), 80, 24);
    let seen = user.sees();
    assert!(
        seen.contains("Connecting to http://fleet.example:8080"),
        "{seen}"
    );
}

#[test]
fn a_thousand_nodes_scroll_and_only_what_is_seen_is_drawn() {
    let mut user = User::looks_at(fixture::many(), 80, 24);
    user.presses(&[KeyCode::End]);
    let seen = user.sees();
    assert!(
        seen.contains(">node-0999") && !seen.contains("node-0980"),
        "{seen}"
    );
    user.presses(&[KeyCode::PageUp, KeyCode::PageUp, KeyCode::Up]);
    let rows = user.sees().matches("node-0").count();
    assert!((8..=20).contains(&rows), "{rows}");
    user.presses(&[KeyCode::Home]);
    assert!(user.sees().contains(">node-0000"));
    let began = Instant::now();
    for _ in 0..50 {
        user.presses(&[KeyCode::Down]);
    }
    let each = began.elapsed() / 50;
    // It takes about one; a busy machine may take longer.
    assert!(each < Duration::from_millis(250), "{each:?} a key");
    user.types("/0777");
    let seen = user.sees();
    assert!(
        seen.contains("1 of 1,000 with") && seen.contains("filter: 0777"),
        "{seen}"
    );
}

#[test]
fn a_row_can_be_entered_and_left() {
    let mut user = User::looks_at(fixture::busy(), 100, 30);
    user.presses(&[KeyCode::Down, KeyCode::Enter]);
    let seen = user.sees();
    assert!(
        seen.contains("Node till-1") && seen.contains("Ready"),
        "{seen}"
    );
    user.presses(&[KeyCode::Esc]);
    user.types("3");
    let asked = user.presses(&[KeyCode::Enter]);
    assert_eq!(asked, Asked::Explain("d-3".into()));
    assert!(user.sees().contains("Asking the controller"));
    let long: Vec<_> = (0..100).map(|n| format!("line {n}")).collect();
    user.screen.explained("d-3", long.join("\n"));
    user.presses(&[KeyCode::End, KeyCode::Up]);
    let seen = user.sees();
    assert!(
        seen.contains("line 98\n") && !seen.contains("line 99"),
        "{seen}"
    );
}

#[test]
fn sorting_is_said_where_it_is_seen() {
    let mut user = User::looks_at(fixture::busy(), 80, 24);
    user.types("s");
    let seen = user.sees();
    assert!(
        seen.contains("STATE▲") && seen.contains("by STATE"),
        "{seen}"
    );
    let (lost, ready) = (seen.find("clinic-7").unwrap(), seen.find("till-1").unwrap());
    assert!(lost < ready, "trouble comes first:\n{seen}");
    user.types("r");
    assert!(user.sees().contains("STATE▼"));
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let sizes = [0, 1, 2, 3, 5, 9, 13, 20, 37, 80, 300];
    for state in [fixture::empty(), fixture::busy(), State::new("u")] {
        for (width, height) in sizes.iter().flat_map(|w| sizes.map(|h| (*w, h))) {
            let mut user = User::looks_at(state.clone(), width, height);
            for keys in ["/a", "2", "3", "?", "p", "ss"] {
                user.types(keys);
                user.presses(&[KeyCode::Enter, KeyCode::End, KeyCode::Right, KeyCode::Esc]);
            }
        }
    }
}

#[test]
fn nothing_that_others_wrote_reaches_the_terminal_as_a_command() {
    for (width, height) in [(120, 40), (80, 24), (30, 12)] {
        let mut user = User::looks_at(fixture::hostile(), width, height);
        for key in ['1', '2', '3'] {
            user.types(&key.to_string());
            for codes in [&[][..], &[KeyCode::Enter], &[KeyCode::Esc]] {
                user.presses(codes);
                if key == '3' {
                    let told = "\u{1b}]0;title\u{7}".to_owned();
                    user.screen.explained("x", told);
                }
                let harmful = |c: char| c.is_control() || c == '\u{202e}';
                let seen = user.sees().replace('\n', "");
                assert!(!seen.contains(harmful), "{seen:?}");
            }
        }
    }
}

#[test]
fn without_colours_everything_is_said_all_the_same() {
    let mut user = User::looks_at(fixture::busy(), 120, 40);
    let with = user.sees();
    user.screen.color = false;
    assert_eq!(user.sees(), with);
    let colored = |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
    assert!(!user.draw().content().iter().any(colored));
}
