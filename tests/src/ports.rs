//! Addresses of loopback: any port, and free ones for programs that cannot report a port of their own choice, such as
//! etcd.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below those that the system hands out to outgoing connections and for port 0. One that is free
/// here stays free until it is used, also while the program that uses it is stopped.
const PORTS: Range<u16> = 15_000..32_000;

/// How many ports this process has tried.
static TRIED_PORTS: AtomicU16 = AtomicU16::new(0);

/// Returns the address of loopback on which the system chooses a free port.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Returns an address of loopback on which nobody listens, another one each time.
///
/// # Panics
/// Panics if all ports of the range are in use.
#[must_use]
pub fn free_address() -> SocketAddr {
    // Test processes that run at the same time start at different ports.
    let start = std::process::id() as usize * 101;
    (0..PORTS.len())
        .map(|_| {
            let tried = TRIED_PORTS.fetch_add(1, Ordering::Relaxed);
            let port = PORTS.start + ((start + usize::from(tried)) % PORTS.len()) as u16;
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        })
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("loopback has free ports")
}
