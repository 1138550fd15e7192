//! Formats log lines as text or JSON, with the ids of the current trace.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::trace::current_ids;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogEventFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line: `timestamp`, `level`, `target`, `message`, the event's own fields, and
    /// `trace_id` and `span_id` of a traced request, and `spans`: for the agents of `flotilla up` the node.
    Json,
}

impl<S, N> FormatEvent<S, N> for LogEventFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Text => {
                let text: Format<Full> = Format::default().with_ansi(writer.has_ansi_escapes());
                let Some((trace, _)) = current_ids() else {
                    return text.format_event(context, writer, event);
                };
                let mut line = String::new();
                text.format_event(context, Writer::new(&mut line), event)?;
                writeln!(writer, "{} trace_id={trace}", line.trim_end())
            }
            Self::Json => {
                let mut object = json_object(event)?;
                let spans = span_names(context);
                if !spans.is_empty() {
                    object.insert("spans".into(), spans.into());
                }
                writeln!(writer, "{}", Value::Object(object))
            }
        }
    }
}

/// Returns the spans of an event from the outermost on, such as `node{name="node-1"}`.
fn span_names<S, N>(context: &FmtContext<'_, S, N>) -> Vec<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let spans = context
        .event_scope()
        .into_iter()
        .flat_map(|scope| scope.from_root());
    spans
        .map(|span| {
            let extensions = span.extensions();
            match extensions.get::<FormattedFields<N>>() {
                Some(fields) if !fields.is_empty() => format!("{}{{{fields}}}", span.name()),
                _ => span.name().to_owned(),
            }
        })
        .collect()
}

fn json_object(event: &Event<'_>) -> Result<Map<String, Value>, fmt::Error> {
    let mut timestamp = String::new();
    SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
    let metadata = event.metadata();
    let mut fields = JsonFields(Map::new());
    event.record(&mut fields);
    let JsonFields(mut object) = fields;
    object.insert("timestamp".into(), timestamp.into());
    object.insert("level".into(), metadata.level().as_str().into());
    object.insert("target".into(), metadata.target().into());
    if let Some((trace, span)) = current_ids() {
        object.insert("trace_id".into(), trace.into());
        object.insert("span_id".into(), span.into());
    }
    Ok(object)
}

struct JsonFields(Map<String, Value>);

impl JsonFields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl io::Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_line_has_the_message_and_fields_of_the_event() {
        let log = CapturedLog::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(LogEventFormat::Json)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::error_span!("node", name = "node-1");
            span.in_scope(|| tracing::info!(node = "n1", attempts = 2, "a \"quoted\" word"));
        });
        let bytes = log.0.lock().clone();
        let line: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(line["message"], "a \"quoted\" word");
        assert_eq!(line["node"], "n1");
        assert_eq!(line["attempts"], 2);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["spans"][0], "node{name=\"node-1\"}");
    }
}
