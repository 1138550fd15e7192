//! The addresses that a controller tells agents and other controllers to use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses of networks for documentation, which no machine has: they are never sent to.
const OTHER_MACHINES: [(IpAddr, IpAddr); 2] = [
    (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    ),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ),
];

/// Returns the `host:port` that others use for a listener on `address`: the configured one, or else the
/// address, with the machine's own address when it listens on all. Warns if it is probably not one that
/// others can reach; `flag` is the option that sets it.
pub(crate) fn choose(configured: Option<&str>, address: SocketAddr, flag: &str) -> String {
    if let Some(configured) = configured {
        return configured.to_owned();
    }
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    if let Some(ip) = own_address(address.is_ipv6()) {
        return SocketAddr::new(ip, address.port()).to_string();
    }
    let host = sysinfo::System::host_name().unwrap_or_else(|_| "localhost".to_owned());
    let advertised = format!("{host}:{}", address.port());
    tracing::warn!(
        "{advertised} is advertised, since this machine has no route to other \
         machines: set {flag} if they cannot reach it"
    );
    advertised
}

/// Returns the address from which this machine reaches others. `None`: it has no route to any.
fn own_address(with_ipv6: bool) -> Option<IpAddr> {
    let families = if with_ipv6 { 2 } else { 1 };
    let candidates = OTHER_MACHINES.iter().take(families);
    let mut found = candidates.filter_map(|(local, other)| {
        // Connecting a UDP socket only looks the route up.
        let socket = UdpSocket::bind((*local, 0)).ok()?;
        socket.connect((*other, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    found.find(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_on_all_addresses_is_advertised_by_an_address_that_others_can_use() {
        let all = SocketAddr::from(([0, 0, 0, 0], 7070));
        let one = SocketAddr::from(([10, 0, 0, 1], 7070));
        assert_eq!(choose(Some("c:1"), all, "--advertise-link"), "c:1");
        assert_eq!(choose(None, one, "--advertise-link"), "10.0.0.1:7070");
        let advertised = choose(None, all, "--advertise-link");
        assert!(advertised.ends_with(":7070"), "{advertised}");
        for useless in ["0.0.0.0", "127."] {
            assert!(!advertised.starts_with(useless), "{advertised}");
        }
    }
}
