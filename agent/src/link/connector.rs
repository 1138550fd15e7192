//! Opens TCP connections to controllers: directly to the first of a name's addresses that answers, or
//! through the HTTP proxy of the environment.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower_service::Service;

/// Longest time that looking up a name takes, and that one of its addresses takes to answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time without an answer, the next address is tried as well (RFC 8305).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(
        "its name cannot be looked up ({0}): check its spelling and the name service of this machine"
    )]
    Lookup(io::Error),
    #[error(
        "nothing listens there: is the controller running, and is it the address of its --link?"
    )]
    Refused,
    #[error(
        "it cannot be reached ({0}): is the address right, and does a firewall let it through?"
    )]
    Connect(io::Error),
    #[error(
        "it cannot be reached through the proxy {proxy}: {problem}; check HTTPS_PROXY and NO_PROXY"
    )]
    Proxy { proxy: String, problem: String },
    #[error("'{0}' is not HOST:PORT")]
    Address(String),
}

impl ConnectError {
    /// The error of a connection that was not opened.
    fn connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Connect(error),
        }
    }
}

/// Opens connections to controllers.
pub(crate) struct Connector {
    proxies: Matcher,
}

/// Where further connections to the same controller go.
pub(super) enum Target {
    /// To the address that has answered: a name may have the addresses of several controllers.
    Direct(SocketAddr),
    /// Through a proxy, to this `host:port`.
    Proxied(String),
}

impl Connector {
    /// Creates a connector with the proxies of the environment: `HTTPS_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY`.
    pub(crate) fn from_env() -> Self {
        Self {
            proxies: Matcher::from_env(),
        }
    }

    /// Returns the proxy for one of the addresses that is of a kind through which no links go.
    pub(crate) fn unsupported_proxy(&self, addresses: &[String]) -> Option<String> {
        let proxies = addresses
            .iter()
            .filter_map(|address| self.proxy_of(address).ok()?);
        let mut unsupported = proxies.filter(|proxy| !is_supported(proxy));
        let uri = unsupported.next()?.uri().clone();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        Some(format!(
            "{}://{authority}",
            uri.scheme_str().unwrap_or_default()
        ))
    }

    /// Connects to `host:port`.
    pub(super) async fn connect(&self, address: &str) -> Result<(TcpStream, Target), ConnectError> {
        if let Some(proxy) = self.proxy_of(address)? {
            let stream = connect_through(&proxy, address).await?;
            return Ok((stream, Target::Proxied(address.to_owned())));
        }
        let addresses = timeout(STEP_TIMEOUT, tokio::net::lookup_host(address)).await;
        let addresses = addresses
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(ConnectError::Lookup)?;
        let connected = connect_to_first(addresses.take(MAX_ADDRESSES).collect()).await;
        let (stream, peer) = connected.map_err(ConnectError::connect)?;
        Ok((stream, Target::Direct(peer)))
    }

    /// Opens a further connection to the same controller.
    pub(super) async fn connect_again(&self, target: &Target) -> Result<TcpStream, ConnectError> {
        match target {
            Target::Direct(address) => {
                let connected = connect_to_first(vec![*address]).await;
                Ok(connected.map_err(ConnectError::connect)?.0)
            }
            Target::Proxied(address) => Ok(self.connect(address).await?.0),
        }
    }

    /// The proxy for an address. The machine itself is reached without one.
    fn proxy_of(&self, address: &str) -> Result<Option<Intercept>, ConnectError> {
        let invalid = || ConnectError::Address(address.to_owned());
        let uri: Uri = format!("https://{address}")
            .parse()
            .map_err(|_| invalid())?;
        let host = uri.host().ok_or_else(invalid)?;
        if is_loopback_host(host) {
            return Ok(None);
        }
        Ok(self.proxies.intercept(&uri))
    }
}

/// Whether `host:port` is on this machine alone.
pub(crate) fn is_loopback(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, _)| is_loopback_host(host))
}

fn is_loopback_host(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whether links go through this proxy: it is spoken to without TLS.
fn is_supported(proxy: &Intercept) -> bool {
    proxy.uri().scheme_str() == Some("http")
}

/// Has an HTTP proxy open a connection (`CONNECT`).
async fn connect_through(proxy: &Intercept, address: &str) -> Result<TcpStream, ConnectError> {
    let failed = |problem: String| ConnectError::Proxy {
        proxy: proxy
            .uri()
            .authority()
            .map_or_else(String::new, ToString::to_string),
        problem,
    };
    if !is_supported(proxy) {
        return Err(failed("only proxies with http:// are supported".into()));
    }
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(STEP_TIMEOUT));
    connector.set_nodelay(true);
    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    let target = format!("http://{address}").parse::<Uri>();
    let target = target.map_err(|_| ConnectError::Address(address.to_owned()))?;
    // The proxy connects in its own time, within that of connecting and of the controller's answer.
    let connected = timeout(STEP_TIMEOUT * 2, tunnel.call(target)).await;
    let stream = connected
        .map_err(|_| failed("it does not answer".into()))?
        .map_err(|error| failed(text(&error)))?;
    Ok(stream.into_inner())
}

/// The messages of an error and of its causes.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", text(cause)),
        None => error.to_string(),
    }
}

/// Connects to the first of a name's addresses that answers. Returns the connection and the address.
async fn connect_to_first(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let addresses = alternate_families(addresses);
    let stream = first_connected(addresses, TcpStream::connect).await?;
    let peer = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

/// Orders addresses so that the families take turns, beginning with the first one's.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let (one, two) = (first.next(), other.next());
        if one.is_none() && two.is_none() {
            return ordered;
        }
        ordered.extend(one.into_iter().chain(two));
    }
}

/// Connects to the first address that answers. The next one is tried when one fails, or when it has not
/// answered for a moment; each has its own time.
async fn first_connected<S, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut addresses = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    let mut next_at = Instant::now();
    loop {
        if next_at <= Instant::now()
            && let Some(address) = addresses.next()
        {
            let attempt = timeout(STEP_TIMEOUT, connect(address));
            attempts.push(async move {
                attempt
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            });
            next_at = Instant::now() + NEXT_ADDRESS_DELAY;
        }
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => {
                    last_error = error;
                    next_at = Instant::now();
                }
                None if addresses.len() == 0 => return Err(last_error),
                None => next_at = Instant::now(),
            },
            () = tokio::time::sleep_until(next_at), if addresses.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    fn addresses(ports: std::ops::RangeInclusive<u16>) -> Vec<SocketAddr> {
        ports
            .map(|port| SocketAddr::from(([10, 0, 0, 1], port)))
            .collect()
    }

    #[tokio::test]
    async fn address_that_swallows_packets_does_not_keep_the_next_one_waiting() {
        let began = Instant::now();
        // The first two never answer, the third refuses, the fourth accepts.
        let connect = async |address: SocketAddr| match address.port() {
            1 | 2 => std::future::pending().await,
            3 => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        };
        let connected = first_connected(addresses(1..=5), connect).await.unwrap();
        assert_eq!(connected, 4);
        assert!(began.elapsed() < STEP_TIMEOUT / 2, "{:?}", began.elapsed());
        let refuse = async |_| Err::<(), _>(io::ErrorKind::ConnectionRefused.into());
        let error = first_connected(addresses(1..=3), refuse).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_connected(Vec::new(), refuse).await.is_err());
    }

    /// A listener whose queue is full, so that the system swallows the packets of further connections.
    struct SwallowingListener {
        address: SocketAddr,
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    }

    impl SwallowingListener {
        async fn start(ip: IpAddr) -> Self {
            let socket = match ip {
                IpAddr::V4(_) => TcpSocket::new_v4().unwrap(),
                IpAddr::V6(_) => TcpSocket::new_v6().unwrap(),
            };
            socket.bind((ip, 0).into()).unwrap();
            let listener = socket.listen(0).unwrap();
            let address = listener.local_addr().unwrap();
            let mut queued = Vec::new();
            // A connection that the queue takes is there at once.
            let time = Duration::from_millis(500);
            while let Ok(stream) = timeout(time, TcpStream::connect(address)).await {
                queued.push(stream.unwrap());
            }
            Self {
                address,
                _listener: listener,
                _queued: queued,
            }
        }
    }

    #[tokio::test]
    async fn name_whose_first_addresses_swallow_packets_is_reached_at_the_next_one() {
        let first = SwallowingListener::start([127, 0, 0, 2].into()).await;
        let second = SwallowingListener::start([127, 0, 0, 3].into()).await;
        let answering = TcpListener::bind("127.0.0.4:0").await.unwrap();
        let answering = answering.local_addr().unwrap();
        let began = Instant::now();
        let addresses = vec![first.address, second.address, answering];
        let (_, peer) = connect_to_first(addresses).await.unwrap();
        assert_eq!(peer, answering);
        assert!(began.elapsed() < STEP_TIMEOUT, "{:?}", began.elapsed());
        // Each address has its own time, and both pass together but for a moment.
        let began = Instant::now();
        let addresses = vec![first.address, second.address];
        let error = connect_to_first(addresses).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let both = STEP_TIMEOUT..STEP_TIMEOUT * 2;
        assert!(both.contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn families_take_turns() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter()
                .map(|address| address.parse().unwrap())
                .collect()
        };
        let ordered = alternate_families(parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1"]));
        assert_eq!(ordered, parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1"]));
    }

    #[test]
    fn proxy_that_is_no_http_proxy_is_found_unless_no_address_needs_it() {
        for (url, named) in [
            ("https://proxy.example:3128", true),
            ("socks5://proxy.example:1080", true),
            ("http://proxy.example:3128", false),
        ] {
            let proxies = Matcher::builder().all(url).no("exempt.example").build();
            let connector = Connector { proxies };
            let unsupported = |address: &str| connector.unsupported_proxy(&[address.to_owned()]);
            let found = unsupported("controller.example:7070");
            assert_eq!(found.as_deref(), named.then_some(url));
            assert_eq!(unsupported("127.0.0.1:7070"), None);
            assert_eq!(unsupported("exempt.example:7070"), None);
        }
    }

    #[tokio::test]
    async fn proxy_opens_the_connection_unless_the_controller_is_exempt() {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy_address = proxy.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = proxy.accept().await.unwrap();
            let mut request = vec![0; 1_024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // As on a link, the client speaks first.
            assert_eq!(stream.read_u8().await.unwrap(), b'?');
            stream.write_all(b"hello").await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let matcher = Matcher::builder()
            .all(format!("http://user:secret@{proxy_address}"))
            .no("exempt.example")
            .build();
        let connector = Connector { proxies: matcher };
        let proxied = |address| connector.proxy_of(address).unwrap().is_some();
        assert!(!proxied("localhost:7070") && !proxied("[::1]:7070") && !proxied("127.0.0.1:1"));
        assert!(!proxied("exempt.example:7070"));
        assert!(connector.proxy_of("no address").is_err());
        let (mut stream, target) = connector.connect("controller.example:7070").await.unwrap();
        assert!(matches!(target, Target::Proxied(_)));
        stream.write_u8(b'?').await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
        let request = served.await.unwrap();
        assert!(
            request.starts_with("CONNECT controller.example:7070 "),
            "{request}"
        );
        assert!(request.contains("Proxy-Authorization: Basic "), "{request}");
    }
}
