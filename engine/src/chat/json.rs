//! JSON in chat templates, as Python has it: objects keep their order, and `tojson` writes a space after
//! each comma and colon. Models were trained on prompts that were made like this.

use std::io;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, Value as TemplateValue};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// A map whose entries keep their order.
#[derive(Debug)]
pub(super) struct OrderedMap(pub(super) Vec<(String, TemplateValue)>);

impl OrderedMap {
    pub(super) fn into_value(self) -> TemplateValue {
        TemplateValue::from_object(self)
    }
}

impl Object for OrderedMap {
    fn get_value(self: &Arc<Self>, key: &TemplateValue) -> Option<TemplateValue> {
        let key = key.as_str()?;
        let entry = self.0.iter().find(|(name, _)| name == key);
        entry.map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys = self.0.iter().map(|(name, _)| name.as_str().into());
        Enumerator::Values(keys.collect())
    }
}

/// Converts JSON. `protect` is applied to every text, names of fields too.
pub(super) fn template_value(json: &Value, protect: &dyn Fn(&str) -> String) -> TemplateValue {
    match json {
        Value::Object(fields) => {
            let fields = fields.iter();
            let entries = fields.map(|(name, v)| (protect(name), template_value(v, protect)));
            OrderedMap(entries.collect()).into_value()
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| template_value(item, protect));
            TemplateValue::from(items.collect::<Vec<_>>())
        }
        Value::String(text) => TemplateValue::from(protect(text)),
        other => TemplateValue::from_serialize(other),
    }
}

/// The filter `tojson`.
pub(super) fn to_json(value: &TemplateValue, options: Kwargs) -> Result<TemplateValue, Error> {
    let indent: Option<usize> = options.get("indent").ok().flatten();
    let mut text = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, SpacedFormatter)),
    };
    let failed = |error: String| {
        Error::new(
            ErrorKind::BadSerialization,
            format!("a value cannot be written as JSON: {error}"),
        )
    };
    written.map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|error| failed(error.to_string()))?;
    Ok(TemplateValue::from_safe_string(text))
}

/// Writes JSON on one line as Python's `json.dumps` does.
struct SpacedFormatter;

impl Formatter for SpacedFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn separate<W: ?Sized + io::Write>(writer: &mut W, is_first: bool) -> io::Result<()> {
    if is_first {
        return Ok(());
    }
    writer.write_all(b", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::{Environment, context};

    #[test]
    fn json_is_written_as_python_writes_it() {
        let json: Value =
            serde_json::from_str(r#"{"z": [1, 2.5, null], "a": {"<b>": "é'"}, "e": {}}"#).unwrap();
        let value = template_value(&json, &str::to_owned);
        let mut environment = Environment::new();
        environment.add_filter("tojson", to_json);
        let render = |source| {
            environment
                .render_str(source, context! {v => value})
                .unwrap()
        };
        assert_eq!(
            render("{{ v | tojson }}"),
            r#"{"z": [1, 2.5, null], "a": {"<b>": "é'"}, "e": {}}"#
        );
        assert_eq!(
            render("{{ v.a | tojson(indent=2) }}"),
            "{\n  \"<b>\": \"é'\"\n}"
        );
        assert_eq!(
            render("{% for name, value in v | items %}{{ name }};{% endfor %}"),
            "z;a;e;"
        );
    }
}
