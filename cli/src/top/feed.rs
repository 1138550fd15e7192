//! The controller's live feed as it comes over the wire: pieces of bytes to events.
//!
//! The controller's own types are what is read; the two that it only writes have their counterparts
//! here. What they do not know is left out, so that a newer controller can be watched.

use flotilla_controller::admin::{
    ControllerResource, ModelResource, NodeResource, RequestSummary, TrafficPoint, UsageTotals,
};
use serde::Deserialize;

/// Longest event that is read. A fleet of ten thousand nodes takes a tenth of it; more is no feed.
const LONGEST: usize = 256 << 20;

/// What a controller tells.
#[derive(Debug)]
pub(super) enum Event {
    Fleet(Box<Whole>),
    Change(Box<Change>),
    /// Seconds, the oldest first: all that are known, then each as it ends.
    Traffic(Vec<TrafficPoint>),
    Usage(UsageTotals),
    /// Requests that have ended, the oldest first.
    Decisions(Vec<RequestSummary>),
}

/// The whole fleet.
#[derive(Debug, Deserialize)]
pub(super) struct Whole {
    pub(super) controller: Controller,
    #[serde(default)]
    pub(super) controllers: Vec<ControllerResource>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    pub(super) nodes: Vec<NodeResource>,
    pub(super) models: Vec<ModelResource>,
}

/// The controller that tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Controller {
    pub(super) id: String,
    pub(super) version: String,
    /// In milliseconds since 1970.
    pub(super) started_at: u64,
}

/// What is different from what was told before.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Change {
    pub(super) nodes: Vec<NodeResource>,
    pub(super) removed_nodes: Vec<String>,
    pub(super) models: Vec<ModelResource>,
    pub(super) removed_models: Vec<String>,
    pub(super) notes: Option<Vec<String>>,
    pub(super) controllers: Option<Vec<ControllerResource>>,
}

impl Event {
    /// The event of that name. `None`: one that this command does not know.
    fn read(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match name {
            "snapshot" => Self::Fleet(serde_json::from_str(data)?),
            "delta" => Self::Change(serde_json::from_str(data)?),
            "traffic" => Self::Traffic(serde_json::from_str(data)?),
            "usage" => Self::Usage(serde_json::from_str(data)?),
            "decisions" => Self::Decisions(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

/// Puts events together from the pieces that the network makes of them.
#[derive(Debug, Default)]
pub(super) struct Parser {
    unread: Vec<u8>,
    /// Bytes of `unread` without an end of line: they are not looked at again.
    searched: usize,
    name: String,
    data: String,
}

impl Parser {
    /// Takes a piece in, and tells the events that are complete with it.
    ///
    /// # Errors
    /// Why this is not the feed of a controller.
    pub(super) fn push(&mut self, piece: &[u8]) -> anyhow::Result<Vec<Event>> {
        anyhow::ensure!(
            self.unread.len() + self.data.len() + piece.len() <= LONGEST,
            "what it says has no end"
        );
        self.unread.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = end_of_line(&self.unread[self.searched..]) {
            let end = self.searched + length;
            // A character that two pieces share is whole again once its line is.
            let line = String::from_utf8_lossy(&self.unread[begin..end]).into_owned();
            (begin, self.searched) = (end + 1, end + 1);
            if let Some(event) = self.line(line.strip_suffix('\r').unwrap_or(&line))? {
                events.push(event);
            }
        }
        self.unread.drain(..begin);
        self.searched = self.unread.len();
        Ok(events)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<Option<Event>> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            return Event::read(&name, &data).map_err(|error| {
                anyhow::anyhow!(
                    "what it says cannot be read ({error}): is this command as new as the controller?"
                )
            });
        }
        // A line that begins with the colon is a comment: it says that the controller is there.
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        Ok(None)
    }
}

fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: &str = concat!(
        "event: snapshot\n",
        "data: {\"controller\":{\"id\":\"c\",\"version\":\"1\",\"startedAt\":5},",
        "\"notes\":[\"größer\"],\"nodes\":[],\"models\":[],\"new\":1}\n\n",
        ":\n\n",
        "event: weather\ndata: {\"rain\":true}\n\n",
        "event: delta\r\ndata: {\"removedNodes\":[\"a\"],\r\ndata: \"notes\":[]}\r\n\r\n",
    );

    fn told(events: &[Event]) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::Fleet(whole) => format!("{} {:?}", whole.controller.id, whole.notes),
            Event::Change(change) => format!("gone {:?} {:?}", change.removed_nodes, change.notes),
            other => format!("{other:?}"),
        };
        events.iter().map(name).collect()
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let whole = Parser::default().push(FEED.as_bytes()).unwrap();
        assert_eq!(
            told(&whole),
            ["c [\"größer\"]", "gone [\"a\"] Some([])"],
            "the one that is not known is left out"
        );
        for length in 1..FEED.len() {
            let mut parser = Parser::default();
            let pieces = FEED.as_bytes().chunks(length);
            let events: Vec<_> = pieces
                .flat_map(|piece| parser.push(piece).unwrap())
                .collect();
            assert_eq!(told(&events), told(&whole), "in pieces of {length}");
        }
    }

    #[test]
    fn an_event_is_told_as_soon_as_it_is_complete() {
        let mut parser = Parser::default();
        assert!(
            parser
                .push(b"event: traffic\ndata: []\n")
                .unwrap()
                .is_empty()
        );
        assert_eq!(parser.push(b"\nevent: usa").unwrap().len(), 1);
        let rest = b"ge\ndata: {\"since\":1,\"models\":[],\"tasks\":[],\"nodes\":[]}\n\n";
        assert_eq!(parser.push(rest).unwrap().len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_said_so() {
        let error = Parser::default().push(b"event: usage\ndata: <html>\n\n");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
