//! What a request says about who is to answer it: the `model` field, the headers
//! `x-flotilla-task` and `x-flotilla-zone`, and the field `flotilla`, which goes before them.

use flotilla_core::generate::{Input, RequestError, Route, Target};
use flotilla_core::{TaskName, ZoneName};
use http::HeaderMap;
use serde::Deserialize;

use crate::chat::MessageField;

/// The field `flotilla` of a request's body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    zone: Option<String>,
}

/// Reads whom a request is for.
pub(crate) fn route(
    model: &str,
    pins: Option<Pins>,
    headers: &HeaderMap,
) -> Result<Route, RequestError> {
    let pins = pins.unwrap_or_default();
    let pinned = |field: Option<String>, name: &'static str| {
        if let Some(value) = field {
            return Some((format!("flotilla.{name}"), value));
        }
        let header = format!("x-flotilla-{name}");
        let value = headers.get(&header)?;
        Some((
            header,
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        ))
    };
    let mut target = Target::parse(model)?;
    if let Some((field, task)) = pinned(pins.task, "task") {
        let name = TaskName::new(&task).map_err(|_| RequestError::TaskNotFound(task))?;
        match &target {
            Target::Auto => target = Target::Task(name),
            Target::Task(same) if *same == name => {}
            _ => {
                return Err(RequestError::invalid(
                    field,
                    format!(
                        "The request names both '{target}' and the task '{name}': with a task, 'model' must be 'auto'."
                    ),
                ));
            }
        }
    }
    let zone = pinned(pins.zone, "zone");
    let zone = zone.map(|(field, zone)| {
        ZoneName::new(&zone)
            .map_err(|error| RequestError::invalid(field, format!("The zone '{zone}' {error}.")))
    });
    Ok(Route {
        target,
        zone: zone.transpose()?,
    })
}

/// The body of a request that asks how another one would be routed: that other one, of which
/// only what routing looks at is read.
#[derive(Debug, Deserialize)]
pub struct RouteBody {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Option<Vec<MessageField>>,
    #[serde(default, alias = "text", alias = "input")]
    prompt: Option<String>,
    #[serde(default)]
    flotilla: Option<Pins>,
}

impl RouteBody {
    /// What would be routed.
    ///
    /// # Errors
    /// [`RequestError`] for what the request itself would be refused for, and where it has
    /// neither `messages` nor `prompt`.
    pub fn check(self, headers: &HeaderMap) -> Result<(Route, Input), RequestError> {
        let model = self.model.as_deref().unwrap_or("auto");
        let route = route(model, self.flotilla, headers)?;
        let input = match (self.messages, self.prompt) {
            (Some(messages), None) => Input::Chat(crate::chat::check_messages(messages)?),
            (None, Some(prompt)) => Input::Text(prompt),
            _ => {
                return Err(RequestError::invalid(
                    "messages",
                    "Either 'messages' or 'prompt' is needed.",
                ));
            }
        };
        Ok((route, input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        model: &str,
        pins: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Route, RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, http::HeaderValue::from_static(value));
        }
        route(model, serde_json::from_str(pins).unwrap(), &map)
    }

    #[test]
    fn pins_come_from_headers_and_the_body_goes_first() {
        let headers = [("x-flotilla-task", "travel"), ("x-flotilla-zone", "shop")];
        let route = read("auto", "null", &headers).unwrap();
        assert_eq!(route.target.to_string(), "task:travel");
        assert_eq!(route.zone, Some(ZoneName::new("shop").unwrap()));
        let route = read("auto", r#"{"task": "banking"}"#, &headers).unwrap();
        assert_eq!(route.target.to_string(), "task:banking");
        assert_eq!(route.zone, Some(ZoneName::new("shop").unwrap()));
    }

    #[test]
    fn a_task_and_a_model_contradict_each_other() {
        let error = read("some-model", r#"{"task": "banking"}"#, &[]).unwrap_err();
        assert!(matches!(
            error,
            RequestError::Invalid { param: Some(field), .. } if field == "flotilla.task"
        ));
        assert!(read("task:banking", r#"{"task": "banking"}"#, &[]).is_ok());
        assert!(read("auto", r#"{"zone": "No Zone"}"#, &[]).is_err());
    }
}
