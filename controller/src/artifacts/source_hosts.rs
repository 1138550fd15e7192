//! Which servers the files of models may be fetched from. Whoever may apply a model names its source; without a
//! limit, he could have a controller send requests to servers that only the controller reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hosts that files may be fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHosts {
    /// Whether every host may be, at public addresses.
    any_public: bool,
    /// Hosts that may be, whatever their address.
    named: Vec<String>,
}

/// Stands for every host at public addresses.
const ANY_PUBLIC: &str = "*";

impl Default for SourceHosts {
    fn default() -> Self {
        Self::new([ANY_PUBLIC])
    }
}

/// The addresses at which a host may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllowedAddresses {
    /// Any.
    All,
    /// Those of the public Internet.
    Public,
    /// None.
    None,
}

impl SourceHosts {
    /// Allows these hosts; `*` stands for every host at public addresses.
    pub fn new<T: AsRef<str>>(hosts: impl IntoIterator<Item = T>) -> Self {
        let mut allowed = Self {
            any_public: false,
            named: Vec::new(),
        };
        for host in hosts {
            match host.as_ref() {
                ANY_PUBLIC => allowed.any_public = true,
                host => allowed.named.push(normalize(host)),
            }
        }
        allowed
    }

    /// Allows the host of a URL as well, whatever its address. A text that is no URL changes nothing.
    #[must_use]
    pub fn with_host_of(mut self, url: &str) -> Self {
        let url = reqwest::Url::parse(url).ok();
        let host = url.as_ref().and_then(reqwest::Url::host_str);
        self.named.extend(host.map(normalize));
        self
    }

    /// The addresses at which `host`, a name or an IP address as in a URL, may be.
    pub(super) fn addresses(&self, host: &str) -> AllowedAddresses {
        if self.named.contains(&normalize(host)) {
            AllowedAddresses::All
        } else if self.any_public {
            AllowedAddresses::Public
        } else {
            AllowedAddresses::None
        }
    }

    /// Checks a host and, if it is an IP address, the address.
    ///
    /// # Errors
    /// What is wrong and what to do.
    pub(super) fn check(&self, host: &str) -> Result<(), String> {
        let address = normalize(host).parse::<IpAddr>().ok();
        match self.addresses(host) {
            AllowedAddresses::None => Err(format!(
                "the controllers may not fetch from {host}: allow it with --source-host {host}"
            )),
            AllowedAddresses::Public if address.is_some_and(|address| !is_public(address)) => {
                Err(not_public(host))
            }
            AllowedAddresses::Public | AllowedAddresses::All => Ok(()),
        }
    }
}

/// The refusal of a host that is only at addresses that are not public.
pub(super) fn not_public(host: &str) -> String {
    format!(
        "{host} is at no public address, and the controllers fetch only from those unless a host is named: allow it with --source-host {host}"
    )
}

/// A host in lower case, without the brackets of an IPv6 address and without the dot at the end.
fn normalize(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether an address belongs to a host on the public Internet, by the registries of special-purpose addresses of IANA
/// (RFC 6890).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_unspecified()
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // "This network", shared addresses of providers, protocol assignments, benchmarks, reserved and broadcast.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(address) = embedded_v4(address) {
        return is_public_v4(address);
    }
    let [first, second, ..] = address.segments();
    // Global unicast is 2000::/3; of it, documentation is 2001:db8::/32 and 3fff::/20, and 2001::/23 is for protocols.
    let global = first & 0xe000 == 0x2000;
    let documentation =
        (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    let protocols = first == 0x2001 && second < 0x0200;
    global && !documentation && !protocols
}

/// The IPv4 address that an IPv6 address stands for: mapped (`::ffff:0:0/96`), translated (`64:ff9b::/96`, RFC 6052) or
/// 6to4 (`2002::/16`).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_machines_that_are_not_on_the_internet_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn hosts_are_allowed_by_name_or_as_public() {
        let default = SourceHosts::default();
        assert!(default.check("huggingface.co").is_ok());
        assert!(default.check("8.8.8.8").is_ok());
        for host in ["127.0.0.1", "[::1]", "169.254.169.254"] {
            let refused = default.check(host).unwrap_err();
            assert!(refused.contains("--source-host"), "{refused}");
        }
        let named = SourceHosts::new(["Files.Example", "::1"]);
        assert!(named.check("files.example.").is_ok());
        assert!(named.check("[::1]").is_ok());
        let refused = named.check("huggingface.co").unwrap_err();
        assert!(
            refused.contains("--source-host huggingface.co"),
            "{refused}"
        );
        let both = SourceHosts::new(["*", "files.example"]);
        assert_eq!(both.addresses("files.example"), AllowedAddresses::All);
        assert_eq!(both.addresses("other.example"), AllowedAddresses::Public);
        assert!(both.check("10.0.0.1").is_err());
        let with_endpoint = both.with_host_of("http://10.0.0.1:8080/hub");
        assert!(with_endpoint.check("10.0.0.1").is_ok());
    }
}
