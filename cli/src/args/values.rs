//! Parsers of argument values whose type has no `FromStr` of its own.

use std::fmt::Display;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, HumanDuration};

/// Returns the parser of a number in a range. A range contains no NaN.
pub(super) fn number_between<T>(
    min: T,
    max: T,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| match text.parse::<T>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("must be a number between {min} and {max}")),
    }
}

/// Parses the id of a fleet, as controllers and agents print it.
pub(super) fn parse_fleet_id(text: &str) -> Result<String, String> {
    let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if text.len() == 32 && text.chars().all(is_digit) {
        return Ok(text.to_owned());
    }
    Err("must be the id of a fleet, 32 hexadecimal digits, as the agent's log prints it where a controller of that fleet is refused".into())
}

/// Returns the parser of a `HOST:PORT`. The error says `of_what` it is, with an example of this `port`.
pub(super) fn host_port(
    of_what: &'static str,
    port: u16,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| {
        parse_host_port(text).map_err(|problem| {
            let example = example_address(text, port);
            format!("{problem}: give HOST:PORT {of_what}, for example {example}")
        })
    }
}

/// Checks the form `HOST:PORT`, with an IPv6 address in brackets.
fn parse_host_port(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.contains("://") {
        return Err("it is a URL".into());
    }
    let Some((host, port)) = text
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
    else {
        return Err("it has no port".into());
    };
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !is_v6 {
        return Err("an IPv6 address needs brackets".into());
    }
    let is_host = if is_v6 {
        host[1..host.len() - 1].parse::<Ipv6Addr>().is_ok()
    } else {
        is_host_name(host)
    };
    if !is_host {
        return Err("it has no valid host name or IP address".into());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err("its port is not a number from 1 to 65535".into()),
    }
}

/// An address such as the one that was meant.
fn example_address(text: &str, port: u16) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    match rest.split(['/', ':']).next() {
        Some(host) if is_host_name(host) => format!("{host}:{port}"),
        _ => format!("controller.example:{port}"),
    }
}

/// Whether a text has the form of a host name or an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(is_of_name)
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

/// Returns the parser of an address to listen on. The error has an example with this `port`.
pub(super) fn ip_port(
    port: u16,
) -> impl Fn(&str) -> Result<SocketAddr, String> + Clone + Send + Sync + 'static {
    move |text| {
        text.parse().map_err(|_| {
            format!("must be an IP address and a port, such as 127.0.0.1:{port} or, for all addresses of the machine, 0.0.0.0:{port}")
        })
    }
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

/// Returns the parser of a length of time with units in a range.
pub(super) fn duration_between(
    min: &'static str,
    max: &'static str,
) -> impl Fn(&str) -> Result<HumanDuration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let duration = text.parse::<HumanDuration>()?;
        if (min.parse()?..=max.parse()?).contains(&duration) {
            return Ok(duration);
        }
        Err(format!("must be between {min} and {max}"))
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
    fn addresses_are_host_and_port_and_errors_name_one() {
        let parse = host_port("of a controller's --link", 7070);
        for address in [
            "127.0.0.1:7070",
            "[::1]:7070",
            "controller-1.shop_2.example:1",
        ] {
            assert_eq!(parse(address), Ok(address.to_owned()));
        }
        for (address, problem, example) in [
            ("", "empty", "controller.example:7070"),
            ("10.0.0.1", "no port", "10.0.0.1:7070"),
            ("http://10.0.0.1:8080", "a URL", "10.0.0.1:7070"),
            ("https://host/", "a URL", "host:7070"),
            ("host:0", "its port", "host:7070"),
            ("host:99999", "its port", "host:7070"),
            ("host:", "its port", "host:7070"),
            ("host:7070/", "its port", "host:7070"),
            (":7070", "no valid host", "controller.example:7070"),
            ("a b:7070", "no valid host", "controller.example:7070"),
            ("u@host:7070", "no valid host", "controller.example:7070"),
            ("::1:7070", "brackets", "controller.example:7070"),
            ("[::1]", "no port", "controller.example:7070"),
            ("[::g]:1", "no valid host", "controller.example:7070"),
        ] {
            let error = parse(address).unwrap_err();
            assert!(error.contains(problem), "{address}: {error}");
            assert!(
                error.contains("HOST:PORT of a controller's --link"),
                "{error}"
            );
            assert!(error.ends_with(example), "{address}: {error}");
        }
    }

    #[test]
    fn id_of_a_fleet_has_the_form_that_logs_print() {
        let id = "854180d30e40fea94c5e8ab9d129edb9";
        assert_eq!(parse_fleet_id(id), Ok(id.to_owned()));
        for text in ["", "xyz", "1f0c…", &id[1..], &id.to_uppercase()] {
            assert!(
                parse_fleet_id(text).unwrap_err().contains("32 hex"),
                "{text}"
            );
        }
    }

    #[test]
    fn values_outside_their_range_are_refused_with_the_range() {
        let link_timeout = seconds_between(1.0, 3_600.0);
        assert_eq!(link_timeout("2.5"), Ok(Duration::from_millis(2_500)));
        for text in ["0", "-1", "NaN", "inf", "3601"] {
            let error = link_timeout(text).unwrap_err();
            assert_eq!(error, "must be between 1 and 3600 seconds", "{text}");
        }
        assert!(link_timeout("soon").is_err());
        let watts = number_between(0.0, 1e6);
        assert_eq!(watts("2.5"), Ok(2.5));
        for text in ["-1", "NaN", "inf", "1e7", "much", ""] {
            let error = watts(text).unwrap_err();
            assert_eq!(error, "must be a number between 0 and 1000000", "{text}");
        }
        assert_eq!(number_between(1_usize, 1_000)("1000"), Ok(1_000));
        let retention = duration_between("0s", "3650d");
        assert!(retention("12h").is_ok() && retention("0s").is_ok());
        for text in ["3651d", "-1d", "99999999999999999999d"] {
            assert!(retention(text).is_err(), "{text}");
        }
        let memory = bytes_between("1MiB", "64TiB");
        assert_eq!(memory("8GiB"), Ok(Bytes(8 << 30)));
        for text in ["0", "1023KiB", "999TiB"] {
            let error = memory(text).unwrap_err();
            assert_eq!(error, "must be between 1MiB and 64TiB", "{text}");
        }
    }
}
