//! What the user looks at, and what keys change about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::cursor::Cursor;
use super::state::State;
use super::table::Sort;

/// Longest filter: longer than any screen has room for it.
const LONGEST_FILTER: usize = 100;
/// Columns that a step to the side moves a text.
const SIDE_STEP: usize = 8;

/// One of the things that can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Nodes,
    Models,
    Decisions,
    Help,
}

impl Pane {
    pub(super) const ALL: [Self; 4] = [Self::Nodes, Self::Models, Self::Decisions, Self::Help];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Models => "models",
            Self::Decisions => "decisions",
            Self::Help => "help",
        }
    }

    fn next(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// What is seen of a fleet.
#[derive(Debug)]
pub(super) struct Screen {
    /// What is known now.
    pub(super) live: State,
    /// What was known when the user stopped it.
    pub(super) held: Option<Box<State>>,
    pub(super) pane: Pane,
    /// Where help was asked for.
    asked_in: Pane,
    pub(super) lists: [List; 4],
    pub(super) detail: Option<Detail>,
    /// Whether keys are letters of the filter.
    pub(super) editing: bool,
    /// How far east of Greenwich the user is, in seconds.
    pub(super) offset: i64,
    /// Whether colours are wanted.
    pub(super) color: bool,
}

/// How a list is looked at.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) filter: String,
    pub(super) sort: Sort,
    pub(super) cursor: Cursor,
}

/// One thing with all that is known of it.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) of: Of,
    pub(super) down: usize,
    pub(super) right: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Of {
    Node(String),
    Model(String),
    /// With what the controller says of it, once it has.
    Decision(String, Option<String>),
}

/// What a key asks of others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Quit,
    /// Why the decision of this id is as it is.
    Explain(String),
}

impl Screen {
    pub(super) fn new(state: State, offset: i64, color: bool) -> Self {
        Self {
            live: state,
            held: None,
            pane: Pane::Nodes,
            asked_in: Pane::Nodes,
            lists: Default::default(),
            detail: None,
            editing: false,
            offset,
            color,
        }
    }

    /// What is shown.
    pub(super) fn state(&self) -> &State {
        self.held.as_deref().unwrap_or(&self.live)
    }

    pub(super) fn list(&self) -> &List {
        &self.lists[self.pane as usize]
    }

    fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.pane as usize]
    }

    /// What is known of the decision `id` has come.
    pub(super) fn explained(&mut self, id: &str, text: String) {
        // The user may look at something else by now.
        if let Some(Of::Decision(wanted, told)) = self.detail.as_mut().map(|detail| &mut detail.of)
            && wanted == id
        {
            *told = Some(text);
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Asked {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Asked::Quit,
            code if self.editing => self.edit(code, control),
            KeyCode::Char(_) if control => {}
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Esc => return self.back(),
            KeyCode::Char(digit @ '1'..='4') => {
                self.show(Pane::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.show(self.pane.next(1)),
            KeyCode::BackTab => self.show(self.pane.next(Pane::ALL.len() - 1)),
            KeyCode::Char('?') if self.pane == Pane::Help => self.show(self.asked_in),
            KeyCode::Char('?') => self.show(Pane::Help),
            KeyCode::Char('p') => {
                self.held = match self.held {
                    Some(_) => None,
                    None => Some(Box::new(self.live.clone())),
                };
            }
            code if self.detail.is_some() => self.read(code),
            KeyCode::Enter => return self.choose(),
            code => self.look(code),
        }
        Asked::Nothing
    }

    fn show(&mut self, pane: Pane) {
        if pane == Pane::Help && self.pane != Pane::Help {
            self.asked_in = self.pane;
        }
        (self.pane, self.detail) = (pane, None);
    }

    /// Leaves what was entered last; where nothing was, the command.
    fn back(&mut self) -> Asked {
        if self.detail.take().is_some() {
            return Asked::Nothing;
        }
        if self.pane == Pane::Help {
            self.show(self.asked_in);
            return Asked::Nothing;
        }
        if self.list().filter.is_empty() {
            return Asked::Quit;
        }
        self.list_mut().filter.clear();
        Asked::Nothing
    }

    fn edit(&mut self, code: KeyCode, control: bool) {
        let filter = &mut self.list_mut().filter;
        match code {
            KeyCode::Char('u') if control => filter.clear(),
            KeyCode::Char(c) if !control && filter.len() < LONGEST_FILTER => filter.push(c),
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Esc => {
                filter.clear();
                self.editing = false;
            }
            KeyCode::Enter | KeyCode::Down | KeyCode::Tab => self.editing = false,
            _ => {}
        }
    }

    /// Enters the chosen row.
    fn choose(&mut self) -> Asked {
        let Some(name) = self.list().cursor.name.clone() else {
            return Asked::Nothing;
        };
        let (of, asked) = match self.pane {
            Pane::Nodes => (Of::Node(name), Asked::Nothing),
            Pane::Models => (Of::Model(name), Asked::Nothing),
            Pane::Decisions => (Of::Decision(name.clone(), None), Asked::Explain(name)),
            Pane::Help => return Asked::Nothing,
        };
        self.detail = Some(Detail {
            of,
            down: 0,
            right: 0,
        });
        asked
    }

    /// A key while a text is read. How far down it goes is known where it is drawn.
    fn read(&mut self, code: KeyCode) {
        let page = self.list().cursor.page.max(1);
        let Some(detail) = &mut self.detail else {
            return;
        };
        match code {
            KeyCode::Enter | KeyCode::Backspace => self.detail = None,
            KeyCode::Up | KeyCode::Char('k') => detail.down = detail.down.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => detail.down = detail.down.saturating_add(1),
            KeyCode::PageUp => detail.down = detail.down.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                detail.down = detail.down.saturating_add(page);
            }
            KeyCode::Home => (detail.down, detail.right) = (0, 0),
            KeyCode::End => detail.down = usize::MAX,
            KeyCode::Left => detail.right = detail.right.saturating_sub(SIDE_STEP),
            KeyCode::Right => detail.right = detail.right.saturating_add(SIDE_STEP),
            _ => {}
        }
    }

    /// A key while a list is looked at.
    fn look(&mut self, code: KeyCode) {
        if self.pane != Pane::Help && code == KeyCode::Char('/') {
            self.editing = true;
        }
        let List { sort, cursor, .. } = self.list_mut();
        let (at, page) = (cursor.at, cursor.page.max(1));
        match code {
            KeyCode::Up | KeyCode::Char('k') => cursor.to(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => cursor.to(at.saturating_add(1)),
            KeyCode::PageUp => cursor.to(at.saturating_sub(page)),
            KeyCode::PageDown | KeyCode::Char(' ') => cursor.to(at.saturating_add(page)),
            KeyCode::Home | KeyCode::Char('g') => cursor.to(0),
            KeyCode::End | KeyCode::Char('G') => cursor.to(usize::MAX),
            KeyCode::Char('s') => {
                sort.by = sort.by.wrapping_add(1);
                sort.reversed = false;
                cursor.to(0);
            }
            KeyCode::Char('r') => {
                sort.reversed = !sort.reversed;
                cursor.to(0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn press(screen: &mut Screen, keys: &str) -> Asked {
        let mut asked = Asked::Nothing;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\t' => KeyCode::Tab,
                c => KeyCode::Char(c),
            };
            asked = screen.key(code.into());
        }
        asked
    }

    fn screen() -> Screen {
        Screen::new(fixture::busy(), 0, true)
    }

    #[test]
    fn keys_change_what_is_shown() {
        let mut screen = screen();
        for (keys, pane) in [
            ("2", Pane::Models),
            ("\t", Pane::Decisions),
            ("?", Pane::Help),
            ("?", Pane::Decisions),
            ("?\u{1b}", Pane::Decisions),
            ("4\t", Pane::Nodes),
        ] {
            assert_eq!(press(&mut screen, keys), Asked::Nothing);
            assert_eq!(screen.pane, pane, "{keys:?}");
        }
        assert_eq!(screen.key(KeyCode::BackTab.into()), Asked::Nothing);
        assert_eq!(screen.pane, Pane::Help);
        assert_eq!(press(&mut screen, "q"), Asked::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(interrupt), Asked::Quit);
    }

    #[test]
    fn letters_of_a_filter_are_no_commands_and_escape_takes_it_back() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, "/quick\n"), Asked::Nothing);
        assert_eq!(
            (screen.list().filter.as_str(), screen.editing),
            ("quick", false)
        );
        assert_eq!(press(&mut screen, "\u{1b}"), Asked::Nothing);
        assert_eq!(screen.list().filter, "");
        assert_eq!(press(&mut screen, "\u{1b}"), Asked::Quit);
    }

    #[test]
    fn what_is_shown_stands_still_while_it_is_held() {
        let mut screen = screen();
        press(&mut screen, "p");
        screen.live.nodes.clear();
        assert_eq!(screen.state().nodes.len(), 3);
        press(&mut screen, "p");
        assert!(screen.state().nodes.is_empty());
    }

    #[test]
    fn an_explanation_is_shown_only_where_it_is_still_wanted() {
        let mut screen = screen();
        press(&mut screen, "3");
        screen.lists[Pane::Decisions as usize].cursor.name = Some("d-1".into());
        assert_eq!(press(&mut screen, "\n"), Asked::Explain("d-1".into()));
        screen.explained("d-2", "another".into());
        let of = |screen: &Screen| match screen.detail.as_ref().map(|d| &d.of) {
            Some(Of::Decision(_, told)) => told.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&screen), None);
        screen.explained("d-1", "because".into());
        assert_eq!(of(&screen).as_deref(), Some("because"));
        assert_eq!(press(&mut screen, "\u{1b}"), Asked::Nothing);
        assert!(screen.detail.is_none());
    }
}
