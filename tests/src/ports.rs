//! Addresses for what cannot be told to choose one itself, such as an etcd.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to outgoing connections and to whoever asks for any port: what
/// is free here stays free until it is used, also while a member is stopped.
const PORTS: Range<u16> = 15_000..32_000;

/// How many were looked at.
static LOOKED_AT: AtomicU16 = AtomicU16::new(0);

/// An address that nobody listens on, another one each time.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_address() -> SocketAddr {
    // Test processes beside each other begin at different places.
    let begin = std::process::id() as usize * 101;
    (0..PORTS.len())
        .map(|_| {
            let looked_at = LOOKED_AT.fetch_add(1, Ordering::Relaxed);
            let port = PORTS.start + ((begin + usize::from(looked_at)) % PORTS.len()) as u16;
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        })
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("loopback has free ports")
}
