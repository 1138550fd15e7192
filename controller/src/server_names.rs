//! The names and addresses that a controller's certificate is valid for.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::fleet::ControllerRecord;

/// The names and IP addresses that clients reach a controller by: those that it advertises, those that it listens on,
/// the name of its machine, and loopback.
pub(crate) fn of_controller(record: &ControllerRecord, listeners: [SocketAddr; 2]) -> Vec<String> {
    let mut hosts: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    hosts.extend(sysinfo::System::host_name().ok());
    hosts.extend(
        [&record.http, &record.link]
            .into_iter()
            .filter_map(|address| host(address)),
    );
    let listened = listeners.into_iter().map(|listener| listener.ip());
    let specific = listened.filter(|ip| !ip.is_unspecified());
    hosts.extend(specific.map(|ip| ip.to_string()));
    hosts.into_iter().collect()
}

/// The host of `host:port`.
fn host(address: &str) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_all_that_clients_may_use() {
        let record = ControllerRecord {
            http: "[2001:db8::1]:8080".into(),
            link: "controller.example:7070".into(),
            version: String::new(),
        };
        let all = SocketAddr::from(([0, 0, 0, 0], 8080));
        let one = SocketAddr::from(([10, 0, 0, 7], 7070));
        let hosts = of_controller(&record, [all, one]);
        for host in [
            "2001:db8::1",
            "controller.example",
            "10.0.0.7",
            "localhost",
            "127.0.0.1",
        ] {
            assert!(hosts.iter().any(|other| other == host), "{hosts:?}");
        }
        assert!(!hosts.iter().any(|host| host == "0.0.0.0"), "{hosts:?}");
    }
}
