//! Reads JSON request bodies. Errors name the invalid field.
//!
//! The size limit is `http_body_util::Limited`, as in axum and tower-http. Their layers are not
//! used because they answer an oversized body in plain text instead of OpenAI's error shape.

use axum::body::Body;
use bytes::Bytes;
use flotilla_core::json::ClientJson;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::ApiError;
use crate::extra_fields::ExtraFields;
use crate::paced_body::{PacedBody, SlowBody};
use crate::sampling::SamplingFields;

/// UTF-8's byte order mark, which some programs write at the beginning of every text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a body of at most `limit` bytes, which must arrive at a pace.
async fn read_bytes(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            format!("The request body is larger than the limit of {limit} bytes."),
        )
    };
    // A client that waits for leave to send its body gets the refusal instead.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match Limited::new(PacedBody::new(body), limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) if error.is::<SlowBody>() => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("request_timeout"),
            format!("The request body did not arrive in time: {error}."),
        )),
        Err(error) => Err(ApiError::invalid(
            None,
            format!("The request body could not be read: {error}."),
        )),
    }
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// Status 413 when the body is too large; 408 when it does not arrive in time; 400 when it is not valid JSON for `T`, with the path of
/// the invalid field.
pub async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, ApiError> {
    parse(&read_bytes(body, limit).await?)
}

/// Reads one JSON body into a struct that holds the fields of the endpoint, one of sampling fields and
/// those that upstream servers get as they are. Parsing several times is faster than serde's `flatten`
/// and keeps the path of an invalid field.
pub(crate) async fn read_json_parts<A: DeserializeOwned>(
    body: Body,
    limit: usize,
) -> Result<(A, SamplingFields, ExtraFields), ApiError> {
    let json = read_bytes(body, limit).await?;
    Ok((parse(&json)?, parse(&json)?, parse(&json)?))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
    // Tracking the path takes time, so only invalid bodies are parsed again with it.
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(ClientJson(&mut deserializer));
    if let Ok(value) = value
        && deserializer.end().is_ok()
    {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let error = match serde_path_to_error::deserialize::<_, T>(ClientJson(&mut deserializer)) {
        Err(error) => error,
        // The value is valid, but more text follows it.
        Ok(_) => {
            return Err(ApiError::invalid(
                None,
                "The request body must be one JSON object with nothing after it.",
            ));
        }
    };
    let path = error.path().to_string();
    let inner = error.into_inner();
    if matches!(
        inner.classify(),
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof
    ) {
        return Err(ApiError::invalid(
            None,
            format!("The request body is not valid JSON: {inner}."),
        ));
    }
    let text = inner.to_string();
    // serde puts the name of a missing field into the message, not into the path.
    let missing_field = text
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next());
    let param = match (path.as_str(), missing_field) {
        (".", None) => None,
        (".", Some(field)) => Some(field.to_owned()),
        (path, None) => Some(path.to_owned()),
        (path, Some(field)) => Some(format!("{path}.{field}")),
    };
    let location = param
        .as_ref()
        .map_or_else(String::new, |param| format!(" '{param}'"));
    let text = text
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    Err(ApiError::invalid(
        param,
        format!("Invalid{location}: {text}."),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct OuterBody {
        inner: Vec<InnerBody>,
    }
    #[derive(Debug, serde::Deserialize)]
    struct InnerBody {
        number: u32,
    }

    #[test]
    fn integers_may_be_written_as_floats_and_a_byte_order_mark_comes_first() {
        let body: OuterBody = parse(b"\xef\xbb\xbf{\"inner\": [{\"number\": 16.0}]}").unwrap();
        assert_eq!(body.inner[0].number, 16);
    }

    #[test]
    fn object_is_not_read_from_an_array() {
        for (json, param) in [
            ("[[]]", serde_json::Value::Null),
            (r#"{"inner": [[16]]}"#, "inner[0]".into()),
        ] {
            assert_eq!(error(json)["param"], param, "{json}");
        }
    }

    fn error(json: &str) -> serde_json::Value {
        let body = parse::<OuterBody>(json.as_bytes()).unwrap_err().json();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()["error"].take()
    }

    #[test]
    fn error_names_the_path_of_the_invalid_field() {
        assert_eq!(
            error(r#"{"inner": [{"number": "x"}]}"#)["param"],
            "inner[0].number"
        );
        assert_eq!(error(r#"{"inner": [{}]}"#)["param"], "inner[0].number");
        assert_eq!(error("{}")["param"], "inner");
    }

    #[test]
    fn invalid_json_has_its_own_message() {
        for json in ["", "{", "nonsense"] {
            let message = error(json)["message"].as_str().unwrap().to_owned();
            assert!(message.contains("not valid JSON"), "{message}");
        }
        let message = error(r#"{"inner": []} x"#)["message"].to_string();
        assert!(message.contains("nothing after it"), "{message}");
    }
}
