//! Parsers of argument values whose type has no `FromStr` of its own.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::spec::Taint;

pub(super) fn parse_concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("must be between 1 and 1000".into()),
    }
}

/// Parses the id of a fleet, as controllers and agents print it.
pub(super) fn parse_fleet_id(text: &str) -> Result<String, String> {
    let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 64 || !text.chars().all(is_id) {
        return Err("must be the id of a fleet, as the agent's log prints it".into());
    }
    Ok(text.to_owned())
}

pub(super) fn parse_fraction(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        _ => Err("must be between 0 and 1".into()),
    }
}

pub(super) fn parse_watts(text: &str) -> Result<f32, String> {
    let watts: f32 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=1e6).contains(&watts) {
        return Ok(watts);
    }
    Err("must be between 0 and 1000000".into())
}

/// An address to listen on, or `None` for the value `off`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenAddress(pub(crate) Option<SocketAddr>);

pub(super) fn parse_listen_address(text: &str) -> Result<ListenAddress, String> {
    if text == "off" {
        return Ok(ListenAddress(None));
    }
    let address = text
        .parse()
        .map_err(|_| "must be an address such as 0.0.0.0:9464, or off")?;
    Ok(ListenAddress(Some(address)))
}

/// Parses a factor from 1 to 1,000,000. The upper bound keeps durations from overflowing.
pub(super) fn parse_slowdown(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (1.0..=1e6).contains(&factor) {
        return Ok(factor);
    }
    Err("must be between 1 and 1000000".into())
}

/// Parses the seconds of an interval at which something is repeated: 0.1 to 3600.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    seconds_between(0.1, 3_600.0)(text)
}

/// Returns the parser of a number of seconds, which may have a fraction, in a range. The ranges keep
/// points in time that far away representable.
pub(super) fn seconds_between(
    min: f64,
    max: f64,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let seconds: f64 = text
            .parse()
            .map_err(|_| format!("'{text}' is not a number of seconds"))?;
        if !(min..=max).contains(&seconds) {
            return Err(format!("must be between {min} and {max} seconds"));
        }
        Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
    }
}

/// Returns the parser of a number of bytes in a range.
pub(super) fn bytes_between(
    min: &'static str,
    max: &'static str,
) -> impl Fn(&str) -> Result<Bytes, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parse = |text: &str| text.parse::<Bytes>().map_err(|e| e.to_string());
        let bytes = parse(text)?;
        if (parse(min)?..=parse(max)?).contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!("must be between {min} and {max}"))
    }
}

pub(super) fn parse_taint(text: &str) -> Result<Taint, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("'{text}' is not KEY or KEY=VALUE"));
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_their_range_are_refused_with_the_range() {
        let link_timeout = seconds_between(1.0, 3_600.0);
        assert_eq!(link_timeout("2.5"), Ok(Duration::from_millis(2_500)));
        for text in ["0", "-1", "NaN", "inf", "3601"] {
            let error = link_timeout(text).unwrap_err();
            assert_eq!(error, "must be between 1 and 3600 seconds", "{text}");
        }
        assert!(link_timeout("soon").is_err());
        let memory = bytes_between("1MiB", "64TiB");
        assert_eq!(memory("8GiB"), Ok(Bytes(8 << 30)));
        for text in ["0", "1023KiB", "999TiB"] {
            let error = memory(text).unwrap_err();
            assert_eq!(error, "must be between 1MiB and 64TiB", "{text}");
        }
    }
}
