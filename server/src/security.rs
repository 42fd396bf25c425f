//! Who may ask, checked before any route; and the headers that every answer carries.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{Refusal, ServeError};
use crate::token::Token;

/// The header that a request which changes something must carry, with any value.
const WRITE_HEADER: HeaderName = HeaderName::from_static("x-expman");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The end of the policy that lets these pages show ours in a frame.
///
/// # Errors
/// When one of them is no origin.
pub fn frame_ancestors(origins: &[String]) -> Result<String, ServeError> {
    let named = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let good = |origin: &str| {
        if let Some(scheme) = origin.strip_suffix(':') {
            return named(scheme, b"-").then_some(());
        }
        let (scheme, rest) = origin.split_once("://")?;
        let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "*"));
        let port = port == "*" || named(port, b"") && port.parse::<u16>().is_ok();
        (named(scheme, b"-") && named(host, b"-.*") && port).then_some(())
    };
    let mut all = String::new();
    for origin in origins {
        good(origin).ok_or(ServeError::NoOrigin {
            what: origin.clone(),
        })?;
        all.push(' ');
        all.push_str(origin);
    }
    Ok(all)
}

/// What the server's own names are, and the token if there is one.
#[derive(Debug, Clone)]
pub struct Guard {
    hosts: Vec<String>,
    /// Bound to every address of the machine: it is then reached by address, and no page of another
    /// site can have an address for a name.
    any_address: bool,
    /// Names that the user gave: behind a proxy the page's origin is one of them, not what we are asked as.
    given: Vec<String>,
    token: Option<Token>,
    policy: HeaderValue,
}

impl Guard {
    /// The guard of a server that listens on `host`.
    pub fn new(host: &str, token: Option<Token>) -> Self {
        let mut hosts = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        hosts.push(host.trim_matches(['[', ']']).to_ascii_lowercase());
        let any_address = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if any_address {
            hosts.push(
                rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .to_ascii_lowercase(),
            );
        }
        Self {
            hosts,
            any_address,
            given: Vec::new(),
            token,
            policy: HeaderValue::from_static(POLICY),
        }
    }

    /// Other names that it is reached under.
    pub fn also_known_as(mut self, names: &[String]) -> Self {
        self.given = names.iter().map(|n| n.to_ascii_lowercase()).collect();
        self.hosts.extend(self.given.iter().cloned());
        self
    }

    /// Pages that may show ours in a frame.
    ///
    /// # Errors
    /// When one of them is no origin.
    pub fn framed_by(mut self, origins: &[String]) -> Result<Self, ServeError> {
        let policy = format!("{POLICY}{}", frame_ancestors(origins)?);
        self.policy = HeaderValue::from_str(&policy)
            .map_err(|_not_a_header| ServeError::NoOrigin { what: policy })?;
        Ok(self)
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let headers = request.headers();
        let authority = authority(request).ok_or(Refusal::Host)?;
        let host = host_of(authority).ok_or(Refusal::Host)?;
        if !self.is_ours(&host) {
            return Err(Refusal::Host);
        }
        // An origin is ours when it names the very host and port that was asked.
        let foreign = |origin: &HeaderValue| {
            let place = origin.to_str().ok().and_then(|o| o.split_once("://"));
            place.is_none_or(|(_, place)| {
                !place.eq_ignore_ascii_case(authority)
                    && host_of(place).is_none_or(|host| !self.given.contains(&host))
            })
        };
        if headers.get_all(header::ORIGIN).iter().any(foreign) {
            return Err(Refusal::Origin);
        }
        let site = headers
            .get(FETCH_SITE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("none");
        if request.uri().path().starts_with("/api") && !matches!(site, "same-origin" | "none") {
            return Err(Refusal::Origin);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !headers.contains_key(WRITE_HEADER) {
            return Err(Refusal::Header);
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|ours| ours == host)
            || self.any_address && host.parse::<IpAddr>().is_ok()
    }
}

/// Host and port as the client wrote them; none when there is no host, or more than one.
fn authority(request: &Request) -> Option<&str> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let header = named.next().map(|v| v.to_str().unwrap_or(""));
    let line = request
        .uri()
        .authority()
        .map(axum::http::uri::Authority::as_str);
    if named.next().is_some()
        || matches!((header, line), (Some(a), Some(b)) if !a.eq_ignore_ascii_case(b))
    {
        return None;
    }
    header.or(line)
}

/// The host without its port, in lower case and without an IPv6 address's brackets.
fn host_of(authority: &str) -> Option<String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (
            host,
            rest.strip_prefix(':').or(rest.is_empty().then_some(""))?,
        )
    } else {
        authority.split_once(':').unwrap_or((authority, ""))
    };
    let good = !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    good.then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

/// The middleware around every route, the page's files included.
pub async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let response = match guard.check(&request) {
        Err(refusal) => ServeError::from(refusal).into_response(),
        Ok(()) => match admission(guard.token.as_ref(), &request) {
            Admission::Granted => next.run(request).await,
            Admission::Shown(cookie) => welcome(cookie),
            Admission::Refused => refuse(request.headers()),
        },
    };
    with_headers(response, guard.policy.clone())
}

enum Admission {
    Granted,
    /// The token stood in the address: the browser gets a cookie for it.
    Shown(HeaderValue),
    Refused,
}

fn admission(token: Option<&Token>, request: &Request) -> Admission {
    let Some(token) = token else {
        return Admission::Granted;
    };
    let shown = (request.uri().path() == "/")
        .then(|| request.uri().query())
        .flatten();
    let shown = shown
        .into_iter()
        .flat_map(|q| q.split('&'))
        .find_map(|pair| pair.strip_prefix("token="));
    match shown {
        Some(guess) if token.is(guess) => token
            .set_cookie()
            .map_or(Admission::Refused, Admission::Shown),
        None if token.admits(request.headers()) => Admission::Granted,
        _ => Admission::Refused,
    }
}

/// Sets the cookie and leaves the address with the token in it.
///
/// A page that goes on by itself rather than a redirect: after a click on a link in another site, a
/// redirect would still count as that site's request and come without the cookie.
fn welcome(cookie: HeaderValue) -> Response {
    let page = "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=./\">\
        <title>mesh</title><p>Signed in. <a href=\"./\">Go on</a></p>";
    let headers = [
        (header::SET_COOKIE, cookie),
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
    ];
    (headers, page).into_response()
}

fn refuse(headers: &HeaderMap) -> Response {
    let html = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.contains("text/html"));
    if html {
        let text = format!("{}\n", Refusal::Token);
        return (
            StatusCode::UNAUTHORIZED,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            text,
        )
            .into_response();
    }
    ServeError::from(Refusal::Token).into_response()
}

fn with_headers(mut response: Response<Body>, policy: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    let mut put = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(header::REFERRER_POLICY, "no-referrer");
    put(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    put(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    // Answers about runs change and may be private; the page's own files say otherwise themselves.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: Option<&str>, extra: &[(&str, &str)]) -> Request {
        let mut builder = Request::builder().uri("/api/health");
        if let Some(host) = host {
            builder = builder.header("host", host);
        }
        for (name, value) in extra {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn only_our_own_hosts_are_answered() {
        let guard = Guard::new("127.0.0.1", None);
        for good in [
            "localhost",
            "localhost:8000",
            "127.0.0.1:1",
            "[::1]:9",
            "LOCALHOST:80",
            "localhost.",
        ] {
            assert_eq!(guard.check(&request(Some(good), &[])), Ok(()), "{good}");
        }
        let bad = [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            "[::1",
            "192.168.1.1",
            "localhost:80x",
            "0.0.0.0",
        ];
        for host in bad {
            assert_eq!(
                guard.check(&request(Some(host), &[])),
                Err(Refusal::Host),
                "{host}"
            );
        }
        assert_eq!(guard.check(&request(None, &[])), Err(Refusal::Host));
        assert_eq!(
            guard.check(&request(Some("localhost"), &[("host", "evil.example")])),
            Err(Refusal::Host)
        );
    }

    #[test]
    fn a_server_on_every_address_is_reached_by_address_but_not_by_any_name() {
        let guard = Guard::new("0.0.0.0", None);
        assert_eq!(guard.check(&request(Some("192.168.1.7:8000"), &[])), Ok(()));
        assert_eq!(
            guard.check(&request(Some("evil.example:8000"), &[])),
            Err(Refusal::Host)
        );
    }

    #[test]
    fn other_sites_are_refused_even_on_our_host() {
        let guard = Guard::new("127.0.0.1", None);
        let ask = |name: &str, value: &str| {
            guard.check(&request(Some("localhost:8000"), &[(name, value)]))
        };
        assert_eq!(ask("origin", "http://localhost:8000"), Ok(()));
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "http://localhost",
            "",
        ] {
            assert_eq!(ask("origin", origin), Err(Refusal::Origin), "{origin}");
        }
        assert_eq!(ask("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(ask("sec-fetch-site", "none"), Ok(()));
        assert_eq!(ask("sec-fetch-site", "cross-site"), Err(Refusal::Origin));
        assert_eq!(ask("sec-fetch-site", "same-site"), Err(Refusal::Origin));
    }

    #[test]
    fn behind_a_proxy_its_names_are_ours_and_no_others() {
        let guard = Guard::new("127.0.0.1", None).also_known_as(&["Hub.example".to_owned()]);
        let ask =
            |host: &str, origin: &str| guard.check(&request(Some(host), &[("origin", origin)]));
        assert_eq!(ask("hub.example", "https://hub.example"), Ok(()));
        // The proxy asks us by our own name, the browser knows only its name.
        assert_eq!(ask("localhost:8000", "https://hub.example:8443"), Ok(()));
        assert_eq!(
            ask("localhost:8000", "https://evil.example"),
            Err(Refusal::Origin)
        );
        assert_eq!(
            ask("evil.example", "https://hub.example"),
            Err(Refusal::Host)
        );
    }

    #[test]
    fn nothing_but_an_origin_gets_into_the_policy() {
        let good = [
            "http://localhost:*".to_owned(),
            "vscode-webview:".to_owned(),
        ];
        assert_eq!(
            frame_ancestors(&good).unwrap(),
            " http://localhost:* vscode-webview:"
        );
        for bad in [
            "*",
            "http://a b",
            "http://x;script-src *",
            "localhost",
            "http://",
            "http://h:99999",
            ":",
        ] {
            assert!(frame_ancestors(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_that_changes_something_needs_our_header() {
        let guard = Guard::new("127.0.0.1", None);
        for method in [
            Method::POST,
            Method::PATCH,
            Method::DELETE,
            Method::PUT,
            Method::OPTIONS,
        ] {
            let mut plain = request(Some("localhost"), &[]);
            *plain.method_mut() = method.clone();
            assert_eq!(guard.check(&plain), Err(Refusal::Header));
            let mut ours = request(Some("localhost"), &[("x-expman", "1")]);
            *ours.method_mut() = method;
            assert_eq!(guard.check(&ours), Ok(()));
        }
    }
}
