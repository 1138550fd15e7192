//! Request bodies: read up to the limit, parsed with the field that is wrong named.

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::ApiError;

/// Reads a body of at most `limit` bytes.
async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            format!("The request body is larger than the limit of {limit} bytes."),
        )),
        Err(error) => Err(ApiError::invalid(
            None,
            format!("The request body could not be read: {error}."),
        )),
    }
}

/// Reads and parses a JSON body.
///
/// # Errors
/// 413 when it is too large, 400 when it is not what `T` wants, with the field's path.
pub async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, ApiError> {
    parse(&read(body, limit).await?)
}

/// Reads one JSON body as two structs that each take their part of its fields. Cheaper than
/// serde's `flatten`, and the path of a wrong field stays known.
pub(crate) async fn read_two<A: DeserializeOwned, B: DeserializeOwned>(
    body: Body,
    limit: usize,
) -> Result<(A, B), ApiError> {
    let json = read(body, limit).await?;
    Ok((parse(&json)?, parse(&json)?))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    // Tracking the path costs time, so it is done only for bodies that are wrong.
    if let Ok(value) = serde_json::from_slice(json) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => error,
        // The value is right but something follows it.
        Ok(_) => {
            return Err(ApiError::invalid(
                None,
                "The request body must be one JSON object and nothing after it.",
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
    // serde puts a missing field's name into the message, not into the path.
    let missing = text
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next());
    let param = match (path.as_str(), missing) {
        (".", None) => None,
        (".", Some(field)) => Some(field.to_owned()),
        (path, None) => Some(path.to_owned()),
        (path, Some(field)) => Some(format!("{path}.{field}")),
    };
    let place = param
        .as_ref()
        .map_or_else(String::new, |param| format!(" '{param}'"));
    let text = text
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    Err(ApiError::invalid(param, format!("Invalid{place}: {text}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct JsonBody {
        #[allow(dead_code)]
        inner: Vec<JsonError>,
    }
    #[derive(Debug, serde::Deserialize)]
    struct JsonError {
        #[allow(dead_code)]
        number: u32,
    }

    fn error(json: &str) -> serde_json::Value {
        let body = parse::<JsonBody>(json.as_bytes()).unwrap_err().json();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()["error"].take()
    }

    #[test]
    fn the_wrong_field_is_named() {
        assert_eq!(
            error(r#"{"inner": [{"number": "x"}]}"#)["param"],
            "inner[0].number"
        );
        assert_eq!(error(r#"{"inner": [{}]}"#)["param"], "inner[0].number");
        assert_eq!(error("{}")["param"], "inner");
    }

    #[test]
    fn what_is_not_json_is_said_to_be_so() {
        for json in ["", "{", "nonsense"] {
            let message = error(json)["message"].as_str().unwrap().to_owned();
            assert!(message.contains("not valid JSON"), "{message}");
        }
        let message = error(r#"{"inner": []} x"#)["message"].to_string();
        assert!(message.contains("nothing after it"), "{message}");
    }
}
