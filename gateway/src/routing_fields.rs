//! How a request chooses its route: the field `model`, the headers `x-flotilla-*`, and the field
//! `flotilla`, which takes precedence over the headers.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::generate::{RequestError, Route, RouteTarget};
use flotilla_core::routing::AnswerLimits;
use flotilla_core::{HumanDuration, Joules, TaskName, ZoneName};
use schemars::JsonSchema;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::Caller;

/// The field `flotilla` of a request body. Each of its fields can also be sent as a header.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RoutingFields {
    /// Name of the task that the request belongs to.
    task: Option<String>,
    /// Privacy zone that the request must stay in.
    zone: Option<String>,
    /// `low`, `normal` or `high`.
    priority: Option<String>,
    /// Time within which the answer must be complete: milliseconds, or a text such as `2s`.
    deadline: Option<NumberOrText>,
    /// Minimum quality that was measured for the model and the task, from 0 to 1.
    #[serde(alias = "minQuality")]
    min_quality: Option<NumberOrText>,
    /// Maximum predicted energy of the answer, in joules.
    #[serde(alias = "maxJoules")]
    max_joules: Option<NumberOrText>,
    /// Any text that the requests of one conversation share. They prefer the same replica, whose
    /// prefix cache holds the conversation.
    session: Option<String>,
}

/// A number, or a text that is parsed later.
#[derive(Debug, Deserialize, JsonSchema)]
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

/// Maximum deadline of a request.
const MAX_DEADLINE: Duration = Duration::from_secs(86_400);

/// The text of a routing field, with the name of the body field or header it comes from.
struct RoutingField {
    field: String,
    value: String,
}

impl RoutingField {
    fn parse<T: FromStr>(self) -> Result<T, RequestError>
    where
        T::Err: std::fmt::Display,
    {
        let Self { field, value } = self;
        value
            .parse()
            .map_err(|error| RequestError::invalid(field.as_str(), format!("'{field}': {error}.")))
    }

    /// Parses a number for which `is_valid` holds. `expected` describes such a number.
    fn parse_number(
        self,
        is_valid: impl Fn(f32) -> bool,
        expected: &str,
    ) -> Result<f32, RequestError> {
        let number = self.value.trim().parse().ok();
        number.filter(|number| is_valid(*number)).ok_or_else(|| {
            let Self { field, value } = self;
            RequestError::invalid(
                field.as_str(),
                format!("'{field}' must be {expected}, is '{value}'."),
            )
        })
    }

    /// Parses a time: a number of milliseconds, or a text with a unit.
    fn parse_time(self) -> Result<Duration, RequestError> {
        let millis = self.value.trim().parse::<u32>().ok();
        let time = match millis {
            Some(millis) => Duration::from_millis(millis.into()),
            None => {
                let duration: Option<HumanDuration> = self.value.trim().parse().ok();
                duration.map_or(Duration::ZERO, |HumanDuration(time)| time)
            }
        };
        if time.is_zero() || time > MAX_DEADLINE {
            let Self { field, value } = self;
            let message = format!(
                "'{field}' must be a time above 0 and at most one day: milliseconds, or a text such as '2s'. It is '{value}'."
            );
            return Err(RequestError::invalid(field, message));
        }
        Ok(time)
    }
}

/// Returns the hash that identifies a session.
pub(crate) fn session_hash(session: &str) -> u64 {
    xxh3_64(session.as_bytes())
}

/// Determines the route of a request from its fields and headers, within what its sender may use.
///
/// # Errors
/// [`RequestError::Invalid`] with the field or header that is invalid, or
/// [`RequestError::TaskNotFound`].
pub(crate) fn parse_route(
    model: &str,
    fields: Option<RoutingFields>,
    caller: &Caller,
) -> Result<Route, RequestError> {
    let headers = &caller.headers;
    let fields = fields.unwrap_or_default();
    let select = |value: Option<String>, name: &'static str, header: &'static str| {
        if let Some(value) = value {
            let field = format!("flotilla.{name}");
            return Some(RoutingField { field, value });
        }
        let value = String::from_utf8_lossy(headers.get(header)?.as_bytes());
        Some(RoutingField {
            field: header.to_owned(),
            value: value.into_owned(),
        })
    };
    let text = |value: Option<NumberOrText>| value.map(NumberOrText::into_text);
    let task = select(fields.task, "task", "x-flotilla-task");
    let zone = select(fields.zone, "zone", "x-flotilla-zone");
    let zone = zone.map(|RoutingField { field, value }| {
        ZoneName::new(&value)
            .map_err(|error| RequestError::invalid(field, format!("The zone '{value}' {error}.")))
    });
    let priority = select(fields.priority, "priority", "x-flotilla-priority");
    let deadline = select(text(fields.deadline), "deadline", "x-flotilla-deadline");
    let min_quality = select(
        text(fields.min_quality),
        "min_quality",
        "x-flotilla-min-quality",
    );
    let max_joules = select(
        text(fields.max_joules),
        "max_joules",
        "x-flotilla-max-joules",
    );
    let session = select(fields.session, "session", "x-flotilla-session");
    let mut route = Route {
        target: parse_target(model, task)?,
        zone: zone.transpose()?,
        priority: priority.map(RoutingField::parse).transpose()?,
        fairness_key: 0,
        access: Arc::default(),
        deadline: deadline.map(RoutingField::parse_time).transpose()?,
        limits: AnswerLimits {
            min_quality: min_quality
                .map(|field| {
                    field.parse_number(|n| (0.0..=1.0).contains(&n), "a number from 0 to 1")
                })
                .transpose()?,
            max_latency: None,
            max_joules: max_joules
                .map(|field| field.parse_number(|n| n.is_finite() && n > 0.0, "a number above 0"))
                .transpose()?
                .map(Joules),
        },
        session: session.map(|field| session_hash(&field.value)),
    };
    caller.restrict(&mut route);
    Ok(route)
}

/// Combines the field `model` with the task the request names, if any.
fn parse_target(model: &str, task: Option<RoutingField>) -> Result<RouteTarget, RequestError> {
    let target = RouteTarget::parse(model)?;
    let Some(RoutingField { field, value }) = task else {
        return Ok(target);
    };
    let task = TaskName::new(&value).map_err(|_| RequestError::TaskNotFound(value))?;
    match target {
        RouteTarget::Auto => Ok(RouteTarget::Task(task)),
        RouteTarget::Task(same) if same == task => Ok(RouteTarget::Task(task)),
        target => Err(RequestError::invalid(
            field,
            format!(
                "The request names both '{target}' and the task '{task}': with a task, 'model' must be 'auto'."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::caller;
    use flotilla_core::admission::Priority;
    use http::HeaderMap;

    fn parse(
        model: &str,
        fields: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Route, RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, http::HeaderValue::from_static(value));
        }
        parse_route(model, serde_json::from_str(fields).unwrap(), &caller(map))
    }

    #[test]
    fn body_fields_take_precedence_over_headers() {
        let headers = [("x-flotilla-task", "travel"), ("x-flotilla-zone", "shop")];
        let route = parse("auto", "null", &headers).unwrap();
        assert_eq!(route.target.to_string(), "task:travel");
        assert_eq!(route.zone, Some(ZoneName::new("shop").unwrap()));
        let route = parse("auto", r#"{"task": "banking"}"#, &headers).unwrap();
        assert_eq!(route.target.to_string(), "task:banking");
        assert_eq!(route.zone, Some(ZoneName::new("shop").unwrap()));
    }

    #[test]
    fn routing_fields_are_parsed_and_validated() {
        let body = r#"{"priority": "high", "deadline": 1500, "min_quality": 0.9, "session": "a"}"#;
        let headers = [
            ("x-flotilla-deadline", "2s"),
            ("x-flotilla-max-joules", "2.5"),
            ("authorization", "Bearer one"),
        ];
        let route = parse("auto", body, &headers).unwrap();
        assert_eq!(route.priority, Some(Priority::High));
        assert_eq!(route.deadline, Some(Duration::from_millis(1_500)));
        assert_eq!(route.limits.min_quality, Some(0.9));
        assert_eq!(route.limits.max_joules, Some(Joules(2.5)));
        assert!(route.session.is_some() && route.fairness_key != 0);
        let other = parse("auto", "null", &[("authorization", "Bearer two")]).unwrap();
        assert_ne!(other.fairness_key, route.fairness_key);
        let from_header = parse("auto", "null", &headers).unwrap();
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
            let error = parse("auto", body, &[]).unwrap_err();
            assert!(
                matches!(&error, RequestError::Invalid { param: Some(p), .. } if p == field),
                "{body}: {error:?}"
            );
        }
    }

    #[test]
    fn task_together_with_a_model_is_rejected() {
        let error = parse("some-model", r#"{"task": "banking"}"#, &[]).unwrap_err();
        assert!(matches!(
            error,
            RequestError::Invalid { param: Some(field), .. } if field == "flotilla.task"
        ));
        assert!(parse("task:banking", r#"{"task": "banking"}"#, &[]).is_ok());
        assert!(parse("auto", r#"{"zone": "No Zone"}"#, &[]).is_err());
    }
}
