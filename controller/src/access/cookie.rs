//! The cookie of the page's sessions.

use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

/// The name of the cookie.
const NAME: &str = "flotilla_session";

/// Returns the session that a request presents.
pub(super) fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter();
    let texts = cookies.filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == NAME).then_some(value)
    })
}

/// The value of `Set-Cookie` for a session of this many seconds; 0 ends it. A cookie that came over TLS goes back over
/// TLS alone. `None` if the session has characters that cookies may not have.
pub(crate) fn set_session(text: &str, seconds: u64, over_tls: bool) -> Option<HeaderValue> {
    let secure = if over_tls { "; Secure" } else { "" };
    let cookie =
        format!("{NAME}={text}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&cookie).ok()
}

/// Whether the page that sends a request was loaded from this controller, as the browser says.
pub(super) fn is_of_own_page(request: &Parts) -> bool {
    let site = request.headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin") {
        return false;
    }
    // Browsers send one of the two with every request that may change something.
    site.is_some() || super::origins::names_own(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(value));
            session(&headers).map(str::to_owned)
        };
        assert_eq!(
            of("a=b; flotilla_session=x.y.z; c=d").as_deref(),
            Some("x.y.z")
        );
        assert_eq!(of("other_flotilla_session=x"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn only_the_own_page_changes_something_by_cookie() {
        let is_own = |name: &str, value: &str| {
            let request = Request::builder().header("host", "fleet:8080");
            let (parts, ()) = request.header(name, value).body(()).unwrap().into_parts();
            is_of_own_page(&parts)
        };
        assert!(is_own("origin", "http://fleet:8080"));
        assert!(is_own("sec-fetch-site", "same-origin"));
        for site in ["cross-site", "same-site", "none"] {
            assert!(!is_own("sec-fetch-site", site), "{site}");
        }
        assert!(!is_own("origin", "https://evil.example"));
        assert!(!is_own("x-other", "1"));
    }

    #[test]
    fn a_cookie_is_kept_from_scripts_and_other_sites() {
        let cookie = set_session("x", 60, true).unwrap();
        let cookie = cookie.to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Max-Age=60"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(
            !set_session("x", 60, false)
                .unwrap()
                .to_str()
                .unwrap()
                .contains("Secure")
        );
    }
}
