//! What a request says about who is to answer it and how: the `model` field, the headers
//! `x-flotilla-…`, and the field `flotilla`, which goes before them.

use std::str::FromStr;
use std::time::Duration;

use flotilla_core::generate::{GenerateInput, RequestError, Route, RouteTarget};
use flotilla_core::routing::AnswerLimits;
use flotilla_core::{HumanDuration, Joules, TaskName, ZoneName};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::chat::MessageField;

/// The field `flotilla` of a request's body. Each of its fields can be a header as well.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RoutingFields {
    /// The task it belongs to.
    task: Option<String>,
    /// The privacy zone it must stay in.
    zone: Option<String>,
    /// `low`, `normal` or `high`.
    priority: Option<String>,
    /// Within what time the answer must be complete: milliseconds, or a text such as `2s`.
    deadline: Option<NumberOrText>,
    /// Quality that the model must have been measured to have for the task, 0 to 1.
    #[serde(alias = "minQuality")]
    min_quality: Option<NumberOrText>,
    /// Most energy that the answer may be predicted to take.
    #[serde(alias = "maxJoules")]
    max_joules: Option<NumberOrText>,
    /// Any text that the requests of one session share.
    session: Option<String>,
}

/// A number, or a text that stands for one.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a number or a text")]
enum NumberOrText {
    Number(f64),
    Text(String),
}

impl NumberOrText {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Beyond it a deadline is none.
const LONGEST_DEADLINE: Duration = Duration::from_secs(86_400);

/// What was pinned, with the field or the header that did.
struct RoutingField {
    field: String,
    value: String,
}

impl RoutingField {
    fn read<T: FromStr>(self) -> Result<T, RequestError>
    where
        T::Err: std::fmt::Display,
    {
        let Self { field, value } = self;
        value
            .parse()
            .map_err(|error| RequestError::invalid(field.as_str(), format!("'{field}': {error}.")))
    }

    /// A number that `fits`; else it must be `what`.
    fn number(self, fits: impl Fn(f32) -> bool, what: &str) -> Result<f32, RequestError> {
        let number = self.value.trim().parse().ok();
        number.filter(|number| fits(*number)).ok_or_else(|| {
            let Self { field, value } = self;
            RequestError::invalid(
                field.as_str(),
                format!("'{field}' must be {what}, is '{value}'."),
            )
        })
    }

    /// A time: a number of milliseconds, or with a unit.
    fn time(self) -> Result<Duration, RequestError> {
        let millis = self.value.trim().parse::<u32>().ok();
        let time = match millis {
            Some(millis) => Duration::from_millis(millis.into()),
            None => {
                let span: Option<HumanDuration> = self.value.trim().parse().ok();
                span.map_or(Duration::ZERO, |HumanDuration(time)| time)
            }
        };
        if time.is_zero() || time > LONGEST_DEADLINE {
            let Self { field, value } = self;
            let problem = format!(
                "'{field}' must be a time above 0 and at most a day, in milliseconds or such as '2s', is '{value}'."
            );
            return Err(RequestError::invalid(field, problem));
        }
        Ok(time)
    }
}

/// What stands for a session of this name.
pub(crate) fn session(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Reads whom a request is for and what it asks of the answer.
pub(crate) fn route(
    model: &str,
    pins: Option<RoutingFields>,
    headers: &HeaderMap,
) -> Result<Route, RequestError> {
    let pins = pins.unwrap_or_default();
    let pinned = |field: Option<String>, name: &'static str, header: &'static str| {
        if let Some(value) = field {
            let field = format!("flotilla.{name}");
            return Some(RoutingField { field, value });
        }
        let value = String::from_utf8_lossy(headers.get(header)?.as_bytes());
        Some(RoutingField {
            field: header.to_owned(),
            value: value.into_owned(),
        })
    };
    let scalar = |of: Option<NumberOrText>| of.map(NumberOrText::into_text);
    let mut target = RouteTarget::parse(model)?;
    if let Some(RoutingField { field, value }) = pinned(pins.task, "task", "x-flotilla-task") {
        let name = TaskName::new(&value).map_err(|_| RequestError::TaskNotFound(value))?;
        match &target {
            RouteTarget::Auto => target = RouteTarget::Task(name),
            RouteTarget::Task(same) if *same == name => {}
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
    let zone = pinned(pins.zone, "zone", "x-flotilla-zone");
    let zone = zone.map(|RoutingField { field, value }| {
        ZoneName::new(&value)
            .map_err(|error| RequestError::invalid(field, format!("The zone '{value}' {error}.")))
    });
    let priority = pinned(pins.priority, "priority", "x-flotilla-priority");
    let deadline = pinned(scalar(pins.deadline), "deadline", "x-flotilla-deadline");
    let quality = pinned(
        scalar(pins.min_quality),
        "min_quality",
        "x-flotilla-min-quality",
    );
    let joules = pinned(
        scalar(pins.max_joules),
        "max_joules",
        "x-flotilla-max-joules",
    );
    let pinned_session = pinned(pins.session, "session", "x-flotilla-session");
    Ok(Route {
        target,
        zone: zone.transpose()?,
        priority: priority.map(RoutingField::read).transpose()?,
        fairness_key: headers
            .get(AUTHORIZATION)
            .map_or(0, |key| xxh3_64(key.as_bytes())),
        deadline: deadline.map(RoutingField::time).transpose()?,
        limits: AnswerLimits {
            min_quality: quality
                .map(|pin| pin.number(|n| (0.0..=1.0).contains(&n), "a number from 0 to 1"))
                .transpose()?,
            max_latency: None,
            max_joules: joules
                .map(|pin| pin.number(|n| n.is_finite() && n > 0.0, "a number above 0"))
                .transpose()?
                .map(Joules),
        },
        session: pinned_session.map(|pin| session(&pin.value)),
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
    flotilla: Option<RoutingFields>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
}

impl RouteBody {
    /// What would be routed, with the most tokens of the answer.
    ///
    /// # Errors
    /// [`RequestError`] for what the request itself would be refused for, and where it has
    /// neither `messages` nor `prompt`.
    pub fn validate(
        self,
        headers: &HeaderMap,
    ) -> Result<(Route, GenerateInput, Option<u32>), RequestError> {
        let most = self.max_completion_tokens.or(self.max_tokens);
        let model = self.model.as_deref().unwrap_or("auto");
        let route = route(model, self.flotilla, headers)?;
        let input = match (self.messages, self.prompt) {
            (Some(messages), None) => GenerateInput::Chat(crate::chat::check_messages(messages)?),
            (None, Some(prompt)) => GenerateInput::Text(prompt),
            _ => {
                return Err(RequestError::invalid(
                    "messages",
                    "Either 'messages' or 'prompt' is needed.",
                ));
            }
        };
        Ok((route, input, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::admission::Priority;

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
    fn what_is_asked_of_the_answer_is_read_and_checked() {
        let body = r#"{"priority": "high", "deadline": 1500, "min_quality": 0.9, "session": "a"}"#;
        let headers = [
            ("x-flotilla-deadline", "2s"),
            ("x-flotilla-max-joules", "2.5"),
            ("authorization", "Bearer one"),
        ];
        let route = read("auto", body, &headers).unwrap();
        assert_eq!(route.priority, Some(Priority::High));
        assert_eq!(route.deadline, Some(Duration::from_millis(1_500)));
        assert_eq!(route.limits.min_quality, Some(0.9));
        assert_eq!(route.limits.max_joules, Some(Joules(2.5)));
        assert!(route.session.is_some() && route.fairness_key != 0);
        let other = read("auto", "null", &[("authorization", "Bearer two")]).unwrap();
        assert_ne!(other.fairness_key, route.fairness_key);
        let from_header = read("auto", "null", &headers).unwrap();
        assert_eq!(from_header.deadline, Some(Duration::from_secs(2)));
        for (body, field) in [
            (r#"{"priority": "urgent"}"#, "flotilla.priority"),
            (r#"{"deadline": 0}"#, "flotilla.deadline"),
            (r#"{"deadline": "soon"}"#, "flotilla.deadline"),
            (
                r#"{"deadline": "18446744073709551615s"}"#,
                "flotilla.deadline",
            ),
            (r#"{"min_quality": 90}"#, "flotilla.min_quality"),
            (r#"{"max_joules": "-1"}"#, "flotilla.max_joules"),
        ] {
            let error = read("auto", body, &[]).unwrap_err();
            assert!(
                matches!(&error, RequestError::Invalid { param: Some(p), .. } if p == field),
                "{body}: {error:?}"
            );
        }
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
