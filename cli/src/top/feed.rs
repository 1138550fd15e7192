//! The controller's live feed: server-sent events, parsed from chunks of bytes.
//!
//! Events contain the controller's own types where these can be deserialized, and counterparts
//! defined here otherwise. Unknown fields and events are ignored, so that an older command can show
//! a newer controller.
//!
//! `eventsource-stream`, which `chat` uses, does not fit here. It scans an incomplete line again with
//! every chunk, which takes quadratic time for the first event of a large fleet: one line of many
//! megabytes. It also does not limit the size of an event.

use flotilla_controller::admin::{
    ControllerResource, ModelResource, NodeResource, RequestSummary, TrafficPoint, UsageTotals,
};
use serde::Deserialize;

/// Maximum size of an event in bytes, about ten times that of a fleet with ten thousand nodes.
const MAX_EVENT_BYTES: usize = 256 << 20;

/// An event of the live feed.
#[derive(Debug)]
pub(super) enum FeedEvent {
    Snapshot(Box<SnapshotEvent>),
    Delta(Box<DeltaEvent>),
    /// Traffic per second, the oldest first: first all recorded seconds, then each second as it ends.
    Traffic(Vec<TrafficPoint>),
    Usage(UsageTotals),
    /// Completed requests, the oldest first.
    Decisions(Vec<RequestSummary>),
}

/// The whole fleet: the first event of a connection.
#[derive(Debug, Deserialize)]
pub(super) struct SnapshotEvent {
    pub(super) controller: FeedController,
    #[serde(default)]
    pub(super) controllers: Vec<ControllerResource>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    pub(super) nodes: Vec<NodeResource>,
    pub(super) models: Vec<ModelResource>,
}

/// The controller that sends the feed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeedController {
    pub(super) id: String,
    pub(super) version: String,
    /// Unix time in milliseconds.
    pub(super) started_at: u64,
}

/// The changes since the previous event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeltaEvent {
    pub(super) nodes: Vec<NodeResource>,
    pub(super) removed_nodes: Vec<String>,
    pub(super) models: Vec<ModelResource>,
    pub(super) removed_models: Vec<String>,
    pub(super) notes: Option<Vec<String>>,
    pub(super) controllers: Option<Vec<ControllerResource>>,
}

impl FeedEvent {
    /// Parses an event. Returns `None` for an unknown name.
    fn parse(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match name {
            "snapshot" => Self::Snapshot(serde_json::from_str(data)?),
            "delta" => Self::Delta(serde_json::from_str(data)?),
            "traffic" => Self::Traffic(serde_json::from_str(data)?),
            "usage" => Self::Usage(serde_json::from_str(data)?),
            "decisions" => Self::Decisions(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}

/// An incremental parser of the feed.
#[derive(Debug, Default)]
pub(super) struct FeedParser {
    /// Bytes of the incomplete last line.
    buffer: Vec<u8>,
    /// Number of bytes in `buffer` that are known to contain no line feed.
    searched: usize,
    /// Name of the incomplete event.
    name: String,
    data: String,
}

impl FeedParser {
    /// Adds a chunk and returns the events that it completes.
    ///
    /// # Errors
    /// Returns an error if the feed contains an event that is too large or cannot be parsed.
    pub(super) fn push(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<FeedEvent>> {
        anyhow::ensure!(
            self.buffer.len() + self.data.len() + chunk.len() <= MAX_EVENT_BYTES,
            "the controller sent an event of more than {} MiB",
            MAX_EVENT_BYTES >> 20
        );
        self.buffer.extend_from_slice(chunk);
        let mut events = Vec::new();
        let mut line_start = 0;
        while let Some(length) = find_line_feed(&self.buffer[self.searched..]) {
            let end = self.searched + length;
            // Decodes whole lines only: a chunk can end within a character.
            let line = String::from_utf8_lossy(&self.buffer[line_start..end]).into_owned();
            (line_start, self.searched) = (end + 1, end + 1);
            if let Some(event) = self.push_line(line.strip_suffix('\r').unwrap_or(&line))? {
                events.push(event);
            }
        }
        self.buffer.drain(..line_start);
        self.searched = self.buffer.len();
        Ok(events)
    }

    /// Adds a line and returns the event that it completes.
    fn push_line(&mut self, line: &str) -> anyhow::Result<Option<FeedEvent>> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            return FeedEvent::parse(&name, &data).map_err(|error| {
                anyhow::anyhow!(
                    "cannot parse an event of the controller ({error}); use a `flotilla` of the controller's version"
                )
            });
        }
        // A line that starts with a colon is a comment: the controller sends them as keep-alives.
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

fn find_line_feed(bytes: &[u8]) -> Option<usize> {
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

    fn summaries(events: &[FeedEvent]) -> Vec<String> {
        let summary = |event: &FeedEvent| match event {
            FeedEvent::Snapshot(fleet) => format!("{} {:?}", fleet.controller.id, fleet.notes),
            FeedEvent::Delta(change) => {
                format!("removed {:?} {:?}", change.removed_nodes, change.notes)
            }
            other => format!("{other:?}"),
        };
        events.iter().map(summary).collect()
    }

    #[test]
    fn events_do_not_depend_on_chunk_boundaries() {
        let whole = FeedParser::default().push(FEED.as_bytes()).unwrap();
        assert_eq!(
            summaries(&whole),
            ["c [\"größer\"]", "removed [\"a\"] Some([])"],
            "an unknown event is ignored"
        );
        for length in 1..FEED.len() {
            let mut parser = FeedParser::default();
            let chunks = FEED.as_bytes().chunks(length);
            let events: Vec<_> = chunks
                .flat_map(|chunk| parser.push(chunk).unwrap())
                .collect();
            assert_eq!(
                summaries(&events),
                summaries(&whole),
                "in chunks of {length}"
            );
        }
    }

    #[test]
    fn event_is_returned_as_soon_as_it_is_complete() {
        let mut parser = FeedParser::default();
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
    fn invalid_event_is_an_error() {
        let error = FeedParser::default().push(b"event: usage\ndata: <html>\n\n");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("cannot parse"), "{error}");
    }
}
