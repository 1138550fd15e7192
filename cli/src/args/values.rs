//! Values of arguments that no type reads by itself.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_core::spec::Taint;

pub(super) fn at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("must be between 1 and 1000".into()),
    }
}

/// A part of a whole.
pub(super) fn part(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err("must be between 0 and 1".into()),
    }
}

pub(super) fn watts(text: &str) -> Result<f32, String> {
    let watts: f32 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=1e6).contains(&watts) {
        return Ok(watts);
    }
    Err("must be between 0 and 1000000".into())
}

/// Where to listen, if anywhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

/// An address, or `off`.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen(None));
    }
    let address = text
        .parse()
        .map_err(|_| "must be an address such as 0.0.0.0:9464, or off")?;
    Ok(Listen(Some(address)))
}

/// A factor of at least 1, and not so large that times overflow.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (1.0..=1e6).contains(&factor) {
        return Ok(factor);
    }
    Err("must be between 1 and 1000000".into())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

pub(super) fn taint(text: &str) -> Result<Taint, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("'{text}' is not KEY or KEY=VALUE"));
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not KEY=VALUE")),
    }
}
