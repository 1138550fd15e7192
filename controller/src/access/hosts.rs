//! The hosts that requests may name.
//!
//! A web page can have its own host name resolved to this controller's address and then talk to it as its own origin
//! (DNS rebinding). Its requests name that host. An address cannot be resolved to another one, so that every address
//! may be named.

use std::collections::BTreeSet;
use std::net::IpAddr;

use flotilla_gateway::ApiError;
use http::StatusCode;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

/// The hosts that requests may name, besides addresses and `localhost`.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedHosts(BTreeSet<String>);

impl AllowedHosts {
    /// Allows these host names, and those of `HOST:PORT`.
    pub(crate) fn new<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let names = hosts.into_iter().filter_map(name_of);
        Self(names.collect())
    }

    /// Checks the host that a request names.
    ///
    /// # Errors
    /// 421 for one that is not this controller's.
    pub(super) fn check(&self, request: &Parts) -> Result<(), ApiError> {
        // Browsers always name a host.
        let Some(host) = named_host(request) else {
            return Ok(());
        };
        if self.allows(host) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "invalid_request_error",
            Some("host_not_allowed"),
            format!(
                "The host '{host}' is not known to this controller: start it with --http-host NAME if clients should reach it by that name."
            ),
        ))
    }

    fn allows(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else {
            return false;
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.0.contains(&name)
    }
}

/// The host, with its port, that a request names: in HTTP/2 in its `:authority`.
pub(super) fn named_host(request: &Parts) -> Option<&str> {
    let authority = request.uri.authority().map(Authority::as_str);
    // One that is not text is no host's.
    let header = || Some(request.headers.get(HOST)?.to_str().unwrap_or(""));
    authority.or_else(header)
}

/// The name in `HOST` or `HOST:PORT`, in lower case and without the dot of a complete name. `None`: it is none.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    let has_user = authority.as_str().contains('@');
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (!has_user && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_own_names_are_allowed_and_names_of_others_are_not() {
        let hosts = AllowedHosts::new(["Fleet.Example", "node-1:8080"]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.1.2.3:80",
            "localhost:8080",
            "LOCALHOST",
            "flotilla.localhost",
            "fleet.example",
            "FLEET.example.:443",
            "node-1",
        ] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "fleet.example.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "user@localhost",
            "a b",
        ] {
            assert!(!hosts.allows(host), "{host}");
        }
    }
}
