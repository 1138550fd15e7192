//! The state of the user interface, and how keys change it.

use jiff::tz::TimeZone;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::cursor::Cursor;
use super::state::LiveState;
use super::table::SortOrder;

/// Maximum length of a filter in bytes.
const MAX_FILTER_BYTES: usize = 100;
/// Columns by which the left and right keys scroll a text.
const HORIZONTAL_STEP: usize = 8;

/// A pane of the screen.
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

    fn next(self, steps: usize) -> Self {
        Self::ALL[(self as usize + steps) % Self::ALL.len()]
    }
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Screen {
    /// The current state of the fleet.
    pub(super) live: LiveState,
    /// The state at the time when the user paused the screen.
    pub(super) paused: Option<Box<LiveState>>,
    pub(super) pane: Pane,
    /// The pane to return to from the help.
    pane_before_help: Pane,
    /// One list per pane, in the order of [`Pane::ALL`].
    pub(super) lists: [ListState; 4],
    /// The details of a row, shown instead of the list.
    pub(super) detail: Option<Detail>,
    /// Whether the user is typing a filter.
    pub(super) is_editing_filter: bool,
    /// Time zone of the user.
    pub(super) time_zone: TimeZone,
    pub(super) use_color: bool,
}

/// The filter, order and selection of a list.
#[derive(Debug, Default)]
pub(super) struct ListState {
    pub(super) filter: String,
    pub(super) order: SortOrder,
    pub(super) cursor: Cursor,
}

/// The details of a row, and how far their text is scrolled.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) subject: DetailSubject,
    /// First visible line.
    pub(super) line: usize,
    /// First visible column.
    pub(super) column: usize,
}

/// The resource or request whose details are shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DetailSubject {
    Node(String),
    Model(String),
    Decision {
        id: String,
        /// The explanation. `None`: it has not arrived yet.
        explanation: Option<String>,
    },
}

/// The action that the caller must take after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyAction {
    None,
    Quit,
    /// Fetch the explanation of the decision with this id.
    Explain(String),
}

impl Screen {
    pub(super) fn new(state: LiveState, time_zone: TimeZone, use_color: bool) -> Self {
        Self {
            live: state,
            paused: None,
            pane: Pane::Nodes,
            pane_before_help: Pane::Nodes,
            lists: Default::default(),
            detail: None,
            is_editing_filter: false,
            time_zone,
            use_color,
        }
    }

    /// Returns the state that is shown: the paused one or the current one.
    pub(super) fn state(&self) -> &LiveState {
        self.paused.as_deref().unwrap_or(&self.live)
    }

    /// Returns the list of the current pane.
    pub(super) fn list(&self) -> &ListState {
        &self.lists[self.pane as usize]
    }

    fn list_mut(&mut self) -> &mut ListState {
        &mut self.lists[self.pane as usize]
    }

    /// Shows the explanation of a decision, if the user still looks at it.
    pub(super) fn set_explanation(&mut self, decision: &str, text: String) {
        let subject = self.detail.as_mut().map(|detail| &mut detail.subject);
        if let Some(DetailSubject::Decision { id, explanation }) = subject
            && id == decision
        {
            *explanation = Some(text);
        }
    }

    /// Handles a key.
    pub(super) fn handle_key(&mut self, key: KeyEvent) -> KeyAction {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return KeyAction::Quit,
            code if self.is_editing_filter => self.edit_filter(code, control),
            KeyCode::Char(_) if control => {}
            KeyCode::Char('q') => return KeyAction::Quit,
            KeyCode::Esc => return self.leave(),
            KeyCode::Char(digit @ '1'..='4') => {
                self.show(Pane::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.show(self.pane.next(1)),
            KeyCode::BackTab => self.show(self.pane.next(Pane::ALL.len() - 1)),
            KeyCode::Char('?') if self.pane == Pane::Help => self.show(self.pane_before_help),
            KeyCode::Char('?') => self.show(Pane::Help),
            KeyCode::Char('p') => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some(Box::new(self.live.clone())),
                };
            }
            code if self.detail.is_some() => self.scroll_detail(code),
            KeyCode::Enter => return self.open_selected(),
            code => self.handle_list_key(code),
        }
        KeyAction::None
    }

    fn show(&mut self, pane: Pane) {
        if pane == Pane::Help && self.pane != Pane::Help {
            self.pane_before_help = self.pane;
        }
        (self.pane, self.detail) = (pane, None);
    }

    /// Leaves the details or the help, or clears the filter. Quits if there is nothing to leave.
    fn leave(&mut self) -> KeyAction {
        if self.detail.take().is_some() {
            return KeyAction::None;
        }
        if self.pane == Pane::Help {
            self.show(self.pane_before_help);
            return KeyAction::None;
        }
        if self.list().filter.is_empty() {
            return KeyAction::Quit;
        }
        self.list_mut().filter.clear();
        KeyAction::None
    }

    fn edit_filter(&mut self, code: KeyCode, control: bool) {
        let filter = &mut self.list_mut().filter;
        match code {
            KeyCode::Char('u') if control => filter.clear(),
            KeyCode::Char(c) if !control && filter.len() < MAX_FILTER_BYTES => filter.push(c),
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Esc => {
                filter.clear();
                self.is_editing_filter = false;
            }
            KeyCode::Enter | KeyCode::Down | KeyCode::Tab => self.is_editing_filter = false,
            _ => {}
        }
    }

    /// Opens the details of the selected row.
    fn open_selected(&mut self) -> KeyAction {
        let Some(name) = self.list().cursor.name.clone() else {
            return KeyAction::None;
        };
        let (subject, action) = match self.pane {
            Pane::Nodes => (DetailSubject::Node(name), KeyAction::None),
            Pane::Models => (DetailSubject::Model(name), KeyAction::None),
            Pane::Decisions => {
                let subject = DetailSubject::Decision {
                    id: name.clone(),
                    explanation: None,
                };
                (subject, KeyAction::Explain(name))
            }
            Pane::Help => return KeyAction::None,
        };
        self.detail = Some(Detail {
            subject,
            line: 0,
            column: 0,
        });
        action
    }

    /// Handles a key while details are shown. The position is limited to the text when it is drawn.
    fn scroll_detail(&mut self, code: KeyCode) {
        let page = self.list().cursor.page_rows.max(1);
        let Some(detail) = &mut self.detail else {
            return;
        };
        match code {
            KeyCode::Enter | KeyCode::Backspace => self.detail = None,
            KeyCode::Up | KeyCode::Char('k') => detail.line = detail.line.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => detail.line = detail.line.saturating_add(1),
            KeyCode::PageUp => detail.line = detail.line.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                detail.line = detail.line.saturating_add(page);
            }
            KeyCode::Home => (detail.line, detail.column) = (0, 0),
            KeyCode::End => detail.line = usize::MAX,
            KeyCode::Left => detail.column = detail.column.saturating_sub(HORIZONTAL_STEP),
            KeyCode::Right => detail.column = detail.column.saturating_add(HORIZONTAL_STEP),
            _ => {}
        }
    }

    /// Handles a key while a list is shown.
    fn handle_list_key(&mut self, code: KeyCode) {
        if self.pane != Pane::Help && code == KeyCode::Char('/') {
            self.is_editing_filter = true;
        }
        let ListState { order, cursor, .. } = self.list_mut();
        let (index, page) = (cursor.index, cursor.page_rows.max(1));
        match code {
            KeyCode::Up | KeyCode::Char('k') => cursor.move_to(index.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => cursor.move_to(index.saturating_add(1)),
            KeyCode::PageUp => cursor.move_to(index.saturating_sub(page)),
            KeyCode::PageDown | KeyCode::Char(' ') => cursor.move_to(index.saturating_add(page)),
            KeyCode::Home | KeyCode::Char('g') => cursor.move_to(0),
            KeyCode::End | KeyCode::Char('G') => cursor.move_to(usize::MAX),
            KeyCode::Char('s') => {
                order.column = order.column.wrapping_add(1);
                order.is_reversed = false;
                cursor.move_to(0);
            }
            KeyCode::Char('r') => {
                order.is_reversed = !order.is_reversed;
                cursor.move_to(0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn press(screen: &mut Screen, keys: &str) -> KeyAction {
        let mut action = KeyAction::None;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\t' => KeyCode::Tab,
                c => KeyCode::Char(c),
            };
            action = screen.handle_key(code.into());
        }
        action
    }

    fn screen() -> Screen {
        Screen::new(fixtures::busy(), TimeZone::UTC, true)
    }

    #[test]
    fn keys_switch_between_panes() {
        let mut screen = screen();
        for (keys, pane) in [
            ("2", Pane::Models),
            ("\t", Pane::Decisions),
            ("?", Pane::Help),
            ("?", Pane::Decisions),
            ("?\u{1b}", Pane::Decisions),
            ("4\t", Pane::Nodes),
        ] {
            assert_eq!(press(&mut screen, keys), KeyAction::None);
            assert_eq!(screen.pane, pane, "{keys:?}");
        }
        assert_eq!(screen.handle_key(KeyCode::BackTab.into()), KeyAction::None);
        assert_eq!(screen.pane, Pane::Help);
        assert_eq!(press(&mut screen, "q"), KeyAction::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.handle_key(interrupt), KeyAction::Quit);
    }

    #[test]
    fn letters_of_a_filter_are_not_commands_and_escape_clears_it() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, "/quick\n"), KeyAction::None);
        assert_eq!(
            (screen.list().filter.as_str(), screen.is_editing_filter),
            ("quick", false)
        );
        assert_eq!(press(&mut screen, "\u{1b}"), KeyAction::None);
        assert_eq!(screen.list().filter, "");
        assert_eq!(press(&mut screen, "\u{1b}"), KeyAction::Quit);
    }

    #[test]
    fn paused_screen_does_not_change() {
        let mut screen = screen();
        press(&mut screen, "p");
        screen.live.nodes.clear();
        assert_eq!(screen.state().nodes.len(), 3);
        press(&mut screen, "p");
        assert!(screen.state().nodes.is_empty());
    }

    #[test]
    fn explanation_is_shown_only_while_its_decision_is_open() {
        let mut screen = screen();
        press(&mut screen, "3");
        screen.lists[Pane::Decisions as usize].cursor.name = Some("d-1".into());
        assert_eq!(press(&mut screen, "\n"), KeyAction::Explain("d-1".into()));
        screen.set_explanation("d-2", "another".into());
        let shown = |screen: &Screen| match screen.detail.as_ref().map(|d| &d.subject) {
            Some(DetailSubject::Decision { explanation, .. }) => explanation.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(shown(&screen), None);
        screen.set_explanation("d-1", "because".into());
        assert_eq!(shown(&screen).as_deref(), Some("because"));
        assert_eq!(press(&mut screen, "\u{1b}"), KeyAction::None);
        assert!(screen.detail.is_none());
    }
}
